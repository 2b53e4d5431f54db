"""The Parquet files of a dataset: their columns, and the rows of one file on their way from pixels to disk.

A file is one row group, sorted by row id. `image` is either numpy's save format (storage raw: for one shape a
constant header, then the pixels, so that a column is one strided array) or a PNG or JPEG file (storage
encoded). The other columns say where each row comes from, for people and for the next ingest.
"""

from __future__ import annotations

import io
import math
import mmap
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dlspark import storage
from dlspark.contracts import ImageFormat, Split
from dlspark.data.channel_sums import sum_channels
from dlspark.data.fingerprint import file_checksum, hash_bytes, sum_by_class
from dlspark.data.layout import FilePlace
from dlspark.data.pages import borrow_pages

SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("parent_id", pa.int64(), nullable=False),
        pa.field("pixel_hash", pa.binary(), nullable=False),
        pa.field("source_hash", pa.binary(), nullable=False),
        pa.field("source_bytes", pa.int64(), nullable=False),
        pa.field("source_version", pa.int64(), nullable=False),
        pa.field("source_height", pa.int32(), nullable=False),
        pa.field("source_width", pa.int32(), nullable=False),
    ]
)
"""parent_id: row id of the image that this is an augmented copy of, its own for an original; pixel_hash: of
the uint8 [H, W, C] pixels; source_hash, source_bytes, source_version: of the file it was decoded from, and
its length and modification time in ns (or a hash); source_height, source_width: its upright size in pixels.
Hashes are those of fingerprint.hash_bytes, 16 bytes."""

Storage = Literal["raw", "encoded"]

_MOST_EXTRA_BYTES = 2**20
"""Of a Parquet file beside its values: headers and the footer."""

_PAGE_BYTES = 2**19
"""Of a page of a column: what a processor's cache holds while it is put together and then copied."""
_MOST_ROWS_TOGETHER = 1024

_UNCOMPRESSED = ("row_id", "image", "pixel_hash", "source_hash")


class Provenance(NamedTuple):
    """Where a row comes from; see SCHEMA."""

    parent_id: int
    source_hash: bytes
    source_bytes: int
    source_version: int
    source_height: int
    source_width: int


@dataclass(kw_only=True, slots=True)
class FileReport:
    """What a task did; plain values for the driver, which grow with the classes and not with the rows."""

    split: Split
    index: int
    path: str | None = None
    """Relative to the dataset; None where no row is left and there is no file."""
    num_bytes: int = 0
    checksum: str = ""
    """See `file_checksum`."""
    rows: int = 0
    num_copies: int = 0
    """Of the rows, those that are augmented copies."""
    min_row_id: int = -1
    max_row_id: int = -1
    class_rows: Counter[int] = field(default_factory=Counter)
    class_sums: dict[int, int] = field(default_factory=dict)
    """Fingerprint sums by label."""
    channel_sums: tuple[int, ...] = ()
    """Sum of the pixel values, by channel."""
    channel_squares: tuple[int, ...] = ()
    """Sum of their squares, by channel."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Originals by upright source height and width, each rounded down to a power of two."""
    num_decoded: int = 0
    """Originals and copies that were decoded from the source, not taken over from an earlier dataset."""
    num_refused: Counter[str] = field(default_factory=Counter)
    """Refused originals by reason."""
    num_accepted: int = 0
    """Of them, those that a person has settled."""
    class_refused: Counter[int] = field(default_factory=Counter)
    """Refused originals by label; -1: without one."""
    examples: list[tuple[str, str, str]] = field(default_factory=list)
    """Key, reason and message of the first refused originals."""
    quarantine_paths: list[str] = field(default_factory=list)
    """Of the file's parts of the quarantine table, relative to the dataset."""
    repeated: tuple[str, str] | None = None
    """Keys of two images with the same row id."""


def npy_header(shape: tuple[int, ...]) -> bytes:
    """Return the bytes that numpy.save writes before the pixels of a uint8 array of `shape`."""
    target = io.BytesIO()
    np.save(target, np.zeros(shape, dtype=np.uint8))
    return target.getvalue()[: -int(np.prod(shape))]


class FileRows:
    """The rows of one file, appended in the order of their row ids."""

    def __init__(self, image: ImageFormat, form: Storage, *, most: int) -> None:
        """Begin without rows.

        Args:
            image: of all rows.
            form: of the dataset.
            most: rows that may be appended.
        """
        self.shape = (image.height, image.width, image.channels)
        self.form = form
        self.row_ids: list[int] = []
        self.keys: list[str] = []
        self.labels: list[int] = []
        self.pixel_hashes: list[bytes] = []
        self.provenance: list[Provenance] = []
        self._encoded: list[bytes] = []
        header = np.frombuffer(npy_header(self.shape), dtype=np.uint8)
        # Pixels are put where the column of storage raw has them, so that they are copied once.
        self._raw = np.empty((most, header.size + math.prod(self.shape)), dtype=np.uint8)
        self._raw[:, : header.size] = header
        self._pixels = self._raw[:, header.size :]

    def append(
        self,
        row_id: int,
        key: str,
        label: int,
        pixels: NDArray[np.uint8],
        provenance: Provenance,
        *,
        encoded: bytes = b"",
    ) -> None:
        """Add a row of contiguous uint8 [H, W, C] pixels. `encoded` is what storage encoded stores."""
        self._pixels[len(self.row_ids)] = pixels.reshape(-1)
        self._encoded.append(encoded)
        self.row_ids.append(row_id)
        self.keys.append(key)
        self.labels.append(label)
        self.pixel_hashes.append(hash_bytes(pixels))
        self.provenance.append(provenance)

    def channel_sums(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the sums of the pixel values and those of their squares, each by channel."""
        return sum_channels(self._pixels[: len(self.row_ids)].reshape(-1, *self.shape))

    def table(self) -> pa.Table:
        """Return the rows as a table of SCHEMA."""
        origins = dict(zip(Provenance._fields, zip(*self.provenance, strict=True), strict=True))
        images = self._encoded if self.form == "encoded" else self._raw_images()
        columns = [
            *(self.row_ids, self.keys, self.labels, images, origins.pop("parent_id"), self.pixel_hashes),
            *origins.values(),
        ]
        arrays = [pa.array(values, type=field.type) for values, field in zip(columns, SCHEMA, strict=True)]
        return pa.table(arrays, schema=SCHEMA)

    def _raw_images(self) -> pa.Array:
        """Return numpy's save format of each image, without a copy."""
        number, stride = len(self.row_ids), self._raw.shape[1]
        offsets = np.arange(number + 1, dtype=np.int32) * np.int32(stride)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(self._raw[:number])]
        return pa.BinaryArray.from_buffers(pa.binary(), number, buffers)


def store_rows(rows: FileRows, place: FilePlace, *, dataset: str, attempt: str) -> FileReport:
    """Write the rows to a file whose name no other attempt has, and report it; no rows, no file.

    Args:
        rows: in the order of their row ids.
        place: split and index of the file.
        dataset: URL.
        attempt: id of the ingest, a part of the name.
    """
    report = FileReport(split=place.split, index=place.index)
    if not rows.row_ids:
        return report
    table = rows.table()
    # A repeated or speculative task writes beside this file, never over it: the manifest names one.
    name = f"part-{place.index:05d}-{attempt}-{uuid.uuid4().hex[:8]}.parquet"
    report.path = storage.join(f"split={place.split}", name)
    with borrow_pages(2 * table.nbytes + _MOST_EXTRA_BYTES) as pages:
        data = table_bytes(table, pages=pages)
        storage.write_bytes(storage.join(dataset, report.path), data)
        report.num_bytes = len(data)
        report.checksum = file_checksum(data)
    report.rows = len(rows.row_ids)
    report.min_row_id, report.max_row_id = rows.row_ids[0], rows.row_ids[-1]
    report.class_rows = Counter(rows.labels)
    report.class_sums = sum_by_class(rows.row_ids, rows.labels, rows.shape, rows.pixel_hashes)
    report.channel_sums, report.channel_squares = rows.channel_sums()
    for row_id, origin in zip(rows.row_ids, rows.provenance, strict=True):
        if row_id == origin.parent_id:
            report.sizes[_floor_power(origin.source_height), _floor_power(origin.source_width)] += 1
        else:
            report.num_copies += 1
    return report


def read_table(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a Parquet file as a table, each column in one piece.

    Args:
        data: the whole file.
        columns: those that are wanted; None for all.

    Raises:
        pa.ArrowException, OSError: it is not a Parquet file, or a damaged one.
    """
    file = pq.ParquetFile(pa.BufferReader(data))
    # In this thread alone: Arrow's own threads let go of `data` after the table is there, for which they need
    # the interpreter, and a process that ends meanwhile is aborted ("terminate called without an active
    # exception").
    return file.read(columns=None if columns is None else list(columns), use_threads=False).combine_chunks()


def write_table(table: pa.Table, url: str) -> None:
    """Write a small table to a Parquet file."""
    storage.write_bytes(url, table_bytes(table, uncompressed=()))


def table_bytes(
    table: pa.Table, *, uncompressed: Sequence[str] = _UNCOMPRESSED, pages: mmap.mmap | None = None
) -> memoryview:
    """Return a table as a Parquet file of one row group.

    Args:
        table: with any number of rows.
        uncompressed: columns that are stored as they are.
        pages: where the file is put, with enough room for it; None: memory of its own.
    """
    row_bytes = table.nbytes // max(table.num_rows, 1) + 1
    target = pa.BufferOutputStream() if pages is None else pa.FixedSizeBufferWriter(pa.py_buffer(pages))
    pq.write_table(
        table,
        target,
        row_group_size=max(table.num_rows, 1),
        use_dictionary=False,
        data_page_size=_PAGE_BYTES,
        # Only after so many rows Arrow looks whether the page is full.
        write_batch_size=min(max(_PAGE_BYTES // row_bytes, 1), _MOST_ROWS_TOGETHER),
        # Pixels and hashes are stored as they are: decompression would cost more than the read that it saves.
        compression={name: "NONE" if name in uncompressed else "ZSTD" for name in table.column_names},
        write_statistics=[name for name in ("row_id", "label") if name in table.column_names],
    )
    return memoryview(target.getvalue()) if pages is None else memoryview(pages)[: target.tell()]


def _floor_power(pixels: int) -> int:
    return 1 << (pixels.bit_length() - 1) if pixels else 0
