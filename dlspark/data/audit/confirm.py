"""Candidates looked at again, finely, and the pairs table.

A candidate is a twin if its descriptors correlate more than unrelated pictures of this dataset do: the
distance 1 - similarity must be at most a fifth of the distance to the third nearest of a random sample, for
the row of the two that has the nearer neighbours (the ratio test of Lowe 2004). benchmarks/audit.py says how
many twins that keeps and how many unrelated digits it lets pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dlspark import storage
from dlspark.contracts import Split
from dlspark.data.audit.describe import AUDIT_FOLDER, read_description
from dlspark.data.audit.perceptual_hash import similarities
from dlspark.data.audit.records import KINDS, PAIRS
from dlspark.data.audit.symmetry import TRANSFORMS
from dlspark.data.parquet_file import write_table

RATIO = 0.2
MIN_SIMILARITY = 0.8
CERTAIN_SIMILARITY = 0.998
"""Enough where even unrelated rows are as alike as that."""

_CHUNK = 8192


class Confirmed(NamedTuple):
    """What one task confirmed."""

    counts: Counter[tuple[str, ...]]
    """("kind", kind), ("leak", kind), ("leak splits", a, b), ("conflict", kind), ("candidates",)."""
    examples: list[dict[str, Any]]


def confirm(
    dataset: str, splits: Sequence[Split], pairs: NDArray[np.void], part: int, max_examples: int
) -> Confirmed:
    """Check the near pairs among two blocks of files and write all pairs that hold.

    Args:
        dataset: URL; its descriptions are written.
        splits: of each file, by number.
        pairs: PAIR.
        part: number of the part of the pairs table.
        max_examples: pairs returned at most; leaks and conflicts first.
    """
    counts: Counter[tuple[str, ...]] = Counter()
    files = np.unique(np.concatenate([pairs["a"] >> 32, pairs["b"] >> 32]))
    tables = [read_description(dataset, number) for number in files.tolist()]
    rows = pa.concat_tables(tables).combine_chunks()
    starts = np.cumsum([0, *(table.num_rows for table in tables)])
    one, other = (
        starts[np.searchsorted(files, pairs[side] >> 32)] + (pairs[side] & 0xFFFFFFFF) for side in ("a", "b")
    )
    near = pairs["kind"] == KINDS.index("near")
    counts["candidates",] = len(np.unique(pairs[near][["a", "b"]]))
    similarity = _check(rows, pairs, one, other)
    order = np.lexsort((pairs["transform"], -similarity, pairs["b"], pairs["a"]))
    order = order[similarity[order] >= 0]
    _, first = np.unique(pairs[order][["a", "b"]], return_index=True)
    # The same two rows can come as two kinds only if hashes of different pixels collide.
    chosen = order[first]
    if not len(chosen):
        return Confirmed(counts, [])
    table = _table(
        rows, pairs[chosen], one[chosen], other[chosen], similarity=similarity[chosen], splits=splits
    )
    write_table(table, storage.join(dataset, AUDIT_FOLDER, "pairs", f"part-{part:05d}.parquet"))
    _count(table, counts)
    return Confirmed(counts, first_examples(table, max_examples))


def first_examples(table: pa.Table, number: int) -> list[dict[str, Any]]:
    """Return the first pairs of a table of PAIRS: leaks and conflicts, leaks, conflicts, then the others."""
    leaks, conflicts = (table[name].to_numpy() for name in ("leak", "label_conflict"))
    order = np.lexsort((table["row_id_a"].to_numpy(), -(2 * leaks.astype(int) + conflicts)))
    rows: list[dict[str, Any]] = table.take(pa.array(order[:number])).to_pylist()
    return rows


def _check(
    rows: pa.Table, pairs: NDArray[np.void], one: NDArray[np.int64], other: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the similarity of each pair, -1 where it is no twin."""
    width = rows.schema.field("descriptor").type.byte_width
    data = rows["descriptor"].combine_chunks()
    data = data.chunk(0) if isinstance(data, pa.ChunkedArray) else data
    descriptors = np.frombuffer(data.buffers()[1], dtype=np.int8)[: len(rows) * width].reshape(-1, width)
    nearest = rows["nearest"].to_numpy()
    found = np.ones(len(pairs), dtype=np.float32)
    near = np.flatnonzero(pairs["kind"] == KINDS.index("near"))
    for start in range(0, len(near), _CHUNK):
        chosen = near[start : start + _CHUNK]
        a, b = one[chosen], other[chosen]
        similarity = similarities(descriptors[a], descriptors[b], pairs["transform"][chosen])
        background = np.maximum(nearest[a], nearest[b])
        enough = np.clip(1 - RATIO * (1 - background), MIN_SIMILARITY, CERTAIN_SIMILARITY)
        found[chosen] = np.where(similarity >= enough, similarity, -1.0)
    return found


def _table(
    rows: pa.Table,
    pairs: NDArray[np.void],
    one: NDArray[np.int64],
    other: NDArray[np.int64],
    *,
    similarity: NDArray[np.float32],
    splits: Sequence[Split],
) -> pa.Table:
    columns: dict[str, Any] = {}
    for side, places in (("a", one), ("b", other)):
        taken = rows.select(["row_id", "key", "label"]).take(pa.array(places))
        columns |= {f"{name}_{side}": taken[name] for name in taken.column_names}
        columns[f"split_{side}"] = np.array(splits, dtype=object)[pairs[side] >> 32]
    columns |= {
        "kind": np.array(KINDS, dtype=object)[pairs["kind"]],
        "distance": pairs["distance"].astype(np.int32),
        "similarity": similarity,
        "transform": np.array([transform.name for transform in TRANSFORMS], dtype=object)[pairs["transform"]],
        "leak": columns["split_a"] != columns["split_b"],
        "label_conflict": columns["label_a"].to_numpy() != columns["label_b"].to_numpy(),
    }
    arrays = []
    for field in PAIRS:
        column = columns[field.name]
        arrays.append(column if isinstance(column, pa.ChunkedArray) else pa.array(column, type=field.type))
    return pa.table(arrays, schema=PAIRS)


def _count(table: pa.Table, counts: Counter[tuple[str, ...]]) -> None:
    names = ("kind", "split_a", "split_b", "leak", "label_conflict")
    columns = (table[name].to_pylist() for name in names)
    for kind, split_a, split_b, leak, conflict in zip(*columns, strict=True):
        counts["kind", kind] += 1
        counts["leak", kind] += leak
        counts["conflict", kind] += conflict
        if leak:
            counts["leak splits", split_a, split_b] += 1
