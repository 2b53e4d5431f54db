"""A training that starts from weights of another run: frozen, kept through a resume, from the registry."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from sklearn.datasets import load_digits

from dlspark.config.compose import compose
from dlspark.contracts import ImageFormat
from dlspark.errors import ConfigError, ModelError, TrackingError
from dlspark.training.checkpoint import load_checkpoint
from dlspark.training.snapshots import list_snapshots, remove_snapshot
from pipelines import register, train
from pipelines.train import TrainStageResult
from tests.datasets import place_files, settings_of, write_splits

_NETWORK = ("model.widths=[4,8]", "model.padding=same", "model.dense=16", "model.batch_norm=true")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two datasets of digits, and a network that was trained on all ten, in the registry as `digits`."""
    home = tmp_path_factory.mktemp("transfer")
    _publish(home / "ten", range(10))
    _publish(home / "five", range(5))
    _train(home, "ten", "source", "train.epochs=6")
    words = [f"run_dir={home}/source", f"tracking.uri=sqlite:///{home}/mlflow.db"]
    register.run(compose([*words, "tracking.registered_model=digits"]), None)
    return home


def _publish(folder: Path, digits: Sequence[int]) -> None:
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels.reshape(-1, 8, 8, 1) * 255 / 16).round().astype(np.uint8)
    by_digit = [images[labels == digit][:40] for digit in digits]
    rows = place_files(
        folder / "source", np.stack(by_digit, axis=1).reshape(-1, 8, 8, 1), classes=[str(d) for d in digits]
    )
    image = ImageFormat(height=8, width=8, channels=1, resize="none")
    settings = settings_of(folder, image, classes=[str(d) for d in digits], storage="raw")
    num_train = 30 * len(digits)
    write_splits({"train": rows[:num_train], "val": rows[num_train:]}, settings, num_files=3)


def _train(home: Path, dataset: str, run: str, *words: str) -> TrainStageResult:
    common = (
        *(f"dataset={home}/{dataset}/dataset", f"run_dir={home}/{run}", "cluster.backend=local"),
        *(f"tracking.uri=sqlite:///{home}/mlflow.db", "train.global_batch_size=32", "data.reader=arrow"),
        *("optimizer=adamw", "optimizer.lr=0.01", "optimizer.weight_decay=0.1", "train.precision=fp32"),
    )
    return train.run(compose([*common, *_NETWORK, "train.epochs=3", *words]), None)


def _weights(home: Path, run: str) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_checkpoint(f"{home}/{run}/checkpoints/final")[0].state_dict()
    return state


def test_the_head_alone_is_trained_for_other_classes_and_the_run_goes_on_without_its_source(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(home / "source", home / "copy")
    words = (f"transfer.weights={home}/copy", "transfer.trainable=head", "checkpoint.keep=3")
    with caplog.at_level(logging.INFO):
        done = _train(home, "five", "head", *words)
    source, weights = _weights(home, "source"), _weights(home, "head")
    different = {name for name in weights if not torch.equal(weights[name], source[name])}
    head = list(weights)[-2:]
    assert different == set(head)
    assert weights[head[0]].shape == (5, 16)
    assert done.val_accuracy is not None
    assert done.val_accuracy > 0.8
    tensors = f"the training starts from {home}/copy: {len(weights) - 2} tensors"
    assert tensors in caplog.text
    assert "is drawn anew: it is for 10 classes, not 5" in caplog.text
    assert "transfer.trainable=head: " in caplog.text
    tags = MlflowClient(done.tracking_uri).get_run(done.run_id).data.tags
    assert tags["dlspark.start.weights"] == f"{home}/copy"
    described = (home / "source" / "run.json").read_text()
    assert tags["dlspark.start.run_id"] in described

    # As after a kill in the second epoch, and the weights that it started from are gone.
    shutil.rmtree(home / "copy")
    (home / "head" / "result.json").unlink()
    for stored in list_snapshots(f"{home}/head/checkpoints")[1:]:
        remove_snapshot(stored.url)
    with pytest.raises(ConfigError, match=r"transfer\.trainable=2"):
        _train(home, "five", "head", words[0], "transfer.trainable=2", words[2])
    assert _train(home, "five", "head", *words).run_id == done.run_id
    for name, tensor in _weights(home, "head").items():
        assert torch.equal(tensor, weights[name]), name

    # Before its first snapshot it begins with the weights in the run directory.
    (home / "head" / "result.json").unlink()
    for stored in list_snapshots(f"{home}/head/checkpoints"):
        remove_snapshot(stored.url)
    _train(home, "five", "head", *words)
    for name, tensor in _weights(home, "head").items():
        assert torch.equal(tensor, weights[name]), name


def test_a_model_of_the_registry_is_fine_tuned_and_keeps_its_head(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ("transfer.weights=models:/digits@champion", "transfer.depth_decay=0.5", "optimizer.lr=1e-5")
    with caplog.at_level(logging.INFO):
        tuned = _train(home, "ten", "tuned", *words, "train.epochs=1")
    source, weights = _weights(home, "source"), _weights(home, "tuned")
    assert "drawn anew" not in caplog.text
    for name, tensor in weights.items():
        if "running" not in name and "num_batches" not in name:
            assert not torch.equal(tensor, source[name]), name
            torch.testing.assert_close(tensor, source[name], atol=1e-3, rtol=0.0)
    assert tuned.val_accuracy is not None
    assert tuned.val_accuracy > 0.8


def test_a_run_is_named_by_its_id_and_what_does_not_fit_leaves_no_run(home: Path, tmp_path: Path) -> None:
    run_id = MlflowClient(f"sqlite:///{home}/mlflow.db").search_model_versions("name = 'digits'")[0].run_id
    assert _train(home, "ten", "by_id", f"transfer.weights={run_id}", "train.epochs=1").epochs == 1
    refused = {
        f"{home}/source": (ModelError, "the weights are not those of the network.*mnist_cnn"),
        f"{home}/none": (ModelError, r"no trained model.*correct transfer\.weights"),
        "models:/nobody/1": (TrackingError, "nobody"),
        "0" * 32: (TrackingError, "cannot be read"),
    }
    for weights, (kind, message) in refused.items():
        with pytest.raises(kind, match=message):
            _train(home, "ten", "refused", f"transfer.weights={weights}", "model.dense=17")
    with pytest.raises(ModelError, match="allowed: 1 to 4"):
        _train(home, "ten", "refused", f"transfer.weights={home}/source", "transfer.trainable=5")
    assert not (home / "refused").exists()

    torch.save(_weights(home, "source"), tmp_path / "a.pt")
    by_file = _train(home, "ten", "by_file", f"transfer.weights={tmp_path}/a.pt", "train.epochs=1")
    assert by_file.epochs == 1
