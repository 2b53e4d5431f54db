"""Rows of an earlier dataset that an ingest takes over, so that only what is new or changed is decoded.

A row is taken over if its key, the length and the version of its source file are the same; both datasets must
have been made with the same settings. Files are sorted by row id, so a new file finds its rows in a few old
ones. A damaged old file is not used: its rows are decoded again.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dlspark import storage
from dlspark.contracts import ImageFormat
from dlspark.data.columns import FileColumns, pixels_of
from dlspark.data.manifest import FileEntry
from dlspark.data.parquet_file import Provenance, Storage, read_table

_NUM_CACHED = 6

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Previous:
    """A published dataset whose rows may be taken over."""

    dataset: str
    """URL."""
    image: ImageFormat
    storage: Storage
    files: tuple[FileEntry, ...]
    """Of all splits."""


class StoredRow(NamedTuple):
    """A row as an earlier ingest wrote it."""

    key: str
    label: int
    pixels: NDArray[np.uint8]
    """uint8 [H, W, C]."""
    encoded: bytes
    """The stored PNG or JPEG; empty for storage raw."""
    provenance: Provenance


class StoredRows:
    """Finds rows of an earlier dataset; keeps the few files that it used last."""

    def __init__(self, previous: Previous) -> None:
        """Open nothing yet."""
        self._previous = previous
        self._files: OrderedDict[str, _StoredFile | None] = OrderedDict()

    def find(self, row_id: int) -> StoredRow | None:
        """Return the row with this id, or None."""
        for entry in self._previous.files:
            if entry.min_row_id <= row_id <= entry.max_row_id:
                file = self._open(entry)
                row = file.find(row_id) if file else None
                if row is not None:
                    return row
        return None

    def _open(self, entry: FileEntry) -> _StoredFile | None:
        if entry.path not in self._files:
            self._files[entry.path] = self._read(entry)
            if len(self._files) > _NUM_CACHED:
                self._files.popitem(last=False)
        self._files.move_to_end(entry.path)
        return self._files[entry.path]

    def _read(self, entry: FileEntry) -> _StoredFile | None:
        url = storage.join(self._previous.dataset, entry.path)
        try:
            data = storage.read_bytes(url)
        except FileNotFoundError:
            _log.warning("%s is lost; its images are decoded again", url)
            return None
        if not entry.is_whole(data):
            _log.warning("%s is damaged; its images are decoded again", url)
            return None
        return _StoredFile(read_table(data), self._previous.image, self._previous.storage, url)


class _StoredFile:
    def __init__(self, table: pa.Table, image: ImageFormat, form: Storage, url: str) -> None:
        self._columns = {name: table[name].combine_chunks() for name in table.column_names}
        self._row_ids = self._columns["row_id"].to_numpy()
        self._form = form
        columns = FileColumns(
            row_ids=self._row_ids, labels=self._columns["label"].to_numpy(), images=self._columns["image"]
        )
        self._pixels = pixels_of(columns, image, form, where=url)

    def find(self, row_id: int) -> StoredRow | None:
        row = int(np.searchsorted(self._row_ids, row_id))
        if row == len(self._row_ids) or self._row_ids[row] != row_id:
            return None
        values = {name: self._columns[name][row].as_py() for name in ("key", "label", *Provenance._fields)}
        return StoredRow(
            key=values["key"],
            label=values["label"],
            pixels=self._pixels[row],
            encoded=self._columns["image"][row].as_py() if self._form == "encoded" else b"",
            provenance=Provenance(*(values[name] for name in Provenance._fields)),
        )
