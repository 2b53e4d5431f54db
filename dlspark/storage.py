"""Files by URL, through fsspec: the local disk, a shared mount, or an object store behind one set of verbs.

A dataset, a run directory and a journal are only ever written with these functions. None of them seeks,
appends, renames across folders or links, so that object stores and Databricks volumes serve as well.
"""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import posixpath
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

_MANY_BYTES = 2**20


def resolve(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system of `url` and the path inside it; `dbfs:/x` is read as the mount `/dbfs/x`.

    A path without a scheme is local; a relative one is taken from the working directory.
    """
    if url.startswith("dbfs:/"):
        url = "/dbfs/" + url.removeprefix("dbfs:/").lstrip("/")
    filesystem, path = fsspec.core.url_to_fs(url)
    return filesystem, path


def absolute(url: str) -> str:
    """Return `url` in the form that every process of a cluster understands: absolute path, or scheme://path."""
    filesystem, path = resolve(url)
    if isinstance(filesystem, LocalFileSystem):
        return str(path)
    return str(filesystem.unstrip_protocol(path))


def as_uri(url: str) -> str:
    """Return `url` with its scheme (`file:///...` for the local disk), as Petastorm and Spark want it."""
    filesystem, path = resolve(url)
    return str(filesystem.unstrip_protocol(path))


def join(url: str, *parts: str) -> str:
    """Return `url` extended by path segments."""
    return posixpath.join(url, *parts)


def exists(url: str) -> bool:
    """Tell whether a file or a folder is there."""
    filesystem, path = resolve(url)
    return bool(filesystem.exists(path))


def is_folder(url: str) -> bool:
    """Tell whether a folder is there."""
    filesystem, path = resolve(url)
    return bool(filesystem.isdir(path))


def make_folder(url: str) -> None:
    """Make a folder and its parents; one that is there already is left as it is."""
    filesystem, path = resolve(url)
    filesystem.makedirs(path, exist_ok=True)


def list_names(url: str) -> list[str]:
    """Return the names in a folder, sorted; an absent folder has none."""
    filesystem, path = resolve(url)
    filesystem.invalidate_cache(path)
    if not filesystem.isdir(path):
        return []
    return sorted(posixpath.basename(entry.rstrip("/")) for entry in filesystem.ls(path, detail=False))


def size_bytes(url: str) -> int:
    """Return the length of a file.

    Raises:
        FileNotFoundError: there is no such file.
    """
    filesystem, path = resolve(url)
    return int(filesystem.size(path))


def read_bytes(url: str) -> bytes:
    """Return the whole of a file.

    Raises:
        FileNotFoundError: there is no such file.
    """
    filesystem, path = resolve(url)
    with filesystem.open(path, "rb") as file:
        return bytes(file.read())


def write_bytes(url: str, data: bytes | memoryview) -> None:
    """Write a whole file so that no reader ever sees a part of it.

    On the local disk: a temporary name in the same folder, flushed, then renamed. An object store shows an
    object only once it is complete, so there the bytes go straight to their name. Many bytes at the beginning
    of an mmap go to the disk past the page cache.
    """
    filesystem, path = resolve(url)
    if not isinstance(filesystem, LocalFileSystem):
        filesystem.pipe_file(path, bytes(data))
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb", buffering=0) as file:
            view = memoryview(data).cast("B")
            done = _write_past_the_cache(file.fileno(), view)
            while done < len(view):
                done += file.write(view[done:])
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_past_the_cache(descriptor: int, data: memoryview) -> int:
    """Write the whole pages of the data to the disk straight from memory, and return how many bytes that is.

    The page cache would cost a copy, and memory that others have a use for: nobody reads a file again as soon
    as it is stored. 0 where the data do not begin at a page or are few, and on file systems that cannot.
    """
    if not hasattr(os, "O_DIRECT") or not isinstance(data.obj, mmap.mmap) or len(data) < _MANY_BYTES:
        return 0
    flags, done = fcntl.fcntl(descriptor, fcntl.F_GETFL), 0
    whole = len(data) // mmap.PAGESIZE * mmap.PAGESIZE
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
        while done < whole:
            done += os.write(descriptor, data[done:whole])
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
    return done


def read_json(url: str) -> Any:
    """Return the value of a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        json.JSONDecodeError: the file is not JSON.
    """
    return json.loads(read_bytes(url))


def write_json(url: str, value: Mapping[str, Any]) -> None:
    """Write a value as indented JSON with a final newline, whole or not at all."""
    write_bytes(url, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def remove_empty_folder(url: str) -> None:
    """Remove a folder if there is nothing in it; an object store has no such folders."""
    filesystem, path = resolve(url)
    if not isinstance(filesystem, LocalFileSystem):
        return
    try:
        Path(path).rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise


def remove_tree(url: str) -> None:
    """Remove a file or a folder with all that is in it; nothing there is no error."""
    filesystem, path = resolve(url)
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)
