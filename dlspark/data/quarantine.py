"""The quarantine table: every image that is listed and not in the dataset, with the reason.

It lies beside the dataset as Parquet files in `_quarantine/`, each written by the task that refused the
images; the manifest names those that count.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence, Set
from typing import NamedTuple

import pyarrow as pa

from dlspark import storage
from dlspark.data.layout import FilePlace
from dlspark.data.parquet_file import FileReport, read_table, write_table

QUARANTINE_NAME = "_quarantine"
DUPLICATE = "duplicate"
"""The one reason that counts as deduplicated, not as quarantined."""

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("num_bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
    ]
)
"""sha256: of the file, 64 hexadecimal digits; null where it was not read."""

_NUM_EXAMPLES = 3


class Refused(NamedTuple):
    """An image that is listed and not in the dataset; see SCHEMA."""

    key: str
    path: str
    label: str | None
    num_bytes: int
    sha256: str | None
    reason: str
    message: str


def store_refused(
    refused: Sequence[tuple[Refused, int]],
    report: FileReport,
    place: FilePlace,
    *,
    dataset: str,
    attempt: str,
    accepted: Set[tuple[str, int, str]],
) -> None:
    """Write the refused originals of one file and count them in its report.

    Args:
        refused: with the label of each, -1 for none.
        report: is changed.
        place: split and index of the file.
        dataset: URL.
        attempt: id of the ingest, a part of the name.
        accepted: key, length and reason of those that a person has settled.
    """
    if not refused:
        return
    name = f"part-{place.split}-{place.index:05d}-{attempt}-{uuid.uuid4().hex[:8]}.parquet"
    path = storage.join(QUARANTINE_NAME, name)
    write_table(table_of([row for row, _ in refused]), storage.join(dataset, path))
    report.quarantine_paths.append(path)
    report.num_refused.update(row.reason for row, _ in refused)
    report.num_accepted += sum((row.key, row.num_bytes, row.reason) in accepted for row, _ in refused)
    report.class_refused.update(label for _, label in refused)
    examples = [(row.key, row.reason, row.message) for row, _ in refused]
    report.examples = sorted([*report.examples, *examples])[:_NUM_EXAMPLES]


def table_of(rows: Sequence[Refused]) -> pa.Table:
    """Return rows as a table of SCHEMA."""
    columns = [list(column) for column in zip(*rows, strict=True)] or [[]] * len(SCHEMA)
    return pa.table(columns, schema=SCHEMA)


def read_quarantine(dataset: str, paths: Sequence[str]) -> Iterator[Refused]:
    """Yield the rows of a quarantine table, file by file, sorted by key within each.

    Args:
        dataset: URL.
        paths: of the files, relative to the dataset, from its manifest.
    """
    for path in paths:
        table = read_table(storage.read_bytes(storage.join(dataset, path)))
        yield from sorted((Refused(**row) for row in table.to_pylist()), key=lambda row: row.key)
