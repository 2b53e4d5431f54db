"""The stage `ingest`: a folder of images becomes a published dataset."""

from __future__ import annotations

import dataclasses
import logging
import time
from dataclasses import dataclass
from typing import Any

from pyspark.sql import SparkSession

from dlspark import storage
from dlspark.config import Config
from dlspark.contracts import SPLITS, Split
from dlspark.data.digits import write_digits
from dlspark.data.ingest import IngestOptions, ingest
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
    splits: dict[Split, int]
    """Rows by split."""
    classes: tuple[str, ...]
    num_files: int
    storage: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)


def run(config: Config, spark: SparkSession | None) -> IngestResult:
    """Ingest `config.source` into `config.dataset`.

    The source builtin:digits is written beside the dataset first, into the folder `<dataset>-source`.

    Raises:
        ConfigError: source or dataset is not set.
        ClusterError: there is no Spark session.
        SourceError: the images cannot become a dataset.
        OutputExistsError: the dataset exists, or its folder holds something else.
    """
    source = required(config.source, "source", "ingest")
    dataset = storage.absolute(required(config.dataset, "dataset", "ingest"))
    if spark is None:
        raise ClusterError("ingest needs a Spark session", fix="set cluster.master")
    started = time.monotonic()
    if source == BUILTIN_DIGITS:
        source = f"{dataset}-source"
        _log.info("%s: %d images in %s", BUILTIN_DIGITS, write_digits(source), source)
    with show_progress("ingest", "files") as progress:
        manifest = ingest(
            spark,
            source=source,
            dataset=dataset,
            overwrite=config.overwrite,
            options=_options(config),
            progress=progress,
        )
    return IngestResult(
        source=storage.absolute(source),
        dataset=dataset,
        fingerprint=manifest.fingerprint,
        **dataclasses.asdict(manifest.counts),
        splits={split: manifest.splits[split].rows for split in SPLITS},
        classes=manifest.classes,
        num_files=len(manifest.file_paths),
        storage=manifest.storage,
        seconds=round(time.monotonic() - started, 3),
    )


def _options(config: Config) -> IngestOptions:
    data = config.data
    return IngestOptions(
        size=config.image.size,
        channels=config.image.channels,
        val_share=data.val_share,
        test_share=data.test_share,
        split_seed=data.split_seed,
        storage=data.storage,
        raw_budget_bytes=data.raw_budget_bytes,
        file_bytes=data.file_bytes,
        num_streams=data.num_streams,
        max_quarantined=data.max_quarantined,
        max_image_bytes=data.max_image_bytes,
        max_image_pixels=data.max_image_pixels,
    )
