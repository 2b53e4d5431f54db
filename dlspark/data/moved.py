"""Images that an audit has moved to train, because a twin of theirs is there.

They are kept in `_moved.parquet` beside the dataset and survive its replacement: every later ingest into the
same folder moves them too.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from dlspark import storage
from dlspark.data.fingerprint import hash_bytes
from dlspark.data.parquet_file import read_table, write_table

MOVED_NAME = "_moved.parquet"

_SCHEMA = pa.schema([("row_id", pa.int64())])


def add_moved(dataset: str, row_ids: Iterable[int]) -> int:
    """Move rows to train from the next ingest on, besides those that are moved already; return how many."""
    moved = sorted(read_moved(dataset).union(row_ids))
    write_table(pa.table([moved], schema=_SCHEMA), storage.join(dataset, MOVED_NAME))
    return len(moved)


def read_moved(dataset: str) -> frozenset[int]:
    """Return the row ids of a dataset that are moved to train; none if no audit has moved any."""
    try:
        data = storage.read_bytes(storage.join(dataset, MOVED_NAME))
    except FileNotFoundError:
        return frozenset()
    return frozenset(read_table(data)["row_id"].to_pylist())


def digest_of(moved: frozenset[int]) -> str:
    """Return a name for a set of row ids, empty for none."""
    return hash_bytes(repr(sorted(moved)).encode()).hex() if moved else ""
