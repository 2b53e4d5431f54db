"""Adasum against the formula of its paper in float64, alone and as a step of several ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from dlspark.contracts import Batch
from dlspark.training.adasum import adasum
from dlspark.training.gradients import Compression, GradientBuffer
from dlspark.training.optimizers import build_optimizer
from dlspark.training.replicas import gather_rows
from dlspark.training.step import train_step
from tests.unit.training.doubles import ThreadCommunicator, run_ranks
from tests.unit.training.small_network import CPU, IMAGES, LABELS, LR, NUM_ROWS, network

SIZES = (7, 1, 30, 4)


def reference(layers: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the Adasum of one layer's gradients, as the paper writes it."""
    if len(layers) == 1:
        return layers[0]
    half = len(layers) // 2
    one, other = reference(layers[:half]), reference(layers[half:])
    if not one.any() or not other.any():
        return one + other
    product = one @ other
    return (1 - product / (2 * one @ one)) * one + (1 - product / (2 * other @ other)) * other


def reference_of_all(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    layers = np.split(rows, np.cumsum(SIZES)[:-1], axis=1)
    return np.concatenate([reference([*layer]) for layer in layers])


@pytest.mark.parametrize("num_ranks", [1, 2, 4, 8])
def test_it_is_the_formula_of_the_paper_for_each_layer(num_ranks: int) -> None:
    rows = np.random.default_rng(num_ranks).normal(size=(num_ranks, sum(SIZES))).astype(np.float32)
    rows[0, 8:38] = 0.0  # a layer that one rank has nothing to say of
    found = adasum(torch.tensor(rows), SIZES)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), reference_of_all(rows.astype(np.float64)), rtol=3e-7, atol=1e-9)
    if num_ranks > 1:
        whole = adasum(torch.tensor(rows), (sum(SIZES),))
        assert not torch.allclose(found, whole, rtol=1e-3), "the layers were not told apart"


def test_parallel_gradients_are_averaged_and_orthogonal_ones_added() -> None:
    gradient = torch.tensor([3.0, -4.0, 0.5, 0.0])
    parallel = torch.stack([gradient, gradient, 2 * gradient, 4 * gradient])
    torch.testing.assert_close(adasum(parallel, (4,)), 2 * gradient)
    torch.testing.assert_close(adasum(torch.diag(gradient), (4,)), gradient)
    nothing = torch.stack([gradient, torch.zeros(4)])
    assert torch.equal(adasum(nothing, (4,)), gradient)
    assert torch.equal(adasum(torch.zeros(2, 4), (4,)), torch.zeros(4))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    rows = torch.ones(4, 6)
    rows[2, 1] = bad
    assert not adasum(rows, (3, 3))[:3].isfinite().all()
    assert adasum(rows, (3, 3))[3:].isfinite().all()


def test_every_rank_gathers_the_tensors_of_all() -> None:
    gathered = run_ranks(
        3, lambda communicator: gather_rows(torch.full((2,), communicator.rank + 0.1), communicator)
    )
    for rows in gathered:
        assert torch.equal(rows, torch.tensor([[0.1, 0.1], [1.1, 1.1], [2.1, 2.1]]))


def step(owners: Sequence[int], *, compression: Compression = "none") -> list[Any]:
    """One step of as many ranks as there are owners; return of each its network and result."""
    models = [network() for _ in range(max(owners) + 1)]

    def on_rank(communicator: ThreadCommunicator) -> Any:
        model = models[communicator.rank]
        mine = np.flatnonzero(np.resize(owners, NUM_ROWS) == communicator.rank)
        batch = Batch(step=0, global_rows=NUM_ROWS, row_ids=mine, images=IMAGES[mine], labels=LABELS[mine])
        gradients = GradientBuffer(model, CPU, compression=compression, reduction="adasum")
        result = train_step(
            *(model, build_optimizer(model, "sgd", lr=LR), gradients, communicator, batch),
            lr=LR,
            precision="fp32",
            ask=1,
        )
        return model, result

    return run_ranks(len(models), on_rank)


def reference_step(owners: Sequence[int]) -> list[torch.Tensor]:
    """Return the weights after a step along the reference's Adasum of the ranks' own mean gradients."""
    gradients: list[list[NDArray[np.float64]]] = []
    for rank in range(max(owners) + 1):
        model, mine = network(), np.flatnonzero(np.resize(owners, NUM_ROWS) == rank)
        if len(mine):
            nn.functional.cross_entropy(model(IMAGES[mine]), LABELS[mine]).backward()
        gradients.append(
            [
                np.zeros(each.numel()) if each.grad is None else each.grad.double().flatten().numpy()
                for each in model.parameters()
            ]
        )
    sums = [reference(layers) for layers in zip(*gradients, strict=True)]
    return [
        each.detach() - LR * torch.tensor(total, dtype=torch.float32).view_as(each)
        for each, total in zip(network().parameters(), sums, strict=True)
    ]


@pytest.mark.parametrize("owners", [(0,), (0, 1), (0, 0, 0, 1), (0, 1, 2, 3), (0, 0, 3)])
@pytest.mark.parametrize("compression", ["none", "fp16"])
def test_a_step_follows_the_adasum_of_what_each_rank_learns_from_its_own_rows(
    owners: tuple[int, ...], compression: Compression
) -> None:
    expected = reference_step(owners)
    tolerance = 1e-6 if compression == "none" else 1e-3
    models = step(owners, compression=compression)
    for model, result in models:
        for one, other in zip(model.parameters(), expected, strict=True):
            torch.testing.assert_close(one.detach(), other, rtol=tolerance, atol=tolerance)
        for one, first in zip(model.parameters(), models[0][0].parameters(), strict=True):
            assert torch.equal(one, first), "the replicas differ"
        assert result.asked == len(models)
        assert result.loss_sum == pytest.approx(models[0][1].loss_sum)
