"""Features that a training holds are not removed, and a training that comes meanwhile waits."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dlspark.data import feature_use
from dlspark.data.feature_use import features_in_use, is_in_use, remove_features
from dlspark.data.marks import mark


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "key"
    (folder / "split=train").mkdir(parents=True)
    (folder / "split=train" / "part").write_bytes(b"features")
    return folder


def test_what_nobody_uses_is_removed_whole(folder: Path) -> None:
    assert remove_features(str(folder))
    assert not folder.exists()


def test_what_a_training_holds_stays(folder: Path) -> None:
    with features_in_use(str(folder)):
        assert is_in_use(str(folder))
        assert not remove_features(str(folder))
        assert (folder / "split=train" / "part").read_bytes() == b"features"
    assert not is_in_use(str(folder))
    assert [path.name for path in folder.iterdir()] == ["split=train"]


def test_a_training_waits_for_the_end_of_a_removal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = threading.Event()
    monkeypatch.setattr(feature_use, "_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(feature_use.time, "sleep", lambda _: waits.set() or threading.Event().wait(0.01))
    held = threading.Event()

    def train() -> None:
        with features_in_use(str(folder)):
            held.set()

    with mark(str(folder), "_dlspark_removal-"):
        training = threading.Thread(target=train)
        training.start()
        assert waits.wait(20)
        assert not held.is_set()
    training.join(20)
    assert held.is_set()
