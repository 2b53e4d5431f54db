"""Which Parquet file each row goes to: a function of its row id, without sorting any row.

Row ids are hashes, so their order is a shuffle of all rows, and cutting it into near-equal runs gives files
that are each a random sample. The runs are cut at the borders of fine buckets of the ids, from the number of
rows in each bucket: exact to one bucket, for the price of one count. Where there are enough rows a split has
a multiple of `num_streams` files, so that the canonical streams of the plan are equally long.

A Spark task writes files that follow each other. Tasks become smaller towards the end, each a share of the
rows that are left, so that the last ones end at about the same time (guided self-scheduling, Polychronopoulos
and Kuck 1987).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dlspark.contracts import SPLITS, Split

NUM_BUCKETS = 2**14
_BUCKET_SHIFT = 63 - 14
_TASKS_AHEAD = 2
"""A slot has half of its share of the rows that are left in one task."""
_MOST_TASKS = 16
"""Of a slot, about: a task has a price of its own, that of some 10 images."""


def bucket_of(row_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the buckets, in [0, NUM_BUCKETS), of row ids in [0, 2^63)."""
    return row_ids >> _BUCKET_SHIFT


def num_files_of(rows: int, *, rows_per_file: int, num_streams: int) -> int:
    """Return the number of files of a split.

    Args:
        rows: of the split, >= 0.
        rows_per_file: at most, > 0.
        num_streams: the number of files is a multiple of it; with fewer rows than that, one row a file.
    """
    if rows <= num_streams:
        return rows
    needed = -(-rows // rows_per_file)
    multiple = -(-needed // num_streams) * num_streams
    return min(multiple, rows // num_streams * num_streams)


@dataclass(frozen=True, kw_only=True, slots=True)
class FilePlace:
    """A file of the dataset."""

    split: Split
    index: int
    """In its split, from 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The files of all splits, numbered through in the order train, val, test."""

    rows: tuple[int, ...]
    """By split, in the order of SPLITS."""
    files: tuple[int, ...]
    """By split. A file that no row falls into is not written."""
    file_of_bucket: NDArray[np.int32]
    """int32 [number of SPLITS, NUM_BUCKETS]: number of the file."""
    task_of_file: NDArray[np.int32]
    """int32 [num_files]: number of the Spark task that writes the file; rises from 0, by at most 1."""

    @property
    def num_files(self) -> int:
        """Files of all splits."""
        return sum(self.files)

    def file_of(self, splits: NDArray[np.int8], row_ids: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the numbers of the files of n rows: int32 [n] from int8 [n] and int64 [n]."""
        return self.file_of_bucket[splits, bucket_of(row_ids)]

    @property
    def num_tasks(self) -> int:
        """Spark tasks that write the files."""
        return int(self.task_of_file[-1]) + 1

    def place(self, file: int) -> FilePlace:
        """Return split and index of a file by its number."""
        for split, number in zip(SPLITS, self.files, strict=True):
            if file < number:
                return FilePlace(split=split, index=file)
            file -= number
        raise IndexError(f"there is no file {file}")


def most_rows(bucket_rows: NDArray[np.int64], num_files: int) -> int:
    """Return the rows of the largest file of a split that is cut into `num_files`.

    Args:
        bucket_rows: int64 [NUM_BUCKETS], rows of the split.
        num_files: > 0.
    """
    return int(np.bincount(_file_of_bucket(bucket_rows, num_files), weights=bucket_rows).max())


def cut(
    bucket_rows: NDArray[np.int64], files: Sequence[int], *, num_slots: int, most_rows_of_task: int
) -> Layout:
    """Cut the rows of each split into near-equal runs of their row ids.

    Args:
        bucket_rows: int64 [number of SPLITS, NUM_BUCKETS], rows.
        files: of each split; at least one.
        num_slots: tasks that run at the same time, > 0.
        most_rows_of_task: a task takes no further file from here on; 0: each file has a task of its own.
    """
    file_of_bucket = np.zeros(bucket_rows.shape, dtype=np.int32)
    first_file = 0
    for split, (rows, number) in enumerate(zip(bucket_rows, files, strict=True)):
        if number:
            file_of_bucket[split] = first_file + _file_of_bucket(rows, number)
        first_file += number
    rows_of_files = np.bincount(file_of_bucket.ravel(), bucket_rows.ravel(), minlength=first_file)
    return Layout(
        rows=tuple(int(rows.sum()) for rows in bucket_rows),
        files=tuple(files),
        file_of_bucket=file_of_bucket,
        task_of_file=_deal_files(rows_of_files.tolist(), num_slots, most_rows_of_task),
    )


def _deal_files(file_rows: Sequence[float], num_slots: int, most_rows: int) -> NDArray[np.int32]:
    """Return the task of each file: a task takes files until it has its share of the rows that are left."""
    rows_left = total = sum(file_rows)
    tasks = np.zeros(len(file_rows), dtype=np.int32)
    task, wanted = -1, 0.0
    for file, rows in enumerate(file_rows):
        if wanted <= 0:
            task += 1
            share = max(rows_left / (_TASKS_AHEAD * num_slots), total / (_MOST_TASKS * num_slots))
            wanted = min(share, most_rows)
        tasks[file] = task
        wanted -= rows
        rows_left -= rows
    return tasks


def _file_of_bucket(bucket_rows: NDArray[np.int64], num_files: int) -> NDArray[np.int64]:
    """Send each bucket to the file that the middle of its rows falls into."""
    middle = 2 * np.cumsum(bucket_rows) - bucket_rows
    return np.minimum(middle * num_files // (2 * int(bucket_rows.sum())), num_files - 1)
