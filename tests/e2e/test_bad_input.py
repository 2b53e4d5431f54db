"""What bad input gets: one clear error, a non-zero exit, no traceback, and no half-made output."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from dlspark.cli import main
from dlspark.config.compose import compose
from pipelines import ingest
from tests.e2e.commands import DLSPARK, run_command

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Refused = Callable[..., str]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def _image(path: Path, value: int, size: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("L", (size, size), value % 256)
    picture.putpixel((0, 0), (value + 1) % 256)
    picture.save(path)


@pytest.fixture(scope="module")
def tiny(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a source of two classes of 40 images and the dataset made from it."""
    folder = tmp_path_factory.mktemp("tiny")
    for label, name in enumerate(("cat", "dog")):
        for index in range(40):
            _image(folder / "source" / name / f"{index}.png", 40 * label + index)
    ingest.run(compose([f"source={folder}/source", f"dataset={folder}/dataset"]), spark)
    return folder


@pytest.fixture
def refused(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., str]]:
    """Run a command in a folder, in this process and on its session; return the message, its form checked."""
    root = logging.getLogger()
    handlers = list(root.handlers)

    def run(folder: Path, *words: str) -> str:
        monkeypatch.chdir(folder)
        before = sorted(folder.rglob("*"))
        capfd.readouterr()
        code = main(list(words))
        stdout, stderr = capfd.readouterr()
        _check_form(code, stdout, stderr)
        assert sorted(folder.rglob("*")) == before, "a refused command left something behind"
        return stderr[stderr.index("error: ") :]

    yield run
    root.handlers[:] = handlers


def _check_form(code: int, stdout: str, stderr: str) -> None:
    assert code == 2, stderr
    assert stdout == ""
    assert "Traceback" not in stderr
    assert "error: " in stderr


_LOCAL = ("cluster.backend=local", "tracking.uri=sqlite:///mlflow.db")


def test_all_problems_of_the_configuration_at_once(tmp_path: Path, refused: Refused) -> None:
    message = refused(
        tmp_path, "train", "train.epoch=3", "optimizer.lr=-1", "train.global_batch_size=many", "model=lenet6"
    )
    assert "train.epoch" in message
    assert "train.epochs" in message
    assert "optimizer.lr" in message
    assert "-1" in message
    assert "train.global_batch_size" in message
    assert "many" in message
    assert "lenet6" in message
    assert "lenet5" in message


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    finished = run_command([*DLSPARK, "train", "dataset=nowhere", *_LOCAL, "--debug"], folder=tmp_path)
    assert finished.returncode == 2
    assert "Traceback" in finished.stderr


@pytest.mark.spark
@pytest.mark.usefixtures("spark")
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda source: None, "source"),
        (lambda source: source.mkdir(), "class"),
        (lambda source: _image(source / "a.png", 1), "class"),
        (lambda source: [_image(source / "cat" / f"{i}.png", i) for i in range(9)], "one class"),
        (
            lambda source: (
                [_image(source / "cat" / f"{i}.png", i) for i in range(9)]
                + [_image(source / "dog" / "1.png", 1)]
            ),
            "dog",
        ),
    ],
    ids=["missing", "empty", "no classes", "one class", "class with one image"],
)
def test_sources_that_cannot_become_a_dataset(
    tmp_path: Path, make: Callable[[Path], object], expected: str, refused: Refused
) -> None:
    make(tmp_path / "source")
    message = refused(tmp_path, "ingest", "source=source", "dataset=dataset", "cluster.master=local[2]")
    assert expected in message
    assert "source" in message


def test_dataset_that_is_missing(tmp_path: Path, refused: Refused) -> None:
    message = refused(tmp_path, "train", "dataset=nowhere", *_LOCAL)
    assert "nowhere" in message
    assert "ingest" in message


@pytest.mark.spark
def test_dataset_that_is_half_written(tiny: Path, tmp_path: Path, refused: Refused) -> None:
    shutil.copytree(tiny / "dataset", tmp_path / "dataset")
    (tmp_path / "dataset" / "_dlspark_manifest.json").unlink()
    assert "half-written" in refused(tmp_path, "train", "dataset=dataset", *_LOCAL)


@pytest.mark.spark
def test_dataset_of_another_version(tiny: Path, tmp_path: Path, refused: Refused) -> None:
    shutil.copytree(tiny / "dataset", tmp_path / "dataset")
    manifest = tmp_path / "dataset" / "_dlspark_manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": 999}))
    message = refused(tmp_path, "train", "dataset=dataset", *_LOCAL)
    assert "999" in message
    assert "version" in message


@pytest.mark.spark
def test_image_too_small_for_the_network(tiny: Path, refused: Refused) -> None:
    message = refused(tiny, "train", f"dataset={tiny}/dataset", "model=lenet5", *_LOCAL)
    assert "8" in message
    assert "5" in message
    assert "(W - F + 2P)/S + 1" in message


@pytest.mark.spark
def test_tracking_server_unreachable(tiny: Path, refused: Refused) -> None:
    started = time.monotonic()
    message = refused(
        tiny, "train", f"dataset={tiny}/dataset", "cluster.backend=local", "tracking.uri=http://127.0.0.1:9"
    )
    assert "http://127.0.0.1:9" in message
    assert time.monotonic() - started < 60


@pytest.mark.spark
def test_output_that_exists(tiny: Path, refused: Refused) -> None:
    words = ("ingest", "source=source", "dataset=dataset", "image.size=4", "cluster.master=local[2]")
    message = refused(tiny, *words)
    assert "overwrite=true" in message
    assert "size=4" in message


@pytest.mark.faults(scenario=8)
@pytest.mark.spark
@pytest.mark.horovod
def test_fewer_slots_than_workers(tiny: Path, refused: Refused) -> None:
    started = time.monotonic()
    message = refused(
        tiny,
        "train",
        f"dataset={tiny}/dataset",
        "cluster.workers=4",
        "cluster.master=local[2]",
        "cluster.slots_timeout_seconds=5",
    )
    assert "4" in message
    assert "2" in message
    assert "slots" in message
    assert time.monotonic() - started < 60


@pytest.mark.faults(scenario=8)
def test_no_java(tmp_path: Path) -> None:
    bare = tmp_path / "bin"
    bare.mkdir()
    folder = tmp_path / "work"
    folder.mkdir()
    finished = run_command(
        [*DLSPARK, "ingest", "source=builtin:digits", "dataset=dataset"],
        folder=folder,
        environment={"PATH": str(bare), "JAVA_HOME": ""},
    )
    assert finished.returncode == 2, finished.stderr
    assert "openjdk-17-jre-headless" in finished.stderr
    assert list(folder.iterdir()) == []
