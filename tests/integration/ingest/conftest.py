"""An ingest on a real Spark session, with small class folders to feed it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dlspark.contracts import SPLITS
from dlspark.data.augment import Augmentation
from dlspark.data.ingest import Ingested, ingest
from dlspark.data.ingest_job import IngestOptions
from dlspark.data.manifest import Manifest
from dlspark.data.quarantine import read_quarantine
from dlspark.data.sources.columns import SourceColumns
from dlspark.data.sources.open import open_source
from dlspark.data.sources.source import Source

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

OPTIONS = IngestOptions(
    size=None,
    channels=None,
    resize="none",
    jpeg_scale=True,
    min_image_size=1,
    jpeg_quality=None,
    refuse_constant=True,
    max_image_bytes=2**20,
    max_image_pixels=2**20,
    classes=None,
    val_share=0.2,
    test_share=0.2,
    split_seed=0,
    stratify=False,
    duplicates="drop",
    copies=0,
    augmentation=Augmentation(),
    storage="auto",
    raw_budget_bytes=2**30,
    file_bytes=2**20,
    num_streams=4,
    max_quarantined=0.0,
)

Make = Callable[..., Ingested]


class Steps:
    """A progress display that keeps what it is told."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def update(self, completed: int, total: int, fields: Mapping[str, float] | None = None) -> None:
        self.seen.append((completed, total))


@pytest.fixture
def make(spark: SparkSession, tmp_path: Path) -> Make:
    """Ingest a source into a folder of this test; options are those of IngestOptions and SourceColumns."""

    def call(
        source: Path | Source,
        dataset: str = "dataset",
        *,
        overwrite: bool = False,
        again: bool = False,
        columns: SourceColumns | None = None,
        steps: Steps | None = None,
        **options: Any,
    ) -> Ingested:
        opened = (
            open_source(str(source), columns=columns or SourceColumns(), max_image_bytes=2**20)
            if isinstance(source, Path)
            else source
        )
        return ingest(
            spark,
            source=opened,
            dataset=str(tmp_path / dataset),
            overwrite=overwrite,
            options=replace(OPTIONS, **options),
            request={},
            progress=steps or Steps(),
            again=again,
        )

    return call


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of 20 gray images of 6 x 5 pixels."""
    return make_images(tmp_path / "source")


def make_images(folder: Path, *, per_class: int = 20, first: int = 0) -> Path:
    for label, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(first, first + per_class):
            pixels = np.random.default_rng((label, index)).integers(0, 256, (6, 5), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:03d}.png")
    return folder


def rows_of(dataset: Path, manifest: Manifest, split: str) -> list[dict[str, Any]]:
    tables = [pq.read_table(dataset / file.path, partitioning=None) for file in manifest.splits[split].files]
    return [row for table in tables for row in table.to_pylist()]


def keys_of(dataset: Path, manifest: Manifest, split: str) -> set[str]:
    return {row["key"] for row in rows_of(dataset, manifest, split)}


def splits_by_key(dataset: Path, manifest: Manifest) -> dict[str, str]:
    return {key: split for split in SPLITS for key in keys_of(dataset, manifest, split)}


def reasons_of(dataset: Path, manifest: Manifest) -> dict[str, str]:
    return {row.key: row.reason for row in read_quarantine(str(dataset), manifest.quarantine_files)}


def names_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
