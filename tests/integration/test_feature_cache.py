"""Features that are computed once: the head learns the same, the body stays, the run is a run like others."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from dlspark.config.compose import compose
from dlspark.contracts import ImageFormat, WorkerTask
from dlspark.data.feature_files import INDEX_NAME, read_index
from dlspark.data.feature_use import remove_features
from dlspark.data.manifest import FileEntry, Manifest, read_manifest
from dlspark.errors import DatasetError, SourceError
from dlspark.predict.features import Body
from dlspark.tracking.journal import metric_history, read_events
from dlspark.training.checkpoint import load_checkpoint
from dlspark.training.snapshots import list_snapshots, remove_snapshot
from pipelines import evaluate, feature_cache, train
from pipelines.feature_cache import FEATURES_FOLDER, with_features
from pipelines.train import TrainStageResult
from tests.datasets import place_files, settings_of, write_splits

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_NETWORK = ("model.widths=[4,8]", "model.padding=same", "model.dense=16", "model.batch_norm=true")
_CACHED = "transfer.cache_features=true"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits, a network that was trained a little, and a run that trained the head of it anew on images."""
    home = tmp_path_factory.mktemp("features")
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels.reshape(-1, 8, 8, 1) * 255 / 16).round().astype(np.uint8)
    by_digit = [images[labels == digit][:40] for digit in range(10)]
    names = [str(digit) for digit in range(10)]
    rows = place_files(home / "source", np.stack(by_digit, axis=1).reshape(-1, 8, 8, 1), classes=names)
    image = ImageFormat(height=8, width=8, channels=1, resize="none")
    settings = settings_of(home, image, classes=names, storage="raw")
    write_splits({"train": rows[:300], "val": rows[300:360], "test": rows[360:]}, settings, num_files=3)
    _train(home, "trained", "train.epochs=2")
    _train(home, "plain", *_head(home))
    return home


def _head(home: Path) -> tuple[str, ...]:
    return (
        f"transfer.weights={home}/trained",
        "transfer.trainable=head",
        "train.seed=3",
        "checkpoint.keep=9",
    )


def _train(home: Path, run: str, *words: str, spark: SparkSession | None = None) -> TrainStageResult:
    common = (
        *(f"dataset={home}/dataset", f"run_dir={home}/{run}", "checkpoint.every_steps=4"),
        *(f"tracking.uri=sqlite:///{home}/mlflow.db", "train.global_batch_size=32", "train.precision=fp32"),
        *("optimizer=adamw", "optimizer.lr=0.01", "train.epochs=3", "cluster.threads_per_worker=1"),
    )
    where = () if spark else ("cluster.backend=local", "cluster.workers=1", "data.reader=arrow")
    return train.run(compose([*common, *_NETWORK, *where, *words]), spark)


def provide_features(task: WorkerTask, spark: SparkSession | None) -> str:
    with with_features(task, spark) as ready:
        assert ready.features is not None
        return ready.features


def _task_of(home: Path, dataset: Path, run_dir: Path) -> tuple[WorkerTask, Manifest]:
    """A run from the weights that `run_dir` began with."""
    manifest = read_manifest(str(dataset))
    words = (f"dataset={dataset}", f"run_dir={run_dir}", *_NETWORK, *_head(home), _CACHED)
    task = WorkerTask(
        dataset=str(dataset),
        fingerprint=manifest.fingerprint,
        run_dir=str(run_dir),
        config=compose([*words, "data.reader=arrow"]).model_dump(mode="json"),
    )
    return task, manifest


def _losses(home: Path, run: str) -> list[float]:
    return [value for _, value in metric_history(read_events(str(home / run)))["step/loss"]]


def _measured(home: Path, run: str) -> set[str]:
    """What was measured of the layers."""
    names = metric_history(read_events(str(home / run)))
    return {name.rpartition("/")[2] for name in names if name.startswith("layer/")}


def _weights(home: Path, run: str) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_checkpoint(f"{home}/{run}/checkpoints/final")[0].state_dict()
    return state


def _fail(*_: Any) -> NoReturn:
    raise AssertionError("features were computed")


def test_the_head_learns_from_features_what_it_learns_from_images(home: Path) -> None:
    done = _train(home, "cached", *_head(home), _CACHED)
    curve = _losses(home, "plain")
    assert len(curve) == done.steps == 30
    assert curve[-1] < 0.9 * curve[0], "nothing was learned, so equal curves would prove little"
    assert _losses(home, "cached") == pytest.approx(curve, rel=1e-5)
    assert "activation_mean" in _measured(home, "plain")
    assert _measured(home, "cached") == {"gradient_norm", "update_ratio"}, "images passed through the body"

    plain, before, weights = (_weights(home, run) for run in ("plain", "trained", "cached"))
    assert list(weights)[-2:] == [name for name in weights if not torch.equal(weights[name], before[name])]
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, plain[name], rtol=1e-5, atol=1e-5)
    for stored in list_snapshots(f"{home}/cached/checkpoints"):
        state = load_checkpoint(stored.url)[0].state_dict()
        assert all(torch.equal(state[name], before[name]) for name in list(state)[:-2]), stored.name

    words = [f"run_dir={home}/cached", f"tracking.uri=sqlite:///{home}/mlflow.db", "cluster=single_process"]
    evaluated = evaluate.run(compose([*words, "split=val", "data.reader=arrow"]), None)
    assert evaluated.loss == pytest.approx(done.val_loss, rel=1e-5)


def test_a_training_holds_its_features(home: Path) -> None:
    task, _ = _task_of(home, home / "dataset", home / "plain")
    with with_features(task, None) as ready:
        assert ready.features is not None
        assert not remove_features(ready.features)
        assert read_index(ready.features) is not None
    assert remove_features(ready.features)
    assert not Path(ready.features).exists()


def test_neighbours_share_the_features_of_the_same_body(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    task, _ = _task_of(home, home / "dataset", home / "plain")
    folder = provide_features(task, None)
    index = read_index(folder)
    assert index is not None
    assert len(index.files) == 9
    monkeypatch.setattr(feature_cache, "compute_here", _fail)
    words = ("transfer.trainable=head", "train.epochs=1", _CACHED)
    # The body of `plain` is the same to the bit, its head is another one.
    _train(home, "second", f"transfer.weights={home}/plain", *words, "optimizer.lr=0.1", "train.seed=4")
    assert f"the features are there already, in {folder}" in caplog.text

    other = _weights(home, "plain")
    other["0.weight"][0, 0, 0, 0] += 0.01
    torch.save(other, tmp_path / "other.pt")
    with pytest.raises(AssertionError, match="features were computed"):
        _train(home, "other", f"transfer.weights={tmp_path}/other.pt", *words)
    assert not (home / "other" / "run.json").exists()


def test_a_damaged_file_is_named_and_made_again(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(home / "plain", tmp_path / "run")
    task, _ = _task_of(home, home / "dataset", tmp_path / "run")
    folder = provide_features(task, None)
    index = read_index(folder)
    assert index is not None
    file = Path(folder) / index.files["train", 1].path
    before = {path: path.read_bytes() for path in Path(folder).rglob("*.*")}
    assert len(before) == 10
    for damaged, text in (
        (file, f"{file} is damaged"),
        (Path(folder) / INDEX_NAME, f"{INDEX_NAME} is damaged"),
    ):
        damaged.write_bytes(before[damaged][:-9] + b"?" + before[damaged][-8:])
        assert provide_features(task, None) == folder
        assert text in caplog.text
        again = read_index(folder)
        assert again is not None
        assert (again.files, again.num_features) == (index.files, index.num_features)
        assert again.used > index.used
        files = {path: data for path, data in before.items() if path.name != INDEX_NAME}
        assert {path: path.read_bytes() for path in Path(folder).rglob("*.parquet")} == files


def test_a_run_goes_on_in_the_middle_of_an_epoch_and_at_its_beginning(home: Path) -> None:
    words = (*_head(home), _CACHED, "regularize.ema_decay=0.9", "train.early_stopping.patience_epochs=2")
    done = _train(home, "again", *words)
    weights, losses = _weights(home, "again"), _losses(home, "again")
    for num_left in (3, 0):
        # As after a kill; the second time the features are gone too.
        (home / "again" / "result.json").unlink()
        for stored in list_snapshots(f"{home}/again/checkpoints")[num_left:]:
            remove_snapshot(stored.url)
        left = [stored.description.step for stored in list_snapshots(f"{home}/again/checkpoints")]
        assert left == [4, 8, 10][:num_left]
        if not num_left:
            shutil.rmtree(home / FEATURES_FOLDER)
        assert _train(home, "again", *words).val_loss == done.val_loss
        assert _losses(home, "again") == losses
        for name, tensor in _weights(home, "again").items():
            assert torch.equal(tensor, weights[name]), name


@pytest.mark.spark
@pytest.mark.horovod
def test_a_spark_job_computes_them_and_two_ranks_learn_what_one_process_does(
    home: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "compute_here", _fail)
    words = (*_head(home), "model.dropout_dense=0")
    done = _train(home, "spark/ranks", *words, _CACHED, "cluster.workers=2", spark=spark)
    _train(home, "spark/one", *words)
    assert _losses(home, "spark/ranks") == pytest.approx(_losses(home, "spark/one"), rel=1e-5)
    assert done.workers == 2


def test_features_that_the_driver_does_not_see_are_an_error(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(home / "plain", tmp_path / "run")
    task, _ = _task_of(home, home / "dataset", tmp_path / "run")
    compute = feature_cache.compute_here

    def compute_elsewhere(body: Body, folder: str, *others: Any) -> list[FileEntry]:
        entries = compute(body, folder, *others)
        shutil.rmtree(f"{folder}/split=val")
        return entries

    monkeypatch.setattr(feature_cache, "compute_here", compute_elsewhere)
    with pytest.raises(DatasetError, match=r"cannot be seen.*3 of 9 files missing.*all hosts share"):
        provide_features(task, None)
    assert not list((tmp_path / FEATURES_FOLDER).rglob(INDEX_NAME))


@pytest.mark.spark
def test_a_damaged_dataset_leaves_no_features_and_is_named(
    home: Path, spark: SparkSession, tmp_path: Path
) -> None:
    shutil.copytree(home / "dataset", tmp_path / "dataset")
    shutil.copytree(home / "plain", tmp_path / "run")
    task, manifest = _task_of(home, tmp_path / "dataset", tmp_path / "run")
    file = tmp_path / "dataset" / manifest.splits["val"].files[1].path
    file.write_bytes(file.read_bytes()[:-1])
    told = f"not the one that was published.*{file.name}"
    with pytest.raises(DatasetError, match=told):
        provide_features(task, None)
    with pytest.raises(SourceError, match=f"a task of the stage train failed.*{told}"):
        provide_features(task, spark)
    assert not list((tmp_path / FEATURES_FOLDER).rglob(INDEX_NAME))
