"""Tests of dlspark.training.sync_batch_norm: N ranks do what one does with torch's own layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dlspark.contracts import Batch
from dlspark.models.batch_norm import BatchNorm1d, BatchNorm2d
from dlspark.training.gradients import GradientBuffer
from dlspark.training.optimizers import build_optimizer
from dlspark.training.step import StepOptions, train_step
from dlspark.training.sync_batch_norm import synchronise_batch_norm
from tests.unit.training.doubles import ThreadCommunicator, random_rows, run_ranks

CPU = torch.device("cpu")
IMAGES, LABELS = random_rows(24, num_classes=4, size=6)


def network(*, momentum: float | None = 0.1) -> nn.Sequential:
    torch.manual_seed(3)
    layers = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        BatchNorm2d(3, momentum=momentum),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 5, bias=False),
        BatchNorm1d(5, affine=False),
        nn.Tanh(),
        nn.Linear(5, 4),
    )
    with torch.no_grad():
        layers[1].weight.copy_(torch.tensor([0.5, -1.0, 2.0]))
    return layers


def train(rows: list[slice], *, synchronised: bool, num_parts: int = 1, **options: float | None) -> nn.Module:
    """Three steps, in each of which rank r has the rows [r] of ten."""
    models = [network(**options) for _ in rows]

    def on_rank(communicator: ThreadCommunicator) -> None:
        model = models[communicator.rank].train()
        if synchronised:
            assert synchronise_batch_norm(model, communicator) == 2
        optimizer, gradients = build_optimizer(model, "sgd", lr=0.3), GradientBuffer(model, CPU)
        for step in range(3):
            part = rows[communicator.rank]
            images, labels = IMAGES[step * 7 :][:10][part], LABELS[step * 7 :][:10][part]
            train_step(
                *(model, optimizer, gradients, communicator),
                Batch(
                    step=step,
                    global_rows=10,
                    row_ids=np.arange(len(labels)),
                    images=images,
                    labels=labels,
                ),
                lr=0.3,
                precision="fp32",
                options=StepOptions(all_ranks_compute=synchronised, num_parts=num_parts),
            )

    run_ranks(len(rows), on_rank)
    for other in models[1:]:
        for name, tensor in other.state_dict().items():
            if synchronised:
                assert torch.equal(tensor, models[0].state_dict()[name]), name
    return models[0]


WHOLE = [slice(0, 10)]


@pytest.mark.parametrize(
    "rows",
    [
        [slice(0, 10)],
        [slice(0, 5), slice(5, 10)],
        [slice(0, 1), slice(1, 8), slice(8, 10)],
        [slice(0, 0), slice(0, 10)],
        [slice(0, 4), slice(4, 10), slice(10, 10)],
    ],
)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_any_share_of_the_rows_gives_the_network_of_one_rank(
    rows: list[slice], momentum: float | None
) -> None:
    alone = train(WHOLE, synchronised=False, momentum=momentum).state_dict()
    together = train(rows, synchronised=True, momentum=momentum).state_dict()
    assert together.keys() == alone.keys()
    for name, tensor in together.items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-5, atol=1e-6, msg=name)
    apart = train([slice(0, 5), slice(5, 10)], synchronised=False, momentum=momentum).state_dict()
    assert not torch.allclose(apart["0.weight"], alone["0.weight"], atol=1e-4), "the test sees no difference"


def test_parts_of_a_step_are_as_many_on_every_rank() -> None:
    by_parts = train([slice(0, 1), slice(1, 10)], synchronised=True, num_parts=3)
    assert by_parts.state_dict()["1.num_batches_tracked"] == 9


def test_evaluation_is_as_before() -> None:
    model = network()
    expected = model.eval()(IMAGES)

    def on_rank(communicator: ThreadCommunicator) -> int:
        synchronise_batch_norm(model, communicator)
        assert torch.equal(model(IMAGES), expected)
        return communicator.num_collectives

    assert run_ranks(1, on_rank) == [0]


def test_a_lone_value_takes_the_running_statistics() -> None:
    def on_rank(communicator: ThreadCommunicator) -> torch.Tensor:
        layer = BatchNorm1d(3)
        with torch.no_grad():
            layer.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
        synchronise_batch_norm(layer, communicator)
        rows = 1 - communicator.rank
        return layer(torch.tensor([[1.0, 2.0, 4.0]])[:rows])

    first, second = run_ranks(2, on_rank)
    assert first.tolist() == [pytest.approx([0.0, 0.0, 1.0], abs=1e-4)]
    assert second.shape == (0, 3)


def test_a_variance_far_below_the_mean_is_kept() -> None:
    values = 1000.0 + 0.01 * torch.randn(512, 2, generator=torch.Generator().manual_seed(0))

    def on_rank(communicator: ThreadCommunicator) -> torch.Tensor:
        layer = BatchNorm1d(2)
        synchronise_batch_norm(layer, communicator)
        return layer(values[communicator.rank :: 2])

    first, second = run_ranks(2, on_rank)
    expected = nn.functional.batch_norm(values, None, None, training=True)
    torch.testing.assert_close(first, expected[::2], rtol=1e-3, atol=2e-2)
    torch.testing.assert_close(second, expected[1::2], rtol=1e-3, atol=2e-2)
