from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlspark.contracts import SPLITS
from dlspark.data.layout import FilePlace, Layout, num_files_of


@pytest.mark.parametrize(
    ("rows", "row_bytes", "file_bytes", "streams", "files"),
    [
        (0, 10, 100, 4, 0),  # an empty split
        (3, 10, 100, 4, 3),  # fewer rows than streams: one each
        (4, 10, 100, 4, 4),
        (90, 10, 1000, 4, 4),  # one file would hold all; the streams want four
        (90, 10, 100, 4, 12),  # nine needed, the next multiple of four
        (9, 10, 1, 4, 8),  # a row is larger than a file may be: as many files as streams and rows allow
    ],
)
def test_number_of_files(rows: int, row_bytes: int, file_bytes: int, streams: int, files: int) -> None:
    found = num_files_of(rows, row_bytes=row_bytes, file_bytes=file_bytes, num_streams=streams)
    assert found == files


@given(
    rows=st.tuples(st.integers(0, 300), st.integers(0, 50), st.integers(0, 50)).filter(any),
    streams=st.integers(1, 20),
    file_bytes=st.integers(1, 500),
    tasks=st.integers(1, 40),
)
def test_every_row_has_one_file_and_files_differ_by_one_row_at_most(
    rows: tuple[int, int, int], streams: int, file_bytes: int, tasks: int
) -> None:
    split_rows = dict(zip(SPLITS, rows, strict=True))
    files = {
        split: num_files_of(number, row_bytes=7, file_bytes=file_bytes, num_streams=streams)
        for split, number in split_rows.items()
    }
    layout = Layout(rows=split_rows, files=files, num_tasks=min(tasks, sum(files.values())))
    counts = Counter(layout.file_of(position) for position in range(sum(rows)))
    assert sorted(counts) == list(range(layout.num_files))
    places = {file: layout.place(file) for file in counts}
    for split in SPLITS:
        sizes = [counts[file] for file, place in places.items() if place.split == split]
        assert sum(sizes) == split_rows[split]
        assert len(sizes) == files[split]
        assert not sizes or max(sizes) - min(sizes) <= 1
    assert {layout.task_of(file) for file in counts} == set(range(layout.num_tasks))


def test_positions_and_files_past_the_end_are_errors() -> None:
    layout = Layout(
        rows={"train": 2, "val": 0, "test": 1}, files={"train": 2, "val": 0, "test": 1}, num_tasks=1
    )
    assert layout.place(layout.file_of(2)) == FilePlace(split="test", index=0)
    with pytest.raises(IndexError):
        layout.file_of(3)
    with pytest.raises(IndexError):
        layout.place(3)
