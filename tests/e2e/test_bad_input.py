"""What bad input gets: one clear error, a non-zero exit, no traceback, and no half-made output."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.e2e.commands import DLSPARK, run_command

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def _image(path: Path, value: int, size: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("L", (size, size), value % 256)
    picture.putpixel((0, 0), (value + 1) % 256)
    picture.save(path)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a source of two classes of 40 images and the dataset made from it."""
    folder = tmp_path_factory.mktemp("tiny")
    for name in ("cat", "dog"):
        for index in range(40):
            _image(folder / "source" / name / f"{index}.png", index)
    finished = run_command(
        [*DLSPARK, "ingest", "source=source", "dataset=dataset", "cluster.master=local[2]"], folder=folder
    )
    assert finished.returncode == 0, finished.stderr
    return folder


def _refused(folder: Path, *words: str, environment: dict[str, str] | None = None) -> str:
    """Run a command that must be refused; return its message, once its form is checked."""
    before = sorted(folder.rglob("*"))
    finished = run_command([*DLSPARK, *words], folder=folder, environment=environment)
    assert finished.returncode == 2, finished.stderr
    assert "Traceback" not in finished.stderr
    assert finished.stdout == ""
    new = [path for path in sorted(folder.rglob("*")) if path not in before]
    assert new == [], "a refused command left something behind"
    (message,) = [line for line in finished.stderr.splitlines() if line.startswith("error: ")] or [""]
    return finished.stderr[finished.stderr.index(message) :]


_LOCAL = ("cluster.backend=local", "tracking.uri=sqlite:///mlflow.db")


def test_all_problems_of_the_configuration_at_once(tmp_path: Path) -> None:
    message = _refused(
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
def test_sources_that_cannot_become_a_dataset(tmp_path: Path, make: object, expected: str) -> None:
    make(tmp_path / "source")  # type: ignore[operator]
    message = _refused(tmp_path, "ingest", "source=source", "dataset=dataset", "cluster.master=local[2]")
    assert expected in message
    assert "source" in message


def test_dataset_that_is_missing(tmp_path: Path) -> None:
    message = _refused(tmp_path, "train", "dataset=nowhere", *_LOCAL)
    assert "nowhere" in message
    assert "ingest" in message


@pytest.mark.spark
def test_dataset_that_is_half_written(tiny: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(tiny / "dataset", tmp_path / "dataset")
    (tmp_path / "dataset" / "_dlspark_manifest.json").unlink()
    assert "half-written" in _refused(tmp_path, "train", "dataset=dataset", *_LOCAL)


@pytest.mark.spark
def test_dataset_of_another_version(tiny: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(tiny / "dataset", tmp_path / "dataset")
    manifest = tmp_path / "dataset" / "_dlspark_manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": 999}))
    message = _refused(tmp_path, "train", "dataset=dataset", *_LOCAL)
    assert "999" in message
    assert "version" in message


@pytest.mark.spark
def test_image_too_small_for_the_network(tiny: Path) -> None:
    message = _refused(tiny, "train", f"dataset={tiny}/dataset", "model=lenet5", *_LOCAL)
    assert "8" in message
    assert "5" in message
    assert "(W - F + 2P)/S + 1" in message


@pytest.mark.spark
def test_tracking_server_unreachable(tiny: Path) -> None:
    started = time.monotonic()
    message = _refused(
        tiny, "train", f"dataset={tiny}/dataset", "cluster.backend=local", "tracking.uri=http://127.0.0.1:9"
    )
    assert "http://127.0.0.1:9" in message
    assert time.monotonic() - started < 60


@pytest.mark.spark
def test_output_that_exists(tiny: Path) -> None:
    message = _refused(tiny, "ingest", "source=source", "dataset=dataset", "cluster.master=local[2]")
    assert "overwrite=true" in message


@pytest.mark.spark
@pytest.mark.horovod
def test_fewer_slots_than_workers(tiny: Path) -> None:
    started = time.monotonic()
    message = _refused(
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
