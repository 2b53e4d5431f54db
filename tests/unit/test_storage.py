"""Writing of a whole file: what is read is what was written, by whichever way it went to the disk."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from dlspark import storage

MANY = 3 * 2**20


def pages_with(num_bytes: int) -> tuple[mmap.mmap, bytes]:
    pages = mmap.mmap(-1, num_bytes + mmap.PAGESIZE)
    content = np.random.default_rng(num_bytes).bytes(len(pages))
    pages[:] = content
    return pages, content


@pytest.mark.parametrize("num_bytes", [1, 2**20 - 1, 2**20, MANY, MANY + 1, MANY + mmap.PAGESIZE - 1])
def test_the_file_is_what_lies_in_the_pages(num_bytes: int, tmp_path: Path) -> None:
    pages, content = pages_with(num_bytes)
    storage.write_bytes(str(tmp_path / "file"), memoryview(pages)[:num_bytes])
    assert (tmp_path / "file").read_bytes() == content[:num_bytes]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_bytes_that_begin_within_a_page_are_written_too(tmp_path: Path) -> None:
    pages, content = pages_with(MANY)
    storage.write_bytes(str(tmp_path / "file"), memoryview(pages)[100:MANY])
    assert (tmp_path / "file").read_bytes() == content[100:MANY]


def test_many_bytes_leave_the_page_cache_alone(tmp_path: Path) -> None:
    for name, data in {"pages": pages_with(MANY)[0], "bytes": bytes(MANY)}.items():
        storage.write_bytes(str(tmp_path / name), memoryview(data)[:MANY])
    if not (_is_cached(tmp_path / "bytes") and _goes_past_the_cache(tmp_path)):
        pytest.skip("this file system has no page cache to go past, or cannot")
    assert not _is_cached(tmp_path / "pages")


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(descriptor: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("dlspark.storage.os.write", write)
    with pytest.raises(OSError, match="No space left"):
        storage.write_bytes(str(tmp_path / "file"), memoryview(pages_with(MANY)[0]))
    assert not [*tmp_path.iterdir()]


def _is_cached(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.preadv(descriptor, [bytearray(4096)], 0, os.RWF_NOWAIT) == 4096
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
            return False
        raise
    finally:
        os.close(descriptor)


def _goes_past_the_cache(folder: Path) -> bool:
    try:
        os.close(os.open(folder / "probe", os.O_WRONLY | os.O_CREAT | os.O_DIRECT))
    except OSError:
        return False
    return True
