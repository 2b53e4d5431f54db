"""The stage `ingest`: images become a published dataset."""

from __future__ import annotations

import dataclasses
import logging
import time
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from dlspark import storage
from dlspark.config import Config
from dlspark.contracts import SPLITS, Split
from dlspark.data.augment import Augmentation
from dlspark.data.digits import write_digits
from dlspark.data.ingest import ingest
from dlspark.data.ingest_job import IngestOptions
from dlspark.data.sources.columns import SourceColumns
from dlspark.data.sources.open import LIST_PREFIX, open_source
from dlspark.data.sources.source import Source
from dlspark.data.sources.tables import DataFrameSource
from dlspark.errors import ClusterError
from dlspark.progress import show_progress
from pipelines.stage import required

BUILTIN_DIGITS = "builtin:digits"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestResult:
    """What an ingest published."""

    source: str
    """Folder of the images."""
    dataset: str
    fingerprint: str
    listed: int
    written: int
    quarantined: int
    deduplicated: int
    copies: int
    """Augmented copies, beside the written images."""
    splits: dict[Split, int]
    """Rows by split."""
    classes: tuple[str, ...]
    num_files: int
    storage: str
    decoded: int
    """Images that were decoded; the others were taken over from the dataset that was there."""
    is_new: bool
    """False: the dataset held these images with these settings already, and nothing was written."""
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)


def run(
    config: Config, spark: SparkSession | None, images: DataFrame | None = None, *, again: bool = False
) -> IngestResult:
    """Ingest `config.source` into `config.dataset`.

    The source builtin:digits is written beside the dataset first, into the folder `<dataset>-source`.

    Args:
        config: of the run.
        spark: the session that does the work.
        images: a DataFrame with a binary column of encoded images, in the place of `config.source`.
        again: write also where the same dataset is there, so that quarantined images are tried again.

    Raises:
        ConfigError: source or dataset is not set.
        ClusterError: there is no Spark session.
        SourceError: the images cannot become a dataset.
        OutputExistsError: the dataset exists and differs, or its folder holds something else.
    """
    dataset = storage.absolute(required(config.dataset, "dataset", "ingest"))
    if spark is None:
        raise ClusterError("ingest needs a Spark session", fix="set cluster.master")
    started = time.monotonic()
    source = _source(config, dataset, images)
    with show_progress("ingest", "files") as progress:
        ingested = ingest(
            spark,
            source=source,
            dataset=dataset,
            overwrite=config.overwrite,
            options=_options(config),
            request=_request(config, source),
            again=again,
            progress=progress,
        )
    manifest = ingested.manifest
    return IngestResult(
        source=source.url,
        dataset=dataset,
        fingerprint=manifest.fingerprint,
        **dataclasses.asdict(manifest.counts),
        splits={split: manifest.splits[split].rows for split in SPLITS},
        classes=manifest.classes,
        num_files=len(manifest.file_paths),
        storage=manifest.storage,
        decoded=ingested.num_decoded,
        is_new=ingested.is_new,
        seconds=round(time.monotonic() - started, 3),
    )


def _source(config: Config, dataset: str, images: DataFrame | None) -> Source:
    data = config.data
    columns = SourceColumns(
        image=data.image_column,
        path=data.path_column,
        label=data.label_column,
        group=data.group_key,
        split=data.split_column,
        key=data.key_column,
    )
    if images is not None:
        return DataFrameSource(
            frame=images, name="images", columns=columns, max_image_bytes=data.max_image_bytes
        )
    url = required(config.source, "source", "ingest")
    if url == BUILTIN_DIGITS:
        url = f"{dataset}-source"
        _log.info("%s: %d images in %s", BUILTIN_DIGITS, write_digits(url), url)
    return open_source(url, columns=columns, class_from=data.class_from, max_image_bytes=data.max_image_bytes)


def _request(config: Config, source: Source) -> dict[str, Any]:
    """Return what runs this ingest again from any working directory."""
    again = None if isinstance(source, DataFrameSource) else source.url
    if config.source is not None and config.source.startswith(LIST_PREFIX):
        again = f"{LIST_PREFIX}{again}"
    return config.model_dump(mode="json", include={"image", "data", "augment"}) | {"source": again}


def _options(config: Config) -> IngestOptions:
    data, image = config.data, config.image
    return IngestOptions(
        size=image.size,
        channels=image.channels,
        resize=image.resize_policy,
        jpeg_scale=image.jpeg_scale,
        min_image_size=image.min_size,
        refuse_constant=image.constant == "quarantine",
        max_image_bytes=data.max_image_bytes,
        max_image_pixels=data.max_image_pixels,
        classes=data.classes,
        val_share=data.val_share,
        test_share=data.test_share,
        split_seed=data.split_seed,
        stratify=data.stratify,
        duplicates=data.duplicates,
        copies=config.augment.copies,
        augmentation=Augmentation(**config.augment.changes) if config.augment.copies else Augmentation(),
        storage=data.storage,
        jpeg_quality=data.jpeg_quality,
        raw_budget_bytes=data.raw_budget_bytes,
        file_bytes=data.file_bytes,
        num_streams=data.num_streams,
        max_quarantined=data.max_quarantined,
    )
