"""Single files of a source: their length and version without reading them, and their bytes.

Local paths go straight to the operating system; fsspec costs several times the call itself, which counts
with 60,000 small files. Everything else goes through `dlspark.storage`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from stat import S_ISREG
from typing import Any

import xxhash

from dlspark import storage
from dlspark.errors import SourceError

MAX_VERSION = 2**63 - 1

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|dbfs:/")
_STAMPS = (
    "etag",
    "ETag",
    "md5",
    "md5Hash",
    "content_md5",
    "checksum",
    "generation",
    "LastModified",
    "last_modified",
    "mtime",
    "modified",
    "modificationTime",
    "updated",
    "created",
)
"""What the file systems of fsspec call that which changes with the content."""


def is_url(path: str) -> bool:
    """Tell whether a path names its file system."""
    return _URL.match(path) is not None


def is_local(path: str) -> bool:
    """Tell whether an absolute path or URL, as `storage.absolute` returns it, is on the local file system."""
    return path.startswith("/")


def version_of_info(info: Mapping[str, Any]) -> int:
    """Return the version of a file from what an fsspec file system tells of it.

    Returns:
        A hash of length, entity tag, checksum and times, whichever are there, in [0, 2^63).
    """
    stamps = [(name, str(info[name])) for name in _STAMPS if info.get(name) is not None]
    return xxhash.xxh3_64_intdigest(repr((info.get("size"), stamps)).encode()) & MAX_VERSION


def measure_file(path: str) -> tuple[int, int]:
    """Return length in bytes and version of a file; (-1, 0) if there is no file of this name.

    Args:
        path: absolute path or URL.

    Raises:
        OSError: it cannot be told, such as where a folder above must not be searched.
    """
    try:
        if is_local(path):
            status = os.stat(path)  # noqa: PTH116 - a Path for each of a million files doubles the time
            return (status.st_size, status.st_mtime_ns) if S_ISREG(status.st_mode) else (-1, 0)
        filesystem, inner = storage.resolve(path)
        info = filesystem.info(inner)
    except (FileNotFoundError, NotADirectoryError):
        return -1, 0
    return (int(info["size"]), version_of_info(info)) if info["type"] == "file" else (-1, 0)


def read_file(path: str) -> bytes:
    """Return the bytes of a file.

    Args:
        path: absolute path or URL.

    Raises:
        OSError: it cannot be read.
    """
    if not is_local(path):
        return storage.read_bytes(path)
    # No file object: for a small file it costs as much as the read itself.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        length = os.fstat(descriptor).st_size
        data = os.read(descriptor, length + 1)
        if len(data) == length:
            return data
        with os.fdopen(descriptor, "rb", closefd=False) as rest:  # over 2 GiB, or of a length not told
            return data + rest.read()
    finally:
        os.close(descriptor)


def require_utf8(key: str, where: str) -> None:
    """Refuse a name that cannot be written down.

    Raises:
        SourceError: the bytes of the name are not UTF-8.
    """
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise SourceError(
            "the name of a file is not valid UTF-8", got=repr(key), where=where, fix="rename the file"
        ) from error
