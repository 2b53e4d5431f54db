"""Early stopping ends where a curve says, gives back the best weights, and forgets nothing over a stop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from dlspark.config import Config
from dlspark.config.early_stopping_section import EarlyStoppingConfig
from dlspark.config.train_sections import TrainConfig
from dlspark.contracts import BatchSource
from dlspark.errors import ConfigError
from dlspark.recipe import early_stopping_of
from dlspark.training.checkpoint_writer import CheckpointWriter
from dlspark.training.early_stopping import EarlyStopping
from dlspark.training.optimizers import build_optimizer
from dlspark.training.snapshots import newest_snapshot, read_snapshot
from dlspark.training.trainer import FitResult, fit
from dlspark.training.weight_average import WeightAverage
from tests.unit.training.doubles import ListTracker, MemorySource, random_rows, run_ranks
from tests.unit.training.test_resume import describe

CPU = torch.device("cpu")
ROWS, VAL_ROWS = random_rows(60, num_classes=4), random_rows(31, num_classes=4)


def epochs_until_the_end(values: list[float], *, metric: str = "val_loss", **options: float) -> int:
    model = nn.Linear(1, 1)
    stopping = EarlyStopping(patience_epochs=2, metric=metric, **({"min_improvement": 0.0} | options))
    for epoch, value in enumerate(values, start=1):
        with torch.no_grad():
            model.weight.fill_(epoch)
        stopping.observe(
            {"model": model}, epoch=epoch, step=10 * epoch, metrics={metric: value}, validation=None
        )
        if stopping.is_over:
            break
    stopping.restore({"model": model})
    assert model.weight.item() == stopping.best_epoch
    assert stopping.best_step == 10 * stopping.best_epoch
    return epoch


def test_it_ends_after_so_many_epochs_without_a_better_value() -> None:
    assert epochs_until_the_end([1.0, 0.5, 0.6, 0.4, 0.41, 0.42, 0.1]) == 6
    assert epochs_until_the_end([1.0, 0.9, 0.8, 0.7]) == 4
    assert epochs_until_the_end([0.5, 0.5, 0.5, 0.1]) == 3  # equal is not better
    assert epochs_until_the_end([0.5, 0.7, 0.6, 0.8], metric="val_accuracy") == 4
    assert epochs_until_the_end([1.0, 0.95, 0.92, 0.2], min_improvement=0.1) == 3


def train(
    folder: Path,
    *,
    lr: float = 0.9,
    num_ranks: int = 1,
    stop_after: int | None = None,
    patience: int = 2,
    with_average: bool = False,
) -> list[tuple[nn.Module, FitResult, ListTracker]]:
    stored = newest_snapshot(str(folder))
    resume = read_snapshot(stored.url) if stored else None

    def on_rank(communicator: object) -> tuple[nn.Module, FitResult, ListTracker]:
        rank, steps, tracker = communicator.rank, [resume.step if resume else 0], ListTracker()
        part = {"global_batch_size": 20, "rank": rank, "owners": tuple(range(num_ranks))}
        source: BatchSource = MemorySource(*ROWS, **part, seed=3)
        model = models[rank]

        def told_to_stop() -> bool:
            steps[0] += 1
            return steps[0] == stop_after

        with CheckpointWriter(
            str(folder / str(rank)) if rank else str(folder),
            describe=describe,
            told_to_stop=told_to_stop,
            every_steps=None,
            every_minutes=None,
            keep=1,
            best_metric="train_loss",
            resumed_from=stored.url if stored and not rank else None,
        ) as checkpoints:
            result = fit(
                model,
                build_optimizer(model, "sgd", lr=lr),
                lambda step: 1.0,
                source,
                MemorySource(*VAL_ROWS, **part),
                communicator,
                tracker,
                checkpoints,
                resume=resume,
                epochs=12,
                num_classes=4,
                base_lr=lr,
                precision="fp32",
                device=CPU,
                average=WeightAverage(model, 0.5) if with_average else None,
                early_stopping=EarlyStopping(
                    patience_epochs=patience, metric="val_loss", min_improvement=0.0
                ),
            )
        return model, result, tracker

    torch.manual_seed(0)
    models = [nn.Sequential(nn.Flatten(), nn.Linear(64, 4)) for _ in range(num_ranks)]
    return run_ranks(num_ranks, on_rank)


@pytest.mark.parametrize("with_average", [False, True])
def test_the_weights_are_those_of_the_best_epoch(tmp_path: Path, with_average: bool) -> None:
    [(model, result, tracker)] = train(tmp_path, with_average=with_average)
    losses = tracker.values("val_loss")
    best = losses.index(min(losses))
    assert len(losses) == best + 3 < 12
    assert (result.epochs, result.kept_epoch, result.kept_step) == (len(losses), best + 1, 3 * (best + 1))
    assert result.validation.loss == result.metrics["val_loss"] == min(losses)
    [(step, name, sentence)] = [note for note in tracker.notes if note[1] == "early_stopping"]
    assert (step, name) == (3 * len(losses), "early_stopping")
    assert f"of epoch {best + 1} for 2 epochs" in sentence
    if not with_average:
        with torch.no_grad():
            loss = nn.functional.cross_entropy(model(VAL_ROWS[0]), VAL_ROWS[1])
        assert float(loss) == pytest.approx(min(losses), rel=1e-5)


def test_the_weights_are_the_best_also_after_all_epochs(tmp_path: Path) -> None:
    [(_, result, tracker)] = train(tmp_path, patience=12)
    losses = tracker.values("val_loss")
    assert len(losses) == 12
    assert result.validation.loss == min(losses) < losses[-1]
    assert not [name for _, name, _ in tracker.notes if name == "early_stopping"]


@pytest.mark.parametrize("stop_after", [2, 5, 9])
def test_it_survives_a_stop(tmp_path: Path, stop_after: int) -> None:
    [(straight, expected, _)] = train(tmp_path / "straight")
    [(_, part, _)] = train(tmp_path / "parts", stop_after=stop_after)
    assert part.stopped
    [(model, result, tracker)] = train(tmp_path / "parts")
    assert (result.epochs, result.kept_epoch) == (expected.epochs, expected.kept_epoch)
    assert result.validation == expected.validation
    assert all(map(torch.equal, model.state_dict().values(), straight.state_dict().values()))
    [(again, twice, silent)] = train(tmp_path / "parts")  # it had ended: no step more, the same weights
    assert silent.metrics == {}
    assert twice.kept_epoch == result.kept_epoch
    assert all(map(torch.equal, again.state_dict().values(), straight.state_dict().values()))
    assert tracker.notes


def test_all_ranks_end_alike(tmp_path: Path) -> None:
    [(_, alone, _)] = train(tmp_path / "alone")
    for model, result, _ in (both := train(tmp_path / "two", num_ranks=2)):
        assert (result.epochs, result.kept_epoch) == (alone.epochs, alone.kept_epoch)
        assert all(map(torch.equal, model.state_dict().values(), both[0][0].state_dict().values()))


def test_a_validation_metric_needs_a_val_split() -> None:
    stopping = EarlyStoppingConfig(patience_epochs=3)
    config = Config(train=TrainConfig(early_stopping=stopping))
    assert early_stopping_of(config, has_val=True) is not None
    assert early_stopping_of(Config(), has_val=False) is None
    with pytest.raises(ConfigError, match="no val split"):
        early_stopping_of(config, has_val=False)
