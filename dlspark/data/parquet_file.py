"""One Spark task writes one Parquet file: it reads, decodes and stores the images of its rows, and reports.

The columns are row_id (int64), key (string), label (int32) and image (binary), in one row group, sorted by
row id. `image` is either numpy's save format (storage raw: for one shape a constant header, then the pixels,
so that a column is one strided array) or a PNG file (storage encoded). A worker holds the rows of one file.
"""

from __future__ import annotations

import hashlib
import io
import logging
import time
import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dlspark import storage
from dlspark.contracts import ImageFormat, Split
from dlspark.data.fingerprint import add_sums, hash_row
from dlspark.data.images import ImageError, decode_image, encode_png
from dlspark.data.layout import FilePlace
from dlspark.data.sources import SourceFile
from dlspark.errors import SourceError

SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
    ]
)

Storage = Literal["raw", "encoded"]

_READ_ATTEMPTS = 4
_FIRST_WAIT_SECONDS = 0.1

_log = logging.getLogger(__name__)


class Row(NamedTuple):
    """An image on its way into a file."""

    row_id: int
    file: SourceFile


class Quarantined(NamedTuple):
    """An image that was refused."""

    key: str
    path: str
    num_bytes: int
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteSettings:
    """What all files of a dataset have in common."""

    dataset: str
    image: ImageFormat
    storage: Storage
    max_image_bytes: int
    max_image_pixels: int


@dataclass(kw_only=True, slots=True)
class FileReport:
    """What a task did; plain values for the driver."""

    split: Split
    index: int
    path: str | None = None
    """Relative to the dataset; None where every image was refused and there is no file."""
    num_bytes: int = 0
    sha256: str = ""
    rows: int = 0
    min_row_id: int = -1
    max_row_id: int = -1
    class_rows: Counter[int] = field(default_factory=Counter)
    class_sums: dict[int, int] = field(default_factory=dict)
    """Fingerprint sums by label."""
    channel_sums: tuple[int, ...] = ()
    """Sum of the pixel values, by channel."""
    channel_squares: tuple[int, ...] = ()
    """Sum of their squares, by channel."""
    quarantined: list[Quarantined] = field(default_factory=list)
    repeated: list[tuple[str, str]] = field(default_factory=list)
    """Pairs of keys that have the same row id."""


def npy_header(shape: tuple[int, ...]) -> bytes:
    """Return the bytes that numpy.save writes before the pixels of a uint8 array of `shape`."""
    target = io.BytesIO()
    np.save(target, np.zeros(shape, dtype=np.uint8))
    return target.getvalue()[: -int(np.prod(shape))]


def write_file(rows: Iterable[Row], place: FilePlace, settings: WriteSettings) -> FileReport:
    """Write one file under a name that no other attempt has, and report it.

    Args:
        rows: the rows of this file, in any order.
        place: split and index of the file.
        settings: see there.

    Raises:
        SourceError: an image file cannot be read, after several attempts.
    """
    report = FileReport(split=place.split, index=place.index)
    shape = (settings.image.height, settings.image.width, settings.image.channels)
    header = npy_header(shape)
    columns: dict[str, list[object]] = {name: [] for name in SCHEMA.names}
    sums = np.zeros(settings.image.channels, dtype=np.uint64)
    squares = np.zeros_like(sums)
    last: Row | None = None
    for row in sorted(rows):
        if last is not None and last.row_id == row.row_id:
            report.repeated.append((last.file.key, row.file.key))
        last = row
        try:
            pixels = _decode(row.file, settings)
        except ImageError as error:
            report.quarantined.append(
                Quarantined(row.file.key, row.file.path, row.file.num_bytes, error.reason, error.message)
            )
            continue
        _count(report, row, pixels)
        values = pixels.reshape(-1, settings.image.channels).astype(np.uint16)
        sums += values.sum(axis=0, dtype=np.uint64)
        squares += (values * values).sum(axis=0, dtype=np.uint64)
        image = header + pixels.tobytes() if settings.storage == "raw" else encode_png(pixels)
        for name, value in zip(SCHEMA.names, (row.row_id, row.file.key, row.file.label, image), strict=True):
            columns[name].append(value)
    report.channel_sums = tuple(int(value) for value in sums)
    report.channel_squares = tuple(int(value) for value in squares)
    if report.rows:
        _store(pa.table(columns, schema=SCHEMA), report, settings.dataset)
    return report


def read_source(path: str) -> bytes:
    """Return the bytes of an image file; a read that fails is tried three more times, with growing waits.

    Raises:
        SourceError: the last attempt failed too.
    """
    for attempt in range(1, _READ_ATTEMPTS + 1):
        try:
            return storage.read_bytes(path)
        except OSError as error:
            if attempt == _READ_ATTEMPTS:
                raise SourceError(
                    "an image file cannot be read",
                    got=f"{type(error).__name__}: {error}",
                    where=path,
                    fix="make sure that every Spark worker reaches the source, then run ingest again",
                ) from error
            _log.warning("reading %s failed (%s), attempt %d of %d", path, error, attempt, _READ_ATTEMPTS)
            time.sleep(_FIRST_WAIT_SECONDS * 3 ** (attempt - 1))
    raise AssertionError("unreachable")


def _decode(file: SourceFile, settings: WriteSettings) -> NDArray[np.uint8]:
    if file.num_bytes > settings.max_image_bytes:
        raise ImageError(
            "bomb", f"{file.num_bytes:,} bytes, allowed are {settings.max_image_bytes:,}; not read"
        )
    return decode_image(read_source(file.path), settings.image, max_pixels=settings.max_image_pixels)


def _count(report: FileReport, row: Row, pixels: NDArray[np.uint8]) -> None:
    label = row.file.label
    if not report.rows:
        report.min_row_id = row.row_id
    report.max_row_id = row.row_id
    report.rows += 1
    report.class_rows[label] += 1
    report.class_sums = add_sums([report.class_sums, {label: hash_row(row.row_id, label, pixels)}])


def _store(table: pa.Table, report: FileReport, dataset: str) -> None:
    target = io.BytesIO()
    pq.write_table(
        table,
        target,
        row_group_size=table.num_rows,
        use_dictionary=False,
        # Pixels are stored as they are: decompression would cost more than the read that it saves.
        compression={"row_id": "NONE", "key": "ZSTD", "label": "ZSTD", "image": "NONE"},
        write_statistics=["row_id", "label"],
    )
    data = target.getvalue()
    # A repeated or speculative attempt writes beside this one, never over it: the manifest names one.
    name = f"part-{report.index:05d}-{uuid.uuid4().hex[:12]}.parquet"
    report.path = storage.join(f"split={report.split}", name)
    storage.write_bytes(storage.join(dataset, report.path), data)
    report.num_bytes = len(data)
    report.sha256 = hashlib.sha256(data).hexdigest()
