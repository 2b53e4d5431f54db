"""A training that was stopped and went on cannot be told from one that never stopped."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dlspark.errors import ModelError
from dlspark.training.checkpoint_writer import CheckpointWriter, SilentCheckpoints
from dlspark.training.diagnostics import DiagnosticsOptions
from dlspark.training.named_optimizer import NamedOptimizer
from dlspark.training.optimizers import build_optimizer
from dlspark.training.plateau import PlateauSchedule
from dlspark.training.schedules import build_schedule
from dlspark.training.snapshots import newest_snapshot, read_snapshot
from dlspark.training.trainer import FitResult, fit
from dlspark.training.weight_average import WeightAverage
from tests.unit.training.doubles import ListTracker, MemorySource, ThreadCommunicator, random_rows, run_ranks
from tests.unit.training.snapshots_of import describe

pytestmark = pytest.mark.faults(scenario=7)

CPU = torch.device("cpu")
ROWS = random_rows(150, num_classes=4)
VAL_ROWS = random_rows(31, num_classes=4)
STEPS_OF_EPOCH = 5
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.05, "momentum": 0.9, "nesterov": True},
    "adam": {"lr": 0.003, "betas": (0.8, 0.99)},
    "adamw": {"lr": 0.003, "weight_decay": 0.1},
}


def dropout_network(*, batch_norm: bool = False) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4) if batch_norm else nn.Identity(),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(4 * 6 * 6, 4),
    )


@dataclasses.dataclass
class Run:
    model: nn.Module
    optimizer: dict[str, Any]
    tracker: ListTracker
    result: FitResult
    num_collectives: int


def train(
    folder: Path,
    *,
    optimizer: str = "sgd",
    epochs: int = 4,
    num_ranks: int = 1,
    stop_after: int | None = None,
    batch_norm: bool = False,
    dropout: bool = True,
    averages: bool = False,
    **gradients: Any,
) -> list[Run]:
    """Train, go on from the newest snapshot in `folder`, stop after so many steps of the run."""
    stored = newest_snapshot(str(folder))
    resume = read_snapshot(stored.url) if stored else None
    states = []
    for rank in range(num_ranks):
        torch.manual_seed(rank)
        network = dropout_network(batch_norm=batch_norm)
        network[4].p = 0.3 if dropout else 0.0
        states.append(network)

    def on_rank(communicator: ThreadCommunicator) -> Run:
        network, tracker, steps = states[communicator.rank], ListTracker(), [0]
        owners = tuple(range(num_ranks))
        source = MemorySource(*ROWS, global_batch_size=32, rank=communicator.rank, owners=owners, seed=7)
        val = MemorySource(*VAL_ROWS, global_batch_size=32, rank=communicator.rank, owners=owners)

        def told_to_stop() -> bool:
            # Asked once before each step, by the last rank only: the others learn it with the gradients.
            begun = resume.step if resume else 0
            steps[0] += 1
            return communicator.rank == num_ranks - 1 and begun + steps[0] == stop_after

        writes = communicator.rank == 0
        checkpoints = (
            CheckpointWriter(
                str(folder),
                describe=describe,
                told_to_stop=told_to_stop,
                every_steps=3,
                every_minutes=None,
                keep=2,
                best_metric="val_loss",
                resumed_from=stored.url if stored else None,
            )
            if writes
            else SilentCheckpoints(told_to_stop)
        )
        schedule = build_schedule("cosine", steps_per_epoch=STEPS_OF_EPOCH, epochs=epochs, warmup_epochs=0.5)
        if averages:
            # Every epoch is one too many without a loss that is half of the best.
            schedule = PlateauSchedule(gamma=0.5, patience_epochs=1, min_improvement=0.5)
        made = build_optimizer(network, optimizer, **OPTIMIZERS[optimizer])
        with checkpoints if writes else nullcontext():
            result = fit(
                network,
                made,
                schedule,
                source,
                val,
                communicator,
                tracker,
                checkpoints,
                resume=resume,
                epochs=epochs,
                num_classes=4,
                base_lr=OPTIMIZERS[optimizer]["lr"],
                precision="fp32",
                device=CPU,
                average=WeightAverage(network, 0.9) if averages else None,
                **gradients,
                diagnostics=DiagnosticsOptions(every_steps=4, expected_loss=0.1),
            )
        state = NamedOptimizer(network, made).state_dict()["state"]
        return Run(network, state, tracker, result, communicator.num_collectives)

    return run_ranks(num_ranks, on_rank)


def assert_same(went_on: Run, straight: Run) -> None:
    expected = straight.model.state_dict()
    for name, tensor in went_on.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert went_on.optimizer.keys() == straight.optimizer.keys()
    for name, values in went_on.optimizer.items():
        for key, value in values.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(straight.optimizer[name][key])), name
    layers = [name for name in straight.tracker.metrics if name.startswith("layer/")]
    for name in ("step/loss", "step/learning_rate", "train_loss", "train_accuracy", "val_loss", *layers):
        curve = went_on.tracker.metrics.get(name, [])
        assert curve == straight.tracker.metrics[name][len(straight.tracker.metrics[name]) - len(curve) :]
    assert went_on.result.validation == straight.result.validation
    assert (went_on.result.steps, went_on.result.epochs) == (straight.result.steps, straight.result.epochs)


@pytest.mark.parametrize(
    ("optimizer", "stops"),
    [("sgd", (10,)), ("adam", (7,)), ("adamw", (5,)), ("sgd", (1, 2, 3, 8, 9, 15, 19)), ("adam", (6, 8))],
)
def test_stopped_and_resumed_is_bit_equal(tmp_path: Path, optimizer: str, stops: tuple[int, ...]) -> None:
    [straight] = train(tmp_path / "straight", optimizer=optimizer)
    seen: list[tuple[int, float]] = []
    notes: list[tuple[int, str, str]] = []
    for stop in stops:
        [part] = train(tmp_path / "parts", optimizer=optimizer, stop_after=stop)
        assert part.result.stopped
        assert part.result.steps == stop
        seen += part.tracker.metrics["step/loss"]
        notes += part.tracker.notes
    [last] = train(tmp_path / "parts", optimizer=optimizer)
    assert not last.result.stopped
    assert [name for _, name, _ in straight.tracker.notes] == ["initial_loss", "underfitting"]
    assert notes + last.tracker.notes == straight.tracker.notes
    # The units are spoken of at the end, from the measured steps of all parts.
    assert [step for step, _ in straight.tracker.metrics["layer/2/dead_share"]] == [20]
    assert last.tracker.metrics["layer/2/dead_share"] == straight.tracker.metrics["layer/2/dead_share"]
    assert seen + last.tracker.metrics["step/loss"] == straight.tracker.metrics["step/loss"]
    assert_same(last, straight)


def test_averaged_weights_and_the_state_of_a_schedule_go_on_too(tmp_path: Path) -> None:
    [straight] = train(tmp_path / "straight", averages=True)
    assert len({rate for _, rate in straight.tracker.metrics["step/learning_rate"]}) > 2
    for stop in (6, 12):
        train(tmp_path / "parts", averages=True, stop_after=stop)
    [last] = train(tmp_path / "parts", averages=True)
    assert_same(last, straight)


@pytest.mark.parametrize(
    "gradients",
    [{"compression": "fp16"}, {"reduction": "adasum"}, {"compression": "fp16", "reduction": "adasum"}],
    ids=str,
)
def test_the_way_of_the_gradients_between_ranks_goes_on_too(
    tmp_path: Path, gradients: dict[str, str]
) -> None:
    plain = train(tmp_path / "plain", num_ranks=2, dropout=False)
    straight = train(tmp_path / "straight", num_ranks=2, dropout=False, **gradients)
    assert straight[0].tracker.metrics["step/loss"] != plain[0].tracker.metrics["step/loss"]
    for stop in (3, 9):
        train(tmp_path / "parts", num_ranks=2, dropout=False, stop_after=stop, **gradients)
    ends = train(tmp_path / "parts", num_ranks=2, dropout=False, **gradients)
    for went_on, expected in zip(ends, straight, strict=True):
        assert_same(went_on, expected)


@pytest.mark.parametrize("averages", [False, True])
@pytest.mark.parametrize("stops", [(7,), (3, 4, 10)], ids=str)
def test_ranks_have_their_own_batch_statistics(
    tmp_path: Path, stops: tuple[int, ...], averages: bool
) -> None:
    # Dropout off: the ranks are threads here and would draw from one generator in any order.
    options: dict[str, Any] = {"num_ranks": 2, "batch_norm": True, "dropout": False, "averages": averages}
    straight = train(tmp_path / "straight", **options)
    for stop in stops:
        parts = train(tmp_path / "parts", **options, stop_after=stop)
        assert {part.num_collectives for part in parts} == {parts[0].num_collectives}
        assert all(part.result.stopped and part.result.steps == stop for part in parts)
    ends = train(tmp_path / "parts", **options)
    for went_on, expected in zip(ends, straight, strict=True):
        assert_same(went_on, expected)


@pytest.mark.parametrize(("before", "after"), [(4, 2), (4, 3), (2, 1), (1, 2)])
def test_another_number_of_ranks_goes_on_with_the_same_curve(tmp_path: Path, before: int, after: int) -> None:
    [straight] = train(tmp_path / "straight", dropout=False)
    train(tmp_path / "parts", num_ranks=before, dropout=False, stop_after=8)
    went_on = train(tmp_path / "parts", num_ranks=after, dropout=False)[0]
    expected = [value for step, value in straight.tracker.metrics["step/loss"] if step > 8]
    assert went_on.tracker.values("step/loss") == pytest.approx(expected, rel=1e-5)
    assert went_on.tracker.values("train_loss") == pytest.approx(
        straight.tracker.values("train_loss")[1:], rel=1e-5
    )


def test_batch_statistics_of_another_number_of_ranks_are_the_mean(tmp_path: Path) -> None:
    train(tmp_path, num_ranks=2, batch_norm=True, stop_after=7)
    stored = newest_snapshot(str(tmp_path))
    assert stored is not None
    own = read_snapshot(stored.url).tensors["own/buffer:1.running_mean"]
    assert not torch.equal(own[0], own[1])
    resumed: list[torch.Tensor] = []

    class Watched(nn.Sequential):
        def train(self, mode: bool = True) -> Watched:
            resumed.append(self[1].running_mean.clone())
            return super().train(mode)

    network = Watched(*dropout_network(batch_norm=True))
    resumed.clear()
    one_epoch = MemorySource(*ROWS, global_batch_size=32, seed=7)
    run_ranks(
        1,
        lambda communicator: fit(
            network,
            build_optimizer(network, "sgd", **OPTIMIZERS["sgd"]),
            lambda step: 1.0,
            one_epoch,
            None,
            communicator,
            ListTracker(),
            SilentCheckpoints(lambda: False),
            resume=read_snapshot(stored.url),
            epochs=2,
            num_classes=4,
            base_lr=0.1,
            precision="fp32",
            device=CPU,
        ),
    )
    torch.testing.assert_close(resumed[0], own.mean(dim=0))


def test_a_snapshot_without_the_averages_of_the_statistics_is_refused(tmp_path: Path) -> None:
    train(tmp_path, batch_norm=True, stop_after=7)
    with pytest.raises(ModelError, match=r"lacks statistics.*no average\.1\.running_mean.*step 7.*overwrite"):
        train(tmp_path, batch_norm=True, averages=True)


def test_a_training_that_had_ended_makes_no_step(tmp_path: Path) -> None:
    [done] = train(tmp_path)
    [again] = train(tmp_path)
    assert again.tracker.metrics == {}
    assert_same_weights(again.model, done.model)
    assert dataclasses.replace(again.result, images_per_second=0) == dataclasses.replace(
        done.result, images_per_second=0
    )


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    expected = other.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in one.state_dict().items())
