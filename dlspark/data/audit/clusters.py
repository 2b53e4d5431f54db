"""Clusters of twins, and which rows must move to train so that no cluster lies in two splits.

Pairs are few where images are rows of a real dataset, so the driver joins them (union-find); it refuses more
than two million.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from dlspark import storage
from dlspark.data.audit.describe import AUDIT_FOLDER
from dlspark.data.audit.records import PAIRS
from dlspark.data.parquet_file import read_table, write_table
from dlspark.errors import DatasetError

MAX_PAIRS = 2_000_000
MOVES = pa.schema(
    [
        pa.field("row_id", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("from_split", pa.string(), nullable=False),
    ]
)
"""The rows that --fix moves to train."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clusters:
    """Rows that are twins of each other, directly or over others."""

    number: int
    num_spanning: int
    """Clusters with rows in more than one split."""
    largest: int
    """Rows."""
    moves: pa.Table
    """Of MOVES, by row id."""


def pairs_url(dataset: str) -> str:
    """Return the folder of the pairs table."""
    return storage.join(dataset, AUDIT_FOLDER, "pairs")


def read_pairs(dataset: str, columns: list[str] | None = None) -> pa.Table:
    """Read the pairs table of an audited dataset, of the schema PAIRS; without pairs it has no rows."""
    schema = PAIRS if columns is None else pa.schema([PAIRS.field(name) for name in columns])
    folder = pairs_url(dataset)
    tables = [
        read_table(storage.read_bytes(storage.join(folder, name)), columns)
        for name in storage.list_names(folder)
        if name.endswith(".parquet")
    ]
    return pa.concat_tables([schema.empty_table(), *tables])


def read_moves(dataset: str) -> pa.Table:
    """Read the rows that must move to train, of the schema MOVES.

    Raises:
        DatasetError: the dataset was not audited.
    """
    where = _moves_url(dataset)
    try:
        return read_table(storage.read_bytes(where))
    except FileNotFoundError as error:
        raise DatasetError("the dataset was not audited", where=where, fix="run the audit first") from error


def write_moves(dataset: str, moves: pa.Table) -> None:
    """Write the rows that must move to train."""
    write_table(moves, _moves_url(dataset))


def find_clusters(pairs: pa.Table) -> Clusters:
    """Join pairs to clusters.

    Args:
        pairs: row_id, key and split of both rows, as in PAIRS.

    Raises:
        DatasetError: there are more than MAX_PAIRS.
    """
    if pairs.num_rows > MAX_PAIRS:
        raise DatasetError(
            "the audit found too many twins to join them to clusters",
            got=pairs.num_rows,
            allowed=f"at most {MAX_PAIRS}",
            fix="drop the images with the same bytes at ingest, or audit with a smaller max_distance",
        )
    ids = [pairs[name].to_pylist() for name in ("row_id_a", "row_id_b")]
    roots = _join(ids[0], ids[1])
    splits: dict[int, str] = {}
    keys: dict[int, str] = {}
    for side, side_ids in zip(("a", "b"), ids, strict=True):
        splits |= zip(side_ids, pairs[f"split_{side}"].to_pylist(), strict=True)
        keys |= zip(side_ids, pairs[f"key_{side}"].to_pylist(), strict=True)
    sizes = Counter(roots.values())
    of_cluster: dict[int, set[str]] = {}
    for row, root in roots.items():
        of_cluster.setdefault(root, set()).add(splits[row])
    spanning = {root for root, found in of_cluster.items() if len(found) > 1}
    moved = sorted(row for row, root in roots.items() if root in spanning and splits[row] != "train")
    moves = [moved, [keys[row] for row in moved], [splits[row] for row in moved]]
    arrays = [pa.array(values, type=field.type) for values, field in zip(moves, MOVES, strict=True)]
    return Clusters(
        number=len(sizes),
        num_spanning=len(spanning),
        largest=max(sizes.values(), default=0),
        moves=pa.table(arrays, schema=MOVES),
    )


def _join(one: Sequence[int], other: Sequence[int]) -> dict[int, int]:
    """Return the root of each row."""
    parents: dict[int, int] = {}

    def root_of(row: int) -> int:
        parents.setdefault(row, row)
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    for a, b in zip(one, other, strict=True):
        first, second = sorted((root_of(a), root_of(b)))
        parents[second] = first
    return {row: root_of(row) for row in list(parents)}


def _moves_url(dataset: str) -> str:
    return storage.join(dataset, AUDIT_FOLDER, "moves.parquet")
