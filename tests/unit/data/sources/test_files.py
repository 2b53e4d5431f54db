"""The bytes of a file, however long the file system says that it is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dlspark.data.sources.files import read_file


@pytest.mark.parametrize("length", [0, 1, 100_000])
def test_a_file_is_read_whole(tmp_path: Path, length: int) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"x" * length)
    assert read_file(str(path)) == b"x" * length


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_a_file_whose_length_is_not_told_is_read_to_its_end() -> None:
    path = Path("/proc/self/status")
    assert path.stat().st_size == 0
    assert read_file(str(path)).splitlines()[-1].startswith(b"nonvoluntary_ctxt_switches")


def test_a_folder_and_a_missing_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        read_file(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="missing"):
        read_file(str(tmp_path / "missing"))
