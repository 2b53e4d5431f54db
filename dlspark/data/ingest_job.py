"""What an ingest decides before it decodes an image: splits, pixels, storage form, files and tasks."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pyspark import RDD
from pyspark.sql import SparkSession

from dlspark.contracts import ImageFormat
from dlspark.data.augment import Augmentation
from dlspark.data.images import ImageError, measure_image
from dlspark.data.layout import Layout, cut, most_rows, num_files_of
from dlspark.data.listing import Part, Survey, borders_by_class, count_places
from dlspark.data.moved import digest_of
from dlspark.data.parquet_file import Storage
from dlspark.data.require import require_enough
from dlspark.data.sources.source import Source, SourceImage
from dlspark.data.split import SplitRule
from dlspark.data.write_file import read_with_retries
from dlspark.errors import SourceError

_FULL_FILES_PER_TASK = 8
"""At most; all but the last of them are stored while the next one is decoded."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestOptions:
    """How images become a dataset."""

    size: int | None
    """Height and width in pixels; None keeps the size of the first image, which must then be everyone's."""
    channels: Literal[1, 3] | None
    """None: 1 if the first image is gray, else 3."""
    resize: Literal["none", "exact", "shorter", "pad"]
    jpeg_scale: bool
    """See ImageFormat, as `resize`."""
    min_image_size: int
    refuse_constant: bool
    max_image_bytes: int
    max_image_pixels: int
    classes: tuple[str, ...] | None
    """Names by label; None: those that the source has, sorted."""
    val_share: float
    test_share: float
    split_seed: int
    stratify: bool
    duplicates: Literal["drop", "keep"]
    copies: int
    augmentation: Augmentation
    """Of the copies."""
    storage: Literal["auto", "raw", "encoded"]
    jpeg_quality: int | None
    """storage encoded: see WriteSettings."""
    raw_budget_bytes: int
    """storage auto: raw if the pixels of all images take no more."""
    file_bytes: int
    """Decoded bytes of a file at most; it has one row at least."""
    num_streams: int
    max_quarantined: float
    """Share of the listed images, in [0, 1]."""
    moved: frozenset[int] = frozenset()
    """Row ids that an audit has moved to train."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values that compare equal after a round through JSON."""
        classes = None if self.classes is None else list(self.classes)
        return asdict(self) | {"classes": classes, "moved": digest_of(self.moved)}


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestJob:
    """All that is decided before the first image is decoded."""

    source: Source
    options: IngestOptions
    listing: RDD[Part]
    seen: Survey
    classes: tuple[str, ...]
    rule: SplitRule
    image: ImageFormat
    storage: Storage
    layout: Layout


def plan_ingest(
    spark: SparkSession, listing: RDD[Part], seen: Survey, *, source: Source, options: IngestOptions
) -> IngestJob:
    """Decide what the user left open, and cut the rows into files.

    Args:
        spark: the session.
        listing: of the source.
        seen: its survey.
        source: where the images come from.
        options: see there.

    Raises:
        SourceError: no dataset can be made of these images.
    """
    classes = options.classes or tuple(sorted(seen.class_rows))
    require_enough(seen, source, classes)
    if seen.ignored:
        _log.warning("ignored files that are not images, by extension: %s", dict(seen.ignored))
    rule = _split_rule(listing, seen, options)
    image, form = _form(spark, source, seen, options)
    bucket_rows = count_places(listing, rule, options.copies)
    if not bucket_rows[0].sum():
        raise SourceError(
            "no image falls into the train split",
            got=f"{seen.num_images} images",
            where=source.url,
            fix="add images, lower data.val_share and data.test_share, or set another data.split_seed",
        )
    row_bytes = image.height * image.width * image.channels
    rows_per_file = max(1, options.file_bytes // row_bytes)
    files = _num_files(bucket_rows, rows_per_file, options.num_streams)
    layout = cut(
        bucket_rows,
        files,
        num_slots=spark.sparkContext.defaultParallelism,
        # A task whose images come with it holds all of them: no more than a file's.
        most_rows_of_task=0 if source.ships_content else _FULL_FILES_PER_TASK * rows_per_file,
    )
    return IngestJob(
        source=source,
        options=options,
        listing=listing,
        seen=seen,
        classes=classes,
        rule=rule,
        image=image,
        storage=form,
        layout=layout,
    )


def _num_files(bucket_rows: NDArray[np.int64], rows_per_file: int, num_streams: int) -> list[int]:
    """Return the files of each split, so many that none has more than `rows_per_file` rows.

    Files are cut at the borders of buckets, so near-equal ones may pass the limit by a few rows: then there
    are more of them.
    """
    files = []
    for rows in bucket_rows:
        total = int(rows.sum())
        number = num_files_of(total, rows_per_file=rows_per_file, num_streams=num_streams)
        while number + num_streams <= total and most_rows(rows, number) > rows_per_file:
            number += num_streams
        files.append(number)
    return files


def _split_rule(listing: RDD[Part], seen: Survey, options: IngestOptions) -> SplitRule:
    shares = {"val_share": options.val_share, "test_share": options.test_share}
    declared = seen.declared_rows
    draw_val = bool(declared[0] and declared[2] and not declared[1] and options.val_share)
    if draw_val:
        _log.info(
            "the source has train and test images and none for validation: a share of %g is drawn from train",
            options.val_share,
        )
    borders = borders_by_class(listing, **shares) if options.stratify else {}
    return SplitRule(**shares, draw_val=draw_val, borders=borders, moved=options.moved)


def _form(
    spark: SparkSession, source: Source, seen: Survey, options: IngestOptions
) -> tuple[ImageFormat, Storage]:
    """Decide what the user left open (size, channels, storage form) and log it."""
    size, channels = options.size, options.channels
    height = width = size or 0
    if size is None or channels is None:
        first, measured = _measure_first(spark, source, seen, options)
        if size is None:
            height, width = measured[:2]
        channels = channels or measured[2]
        _log.info(
            "images are %d x %d with %d channels, after the first one, %s", height, width, channels, first.key
        )
    image = ImageFormat(
        height=height, width=width, channels=channels, resize=options.resize, jpeg_scale=options.jpeg_scale
    )
    if options.storage != "auto":
        return image, options.storage
    num_bytes = seen.num_images * (1 + options.copies) * height * width * channels
    form: Storage = "raw" if num_bytes <= options.raw_budget_bytes else "encoded"
    _log.info(
        "storage %s: %d bytes of pixels, raw_budget_bytes %d", form, num_bytes, options.raw_budget_bytes
    )
    return image, form


def _measure_first(
    spark: SparkSession, source: Source, seen: Survey, options: IngestOptions
) -> tuple[SourceImage, tuple[int, int, Literal[1, 3]]]:
    """Return the first image in the order of the keys that can be decoded, with its size and channels."""
    problem: Exception | None = None
    first = seen.first
    if source.ships_content:
        keys = frozenset(image.key for image in first)
        shipped = source.images(spark, with_content=True).filter(lambda image: image.key in keys)
        first = sorted(shipped.collect(), key=lambda image: image.key)
    for image in first:
        if not 0 < image.num_bytes <= options.max_image_bytes:
            continue
        try:
            data = read_with_retries(source, image)
            return image, measure_image(data, max_pixels=options.max_image_pixels)
        except ImageError as error:
            problem = error
    raise SourceError(
        f"none of the first {len(seen.first)} images can be decoded, so their size is unknown",
        got=problem or f"files over {options.max_image_bytes} bytes",
        where=source.path_of(seen.first[0]),
        fix="repair the images, or set image.size and image.channels",
    )
