"""Images to a published dataset, with Spark, every image accounted for.

Two passes over the listing: one counts it (so that the files can be cut before any image is read), the other
lets each Python task read, decode and write whole Parquet files. The tasks get names, not bytes, and send
back numbers, not rows. The manifest, written last by the driver, names the files that count.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import SparkSession

from dlspark import storage
from dlspark.contracts import SPLITS, Progress, Split
from dlspark.data import publish
from dlspark.data.accept import read_accepted
from dlspark.data.attempts import running_attempt
from dlspark.data.copies import CopyRecipe
from dlspark.data.describe import describe
from dlspark.data.distribute import count_drops, rewrite_files, write_files
from dlspark.data.ingest_job import IngestJob, IngestOptions, plan_ingest
from dlspark.data.ledger import check_reports
from dlspark.data.listing import Survey, list_images, survey
from dlspark.data.manifest import Manifest
from dlspark.data.moved import read_moved
from dlspark.data.parquet_file import FileReport
from dlspark.data.previous import Previous
from dlspark.data.require import require_no_ignored_errors, require_outside
from dlspark.data.sources.source import Source
from dlspark.data.spark_job import run_job, task_errors
from dlspark.data.write_file import WriteSettings

_SAME_PIXELS = (
    "jpeg_scale",
    "min_image_size",
    "refuse_constant",
    "max_image_bytes",
    "max_image_pixels",
    "split_seed",
    "augmentation",
    "jpeg_quality",
)
"""Options that rows of two datasets must share for one to take over the other's, besides the image format."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingested:
    """What an ingest did."""

    manifest: Manifest
    num_decoded: int
    """Images that were decoded; the others were taken over from the dataset that was there."""
    is_new: bool
    """False: the dataset was there already, and nothing was written."""


def ingest(
    spark: SparkSession,
    *,
    source: Source,
    dataset: str,
    overwrite: bool,
    options: IngestOptions,
    request: Mapping[str, Any],
    progress: Progress,
    again: bool = False,
) -> Ingested:
    """Publish the images of a source as a dataset.

    A dataset that was made of the same images with the same options is recognised and left as it is, unless
    somebody has deleted files of it: they are made again. If only images differ, those that are unchanged are
    taken over from it and not decoded again.

    Args:
        spark: the session whose executors do the work; they must reach source and dataset.
        source: where the images come from.
        dataset: URL of the folder to write.
        overwrite: replace a dataset that is there. The old one stays until the new one is complete.
        options: see there.
        request: the whole configuration, kept in the manifest.
        progress: is told the files that are written.
        again: write also where the same dataset is there: images that were quarantined are tried again.

    Raises:
        SourceError: the images cannot become a dataset; `dataset` is as it was before.
        OutputExistsError: `dataset` must not be written to; it is as it was before.
        DatasetError: the storage is full; `dataset` is as it was before.
    """
    dataset = storage.absolute(dataset)
    require_outside(dataset, source.url)
    require_no_ignored_errors(spark)
    published = publish.find_published(dataset)
    options = replace(options, moved=read_moved(dataset))
    listing = list_images(spark, source, split_seed=options.split_seed)
    listing = listing.persist(StorageLevel.MEMORY_AND_DISK)
    try:
        with task_errors():
            seen = survey(listing)
        lost: list[str] = []
        if published and not again and _is_same(published, seen, options):
            lost = publish.lost_files(dataset, published)
            if not lost:
                _log.info("%s holds these images with these settings already: nothing is written", dataset)
                publish.complete(dataset, published)
                return Ingested(manifest=published, num_decoded=0, is_new=False)
            _log.warning("%d files of %s are lost and made again, such as %s", len(lost), dataset, lost[0])
        publish.require_replaceable(
            dataset, overwrite=overwrite or bool(lost), why=_difference(published, options)
        )
        with task_errors():
            job = plan_ingest(spark, listing, seen, source=source, options=options)
        replaces = overwrite or bool(lost)
        return _make(spark, job, dataset, published, request=request, progress=progress, overwrite=replaces)
    finally:
        listing.unpersist()


def _make(
    spark: SparkSession,
    job: IngestJob,
    dataset: str,
    published: Manifest | None,
    *,
    request: Mapping[str, Any],
    progress: Progress,
    overwrite: bool,
) -> Ingested:
    """Write the files and publish them; whatever fails leaves the folder as it was."""
    with running_attempt(dataset) as attempt:
        try:
            settings = _settings(job, published, dataset, attempt)
            reports = _write(spark, job, settings, progress)
            manifest = _manifest(job, reports, request, attempt)
            return _publish(job, settings, manifest, published, reports, overwrite=overwrite)
        except BaseException:
            publish.discard(dataset, attempt)
            raise


def _settings(job: IngestJob, published: Manifest | None, dataset: str, attempt: str) -> WriteSettings:
    options = job.options
    copies = None
    if options.copies:
        copies = CopyRecipe(copies=options.copies, augmentation=options.augmentation, seed=options.split_seed)
    return WriteSettings(
        dataset=dataset,
        attempt=attempt,
        source=job.source,
        classes={name: label for label, name in enumerate(job.classes)},
        image=job.image,
        storage=job.storage,
        jpeg_quality=options.jpeg_quality,
        max_image_bytes=options.max_image_bytes,
        max_image_pixels=options.max_image_pixels,
        min_image_size=options.min_image_size,
        refuse_constant=options.refuse_constant,
        accepted=read_accepted(dataset),
        copies=copies,
        previous=_previous(published, dataset, job),
    )


def _previous(published: Manifest | None, dataset: str, job: IngestJob) -> Previous | None:
    """Return the dataset that rows can be taken over from, if it was made with the same settings."""
    if published is None or published.storage != job.storage or published.preprocessing.image != job.image:
        return None
    settings = job.options.to_json()
    if any(published.settings.get(name) != settings[name] for name in _SAME_PIXELS):
        return None
    files = tuple(file for split in published.splits.values() for file in split.files)
    return Previous(dataset=dataset, image=job.image, storage=job.storage, files=files)


def _write(
    spark: SparkSession, job: IngestJob, settings: WriteSettings, progress: Progress
) -> list[FileReport]:
    """Write all files; then those again that hold images with the same bytes as others."""
    listing = job.listing
    if job.source.ships_content:
        listing = list_images(spark, job.source, split_seed=job.options.split_seed, with_content=True)
    find_same = job.options.duplicates == "drop"
    written = write_files(listing, job.layout, job.rule, settings, find_same=find_same)
    written = written.persist(StorageLevel.MEMORY_AND_DISK)
    try:
        found: list[FileReport | int] = run_job(
            spark.sparkContext,
            count_drops(written).collect,
            description=f"ingest {job.source.url}",
            num_tasks=job.layout.num_tasks,
            num_units=job.layout.num_files,
            progress=progress,
        )
        first = _first_files(job)
        reports = {first[one.split] + one.index: one for one in found if isinstance(one, FileReport)}
        num_drops = sum(one for one in found if isinstance(one, int))
        if num_drops:
            _log.info("%d rows have the same bytes as others and leave their files", num_drops)
            with task_errors():
                reports.update(rewrite_files(written, reports, job.layout, settings).collect())
    finally:
        written.unpersist()
    return [reports[file] for file in sorted(reports)]


def _first_files(job: IngestJob) -> dict[Split, int]:
    files = job.layout.files
    return {split: sum(files[:index]) for index, split in enumerate(SPLITS)}


def _manifest(
    job: IngestJob, reports: list[FileReport], request: Mapping[str, Any], attempt: str
) -> Manifest:
    options, url = job.options, job.source.url
    return describe(
        reports,
        check_reports(reports, job.seen, job.classes, options.max_quarantined, url),
        classes=job.classes,
        image=job.image,
        form=job.storage,
        num_streams=options.num_streams,
        source=url,
        source_digest=f"{job.seen.digest:032x}",
        settings=options.to_json(),
        request=request,
        attempt=attempt,
    )


def _publish(
    job: IngestJob,
    settings: WriteSettings,
    manifest: Manifest,
    published: Manifest | None,
    reports: list[FileReport],
    *,
    overwrite: bool,
) -> Ingested:
    """Commit, unless another ingest has published here since this one began."""
    dataset = settings.dataset
    meanwhile = publish.find_published(dataset)
    if meanwhile and (published is None or meanwhile.attempt != published.attempt):
        if _is_same(meanwhile, job.seen, job.options):
            _log.info("another ingest has published the same dataset meanwhile; this one's is dropped")
            publish.discard(dataset, settings.attempt)
            return Ingested(manifest=meanwhile, num_decoded=0, is_new=False)
        why = "another ingest has published it meanwhile"
        publish.require_replaceable(dataset, overwrite=overwrite, why=why)
    publish.publish(dataset, manifest)
    num_decoded = sum(report.num_decoded for report in reports)
    if settings.previous:
        num_rows = sum(report.rows for report in reports)
        _log.info("%d images were decoded, for %d rows; the others were taken over", num_decoded, num_rows)
    return Ingested(manifest=manifest, num_decoded=num_decoded, is_new=True)


def _is_same(published: Manifest, seen: Survey, options: IngestOptions) -> bool:
    return published.source_digest == f"{seen.digest:032x}" and published.settings == options.to_json()


def _difference(published: Manifest | None, options: IngestOptions) -> str:
    if published is None:
        return "its manifest cannot be used"
    new = options.to_json()
    changed = [f"{name}={value!r}" for name, value in new.items() if published.settings.get(name) != value]
    if changed:
        return f"it was made with other settings than {', '.join(changed)}"
    return "the images of the source have changed since"
