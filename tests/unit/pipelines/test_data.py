"""The words of `dlspark data`, and the commands that need no Spark."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dlspark.cli import main
from dlspark.contracts import ImageFormat
from dlspark.data.manifest import Manifest
from dlspark.errors import ConfigError
from pipelines.data import parse
from tests.datasets import place_files, settings_of, write_splits

IMAGE = ImageFormat(height=8, width=8, channels=3, resize="none")


def write_dataset(folder: Path, *, num_images: int = 40) -> Manifest:
    images = np.random.default_rng(0).integers(0, 256, (num_images, 8, 8, 3), dtype=np.uint8)
    rows = place_files(folder / "source", images, classes=("cat", "dog"))
    (folder / "source" / "003.png").write_bytes(b"bad")
    settings = settings_of(folder, IMAGE, classes=("cat", "dog"))
    return write_splits({"train": rows[:30], "test": rows[30:]}, settings, num_files=3)


def test_the_words_become_a_command() -> None:
    command = parse(["audit", "a/b", "--fix", "cluster.master=local[2]"])
    assert (command.verb, command.paths, command.option) == ("audit", ("a/b",), "--fix")
    assert command.overrides == ("cluster.master=local[2]",)
    assert command.needs_spark
    assert not parse(["verify", "a"]).needs_spark
    assert parse(["verify", "a", "--repair"]).needs_spark


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shwo", "a"], "unknown data command; got 'shwo'; allowed: show, verify"),
        (["show"], r"takes 1 dataset; got none.*dlspark data show PATH"),
        (["diff", "a"], r"takes 2 datasets; got a"),
        (["show", "a", "--fix"], r"does not take these options; got --fix; allowed: none"),
        (["quarantine", "a", "--retry", "--accept"], r"allowed: --retry or --accept"),
    ],
)
def test_other_words_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(words)


def test_show_prints_the_card_and_draws_the_sheet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_dataset(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["data", "show", "dataset", "augment=mirror_crop"]) == 0
    output = capsys.readouterr()
    shown = json.loads(output.out)
    assert shown["fingerprint"] == manifest.fingerprint
    assert "unreadable_header" in output.err
    assert "cat" in output.err
    with Image.open(shown["picture"]) as picture:
        assert np.asarray(picture.convert("L")).std() > 20


def test_verify_ends_with_2_if_a_file_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = write_dataset(tmp_path)
    assert main(["data", "verify", str(tmp_path / "dataset")]) == 0
    lost = tmp_path / "dataset" / manifest.file_paths[0]
    lost.unlink()
    capsys.readouterr()
    assert main(["data", "verify", str(tmp_path / "dataset")]) == 2
    assert json.loads(capsys.readouterr().out)["damaged"] == [manifest.file_paths[0]]


def test_the_quarantine_is_listed_and_settled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path)
    assert main(["data", "quarantine", str(tmp_path / "dataset"), "--accept"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["left_out"] == {"unreadable_header": 1}
    assert "003.png" in output.err
    assert "1 images are settled" in output.err
    assert (tmp_path / "dataset" / "_accepted.parquet").is_file()


def test_two_datasets_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "a")
    write_dataset(tmp_path / "b", num_images=42)
    assert main(["data", "diff", str(tmp_path / "a" / "dataset"), str(tmp_path / "b" / "dataset")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["same"], found["added"], found["removed"]) == (False, 2, 0)


def test_a_dataset_that_is_missing_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", str(tmp_path / "absent")]) == 2
    assert "there is no dataset" in capsys.readouterr().err


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(
        verb in text for verb in ("show", "verify", "diff", "audit", "quarantine", "--repair", "--fix")
    )
