"""The Spark side of writing: each listed image goes to the file of its row id, each file to one task.

One job with one shuffle of names and numbers writes all files; a second, tiny shuffle of hashes finds the
images with the same bytes. The functions that tasks run are here and not in `ingest`, so that a Python worker
imports what it needs and no more: the imports of the driver (Petastorm, pandas) would cost it a second.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import RDD

from dlspark.data.duplicates import Drop, drop_rows, find_duplicates, hashes_of
from dlspark.data.layout import Layout
from dlspark.data.listing import Part, copy_ids, splits_of, values_of
from dlspark.data.parquet_file import FileReport
from dlspark.data.sources.source import SourceImage
from dlspark.data.spark_task import begin_task
from dlspark.data.split import SplitRule
from dlspark.data.write_file import GatheredRows, PlacedRow, WriteSettings, gather_rows, store_file

_ROWS_PER_REDUCER = 500_000

Written = FileReport | Drop
_PlacedPart = tuple[pa.RecordBatch, NDArray[np.int32], int, list[int]]


def write_files(
    listing: RDD[Part],
    layout: Layout,
    rule: SplitRule,
    settings: WriteSettings,
    *,
    find_same: bool,
) -> RDD[Written]:
    """Return the reports of all files, then the rows that must leave them; collecting them writes the files.

    Args:
        listing: of the source.
        layout: of its images and their copies.
        rule: of the splits.
        settings: see there.
        find_same: look for images with the same bytes.
    """
    placed = listing.mapPartitions(
        partial(_place_parts, layout=layout, rule=rule, copies=_num_copies(settings))
    )
    num_reducers = 1 + sum(layout.rows) // _ROWS_PER_REDUCER
    written = placed.partitionBy(layout.num_tasks, int).mapPartitions(
        partial(_write_partition, layout, settings, num_reducers if find_same else 0)
    )
    if not find_same:
        return written.values()
    return written.partitionBy(num_reducers, int).mapPartitions(_reduce)


def count_drops(written: RDD[Written]) -> RDD[FileReport | int]:
    """Return the reports, and how many rows must leave their files: the driver needs no more of those."""
    return written.mapPartitions(_count_drops)


def rewrite_files(
    written: RDD[Written], reports: Mapping[int, FileReport], layout: Layout, settings: WriteSettings
) -> RDD[tuple[int, FileReport]]:
    """Return new reports of the files that rows must leave, by file; collecting them writes those files.

    Args:
        written: from `write_files`.
        reports: of the files as they are now, by file.
        layout: they were written with.
        settings: they were written with.
    """
    drops = written.flatMap(_drops_by_file).groupByKey(layout.num_tasks, int)
    return drops.map(partial(_rewrite, reports, layout, settings))


def _count_drops(written: Iterable[Written]) -> Iterator[FileReport | int]:
    begin_task()
    num_drops = 0
    for one in written:
        if isinstance(one, FileReport):
            yield one
        else:
            num_drops += 1
    yield num_drops


def _drops_by_file(one: Written) -> Iterator[tuple[int, Drop]]:
    if not isinstance(one, FileReport):
        yield one.file, one


def _rewrite(
    reports: Mapping[int, FileReport],
    layout: Layout,
    settings: WriteSettings,
    grouped: tuple[int, Iterable[Drop]],
) -> tuple[int, FileReport]:
    file, drops = grouped
    return file, drop_rows(drops, reports[file], layout.place(file), settings)


def _num_copies(settings: WriteSettings) -> int:
    return settings.copies.copies if settings.copies else 0


def _place_parts(
    listed: Iterable[Part], *, layout: Layout, rule: SplitRule, copies: int
) -> Iterator[tuple[int, _PlacedPart]]:
    begin_task()
    for part in listed:
        yield from _place(part, layout=layout, rule=rule, copies=copies)


def _place(
    listed: Part, *, layout: Layout, rule: SplitRule, copies: int
) -> Iterator[tuple[int, _PlacedPart]]:
    """Yield, by task, rows of the batch, their files, the number of their copy (0: originals), their ids."""
    batch = listed.batch
    splits = splits_of(batch, rule)
    train = np.flatnonzero(splits == 0)
    row_ids = batch["row_id"].to_numpy()
    groups = [(np.arange(batch.num_rows), 0, row_ids)]
    groups += [
        (train, copy, np.array(ids, dtype=np.int64))
        for copy, ids in enumerate(copy_ids(batch, splits, copies), start=1)
    ]
    for rows, copy, ids in groups:
        files = layout.file_of(splits[rows], ids)
        tasks = layout.task_of_file[files]
        for task in np.unique(tasks).tolist():
            chosen = np.flatnonzero(tasks == task)
            part = batch.take(pa.array(rows[chosen]))
            yield task, (part, files[chosen], copy, ids[chosen].tolist())


def _write_partition(
    layout: Layout, settings: WriteSettings, num_reducers: int, parts: Iterable[tuple[int, Any]]
) -> Iterator[tuple[int, FileReport | pa.RecordBatch]]:
    begin_task()
    files: defaultdict[int, list[PlacedRow]] = defaultdict(list)
    for _, (batch, numbers, copy, row_ids) in parts:
        images = _images_of(batch, with_content=settings.source.ships_content)
        parents = values_of(batch, "row_id")
        for file, row_id, parent_id, image in zip(numbers.tolist(), row_ids, parents, images, strict=True):
            files[file].append(PlacedRow(row_id, parent_id, copy, image))
    # A file goes to the disk, which takes its time to be sure of it, while the next one is decoded: a worker
    # holds the rows of two.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="store") as pool:
        storing: Future[tuple[int, FileReport]] | None = None
        for file in sorted(files):
            gathered = gather_rows(files.pop(file), settings)
            if num_reducers:
                yield from hashes_of(gathered.rows, file, num_reducers)
            if storing:
                yield storing.result()
            storing = pool.submit(_store, gathered, file, layout, settings, max(num_reducers, 1))
            del gathered
        if storing:
            yield storing.result()


def _store(
    gathered: GatheredRows, file: int, layout: Layout, settings: WriteSettings, num_reducers: int
) -> tuple[int, FileReport]:
    return file % num_reducers, store_file(gathered, layout.place(file), settings)


def _images_of(batch: pa.RecordBatch, *, with_content: bool) -> Iterator[SourceImage]:
    """Return the images of a batch of LISTED; what splits need is left behind."""
    columns = [values_of(batch, name) for name in ("key", "label", "num_bytes", "version")]
    if not with_content:
        return map(SourceImage, *columns)
    nothing = repeat(None)
    return map(SourceImage, *columns, nothing, nothing, values_of(batch, "content"))


def _reduce(parts: Iterable[tuple[int, FileReport | pa.RecordBatch]]) -> Iterator[Written]:
    begin_task()
    batches = []
    for _, part in parts:
        if isinstance(part, FileReport):
            yield part
        else:
            batches.append(part)
    yield from find_duplicates(batches)
