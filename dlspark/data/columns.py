"""The columns of one Parquet file in memory, and its image column as one array of pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dlspark.contracts import ImageFormat
from dlspark.data.images import decode_stored
from dlspark.data.parquet_file import Storage, npy_header
from dlspark.errors import DatasetError

IMAGE_COLUMN = "image"


@dataclass(frozen=True, kw_only=True, slots=True)
class FileColumns:
    """n rows of one file, in the order of the file."""

    row_ids: NDArray[np.int64]
    """int64 [n]."""
    labels: NDArray[np.int64]
    """int64 [n]."""
    images: pa.Array
    """binary [n]: as stored."""


def columns_read(content: str) -> tuple[str, str, str]:
    """Return the columns that training reads, `content` the last of them; the others stay in the file."""
    return ("row_id", "label", content)


def require_columns(found: Mapping[str, str], content: str, *, where: str) -> None:
    """Return if a file has the columns that training reads.

    Args:
        found: kind of each column: integers, bytes, or the name of another type.
        content: name of the column of bytes.
        where: URL of the file.

    Raises:
        DatasetError: a column is missing or of another kind.
    """
    for name, kind in zip(columns_read(content), ("integers", "integers", "bytes"), strict=True):
        if found.get(name) != kind:
            raise DatasetError(
                f"column {name} of a file is not what the dataset says",
                got=found.get(name, f"no such column, but {', '.join(sorted(found))}"),
                allowed=kind,
                where=where,
                fix="restore the file, or run ingest again with overwrite=true",
            )


def pixels_of(columns: FileColumns, image: ImageFormat, form: Storage, *, where: str) -> NDArray[np.uint8]:
    """Return the pixels of an image column.

    Args:
        columns: n > 0 rows.
        image: of the dataset.
        form: of the dataset. raw is a view on the column, without a copy; encoded is decoded here.
        where: URL of the file, for the messages.

    Returns:
        uint8 [n, H, W, C].

    Raises:
        DatasetError: the column holds something else than `image` and `form` say.
    """
    if form == "raw":
        return view_pixels(columns, image, where=where)
    pixels = np.empty((len(columns.row_ids), image.height, image.width, image.channels), dtype=np.uint8)
    for row in range(len(pixels)):
        pixels[row] = decode_row(columns, row, image, where=where)
    return pixels


def decode_row(
    columns: FileColumns,
    row: int,
    image: ImageFormat,
    *,
    where: str,
    decode: Callable[[bytes], NDArray[np.uint8]] = decode_stored,
) -> NDArray[np.uint8]:
    """Return the pixels of one row of storage encoded, uint8 [H, W, C]; see `pixels_of`."""
    shape = (image.height, image.width, image.channels)
    try:
        pixels = decode(columns.images[row].as_py())
        if pixels.shape != shape:
            raise ValueError(f"pixels of shape {pixels.shape}")
    except (OSError, SyntaxError, ValueError) as error:
        raise DatasetError(
            f"row {row} (row id {columns.row_ids[row]}) of a file is no image of the dataset's shape",
            got=f"{type(error).__name__}: {error}",
            allowed=shape,
            where=where,
        ) from error
    return pixels


def view_pixels(
    columns: FileColumns, image: ImageFormat, *, where: str, header: bytes | None = None
) -> NDArray[np.uint8]:
    """Return the pixels of storage raw as a view on the column; see `pixels_of`.

    Args:
        columns: see there.
        image: see there.
        where: see there.
        header: what stands before the pixels of each row; None: that of numpy's save format.
    """
    shape = (image.height, image.width, image.channels)
    images = columns.images
    header = npy_header(shape) if header is None else header
    height, width, channels = shape
    stride = len(header) + height * width * channels
    _, offsets_buffer, data = images.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=np.int32)[images.offset : images.offset + len(images) + 1]
    start = int(offsets[0])
    if (np.diff(offsets) != stride).any() or data[start : start + len(header)].to_pybytes() != header:
        raise DatasetError(
            "the images of a file are no arrays of the dataset's shape", allowed=shape, where=where
        )
    return np.ndarray(
        (len(images), *shape),
        dtype=np.uint8,
        buffer=data,
        offset=start + len(header),
        strides=(stride, width * channels, channels, 1),
    )
