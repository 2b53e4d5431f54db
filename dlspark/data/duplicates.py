"""Images with the same bytes, found in the job that writes them: one copy is kept, or none.

Each writing task sends the hashes of its source files to a few reducers. Of images with the same bytes and
the same class the one with the smallest row id stays; with different classes none stays, since nobody knows
which label is right. Both rules depend on the images only, not on partitions or on the order of the listing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dlspark import storage
from dlspark.data.columns import FileColumns, pixels_of
from dlspark.data.layout import FilePlace
from dlspark.data.parquet_file import FileReport, FileRows, Provenance, read_table, store_rows
from dlspark.data.quarantine import DUPLICATE, Refused
from dlspark.data.sources.source import SourceImage
from dlspark.data.write_file import WriteSettings, quarantine, read_with_retries

HASHED = pa.schema(
    [
        pa.field("source_hash", pa.binary(16)),
        pa.field("row_id", pa.int64()),
        pa.field("parent_id", pa.int64()),
        pa.field("label", pa.int32()),
        pa.field("file", pa.int32()),
        pa.field("key", pa.string()),
    ]
)


class Drop(NamedTuple):
    """A row that must leave its file."""

    file: int
    row_id: int
    reason: str
    message: str


def hashes_of(rows: FileRows, file: int, num_reducers: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the reducer and the batch of HASHED for the rows of one file."""
    if not rows.row_ids:
        return
    hashes = [origin.source_hash for origin in rows.provenance]
    columns: list[Sequence[object]] = [
        hashes,
        rows.row_ids,
        [origin.parent_id for origin in rows.provenance],
        rows.labels,
        [file] * len(rows.row_ids),
        rows.keys,
    ]
    arrays = [pa.array(values, type=field.type) for values, field in zip(columns, HASHED, strict=True)]
    batch = pa.record_batch(arrays, schema=HASHED)
    reducers = np.array([source_hash[0] % num_reducers for source_hash in hashes])
    for reducer in np.unique(reducers).tolist():
        yield reducer, batch.take(pa.array(np.flatnonzero(reducers == reducer)))


def find_duplicates(batches: Sequence[pa.RecordBatch]) -> Iterator[Drop]:
    """Yield the rows that must go, of all rows whose hashes came to this reducer."""
    if not batches:
        return
    table = pa.Table.from_batches(batches).combine_chunks()
    words = np.frombuffer(b"".join(table["source_hash"].to_pylist()), dtype="<u8").reshape(-1, 2)
    parents = table["parent_id"].to_numpy()
    order = np.lexsort((parents, words[:, 1], words[:, 0]))
    same_file = (words[order][1:] == words[order][:-1]).all(axis=1)
    # Copies carry the hash of their original's file: a run of one parent is no duplicate.
    new_parent = parents[order][1:] != parents[order][:-1]
    starts = np.flatnonzero(np.concatenate([[True], ~same_file]))
    ends = np.append(starts[1:], len(order))
    is_multiple = (
        np.add.reduceat(np.concatenate([[False], same_file & new_parent]).astype(np.int64), starts) > 0
    )
    for start, end in zip(starts[is_multiple].tolist(), ends[is_multiple].tolist(), strict=True):
        yield from _drops(table.take(pa.array(order[start:end])).to_pylist())


def drop_rows(
    drops: Iterable[Drop], report: FileReport, place: FilePlace, settings: WriteSettings
) -> FileReport:
    """Write a file again without some of its rows, under a new name, and report it.

    Args:
        drops: of this file.
        report: of the file as it was written.
        place: split and index of the file.
        settings: it was written with.
    """
    by_row = {drop.row_id: drop for drop in drops}
    url = storage.join(settings.dataset, str(report.path))
    table = read_table(storage.read_bytes(url))
    leaves = pc.is_in(table["row_id"], value_set=pa.array(list(by_row), type=pa.int64()))
    kept = _rows_of(table.filter(pc.invert(leaves)), settings, url)
    new = store_rows(kept, place, dataset=settings.dataset, attempt=settings.attempt)
    for name in (
        "num_decoded",
        "num_refused",
        "num_accepted",
        "class_refused",
        "examples",
        "quarantine_paths",
    ):
        setattr(new, name, getattr(report, name))
    refused = []
    for row in table.filter(leaves).to_pylist():
        if row["row_id"] == row["parent_id"]:
            refused.append((_refuse(row, by_row[row["row_id"]], settings), row["label"]))
    quarantine(refused, new, place, settings)
    return new


def _drops(rows: Sequence[dict[str, object]]) -> Iterator[Drop]:
    """Decide a group of rows with the same source bytes, in the order of their parents' row ids."""
    originals = [row for row in rows if row["row_id"] == row["parent_id"]] or rows
    kept = originals[0]
    agree = len({row["label"] for row in rows}) == 1
    for row in rows:
        if agree and row["parent_id"] == kept["parent_id"]:
            continue
        if agree:
            reason, message = DUPLICATE, f"same bytes as {kept['key']}, which is kept"
        else:
            other = next(one for one in originals if one["label"] != row["label"])
            reason, message = "conflicting_label", f"same bytes as {other['key']}, which is of another class"
        yield Drop(int(row["file"]), int(row["row_id"]), reason, message)  # type: ignore[call-overload]


def _rows_of(table: pa.Table, settings: WriteSettings, url: str) -> FileRows:
    rows = FileRows(settings.image, settings.storage, most=table.num_rows)
    if not table.num_rows:
        return rows
    table = table.combine_chunks()
    columns = FileColumns(
        row_ids=table["row_id"].to_numpy(),
        labels=table["label"].to_numpy(),
        images=table["image"].chunk(0),
    )
    pixels = pixels_of(columns, settings.image, settings.storage, where=url)
    values = table.select(["row_id", "key", "label", "image", *Provenance._fields]).to_pylist()
    for row, image in zip(values, pixels, strict=True):
        origin = Provenance(*(row[name] for name in Provenance._fields))
        rows.append(row["row_id"], row["key"], row["label"], image, origin, encoded=row["image"])
    return rows


def _refuse(row: dict[str, object], drop: Drop, settings: WriteSettings) -> Refused:
    names = {label: name for name, label in settings.classes.items()}
    image = SourceImage(
        str(row["key"]),
        names[int(row["label"])],  # type: ignore[call-overload]
        int(row["source_bytes"]),  # type: ignore[call-overload]
        int(row["source_version"]),  # type: ignore[call-overload]
    )
    sha256 = None
    if not settings.source.ships_content:
        sha256 = hashlib.sha256(read_with_retries(settings.source, image)).hexdigest()
    return Refused(
        image.key,
        settings.source.path_of(image),
        image.label,
        image.num_bytes,
        sha256,
        drop.reason,
        drop.message,
    )
