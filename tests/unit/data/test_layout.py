from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlspark.contracts import SPLITS
from dlspark.data.layout import NUM_BUCKETS, FilePlace, bucket_of, cut, most_rows, num_files_of


@pytest.mark.parametrize(
    ("rows", "rows_per_file", "streams", "files"),
    [
        (0, 10, 4, 0),  # an empty split
        (3, 10, 4, 3),  # fewer rows than streams: one each
        (4, 10, 4, 4),
        (90, 100, 4, 4),  # one file would hold all; the streams want four
        (90, 10, 4, 12),  # nine needed, the next multiple of four
        (9, 1, 4, 8),  # as many files as streams and rows allow
    ],
)
def test_number_of_files(rows: int, rows_per_file: int, streams: int, files: int) -> None:
    assert num_files_of(rows, rows_per_file=rows_per_file, num_streams=streams) == files


@given(
    rows=st.tuples(st.integers(0, 3000), st.integers(0, 300), st.integers(0, 300)).filter(any),
    streams=st.integers(1, 20),
    rows_per_file=st.integers(10, 300),
    tasks=st.fixed_dictionaries({"num_slots": st.integers(1, 8), "most_rows_of_task": st.integers(0, 2000)}),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_row_has_one_file_and_files_are_near_equal(
    rows: tuple[int, int, int], streams: int, rows_per_file: int, tasks: dict[str, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    ids = [np.sort(rng.integers(0, 2**63, number)) for number in rows]
    buckets = np.stack([np.bincount(bucket_of(part), minlength=NUM_BUCKETS) for part in ids])
    files = [num_files_of(number, rows_per_file=rows_per_file, num_streams=streams) for number in rows]
    layout = cut(buckets, files, **tasks)
    assert layout.rows == rows
    # A file is cut at the border of a bucket: it may be off by what the two buckets at its ends hold.
    slack = 2 * int(buckets.max()) + 1
    for split, (name, part, number) in enumerate(zip(SPLITS, ids, files, strict=True)):
        found = layout.file_of(np.full(len(part), split, dtype=np.int8), part)
        assert (np.diff(found) >= 0).all()
        counts = Counter(found.tolist())
        assert {layout.place(file).split for file in counts} <= {name}
        assert all(abs(rows_of_file - len(part) / number) <= slack for rows_of_file in counts.values())
    assert len(layout.task_of_file) == layout.num_files
    assert sorted(set(layout.task_of_file.tolist())) == list(range(layout.num_tasks))
    assert (np.diff(layout.task_of_file) >= 0).all()


def rows_of_tasks(rows: tuple[int, int, int], files: list[int], *, slots: int, most: int) -> list[int]:
    buckets = np.zeros((3, NUM_BUCKETS), dtype=np.int64)
    for split, number in enumerate(rows):
        buckets[split] = np.bincount(np.arange(number) * NUM_BUCKETS // max(number, 1), minlength=NUM_BUCKETS)
    layout = cut(buckets, files, num_slots=slots, most_rows_of_task=most)
    file_rows = np.bincount(layout.file_of_bucket.ravel(), buckets.ravel())
    return np.bincount(layout.task_of_file, file_rows).astype(int).tolist()


def test_tasks_become_smaller_towards_the_end() -> None:
    tasks = rows_of_tasks((48_000, 6_000, 6_000), [48, 16, 16], slots=2, most=10**9)
    assert tasks[0] == pytest.approx(60_000 / 4, rel=0.1)
    # With what is left when a slot becomes free, it is not busy for much longer than the other one.
    assert all(task <= sum(tasks[number:]) / 4 + 1_000 or task <= 4_000 for number, task in enumerate(tasks))
    assert max(tasks[-2:]) <= 60_000 / 16
    assert len(tasks) <= 2 * 16


def test_a_task_has_at_most_so_many_rows_and_a_file_more() -> None:
    tasks = rows_of_tasks((48_000, 0, 0), [48, 0, 0], slots=2, most=3_000)
    assert tasks[:12] == pytest.approx([3_000] * 12, abs=3)
    assert max(tasks[12:]) <= 3_003
    one_file_each = rows_of_tasks((48_000, 0, 0), [48, 0, 0], slots=2, most=0)
    assert one_file_each == pytest.approx([1_000] * 48, abs=3)


def test_files_of_60000_rows_differ_by_a_few() -> None:
    ids = np.random.default_rng(0).integers(0, 2**63, 60_000)
    buckets = np.zeros((3, NUM_BUCKETS), dtype=np.int64)
    buckets[0] = np.bincount(bucket_of(ids), minlength=NUM_BUCKETS)
    layout = cut(buckets, [48, 0, 0], num_slots=2, most_rows_of_task=10**6)
    counts = np.bincount(layout.file_of(np.zeros(60_000, dtype=np.int8), ids))
    assert abs(counts - 1250).max() <= 15
    assert most_rows(buckets[0], 48) == counts.max()


def test_a_file_past_the_end_is_an_error() -> None:
    buckets = np.zeros((3, NUM_BUCKETS), dtype=np.int64)
    buckets[0, 0] = buckets[2, 5] = 2
    layout = cut(buckets, [2, 0, 1], num_slots=1, most_rows_of_task=10**6)
    assert layout.place(2) == FilePlace(split="test", index=0)
    with pytest.raises(IndexError):
        layout.place(3)
