"""Gradients that go between the ranks in fp16: half the bytes, the same curve within what fp16 holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from dlspark.contracts import Batch
from dlspark.errors import ModelError
from dlspark.training.checkpoint_writer import SilentCheckpoints
from dlspark.training.gradients import Compression, GradientBuffer
from dlspark.training.loss_scale import LossScale
from dlspark.training.losses import Loss, cross_entropy_sum
from dlspark.training.optimizers import build_optimizer
from dlspark.training.step import StepOptions, train_step
from dlspark.training.trainer import fit
from tests.unit.training.doubles import ListTracker, MemorySource, ThreadCommunicator, run_ranks
from tests.unit.training.small_network import CPU, IMAGES, LABELS, LR, NUM_ROWS, network

NUM_GRADIENTS = sum(parameter.numel() for parameter in network().parameters())


def step(compression: Compression, *, factor: float, images: torch.Tensor = IMAGES) -> list[Any]:
    """One step of two ranks; return of each its network, loss, reduced bytes and loss scale."""

    models = [network(), network()]

    def on_rank(communicator: ThreadCommunicator) -> Any:
        model, rows = models[communicator.rank], slice(communicator.rank, None, 2)
        mine = np.arange(NUM_ROWS)[rows]
        batch = Batch(step=0, global_rows=NUM_ROWS, row_ids=mine, images=images[rows], labels=LABELS[rows])
        scale = LossScale()
        scale.value = factor
        result = train_step(
            *(model, build_optimizer(model, "sgd", lr=LR)),
            *(GradientBuffer(model, CPU, compression=compression), communicator, batch),
            lr=LR,
            precision="fp32",
            scale=scale,
            ask=3 + communicator.rank,
        )
        return model, result, communicator.num_reduced_bytes, scale.value

    return run_ranks(2, on_rank)


def test_the_gradients_take_half_the_bytes_and_the_sums_beside_them_are_exact() -> None:
    (_, plain, plain_bytes, _), _ = step("none", factor=1.0)
    (_, result, num_bytes, _), (_, other, *_) = step("fp16", factor=1.0)
    assert plain_bytes == 4 * (NUM_GRADIENTS + 3)
    assert num_bytes == 2 * NUM_GRADIENTS + 4 * 3
    for each in (result, other):
        assert (each.loss_sum, each.num_correct, each.asked) == (plain.loss_sum, plain.num_correct, 7)


def test_a_gradient_that_fp16_cannot_hold_is_kept_by_the_loss_scale() -> None:
    images = IMAGES * 1e-7
    exact = step("none", factor=1.0, images=images)[0][0][0].weight.grad
    assert 0 < exact.abs().max() < 6e-8
    for factor, is_kept in ((1.0, False), (2.0**16, True)):
        for model, *_ in step("fp16", factor=factor, images=images):
            assert torch.allclose(model[0].weight.grad, exact, rtol=0.01, atol=1e-12) == is_kept


def test_a_sum_that_fp16_cannot_hold_costs_the_step_on_every_rank_and_halves_the_factor() -> None:
    for model, result, _, factor in step("fp16", factor=2.0**24):
        for one, before in zip(model.parameters(), network().parameters(), strict=True):
            assert torch.equal(one, before)
        assert np.isfinite(result.loss_sum)
        assert factor == 2.0**23


def fit_digits(
    num_ranks: int, compression: Compression, *, loss: Loss = cross_entropy_sum, lr: float = 0.1
) -> tuple[list[nn.Module], list[float]]:
    """Train a small network on the digits; return each rank's, and the loss curve."""
    digits = load_digits()
    images = torch.tensor(digits.images[:600], dtype=torch.float32).unsqueeze(1) / 16 - 0.3
    labels = torch.tensor(digits.target[:600])
    tracker, models = ListTracker(), []
    for _ in range(num_ranks):
        torch.manual_seed(5)
        models.append(
            nn.Sequential(
                *(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten()),
                *(nn.Linear(216, 32), nn.ReLU(), nn.Linear(32, 10)),
            )
        )

    def on_rank(communicator: ThreadCommunicator) -> None:
        rank = communicator.rank
        fit(
            models[rank],
            build_optimizer(models[rank], "momentum", lr=lr),
            lambda step: 1.0,
            MemorySource(
                *(images, labels),
                global_batch_size=50,
                rank=rank,
                owners=tuple(range(num_ranks)),
                seed=1,
            ),
            None,
            communicator,
            tracker if rank == 0 else ListTracker(),
            SilentCheckpoints(lambda: False),
            epochs=4,
            num_classes=10,
            base_lr=lr,
            precision="fp32",
            device=CPU,
            compression=compression,
            options=StepOptions(loss=loss),
        )

    run_ranks(num_ranks, on_rank)
    return [*models], tracker.values("step/loss")


def test_the_digits_are_learned_as_in_fp32_on_any_number_of_ranks() -> None:
    _, exact = fit_digits(2, "none")
    assert exact[-1] < 0.25 * exact[0], "nothing was learned"
    for num_ranks in (1, 2, 3):
        models, curve = fit_digits(num_ranks, "fp16")
        assert curve != exact, "nothing was compressed"
        assert curve == pytest.approx(exact, rel=0.01, abs=0.01)
        for other in models[1:]:
            for one, first in zip(other.parameters(), models[0].parameters(), strict=True):
                assert torch.equal(one, first), "the replicas differ"


def test_a_training_keeps_gradients_that_are_too_small_for_fp16() -> None:
    def small(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return 1e-8 * cross_entropy_sum(logits, labels)

    _, curve = fit_digits(2, "fp16", loss=small, lr=0.1e8)
    assert curve[-1] < 0.25 * curve[0]


@pytest.mark.parametrize("compression", ["none", "fp16"])
def test_a_gradient_that_is_no_number_ends_the_training(compression: Compression) -> None:
    def without_gradient(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        # The slope of the root at 0 is infinite, times 0 no number; the loss itself is one.
        return cross_entropy_sum(logits, labels) + (0.0 * logits).sqrt().sum()

    with pytest.raises(ModelError, match="not finite"):
        fit_digits(2, compression, loss=without_gradient)
