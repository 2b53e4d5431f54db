"""Files of a split that stay in memory from one epoch to the next, as far as there is room for them.

Every epoch reads every file once, so no file is more worth keeping than another: those that come first stay
until the end. A split that fits is read from storage once in a training. If its pixels are stored raw they
are held as one array, so that a batch is one gather, as fast as from an array in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dlspark.contracts import ImageFormat
from dlspark.data.gather import StoredRows
from dlspark.data.held_rows import HeldRows, RawRows
from dlspark.data.manifest import FileEntry


class KeptFiles:
    """Rows of files by the file's index in its split; any number of threads may use it."""

    def __init__(self, files: Sequence[FileEntry], image: ImageFormat, *, room_bytes: int) -> None:
        """Keep nothing yet.

        Args:
            files: of the split; one takes in memory what it takes in storage, since images are not compressed
                there.
            image: of the dataset.
            room_bytes: what the kept files may take together, >= 0.
        """
        self._files, self._room_bytes = files, room_bytes
        self._rows: dict[int, HeldRows] = {}
        self._lock = threading.Lock()
        self.num_rows: NDArray[np.int64] = np.array([file.rows for file in files], dtype=np.int64)
        """int64 [files]."""
        ends = np.cumsum(self.num_rows)
        self.starts: NDArray[np.int64] = np.concatenate([[0], ends[:-1]]).astype(np.int64)
        """int64 [files]: place of each file's first row in the whole split."""
        self._shape = (int(ends[-1]), image.height, image.width, image.channels)
        self._fits = sum(file.num_bytes for file in files) <= room_bytes
        self._whole: WholeSplit | None = None

    def get(self, file: int) -> HeldRows | None:
        """Return the rows of a file, None if it is not kept."""
        return self._rows.get(file)

    def offer(self, file: int, rows: HeldRows) -> None:
        """Keep the rows of a file if there is room."""
        num_bytes = self._files[file].num_bytes
        with self._lock:
            if file in self._rows or num_bytes > self._room_bytes:
                return
            self._room_bytes -= num_bytes
            if self._fits and isinstance(rows, RawRows):
                self._whole = self._whole or WholeSplit(self._shape)
                rows = self._whole.put(int(self.starts[file]), rows)
            self._rows[file] = rows

    def whole(self) -> WholeSplit | None:
        """Return the split as one array; None unless all of its files are kept, raw."""
        return self._whole if len(self._rows) == len(self._files) else None


class WholeSplit:
    """All rows of a split, file after file."""

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        """Hold nothing yet.

        Args:
            shape: rows, height, width, channels.
        """
        self.pixels: NDArray[np.uint8] = np.empty(shape, dtype=np.uint8)
        """uint8 [n, H, W, C]."""
        self.row_ids, self.labels = np.empty((2, shape[0]), dtype=np.int64)
        """int64 [n] each."""

    def take(self, rows: NDArray[np.int64]) -> StoredRows:
        """Return rows by their places, int64 [b]."""
        return StoredRows(self.pixels[rows], self.row_ids[rows], self.labels[rows])

    def put(self, start: int, rows: RawRows) -> RawRows:
        """Copy the rows of a file to their place; return them as a view on it."""
        place = slice(start, start + len(rows.row_ids))
        self.pixels[place], self.row_ids[place], self.labels[place] = rows.pixels, rows.row_ids, rows.labels
        return RawRows(self.row_ids[place], self.labels[place], self.pixels[place])
