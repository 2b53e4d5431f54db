"""The rows of a file while a rank needs them: as they are stored, and as pixels once a batch wants them."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from dlspark import storage
from dlspark.contracts import ImageFormat
from dlspark.data.columns import FileColumns, decode_row, view_pixels
from dlspark.data.feature_files import FeatureManifest
from dlspark.data.images import decode_stored
from dlspark.data.manifest import FileEntry, Manifest

_JPEG_START = b"\xff\xd8\xff"


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
        manifest: of the dataset; of one of features the bytes of a row are its pixels.
        entry: of the file.
        dataset: URL.

    Raises:
        DatasetError: the file does not hold what the manifest says.
    """
    where = storage.join(dataset, entry.path)
    image = manifest.preprocessing.image
    if isinstance(manifest, FeatureManifest):
        pixels = view_pixels(columns, image, where=where, header=b"")
        return RawRows(columns.row_ids, columns.labels, pixels)
    if manifest.storage == "raw":
        return RawRows(columns.row_ids, columns.labels, view_pixels(columns, image, where=where))
    return EncodedRows(columns, image, where)


class RawRows:
    """Storage raw: a view on the column, so that a row costs one copy."""

    def __init__(
        self, row_ids: NDArray[np.int64], labels: NDArray[np.int64], pixels: NDArray[np.uint8]
    ) -> None:
        """Hold n rows, with their pixels as uint8 [n, H, W, C]."""
        self.row_ids, self.labels, self.pixels = row_ids, labels, pixels

    def read(self, rows: NDArray[np.int64], pixels: NDArray[np.uint8]) -> None:
        """Copy the pixels of some rows; see `HeldRows`."""
        pixels[:] = self.pixels[rows]


class EncodedRows:
    """Storage encoded: held as files, so that a batch is decoded in the thread that makes it."""

    def __init__(self, columns: FileColumns, image: ImageFormat, where: str) -> None:
        """See `hold_rows`; `where` is the URL of the file."""
        self.row_ids, self.labels = columns.row_ids, columns.labels
        self._columns, self._image, self._where = columns, image, where

    def read(self, rows: NDArray[np.int64], pixels: NDArray[np.uint8]) -> None:
        """Decode some rows; see `HeldRows`."""
        for target, row in enumerate(rows.tolist()):
            pixels[target] = decode_row(
                self._columns, row, self._image, where=self._where, decode=_decode_in_thread
            )


def _decode_in_thread(data: bytes) -> NDArray[np.uint8]:
    """Return the pixels of `decode_stored`; those of a JPEG in less time, through torchvision."""
    if not data.startswith(_JPEG_START):
        return decode_stored(data)
    # Imported here: it takes as long as torch, and a rank that reads no JPEG does without.
    from torchvision.io import decode_jpeg

    try:
        # A copy, since torch takes no read-only memory without a warning.
        planes = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    except RuntimeError as error:
        raise OSError(str(error).splitlines()[0]) from error
    pixels: NDArray[np.uint8] = planes.permute(1, 2, 0).numpy()
    return pixels
