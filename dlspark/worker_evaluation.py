"""What one rank does in an evaluation: each of its rows passes through the trained network once."""

from __future__ import annotations

import logging
from dataclasses import replace

from dlspark.cluster.devices import device_of
from dlspark.config import Config
from dlspark.contracts import Communicator, EvaluationResult, WorkerTask
from dlspark.data.manifest import Manifest
from dlspark.errors import DatasetError
from dlspark.recipe import figures_of, loss_of, views_of
from dlspark.training.checkpoint import CheckpointDescription, load_checkpoint
from dlspark.training.evaluation import evaluate_model
from dlspark.training.snapshots import final_checkpoint
from dlspark.training.views import with_views
from dlspark.worker import open_source, read_the_same_dataset

_log = logging.getLogger(__name__)


def run_evaluation(task: WorkerTask, communicator: Communicator) -> EvaluationResult:
    """Evaluate the final checkpoint of `task.run_dir` on `task.split`: each row once, over all ranks.

    Raises:
        DatasetError: the dataset is not the one that the driver read, or its images are of another size than
            those that the network was trained on.
        ModelError: the run has no complete checkpoint.
    """
    config = Config.model_validate(task.config)
    manifest = read_the_same_dataset(task)
    device = device_of(communicator)
    model, description = load_checkpoint(final_checkpoint(task.run_dir))
    views = views_of(config, description.views)
    if communicator.rank == 0 and views.number > 1:
        _log.info("the outputs for %d views of each image are averaged", views.number)
    network = with_views(model, views, description.preprocessing)
    with open_source(
        config,
        task.dataset,
        _as_trained(manifest, description, task.dataset),
        task.split,
        rank=communicator.rank,
        num_ranks=communicator.size,
        training=False,
        device=device,
    ) as source:
        return evaluate_model(
            *(network.to(device), source, communicator),
            num_classes=len(manifest.classes),
            device=device,
            loss=loss_of(config, manifest.splits["train"].class_rows),
            figures=figures_of(config, len(manifest.classes)),
        )


def _as_trained(manifest: Manifest, trained: CheckpointDescription, dataset: str) -> Manifest:
    """Return the manifest with the preprocessing that the network was trained with, and is served with."""
    found, wanted = manifest.preprocessing.image, trained.preprocessing.image
    got = (found.height, found.width, found.channels)
    allowed = (wanted.height, wanted.width, wanted.channels)
    if got != allowed:
        raise DatasetError(
            "the images are of another size than those that the network was trained on",
            got=got,
            allowed=f"{allowed} (height, width, channels)",
            where=dataset,
            fix="ingest with the image.size and image.channels of the training's dataset",
        )
    return replace(manifest, preprocessing=trained.preprocessing)
