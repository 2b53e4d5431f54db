"""The rows of a file while a rank needs them: as they are stored, and as pixels once a batch wants them."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dlspark import storage
from dlspark.contracts import ImageFormat
from dlspark.data.columns import FileColumns, decode_row, view_pixels
from dlspark.data.manifest import FileEntry, Manifest


class HeldRows(Protocol):
    """n rows of one file."""

    row_ids: NDArray[np.int64]
    """int64 [n]."""
    labels: NDArray[np.int64]
    """int64 [n]."""

    def read(self, rows: NDArray[np.int64], pixels: NDArray[np.uint8]) -> None:
        """Write the pixels of b rows to `pixels`, uint8 [b, H, W, C]; any number of threads may.

        Raises:
            DatasetError: a row does not hold what the manifest says.
        """
        ...


def hold_rows(columns: FileColumns, manifest: Manifest, entry: FileEntry, *, dataset: str) -> HeldRows:
    """Return the rows of a file.

    Args:
        columns: of the file.
        manifest: of the dataset.
        entry: of the file.
        dataset: URL.

    Raises:
        DatasetError: the file does not hold what the manifest says.
    """
    where = storage.join(dataset, entry.path)
    kind = _RawRows if manifest.storage == "raw" else _EncodedRows
    return kind(columns, manifest.preprocessing.image, where)


class _RawRows:
    """Storage raw: a view on the column, so that a row costs one copy."""

    def __init__(self, columns: FileColumns, image: ImageFormat, where: str) -> None:
        self.row_ids, self.labels = columns.row_ids, columns.labels
        self._pixels = view_pixels(columns, image, where=where)

    def read(self, rows: NDArray[np.int64], pixels: NDArray[np.uint8]) -> None:
        pixels[:] = self._pixels[rows]


class _EncodedRows:
    """Storage encoded: held as files, so that a batch is decoded in the thread that makes it."""

    def __init__(self, columns: FileColumns, image: ImageFormat, where: str) -> None:
        self.row_ids, self.labels = columns.row_ids, columns.labels
        self._columns, self._image, self._where = columns, image, where

    def read(self, rows: NDArray[np.int64], pixels: NDArray[np.uint8]) -> None:
        for target, row in enumerate(rows.tolist()):
            pixels[target] = decode_row(self._columns, row, self._image, where=self._where)
