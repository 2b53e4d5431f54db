"""Any fsspec file system in the form that Petastorm needs: pyarrow's legacy one.

Petastorm works on pyarrow's legacy dataset only, and pyarrow takes that way only for a file system of its own
legacy class. With this one Petastorm reaches what the rest of dlspark reaches.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from pyarrow.filesystem import FileSystem


class LegacyFileSystem(FileSystem):  # type: ignore[misc] # pyarrow publishes no types
    """The methods that Petastorm and pyarrow's legacy dataset call."""

    def __init__(self, filesystem: AbstractFileSystem) -> None:
        """Wrap `filesystem`."""
        self._filesystem = filesystem

    def isfile(self, path: str) -> bool:
        """Tell whether a file is there."""
        return bool(self._filesystem.isfile(path))

    def isdir(self, path: str) -> bool:
        """Tell whether a folder is there."""
        return bool(self._filesystem.isdir(path))

    def exists(self, path: str) -> bool:
        """Tell whether a file or a folder is there."""
        return bool(self._filesystem.exists(path))

    def open(self, path: str, mode: str = "rb") -> Any:
        """Open a file.

        Petastorm leaves its files to the garbage collector: pyarrow's own close then, Python's would warn.
        """
        if isinstance(self._filesystem, LocalFileSystem):
            return pa.OSFile(path, mode)
        return self._filesystem.open(path, mode)
