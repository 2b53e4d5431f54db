"""Images to a published dataset, with Spark, every image accounted for.

Two jobs: one lists and counts the files; the other puts the images in the order of their row ids (a hash,
hence a shuffle), cuts that order into near-equal files and lets one Python task write each of them with
pyarrow. The tasks get paths, not bytes, and send back numbers, not rows. The manifest, written last by the
driver, names the files that count; an attempt that was repeated, or lost, left a file that nothing names.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import StorageLevel
from pyspark.sql import SparkSession

from dlspark import storage
from dlspark.contracts import SPLITS, ImageFormat, Preprocessing, Progress
from dlspark.data import publish, sources
from dlspark.data.distribute import write_files
from dlspark.data.fingerprint import add_sums, dataset_fingerprint
from dlspark.data.images import ImageError, measure_image
from dlspark.data.layout import Layout, num_files_of
from dlspark.data.ledger import check_reports
from dlspark.data.manifest import QUARANTINE_NAME, Counts, FileEntry, Manifest, SplitEntry, channel_statistics
from dlspark.data.parquet_file import (
    FileReport,
    Quarantined,
    Storage,
    WriteSettings,
    read_source,
)
from dlspark.data.petastorm_schema import add_schema, dataset_schema
from dlspark.data.sources import Listing, SourceFile
from dlspark.data.spark_job import run_job
from dlspark.data.split import split_of
from dlspark.errors import SourceError

_TASKS_PER_CORE = 2

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestOptions:
    """How images become a dataset."""

    size: int | None
    """Height and width in pixels; None keeps the size of the first image, which must then be everyone's."""
    channels: Literal[1, 3] | None
    """None: 1 if the first image is gray, else 3."""
    val_share: float
    test_share: float
    split_seed: int
    storage: Literal["auto", "raw", "encoded"]
    raw_budget_bytes: int
    """storage auto: raw if the pixels of all images take no more."""
    file_bytes: int
    """Decoded bytes of a file at most; it has one row at least."""
    num_streams: int
    max_quarantined: float
    """Share of the listed images, in [0, 1]."""
    max_image_bytes: int
    max_image_pixels: int


def ingest(
    spark: SparkSession,
    *,
    source: str,
    dataset: str,
    overwrite: bool,
    options: IngestOptions,
    progress: Progress,
) -> Manifest:
    """Publish the images of `source` as a dataset.

    Args:
        spark: the session whose executors do the work; they must reach both folders.
        source: URL of a folder with one sub-folder of images for each class.
        dataset: URL of the folder to write.
        overwrite: replace a dataset that is there. The old one stays until the new one is complete.
        options: see there.
        progress: is told the files that are written.

    Returns:
        The manifest that was published. Its ledger adds up: listed = written + quarantined + deduplicated
        (deduplicated is always 0 for now: images with equal content are kept).

    Raises:
        SourceError: the images cannot become a dataset; `dataset` is as it was before.
        OutputExistsError: `dataset` must not be written to; it is as it was before.
    """
    source, dataset = storage.absolute(source), storage.absolute(dataset)
    if f"{dataset}/".startswith(f"{source}/"):
        raise SourceError(
            "the dataset lies inside its source", got=dataset, where=source, fix="move it outside"
        )
    publish.require_free(dataset, overwrite=overwrite)
    classes = sources.list_classes(source)
    split = partial(
        split_of, seed=options.split_seed, val_share=options.val_share, test_share=options.test_share
    )
    files = sources.list_files(spark.sparkContext, source, classes).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        listing = sources.summarise(files, split)
        sources.require_enough(listing, source, classes)
        if listing.ignored:
            _log.warning("ignored files that are not images, by extension: %s", dict(listing.ignored))
        settings = _settings(dataset, listing, options)
        layout = _layout(listing, settings.image, options, spark.sparkContext.defaultParallelism)
        publish.begin(dataset)
        try:
            reports = run_job(
                spark.sparkContext,
                write_files(files, layout, settings, split).collect,
                description=f"ingest {source}",
                num_tasks=layout.num_tasks,
                num_units=layout.num_files,
                progress=progress,
            )
            counts = check_reports(reports, listing, classes, options.max_quarantined, source)
            manifest = _manifest(reports, classes, settings, options, source, counts=counts)
            publish.withdraw(dataset, manifest)
            _write_quarantine(dataset, [row for report in reports for row in report.quarantined])
            add_schema(dataset, dataset_schema(settings.image, settings.storage), manifest.file_paths)
            publish.publish(dataset, manifest)
        except BaseException:
            publish.discard(dataset)
            raise
    finally:
        files.unpersist()
    return manifest


def _settings(dataset: str, listing: Listing, options: IngestOptions) -> WriteSettings:
    """Decide what the user left open (size, channels, storage form) and log it."""
    size, channels = options.size, options.channels
    height = width = size or 0
    if size is None or channels is None:
        file, measured = _measure_first(listing, options)
        if size is None:
            height, width = measured[:2]
        channels = channels or measured[2]
        _log.info(
            "images are %d x %d with %d channels, after the first one, %s", height, width, channels, file.key
        )
    image = ImageFormat(
        height=height, width=width, channels=channels, resize="none" if size is None else "exact"
    )
    form: Storage
    if options.storage == "auto":
        num_bytes = listing.num_images * height * width * channels
        form = "raw" if num_bytes <= options.raw_budget_bytes else "encoded"
        _log.info(
            "storage %s: %d bytes of pixels, raw_budget_bytes %d", form, num_bytes, options.raw_budget_bytes
        )
    else:
        form = options.storage
    return WriteSettings(
        dataset=dataset,
        image=image,
        storage=form,
        max_image_bytes=options.max_image_bytes,
        max_image_pixels=options.max_image_pixels,
    )


def _measure_first(
    listing: Listing, options: IngestOptions
) -> tuple[SourceFile, tuple[int, int, Literal[1, 3]]]:
    """Return the first image in the order of the keys that can be decoded, with its size and channels."""
    problem: Exception | None = None
    for file in listing.first:
        if file.num_bytes > options.max_image_bytes:
            continue
        try:
            return file, measure_image(read_source(file.path), max_pixels=options.max_image_pixels)
        except ImageError as error:
            problem = error
    raise SourceError(
        f"none of the first {len(listing.first)} images can be decoded, so their size is unknown",
        got=problem or f"files over {options.max_image_bytes} bytes",
        where=listing.first[0].path,
        fix="repair the images, or set image.size and image.channels",
    )


def _layout(listing: Listing, image: ImageFormat, options: IngestOptions, parallelism: int) -> Layout:
    rows = {split: listing.split_rows[split] for split in SPLITS}
    row_bytes = image.height * image.width * image.channels
    files = {
        split: num_files_of(
            number, row_bytes=row_bytes, file_bytes=options.file_bytes, num_streams=options.num_streams
        )
        for split, number in rows.items()
    }
    # A task costs more than a small file: tasks are sized by bytes, but not fewer than keep every core busy.
    num_full_files = listing.num_images * row_bytes // options.file_bytes
    num_tasks = min(sum(files.values()), max(num_full_files, _TASKS_PER_CORE * parallelism))
    return Layout(rows=rows, files=files, num_tasks=num_tasks)


def _manifest(
    reports: Sequence[FileReport],
    classes: Sequence[str],
    settings: WriteSettings,
    options: IngestOptions,
    source: str,
    *,
    counts: Counts,
) -> Manifest:
    image = settings.image
    train = [report for report in reports if report.split == "train"]
    mean, std = channel_statistics(
        [sum(values) for values in zip(*(report.channel_sums for report in train), strict=True)],
        [sum(values) for values in zip(*(report.channel_squares for report in train), strict=True)],
        image.height * image.width * sum(report.rows for report in train),
    )
    sums = {
        split: add_sums(report.class_sums for report in reports if report.split == split) for split in SPLITS
    }
    return Manifest(
        fingerprint=dataset_fingerprint(classes, sums),
        classes=tuple(classes),
        preprocessing=Preprocessing(image=image, mean=mean, std=std),
        storage=settings.storage,
        num_streams=options.num_streams,
        counts=counts,
        splits={
            split: _split_entry([report for report in reports if report.split == split], len(classes))
            for split in SPLITS
        },
        source=source,
        split_seed=options.split_seed,
        val_share=options.val_share,
        test_share=options.test_share,
    )


def _split_entry(reports: Sequence[FileReport], num_classes: int) -> SplitEntry:
    return SplitEntry(
        rows=sum(report.rows for report in reports),
        class_rows=tuple(sum(report.class_rows[label] for report in reports) for label in range(num_classes)),
        files=tuple(
            FileEntry(
                path=report.path,
                rows=report.rows,
                num_bytes=report.num_bytes,
                sha256=report.sha256,
                min_row_id=report.min_row_id,
                max_row_id=report.max_row_id,
            )
            for report in sorted(reports, key=lambda report: report.index)
            if report.path is not None
        ),
    )


def _write_quarantine(dataset: str, rows: Sequence[Quarantined]) -> None:
    """Write the table of refused images; it is there, without rows, where none was refused."""
    schema = pa.schema(
        [
            ("key", pa.string()),
            ("path", pa.string()),
            ("num_bytes", pa.int64()),
            ("reason", pa.string()),
            ("message", pa.string()),
        ]
    )
    table = pa.table([list(column) for column in zip(*sorted(rows), strict=True)] or [[]] * 5, schema=schema)
    target = io.BytesIO()
    pq.write_table(table, target)
    storage.write_bytes(storage.join(dataset, QUARANTINE_NAME, "part-00000.parquet"), target.getvalue())
