"""The Spark side of writing: images in the order of their row ids, cut into files, each written by one task.

The functions that tasks run are here and not in `ingest`, so that a Python worker imports what it needs and
no more: the imports of the driver (Petastorm, pandas) would cost each new worker a second.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from pyspark import RDD

from dlspark.contracts import SPLITS, Split
from dlspark.data.layout import Layout
from dlspark.data.parquet_file import FileReport, Row, WriteSettings, write_file
from dlspark.data.sources import SourceFile, is_image
from dlspark.data.split import row_id_of

_ROWS_PER_SORT_TASK = 100_000
_ROW_ID_BITS = 63


def write_files(
    files: RDD[SourceFile], layout: Layout, settings: WriteSettings, split: Callable[[str], Split]
) -> RDD[FileReport]:
    """Return the reports of all files; collecting them writes the files, in `layout.num_tasks` tasks.

    Args:
        files: a listing, in which what is no image is left out.
        layout: of its images.
        settings: see there.
        split: the split of a key; picklable.
    """
    # One sort task needs no sample of the keys and no count: three Spark jobs less where they cost most.
    num_sort_tasks = -(-sum(layout.rows.values()) // _ROWS_PER_SORT_TASK)
    ordered = (
        files.filter(is_image).map(partial(_key, split)).sortByKey(numPartitions=num_sort_tasks, keyfunc=int)  # type: ignore[type-var] # int has an order
    )
    numbered: RDD[tuple[int, Row]] = ordered.zipWithIndex().map(partial(_number, layout))
    placed = numbered.partitionBy(layout.num_tasks, layout.task_of)
    return placed.mapPartitions(partial(_write_partition, layout, settings))


def _key(split: Callable[[str], Split], file: SourceFile) -> tuple[int, SourceFile]:
    """Put the place of a file in the order of (split, row id) before it, as one integer."""
    return SPLITS.index(split(file.key)) << _ROW_ID_BITS | row_id_of(file.key), file


def _number(layout: Layout, placed: tuple[tuple[int, SourceFile], int]) -> tuple[int, Row]:
    (key, file), position = placed
    return layout.file_of(position), Row(key % (1 << _ROW_ID_BITS), SourceFile(*file))


def _write_partition(
    layout: Layout, settings: WriteSettings, rows: Iterable[tuple[int, Row]]
) -> Iterator[FileReport]:
    files: defaultdict[int, list[Row]] = defaultdict(list)
    for file, row in rows:
        files[file].append(row)
    for file in sorted(files):
        yield write_file(files.pop(file), layout.place(file), settings)
