"""Files of a split that stay in memory from one epoch to the next, as far as there is room for them.

Every epoch reads every file once, so no file is more worth keeping than another: those that come first stay
until the end. A split that fits is read from storage once in a training.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from dlspark.data.held_rows import HeldRows
from dlspark.data.manifest import FileEntry


class KeptFiles:
    """Rows of files by the file's index in its split; any number of threads may use it."""

    def __init__(self, files: Sequence[FileEntry], *, room_bytes: int) -> None:
        """Keep nothing yet.

        Args:
            files: of the split; one takes in memory what it takes in storage, since images are not compressed
                there.
            room_bytes: what the kept files may take together, >= 0.
        """
        self._files, self._room_bytes = files, room_bytes
        self._rows: dict[int, HeldRows] = {}
        self._lock = threading.Lock()

    def get(self, file: int) -> HeldRows | None:
        """Return the rows of a file, None if it is not kept."""
        return self._rows.get(file)

    def offer(self, file: int, rows: HeldRows) -> None:
        """Keep the rows of a file if there is room."""
        num_bytes = self._files[file].num_bytes
        with self._lock:
            if file not in self._rows and num_bytes <= self._room_bytes:
                self._rows[file] = rows
                self._room_bytes -= num_bytes
