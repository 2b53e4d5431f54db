"""Scoring of a folder of images with Spark, by a model of a run directory or of the registry."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyspark.sql import SparkSession

from dlspark.cluster.session import spark_session
from dlspark.config import Config
from dlspark.errors import ConfigError
from dlspark.predict.score import require_free_output, score_folder
from pipelines.run_model import trained_model

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictResult:
    """What a scoring has written."""

    output: str
    """Folder of the Parquet files: path, label, probability, probabilities, error."""
    model: str
    images: int
    failed: int
    """Images without a label; their rows say why."""
    predicted: Mapping[str, int]
    """Images of each predicted class, in the order of the classes."""
    seconds: float
    images_per_second: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)


def run(config: Config, spark: SparkSession | None) -> PredictResult:
    """Classify the images of `source`, with folders in it, into `predict.output`.

    Args:
        config: `source`, `predict.model` and `predict.output` are needed.
        spark: the session to use; None opens one on `cluster.master`.

    Raises:
        ConfigError: a needed key is missing.
        OutputExistsError: the output exists and `overwrite` is not set.
        ModelError: there is no such model.
        TrackingError: the model is one of the registry, which does not answer or does not have it.
        SourceError: there are no images.
    """
    source, model, output = _needed_keys(config)
    require_free_output(output, overwrite=config.overwrite)
    started = time.monotonic()
    with (
        trained_model(model, config.tracking.uri, key="predict.model") as checkpoint,
        _session(spark, config) as session,
    ):
        result = score_folder(
            session,
            source=source,
            checkpoint_url=checkpoint,
            output=output,
            overwrite=config.overwrite,
            batch_size=config.predict.batch_size,
            max_image_bytes=config.data.max_image_bytes,
            max_image_pixels=config.data.max_image_pixels,
            views=config.views.given,
        )
    seconds = time.monotonic() - started
    if result.num_failed:
        logger.warning(
            "%d of %d images have no label; the column error says why", result.num_failed, result.num_images
        )
    return PredictResult(
        output=result.output,
        model=model,
        images=result.num_images,
        failed=result.num_failed,
        predicted=result.predicted,
        seconds=round(seconds, 3),
        images_per_second=round(result.num_images / seconds, 1),
    )


def _needed_keys(config: Config) -> tuple[str, str, str]:
    needed = {
        "source": (config.source, "a folder of images"),
        "predict.model": (config.predict.model, "a run directory, or models:/name@alias"),
        "predict.output": (config.predict.output, "a folder for the Parquet files"),
    }
    missing = [f"{key}=<{meaning}>" for key, (value, meaning) in needed.items() if value is None]
    if config.source is None or config.predict.model is None or config.predict.output is None:
        raise ConfigError("predict needs more keys", fix=f"add {' '.join(missing)}")
    return config.source, config.predict.model, config.predict.output


@contextmanager
def _session(spark: SparkSession | None, config: Config) -> Iterator[SparkSession]:
    if spark is not None:
        yield spark
        return
    with spark_session(config.cluster.master, "dlspark predict") as session:
        yield session
