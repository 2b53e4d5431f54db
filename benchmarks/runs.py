"""The ingest as a user calls it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from dlspark.contracts import ImageFormat
from dlspark.data.augment import NO_AUGMENTATION
from dlspark.data.ingest import Ingested, ingest
from dlspark.data.ingest_job import IngestOptions
from dlspark.data.sources.columns import SourceColumns
from dlspark.data.sources.open import open_source

MAX_PIXELS = 10**8


class Silent:
    """A progress display that shows nothing."""

    def update(self, completed: int, total: int, fields: Mapping[str, float] | None = None) -> None:
        """Show nothing."""


def run_dlspark(
    spark: SparkSession, source: Path, image: ImageFormat, output: Path, storage: Any, **changes: Any
) -> Ingested:
    """Ingest as a user does, into three splits."""
    options: dict[str, Any] = {
        "size": None if image.resize == "none" else image.height,
        "channels": image.channels,
        "resize": image.resize,
        "jpeg_scale": True,
        "min_image_size": 1,
        "refuse_constant": True,
        "max_image_bytes": 2**28,
        "max_image_pixels": MAX_PIXELS,
        "classes": None,
        "val_share": 0.1,
        "test_share": 0.1,
        "split_seed": 0,
        "stratify": False,
        "duplicates": "drop",
        "copies": 0,
        "augmentation": NO_AUGMENTATION,
        "storage": storage,
        "jpeg_quality": None,
        "raw_budget_bytes": 2**33,
        "file_bytes": 2**24,
        "num_streams": 16,
        "max_quarantined": 0.0,
    }
    return ingest(
        spark,
        source=open_source(str(source), columns=SourceColumns(), max_image_bytes=2**28),
        dataset=str(output),
        overwrite=True,
        options=IngestOptions(**{**options, **changes}),
        request={},
        progress=Silent(),
    )


def say(text: str) -> None:
    """Print a line of the result."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
