"""The stage `lr-find` on real digits: its suggestion trains, and nothing is left of it but the picture."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from dlspark.cli import main
from dlspark.cluster.communicator import LocalCommunicator
from dlspark.config.compose import compose
from dlspark.contracts import ImageFormat, WorkerTask
from dlspark.data.manifest import read_manifest
from dlspark.errors import ConfigError
from dlspark.tracking.journal import metric_history, read_events
from dlspark.worker import run_training
from pipelines import lr_find
from tests.datasets import place_files, settings_of, write_splits

WORDS = (
    *("model=mlp", "model.hidden=[32]", "optimizer=momentum", "train.precision=fp32", "data.reader=arrow"),
    *("train.global_batch_size=64", "cluster.backend=local"),
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lr-find")
    digits = load_digits()
    images = (digits.images[..., np.newaxis] * 15.9).astype(np.uint8)
    rows = [
        row._replace(image=row.image._replace(label=str(label)))
        for row, label in zip(place_files(folder / "source", images, classes="0"), digits.target, strict=True)
    ]
    image = ImageFormat(height=8, width=8, channels=1, resize="none")
    write_splits({"train": rows}, settings_of(folder, image, classes="0123456789"), num_files=16)
    return folder / "dataset"


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(dataset: Path, *words: str) -> lr_find.LrFindResult:
    return lr_find.run(compose([f"dataset={dataset}", *WORDS, *words]), None)


def train_losses(dataset: Path, run_dir: Path, lr: float) -> list[float]:
    config = compose([*WORDS, f"optimizer.lr={lr}", "train.epochs=2"])
    manifest = read_manifest(str(dataset))
    task = WorkerTask(
        dataset=str(dataset),
        fingerprint=manifest.fingerprint,
        run_dir=str(run_dir),
        config=config.model_dump(mode="json"),
    )
    run_training(task, LocalCommunicator())
    return [value for _, value in metric_history(read_events(str(run_dir)))["step/loss"]]


def test_the_suggestion_trains_better_than_a_hundredth_of_it(dataset: Path, tmp_path: Path) -> None:
    result = run(dataset)
    assert result.end == "loss grew"
    assert 1e-3 < result.suggestion < 1.0
    good = train_losses(dataset, tmp_path / "good", result.suggestion)
    slow = train_losses(dataset, tmp_path / "slow", result.suggestion / 100)
    assert good[-1] < 0.5 * slow[-1]
    assert good[-1] < 0.7


def test_its_first_step_is_that_of_a_training_with_the_same_rate(dataset: Path, tmp_path: Path) -> None:
    found = run(dataset, "lr_find.min=0.01", "lr_find.max=0.0100001", "lr_find.num_steps=30")
    trained = train_losses(dataset, tmp_path / "run", 0.01)
    assert found.losses == pytest.approx(trained[:30], rel=1e-4)
    assert found.losses[0] == trained[0]


def test_it_goes_on_beyond_an_epoch_and_leaves_the_picture_only(dataset: Path, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    result = run(dataset, "lr_find.max=0.01", "lr_find.num_steps=70")
    assert len(result.rates) == 70 > 2 * -(-1797 // 64)
    assert [path.name for path in tmp_path.iterdir()] == ["dataset_lr_mlp_momentum.png"]
    assert Path(result.picture).read_bytes().startswith(b"\x89PNG")
    assert torch.equal(torch.get_rng_state(), state)
    assert run(dataset, "lr_find.max=0.01", "lr_find.num_steps=70") == result


def test_the_result_is_one_json_line(dataset: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        code = main(["lr-find", f"dataset={dataset}", *WORDS])
    finally:
        logging.captureWarnings(False)
        root.handlers[:], root.level = handlers, level
    out, err = capfd.readouterr()
    assert code == 0, err
    values = json.loads(out)
    assert len(values["rates"]) == len(values["losses"]) == len(values["smoothed"])
    assert f"use: optimizer.lr={values['suggestion']:.2g}" in err


def test_what_is_missing_or_wrong_is_said() -> None:
    with pytest.raises(ConfigError, match="`lr-find` needs dataset"):
        lr_find.run(compose([]), None)
    with pytest.raises(ConfigError, match=r"max=1e-08 must be above min=1e-06; raise lr_find\.max"):
        compose(["lr_find.max=1e-8"])
