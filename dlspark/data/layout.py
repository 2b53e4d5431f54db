"""Which Parquet file each row goes to: arithmetic on positions in the order of the row ids.

Row ids are hashes, so their order is a shuffle of all rows, and cutting it into near-equal runs gives files
that are each a random sample. Where there are enough rows a split has a multiple of `num_streams` files, so
that the canonical streams of the plan are equally long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dlspark.contracts import SPLITS, Split


def num_files_of(rows: int, *, row_bytes: int, file_bytes: int, num_streams: int) -> int:
    """Return the number of files of a split.

    Args:
        rows: of the split, >= 0.
        row_bytes: decoded bytes of a row, > 0.
        file_bytes: decoded bytes of a file at most; a file has one row at least.
        num_streams: the number of files is a multiple of it; with fewer rows than that, one row a file.
    """
    if rows <= num_streams:
        return rows
    rows_per_file = max(1, file_bytes // row_bytes)
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
    """The files of all splits; rows and files are numbered through in the order train, val, test."""

    rows: Mapping[Split, int]
    files: Mapping[Split, int]
    num_tasks: int
    """Spark tasks that write the files; small files share one. At most `num_files`."""

    @property
    def num_files(self) -> int:
        """Files of all splits."""
        return sum(self.files.values())

    def file_of(self, position: int) -> int:
        """Return the number of the file of the row at `position` in the order of (split, row id)."""
        first_file = 0
        for split in SPLITS:
            if position < self.rows[split]:
                return first_file + position * self.files[split] // self.rows[split]
            position -= self.rows[split]
            first_file += self.files[split]
        raise IndexError(f"position {position} is past the last row")

    def task_of(self, file: int) -> int:
        """Return the task that writes a file."""
        return file * self.num_tasks // self.num_files

    def place(self, file: int) -> FilePlace:
        """Return split and index of a file by its number."""
        for split in SPLITS:
            if file < self.files[split]:
                return FilePlace(split=split, index=file)
            file -= self.files[split]
        raise IndexError(f"there is no file {file}")
