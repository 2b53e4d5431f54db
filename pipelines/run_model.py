"""The trained network of a run: as a model in MLflow, by `train` or later `register`; and found again."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager

import numpy as np

from dlspark import storage
from dlspark.contracts import ImageFormat
from dlspark.data.columns import pixels_of
from dlspark.data.images import encode_png
from dlspark.data.manifest import read_manifest
from dlspark.data.readers import read_files
from dlspark.errors import DatasetError, ModelError
from dlspark.tracking.registry import fetch_checkpoint, log_classifier
from dlspark.tracking.server import require_reachable
from dlspark.training.checkpoint import DESCRIPTION_FILE, load_checkpoint
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
            "views": description.views.to_json(),
            "model": description.model,
            "model_options": dict(description.model_options),
            "dataset_fingerprint": description.fingerprint,
            "metrics": dict(description.metrics),
        },
        step=description.step,
    )


@contextmanager
def trained_model(model: str, tracking_uri: str, *, key: str) -> Iterator[str]:
    """Yield the URL of the checkpoint of a model that is trained; one of the registry is there for the block.

    Args:
        model: a run directory, a checkpoint folder, or an MLflow model URI.
        tracking_uri: of the MLflow server.
        key: of the configuration that names the model, for the message.

    Raises:
        ModelError: there is no such model.
        TrackingError: the model is one of the registry, which does not answer or does not have it.
    """
    if model.startswith(("models:/", "runs:/")):
        require_reachable(tracking_uri)
        with tempfile.TemporaryDirectory(prefix="dlspark-model-") as folder:
            yield fetch_checkpoint(tracking_uri=tracking_uri, model_uri=model, folder=folder)
        return
    for folder in (final_checkpoint(model), model):
        if storage.exists(storage.join(folder, DESCRIPTION_FILE)):
            yield folder
            return
    raise ModelError(
        "there is no trained model",
        where=storage.absolute(model),
        allowed="a run directory that holds checkpoints/final, a checkpoint folder, or models:/name@alias",
        fix=f"train first, or correct {key}",
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
