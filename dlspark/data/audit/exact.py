"""Rows with the same pixels, and among them those with the same bytes, from one group-by of their hashes.

Decoding is a function of the bytes, so the same bytes are looked for among the same pixels. A group of n rows
gives fewer than 2 n pairs, not n squared: each row with the group's first one and with the first of its own
bytes. First is the order of the splits, so a row outside train that has a twin in train is in a pair that
leaks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dlspark.data.audit.records import KINDS, PAIR


def exact_pairs(rows: NDArray[np.void]) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Return the pairs of rows with the same pixels, and one row of each group.

    Args:
        rows: ROW; all of each of their pixel hashes.

    Returns:
        PAIR, and ROW: the first row of each group, groups of one row included.
    """
    pixels, source = rows["pixel_hash"], rows["source_hash"]
    rows = rows[np.lexsort((rows["address"], source[:, 1], source[:, 0], pixels[:, 1], pixels[:, 0]))]
    if not len(rows):
        return np.empty(0, dtype=PAIR), rows
    new_pixels = _changes(rows["pixel_hash"])
    new_bytes = new_pixels | _changes(rows["source_hash"])
    places = np.arange(len(rows))
    byte_first = np.maximum.accumulate(np.where(new_bytes, places, 0))
    group_starts = np.flatnonzero(new_pixels)
    group = np.cumsum(new_pixels) - 1
    # Within the same bytes rows lie in the order of their addresses; the group's first is the least of all.
    least = np.minimum.reduceat(rows["address"], group_starts)
    is_first = rows["address"] == least[group]
    group_first = np.flatnonzero(is_first)[group]
    same_bytes = byte_first == byte_first[group_first]
    others = np.flatnonzero(~is_first)
    kinds = np.where(same_bytes, KINDS.index("same_bytes"), KINDS.index("same_pixels"))
    siblings = np.flatnonzero(~same_bytes & (byte_first != places))
    pairs = [
        _pairs(rows, group_first[others], others, kinds[others]),
        _pairs(rows, byte_first[siblings], siblings, np.full(len(siblings), KINDS.index("same_bytes"))),
    ]
    return np.concatenate(pairs), rows[is_first]


def _changes(hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    return np.concatenate([[True], (hashes[1:] != hashes[:-1]).any(axis=1)])


def _pairs(
    rows: NDArray[np.void], first: NDArray[np.int64], second: NDArray[np.int64], kinds: NDArray[np.int64]
) -> NDArray[np.void]:
    pairs = np.zeros(len(first), dtype=PAIR)
    pairs["a"], pairs["b"], pairs["kind"] = rows["address"][first], rows["address"][second], kinds
    return pairs
