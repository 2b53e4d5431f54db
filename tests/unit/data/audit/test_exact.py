from __future__ import annotations

import numpy as np

from dlspark.data.audit.exact import exact_pairs
from dlspark.data.audit.records import KINDS, ROW


def rows_of(*values: tuple[int, int, int]) -> np.ndarray:
    rows = np.zeros(len(values), dtype=ROW)
    for place, (address, pixels, source) in enumerate(values):
        rows[place]["address"] = address
        rows[place]["pixel_hash"], rows[place]["source_hash"] = (pixels, 0), (source, 1)
    return rows


def test_a_group_is_paired_with_its_first_row_and_the_first_of_the_same_bytes() -> None:
    pairs, first = exact_pairs(rows_of((7, 1, 3), (4, 1, 9), (5, 1, 3), (6, 1, 9), (1, 2, 8)))
    found = {(int(a), int(b), KINDS[kind]) for a, b, kind, *_ in pairs.tolist()}
    assert found == {
        (4, 6, "same_bytes"),
        (4, 5, "same_pixels"),
        (4, 7, "same_pixels"),
        (5, 7, "same_bytes"),
    }
    assert sorted(first["address"].tolist()) == [1, 4]


def test_many_equal_rows_give_few_pairs() -> None:
    pairs, first = exact_pairs(rows_of(*((address, 1, 1) for address in range(1000))))
    assert (len(pairs), len(first)) == (999, 1)
