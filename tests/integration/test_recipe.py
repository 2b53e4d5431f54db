"""A rank trains with the choices of the configuration on real files, without Spark."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dlspark.cluster.communicator import LocalCommunicator
from dlspark.config.compose import compose
from dlspark.contracts import ImageFormat, Split, TrainResult, WorkerTask
from dlspark.data.manifest import read_manifest
from dlspark.errors import ConfigError, ModelError
from dlspark.replay import replay_step
from dlspark.tracking.events import TagsEvent
from dlspark.tracking.journal import metric_history, read_events
from dlspark.training.checkpoint import load_checkpoint
from dlspark.worker import run_training
from dlspark.worker_evaluation import run_evaluation
from tests.datasets import place_files, settings_of, write_splits

PLAIN = ("model=mlp", "model.hidden=[8]", "data.reader=arrow", "train.precision=fp32", "train.epochs=2")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    images = np.random.default_rng(0).integers(0, 256, (70, 6, 6, 1), dtype=np.uint8)
    rows = place_files(folder / "source", images, classes="abc")
    image = ImageFormat(height=6, width=6, channels=1, resize="none")
    settings = settings_of(folder, image, classes="abc", storage="raw")
    write_splits({"train": rows[:50], "val": rows[50:]}, settings, num_files=3)
    return folder / "dataset"


def task_of(dataset: Path, run_dir: Path, *words: str, split: Split = "test") -> WorkerTask:
    config = compose([*PLAIN, "cluster.backend=local", *words])
    task = WorkerTask(
        dataset=str(dataset),
        fingerprint=read_manifest(str(dataset)).fingerprint,
        run_dir=str(run_dir),
        config=config.model_dump(mode="json"),
        split=split,
    )
    return WorkerTask.from_json(task.to_json())


def train(dataset: Path, run_dir: Path, *words: str) -> TrainResult:
    return run_training(task_of(dataset, run_dir, *words), LocalCommunicator())


@pytest.mark.parametrize("loss", ["bce", "mse", "mae", "hinge", "squared_hinge"])
def test_every_loss_trains(loss: str, dataset: Path, tmp_path: Path) -> None:
    words = (f"loss={loss}", "loss.class_weights=balanced")
    validation = train(dataset, tmp_path, *words).validation
    evaluated = run_evaluation(task_of(dataset, tmp_path, *words, split="val"), LocalCommunicator())
    assert validation is not None
    assert evaluated.loss == pytest.approx(validation.loss, rel=1e-6)


@pytest.mark.parametrize(
    "optimizer",
    ["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adadelta", "adam", "adamw", "muon"],
)
def test_every_optimizer_trains(optimizer: str, dataset: Path, tmp_path: Path) -> None:
    assert train(dataset, tmp_path, f"optimizer={optimizer}", "train.global_batch_size=16").steps == 8


@pytest.mark.parametrize("schedule", ["inverse_time", "one_cycle", "plateau", "step"])
def test_every_schedule_trains(schedule: str, dataset: Path, tmp_path: Path) -> None:
    assert train(dataset, tmp_path, f"schedule={schedule}", "train.global_batch_size=16").steps == 8


def test_gd_is_one_step_an_epoch_and_equals_a_batch_of_all_rows(dataset: Path, tmp_path: Path) -> None:
    by_parts = train(dataset, tmp_path / "gd", "optimizer=gd", "train.global_batch_size=8")
    at_once = train(dataset, tmp_path / "sgd", "optimizer=sgd", "train.global_batch_size=50")
    assert by_parts.steps == at_once.steps == 2
    ours, theirs = (load_checkpoint(result.checkpoint)[0] for result in (by_parts, at_once))
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_the_average_is_what_is_saved(dataset: Path, tmp_path: Path) -> None:
    words = ("train.global_batch_size=8", "regularize.max_squared_norm=1.0", "optimizer.lr=0.01")
    plain = train(dataset, tmp_path / "plain", *words)
    averaged = train(dataset, tmp_path / "averaged", *words, "regularize.ema_decay=0.9")
    assert plain.validation != averaged.validation
    for name, result in (("plain", plain), ("averaged", averaged)):
        evaluated = run_evaluation(task_of(dataset, tmp_path / name, split="val"), LocalCommunicator())
        assert result.validation is not None
        assert evaluated.confusion == result.validation.confusion
        assert evaluated.loss == pytest.approx(result.validation.loss, rel=1e-6)


def test_an_evaluation_averages_over_the_views_of_the_training_or_over_others(
    dataset: Path, tmp_path: Path
) -> None:
    def evaluated(name: str, *words: str) -> float:
        task = task_of(dataset, tmp_path / name, *words, split="val")
        return run_evaluation(task, LocalCommunicator()).loss

    train(dataset, tmp_path / "plain")
    trained = train(dataset, tmp_path / "viewed", "views.shift=1")
    assert trained.validation is not None
    plain, viewed = evaluated("plain"), evaluated("viewed")
    assert plain == pytest.approx(trained.validation.loss, rel=1e-6)  # validated without views
    assert abs(viewed - plain) > 1e-4
    assert evaluated("plain", "views.shift=1") == viewed
    assert evaluated("viewed", "views.shift=0") == plain


@pytest.mark.parametrize(
    "words", [("mixup_alpha=0.4",), ("cutmix_alpha=1",), ("mixup_alpha=1", "cutmix_alpha=1")]
)
def test_mixing_changes_the_training_and_not_the_evaluation(
    words: tuple[str, ...], dataset: Path, tmp_path: Path
) -> None:
    for name, chosen in (("plain", ()), ("mixed", words)):
        train(dataset, tmp_path / name, *(f"augment.{word}" for word in chosen), "optimizer.lr=0.0001")
    plain, mixed = (metric_history(read_events(str(tmp_path / name))) for name in ("plain", "mixed"))
    assert [value for _, value in plain["step/loss"]] != [value for _, value in mixed["step/loss"]]
    # So small a rate leaves the network as it was: both evaluate the same rows as they are.
    assert mixed["val_loss"][0][1] == pytest.approx(plain["val_loss"][0][1], rel=1e-2)
    replayed = replay_step(
        compose([*PLAIN, "cluster.backend=local", *(f"augment.{word}" for word in words)]),
        str(dataset),
        read_manifest(str(dataset)),
        str(tmp_path / "mixed"),
        1,
    )
    stored = replay_step(
        compose([*PLAIN, "cluster.backend=local"]),
        str(dataset),
        read_manifest(str(dataset)),
        str(tmp_path / "mixed"),
        1,
    )
    assert (replayed.row_ids == stored.row_ids).all()
    assert (replayed.pixels != stored.pixels).any(axis=(1, 2, 3)).mean() > 0.5
    assert not np.allclose(replayed.losses, stored.losses)


def test_a_choice_that_the_dataset_cannot_serve_is_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="got 2 weights; allowed: 3"):
        train(dataset, tmp_path, "loss.class_weights=[1,2]")


def test_early_stopping_keeps_the_best_network_and_says_so(dataset: Path, tmp_path: Path) -> None:
    words = (
        "train.epochs=30",
        "optimizer.lr=0.05",
        "train.early_stopping.patience_epochs=2",
        "train.top_k=2",
    )
    result = train(dataset, tmp_path, *words)
    curves = metric_history(read_events(str(tmp_path)))
    losses = [value for _, value in curves["val_loss"]]
    assert result.epochs == len(losses) < 30
    assert result.validation is not None
    assert result.validation.loss == min(losses)
    assert [value for _, value in curves["val_top2_accuracy"]][losses.index(min(losses))] == (
        result.validation.top_k_accuracy
    )
    _, description = load_checkpoint(str(tmp_path / "checkpoints" / "final"))
    assert (description.epoch, description.metrics["val_loss"]) == (
        losses.index(min(losses)) + 1,
        min(losses),
    )
    evaluated = run_evaluation(task_of(dataset, tmp_path, *words, split="val"), LocalCommunicator())
    assert evaluated.confusion == result.validation.confusion
    tags = [event.values for event in read_events(str(tmp_path)) if isinstance(event, TagsEvent)]
    assert any("dlspark.note.early_stopping" in values for values in tags)
    assert any(name.startswith("layer/") and name.endswith("/gradient_norm") for name in curves)


def test_a_diverged_run_names_its_rows_in_the_run_directory(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not finite"):
        train(dataset, tmp_path, "optimizer=sgd", "optimizer.lr=1e30", "train.global_batch_size=10")
    [file] = (tmp_path / "diverged").iterdir()
    assert len(json.loads(file.read_text())["row_ids"]) == 10
