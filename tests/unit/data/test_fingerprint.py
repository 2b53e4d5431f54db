from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dlspark.data.fingerprint import add_sums, dataset_fingerprint, hash_bytes, hash_row, sum_by_class

ROWS = [
    (row_id, row_id % 3, np.full((2, 3, 1), row_id, dtype=np.uint8)) for row_id in (1, 2, 3, 5, 8, 13, 21, 34)
]


def hash_pixels(row_id: int, label: int, pixels: np.ndarray) -> int:
    return hash_row(row_id, label, pixels.shape, hash_bytes(np.ascontiguousarray(pixels)))  # type: ignore[arg-type]


def sums_of(rows: list[tuple[int, int, np.ndarray]]) -> dict[int, int]:
    return add_sums({label: hash_pixels(row_id, label, pixels)} for row_id, label, pixels in rows)


WHOLE = sums_of(ROWS)


@given(st.permutations(ROWS), st.lists(st.integers(0, len(ROWS)), max_size=5))
def test_order_and_partitioning_do_not_matter(rows: list, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(rows)]
    parts = [sums_of(rows[start:end]) for start, end in pairwise(edges)]
    assert add_sums(parts) == WHOLE


def test_every_part_of_a_row_matters() -> None:
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    changed = pixels.copy()
    changed[1, 2, 0] ^= 1
    hashes = {
        hash_pixels(1, 0, pixels),
        hash_pixels(2, 0, pixels),
        hash_pixels(1, 1, pixels),
        hash_pixels(1, 0, changed),
        hash_pixels(1, 0, pixels.reshape(3, 2, 1)),
    }
    assert len(hashes) == 5


def test_the_sums_of_a_file_are_those_of_its_rows() -> None:
    ids, labels, images = zip(*ROWS, strict=True)
    assert sum_by_class(ids, labels, (2, 3, 1), [hash_bytes(pixels) for pixels in images]) == WHOLE


def test_a_row_that_is_there_twice_matters() -> None:
    assert sums_of([*ROWS, ROWS[0]]) != WHOLE


def test_split_and_class_names_matter_and_absent_is_empty() -> None:
    base = dataset_fingerprint(["a", "b", "c"], {"train": WHOLE})
    assert len(base) == 32
    assert int(base, 16) >= 0
    assert dataset_fingerprint(["a", "b", "c"], {"train": WHOLE, "val": {}}) == base
    assert dataset_fingerprint(["a", "b", "c"], {"val": WHOLE}) != base
    assert dataset_fingerprint(["a", "b", "d"], {"train": WHOLE}) != base


def test_sums_stay_in_128_bits() -> None:
    assert add_sums([{0: 2**128 - 1}, {0: 2}]) == {0: 1}
