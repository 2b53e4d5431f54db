"""The choices that a whole training makes use of: loss, schedules, and the average of the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dlspark.training.checkpoint_writer import SilentCheckpoints
from dlspark.training.losses import build_loss
from dlspark.training.optimizers import build_optimizer
from dlspark.training.schedules import build_schedule
from dlspark.training.step import StepOptions
from dlspark.training.trainer import fit
from dlspark.training.weight_average import WeightAverage
from tests.unit.training.doubles import ListTracker, MemorySource, ThreadCommunicator, run_ranks
from tests.unit.training.small_network import (
    CPU,
    IMAGES,
    LABELS,
    NUM_CLASSES,
    NUM_ROWS,
    assert_close,
    network,
)


def fit_network(num_ranks: int = 1, **named: Any) -> tuple[nn.Module, ListTracker, WeightAverage]:
    models = [network() for _ in range(num_ranks)]
    averages = [WeightAverage(model, 0.9) for model in models]
    tracker = ListTracker()
    schedule = named.pop("schedule", lambda step: 1.0)
    with_average = named.pop("with_average", False)

    def on_rank(communicator: ThreadCommunicator) -> None:
        rank = communicator.rank
        part = {"global_batch_size": 10, "rank": rank, "owners": tuple(range(num_ranks))}
        fit(
            models[rank],
            build_optimizer(models[rank], "momentum", lr=0.1),
            schedule,
            MemorySource(IMAGES, LABELS, **part, seed=1),
            MemorySource(IMAGES, LABELS, **part),
            communicator,
            tracker if rank == 0 else ListTracker(),
            SilentCheckpoints(lambda: False),
            epochs=4,
            num_classes=NUM_CLASSES,
            base_lr=0.1,
            precision="fp32",
            device=CPU,
            options=StepOptions(**named),
            average=averages[rank] if with_average else None,
        )

    run_ranks(num_ranks, on_rank)
    return models[0], tracker, averages[0]


def test_the_loss_is_the_one_of_training_and_of_validation() -> None:
    weights = (3.0, 1.0, 0.5, 0.1)
    loss = build_loss("squared_hinge", class_weights=weights)
    model, tracker, _ = fit_network(loss=loss)
    first = np.random.default_rng((1, 0)).permutation(NUM_ROWS)[:10]
    with torch.inference_mode():
        at_first = float(loss(network()(IMAGES[first]), LABELS[first])) / 10
        expected = float(loss(model(IMAGES), LABELS)) / NUM_ROWS
    assert tracker.values("step/loss")[0] == pytest.approx(at_first, rel=1e-6)
    assert tracker.values("val_loss")[-1] == pytest.approx(expected, rel=1e-6)


def test_plateau_lowers_the_rate_of_the_next_epochs() -> None:
    rule = {"gamma": 0.1, "patience_epochs": 1, "min_improvement": 0.99}
    _, tracker, _ = fit_network(schedule=build_schedule("plateau", steps_per_epoch=3, epochs=4, **rule))
    assert tracker.values("step/learning_rate") == pytest.approx([0.1] * 6 + [0.01] * 3 + [0.001] * 3)


def test_the_momentum_of_each_step_is_that_of_the_schedule() -> None:
    seen: list[int] = []

    def momentum(step: int) -> float:
        seen.append(step)
        return 0.0

    with_zero, *_ = fit_network(momentum=momentum)
    assert seen == list(range(12))
    plain, *_ = fit_network()
    assert not torch.allclose(with_zero[0].weight, plain[0].weight, atol=1e-4)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_the_average_is_evaluated_and_the_network_keeps_its_own_weights(num_ranks: int) -> None:
    plain, plain_tracker, _ = fit_network(num_ranks)
    model, tracker, average = fit_network(num_ranks, with_average=True)
    assert_close(model, plain)
    assert tracker.values("train_loss") == pytest.approx(plain_tracker.values("train_loss"), rel=1e-6)
    with average.swapped_in(), torch.inference_mode():
        expected = float(nn.functional.cross_entropy(model(IMAGES), LABELS))
    assert tracker.values("val_loss")[-1] == pytest.approx(expected, rel=1e-6)
    assert tracker.values("val_loss")[-1] != pytest.approx(plain_tracker.values("val_loss")[-1], rel=1e-3)
