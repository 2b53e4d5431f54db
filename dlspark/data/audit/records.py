"""The rows of numbers that the Spark tasks of an audit hand on, as numpy structured arrays.

A row's address is (number of its file << 32 | place in its description); files are numbered through train,
val, test, so that addresses are in the order of the splits.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

ROW = np.dtype(
    [
        ("pixel_hash", "<u8", (2,)),
        ("source_hash", "<u8", (2,)),
        ("address", "<i8"),
        ("hash", "<u8"),
        ("is_flat", "?"),
    ]
)
PROBE = np.dtype([("bucket", "<u4"), ("transform", "i1"), ("address", "<i8"), ("hash", "<u8")])
"""A row in a bucket of a band. transform: of the hash; STORED for the row that the others are compared to."""
PAIR = np.dtype([("a", "<i8"), ("b", "<i8"), ("kind", "i1"), ("transform", "i1"), ("distance", "i1")])
"""Addresses, a < b; place in KINDS; place in TRANSFORMS; differing bits."""

STORED = -1
KINDS = ("same_bytes", "same_pixels", "near")

PAIRS = pa.schema(
    [
        pa.field("row_id_a", pa.int64(), nullable=False),
        pa.field("row_id_b", pa.int64(), nullable=False),
        pa.field("key_a", pa.string(), nullable=False),
        pa.field("key_b", pa.string(), nullable=False),
        pa.field("label_a", pa.int32(), nullable=False),
        pa.field("label_b", pa.int32(), nullable=False),
        pa.field("split_a", pa.string(), nullable=False),
        pa.field("split_b", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("distance", pa.int32(), nullable=False),
        pa.field("similarity", pa.float32(), nullable=False),
        pa.field("transform", pa.string(), nullable=False),
        pa.field("leak", pa.bool_(), nullable=False),
        pa.field("label_conflict", pa.bool_(), nullable=False),
    ]
)
"""The pairs table. a is in the same split as b or in an earlier one (train, val, test); distance: bits of the
perceptual hashes that differ; similarity: correlation of the descriptors; transform: turns b into a."""


def parts_of(records: NDArray[np.void], targets: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.void]]]:
    """Yield the records of each target, by target."""
    if not len(records):
        return
    order = np.argsort(targets, kind="stable")
    numbers, starts = np.unique(targets[order], return_index=True)
    for number, chosen in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True):
        yield number, records[chosen]
