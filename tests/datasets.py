"""Small datasets for tests, written by the code of the ingest without Spark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark import RDD
from pyspark.sql import SparkSession

from dlspark.contracts import SPLITS, ImageFormat, Split
from dlspark.data.describe import describe
from dlspark.data.images import encode_png
from dlspark.data.layout import FilePlace
from dlspark.data.manifest import Counts, Manifest, write_manifest
from dlspark.data.parquet_file import FileReport
from dlspark.data.sources.source import SourceImage
from dlspark.data.split import row_id_of
from dlspark.data.write_file import PlacedRow, WriteSettings, gather_rows, store_file


@dataclass(kw_only=True)
class FileSource:
    """A source of the files in one folder, whose keys are their names."""

    url: str
    ships_content: bool = False
    lists_other_files: bool = False

    def images(self, spark: SparkSession, *, with_content: bool = False) -> RDD[SourceImage]:
        raise AssertionError("not listed in these tests")

    def path_of(self, image: SourceImage) -> str:
        return f"{self.url}/{image.key}"

    def read(self, image: SourceImage) -> bytes:
        return Path(self.path_of(image)).read_bytes()


def place_files(
    folder: Path, images: Iterable[NDArray[np.uint8]], *, classes: Sequence[str]
) -> list[PlacedRow]:
    """Write images as PNG files 000.png, 001.png, ... of the classes in turn; return their rows."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index, pixels in enumerate(images):
        key = f"{index:03d}.png"
        data = encode_png(pixels)
        (folder / key).write_bytes(data)
        image = SourceImage(key, classes[index % len(classes)], len(data), index)
        rows.append(PlacedRow(row_id_of(key), row_id_of(key), 0, image))
    return rows


def settings_of(folder: Path, image: ImageFormat, *, classes: Sequence[str], **options: Any) -> WriteSettings:
    """Settings of a dataset in `folder`/dataset, from the files in `folder`/source."""
    values = {
        "dataset": str(folder / "dataset"),
        "attempt": "0123456789ab",
        "source": FileSource(url=str(folder / "source")),
        "classes": {name: label for label, name in enumerate(classes)},
        "image": image,
        "storage": "raw",
        "jpeg_quality": None,
        "max_image_bytes": 2**20,
        "max_image_pixels": 2**20,
        "min_image_size": 1,
        "refuse_constant": False,
        "accepted": frozenset(),
        "copies": None,
        "previous": None,
    }
    return WriteSettings(**{**values, **options})


def write_file(rows: Sequence[PlacedRow], place: FilePlace, settings: WriteSettings) -> FileReport:
    """Write one file and report it."""
    return store_file(gather_rows(rows, settings), place, settings)


def write_splits(
    rows: dict[Split, Sequence[PlacedRow]], settings: WriteSettings, *, num_files: int, num_streams: int = 4
) -> Manifest:
    """Write rows into files of near-equal length and publish them."""
    reports: list[FileReport] = []
    for split in SPLITS:
        ordered = sorted(rows.get(split, ()), key=lambda row: row.row_id)
        parts = np.array_split(np.arange(len(ordered)), num_files) if ordered else []
        for index, part in enumerate(parts):
            place = FilePlace(split=split, index=index)
            reports.append(write_file([ordered[row] for row in part], place, settings))
    written = sum(report.rows for report in reports)
    manifest = describe(
        reports,
        Counts(listed=written, written=written, quarantined=0, deduplicated=0),
        classes=tuple(settings.classes),
        image=settings.image,
        form=settings.storage,
        num_streams=num_streams,
        source=settings.source.url,
        source_digest="0" * 32,
        settings={},
        request={},
        attempt=settings.attempt,
    )
    write_manifest(settings.dataset, manifest)
    return manifest
