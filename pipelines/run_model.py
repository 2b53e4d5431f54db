"""The trained network of a run as a model in MLflow; logged by `train`, or by `register` after an outage."""

from __future__ import annotations

import logging
from contextlib import closing

import numpy as np

from dlspark import storage
from dlspark.contracts import ImageFormat
from dlspark.data.columns import pixels_of
from dlspark.data.images import encode_png
from dlspark.data.manifest import read_manifest
from dlspark.data.readers import read_files
from dlspark.errors import DatasetError
from dlspark.tracking.registry import log_classifier
from dlspark.training.checkpoint import load_checkpoint
from dlspark.training.snapshots import final_checkpoint

_log = logging.getLogger(__name__)


def log_run_model(run_dir: str, *, tracking_uri: str, run_id: str, example_image: bytes | None = None) -> str:
    """Log the final checkpoint of a run as its model.

    Args:
        run_dir: URL of the run directory.
        tracking_uri: of the MLflow server.
        run_id: the MLflow run.
        example_image: an encoded image as the input example; None stores a gray one of the right size.

    Returns:
        The model's URI.

    Raises:
        ModelError: the run has no checkpoint.
        TrackingError: the server does not take it.
    """
    checkpoint = final_checkpoint(run_dir)
    _, description = load_checkpoint(checkpoint)
    return log_classifier(
        tracking_uri=tracking_uri,
        run_id=run_id,
        checkpoint_url=checkpoint,
        example_image=example_image or _gray_image(description.preprocessing.image),
        metadata={
            "classes": list(description.classes),
            "preprocessing": description.preprocessing.to_json(),
            "model": description.model,
            "model_options": dict(description.model_options),
            "dataset_fingerprint": description.fingerprint,
            "metrics": dict(description.metrics),
        },
        step=description.step,
    )


def first_image(dataset: str) -> bytes | None:
    """Return the first image of the training split as a PNG file; None, logged, if the dataset is gone."""
    try:
        manifest = read_manifest(dataset)
        file = manifest.splits["train"].files[0]
        with closing(read_files(dataset, [file], reader="arrow")) as files:
            pixels = pixels_of(
                next(files),
                manifest.preprocessing.image,
                manifest.storage,
                where=storage.join(dataset, file.path),
            )
            return encode_png(pixels[0])
    except DatasetError as error:
        _log.warning("the input example of the model is a gray image, since %s", error)
        return None


def _gray_image(image: ImageFormat) -> bytes:
    return encode_png(np.full((image.height, image.width, image.channels), 128, dtype=np.uint8))
