"""Quarantined images that a person has settled: they stay out, and count no more towards max_quarantined.

They are kept in `_accepted.parquet` beside the dataset and survive its replacement. An image is settled with
its length and its reason: if the file changes, or fails otherwise, it counts again.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from dlspark import storage
from dlspark.data.parquet_file import read_table, write_table
from dlspark.data.quarantine import Refused

ACCEPTED_NAME = "_accepted.parquet"

_SCHEMA = pa.schema([("key", pa.string()), ("num_bytes", pa.int64()), ("reason", pa.string())])

Accepted = frozenset[tuple[str, int, str]]
"""Key, length in bytes and reason of images that are settled."""


def accept(dataset: str, rows: Iterable[Refused]) -> int:
    """Settle quarantined images, besides those that are settled already; return how many there are now."""
    settled = read_accepted(dataset) | {(row.key, row.num_bytes, row.reason) for row in rows}
    columns = [list(column) for column in zip(*sorted(settled), strict=True)] or [[], [], []]
    write_table(pa.table(columns, schema=_SCHEMA), storage.join(dataset, ACCEPTED_NAME))
    return len(settled)


def read_accepted(dataset: str) -> Accepted:
    """Return the images of a dataset that are settled; none if nobody has settled any."""
    try:
        data = storage.read_bytes(storage.join(dataset, ACCEPTED_NAME))
    except FileNotFoundError:
        return frozenset()
    table = read_table(data).select(_SCHEMA.names)
    return frozenset(zip(*table.to_pydict().values(), strict=True))
