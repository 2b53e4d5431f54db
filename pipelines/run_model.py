"""The trained network of a run as a model in MLflow; logged by `train`, or by `register` after an outage."""

from __future__ import annotations

import numpy as np

from dlspark.contracts import ImageFormat
from dlspark.data.images import encode_png
from dlspark.tracking.registry import log_classifier
from dlspark.training.checkpoint import load_checkpoint
from dlspark.worker import final_checkpoint


def log_run_model(run_dir: str, *, tracking_uri: str, run_id: str, example_image: bytes | None = None) -> str:
    """Log the final checkpoint of a run as its model.

    Args:
        run_dir: URL of the run directory.
        tracking_uri: of the MLflow server.
        run_id: the MLflow run.
        example_image: an encoded image of the dataset as the input example; None stores a blank one of the
            right size.

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
        example_image=example_image or _blank_image(description.preprocessing.image),
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


def _blank_image(image: ImageFormat) -> bytes:
    return encode_png(np.full((image.height, image.width, image.channels), 128, dtype=np.uint8))
