"""The features of a dataset, computed once by the frozen body of a run's network.

On Spark each task reads one file of the dataset as the training would, passes its rows through the network in
evaluation mode, in fp32, and writes one file of features; without Spark this process does so for one file
after the other. Their key is a digest of all that decides them, so features are never taken for others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from dlspark import __version__, storage
from dlspark.config import Config
from dlspark.contracts import Preprocessing, Progress, WorkerTask
from dlspark.data.feature_files import Place, store_features
from dlspark.data.held_rows import hold_rows
from dlspark.data.manifest import FileEntry, Manifest, read_manifest
from dlspark.data.normalise import normalise
from dlspark.data.readers import read_files
from dlspark.data.spark_task import begin_task
from dlspark.errors import DatasetError
from dlspark.recipe import head_of_run, initial_model, preprocessing_of
from dlspark.training.evaluation import for_inference
from dlspark.training.head import HeadOnFeatures, features_of, tensors_of_body

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_BATCH_ROWS = 256
"""That go through the network at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Body:
    """The network of a run as it begins, and what its features depend on beside it."""

    config: Config
    dataset: str
    """URL."""
    manifest: Manifest
    preprocessing: Preprocessing
    network: nn.Module
    """In evaluation mode, on the CPU."""
    head: HeadOnFeatures
    key: str
    """SHA-256 of all that decides the features, 64 hexadecimal digits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureJob:
    """What a task needs to know; plain values."""

    task: str
    """The run, as WorkerTask.to_json."""
    key: str
    """That the body of the run had on the driver."""
    folder: str
    """URL of the folder that is written."""


def load_body(task: WorkerTask) -> Body:
    """Return the network of a run with the first weights that its directory holds.

    Raises:
        DatasetError: the dataset is gone or damaged.
        ModelError: the first weights are missing or damaged, or the features of the network cannot be cached.
    """
    config = Config.model_validate(task.config)
    manifest = read_manifest(task.dataset)
    with torch.random.fork_rng(devices=[]):
        network = initial_model(config, manifest, rank=0, run_dir=task.run_dir, resumes=False)
    head = head_of_run(config, manifest, network)
    preprocessing = preprocessing_of(config, manifest)
    return Body(
        config=config,
        dataset=task.dataset,
        manifest=manifest,
        preprocessing=preprocessing,
        network=network,
        head=head,
        key=_key(config, manifest, preprocessing, tensors_of_body(network, head)),
    )


def compute_here(body: Body, folder: str, places: Sequence[Place], progress: Progress) -> list[FileEntry]:
    """Write the features of some files of a dataset, one after the other, in this process.

    Args:
        body: of the run.
        folder: URL of the folder that is written.
        places: of the files in the dataset.
        progress: is told the files that are written.

    Raises:
        DatasetError: a file of the dataset is not what its manifest says.
    """
    entries = []
    for number, place in enumerate(places):
        progress.update(number, len(places))
        entries.append(compute_file(body, folder, place))
    progress.update(len(places), len(places))
    return entries


def compute_on_spark(
    spark: SparkSession, job: FeatureJob, places: Sequence[Place], progress: Progress
) -> list[FileEntry]:
    """Write the features of some files of a dataset, one in each task of a Spark job.

    Args:
        spark: the session whose executors do the work; they must reach dataset, run directory and folder.
        job: see there.
        places: of the files in the dataset.
        progress: is told the files that are written.

    Raises:
        DatasetError: the storage is full.
        SourceError: a task failed for good; the message has the last line of its own error.
    """
    # Here, and not above: a run in one process does without Spark.
    from dlspark.data.spark_job import run_job

    tasks = spark.sparkContext.parallelize(places, len(places)).map(partial(_in_task, job))
    return run_job(
        spark.sparkContext,
        tasks.collect,
        description=f"dlspark: features in {job.folder}",
        num_tasks=len(places),
        num_units=len(places),
        progress=progress,
        stage="train",
    )


def compute_file(body: Body, folder: str, place: Place) -> FileEntry:
    """Write the features of one file of a dataset; see `compute_here`."""
    split, index = place
    entry = body.manifest.splits[split].files[index]
    with closing(read_files(body.dataset, [entry], reader=body.config.data.reader)) as files:
        rows = hold_rows(next(files), body.manifest, entry, dataset=body.dataset)
    image = body.manifest.preprocessing.image
    features = np.empty((entry.rows, body.head.num_features), dtype=np.float32)
    for start in range(0, entry.rows, _BATCH_ROWS):
        indices = np.arange(start, min(start + _BATCH_ROWS, entry.rows))
        pixels = np.empty((len(indices), image.height, image.width, image.channels), dtype=np.uint8)
        rows.read(indices, pixels)
        images = normalise(torch.from_numpy(pixels), body.preprocessing)
        features[indices] = features_of(body.network, body.head, for_inference(images)).numpy()
    return store_features(folder, place, row_ids=rows.row_ids, labels=rows.labels, features=features)


def _in_task(job: FeatureJob, place: Place) -> FileEntry:
    from pyspark import TaskContext

    begin_task()
    context = TaskContext.get()
    if context is not None:
        # One task has these cores; torch would take all of the host for each of the tasks on it.
        torch.set_num_threads(max(1, context.cpus()))
    return compute_file(_body(job.task, job.key), job.folder, place)


@lru_cache(maxsize=1)
def _body(task: str, key: str) -> Body:
    """Return the body of a run, loaded once in a process; another run or other weights take its place."""
    body = load_body(WorkerTask.from_json(task))
    if body.key != key:
        raise DatasetError(
            "the dataset or the first weights are not those that the driver has read",
            got=f"a digest of {body.key}",
            allowed=key,
            where=f"{storage.absolute(body.dataset)} and {WorkerTask.from_json(task).run_dir}",
            fix="start the training again",
        )
    return body


def _key(
    config: Config, manifest: Manifest, preprocessing: Preprocessing, tensors: dict[str, torch.Tensor]
) -> str:
    facts = {
        # Another version might read or normalise an image in another way.
        "version": __version__,
        "fingerprint": manifest.fingerprint,
        # The same rows can lie in other files, after another ingest.
        "files": [
            [split, file.rows, file.checksum]
            for split, entry in sorted(manifest.splits.items())
            for file in entry.files
        ],
        "preprocessing": preprocessing.to_json(),
        "model": config.model.model_dump(mode="json"),
        "tensors": [[name, str(tensor.dtype), list(tensor.shape)] for name, tensor in tensors.items()],
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for tensor in tensors.values():
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type] # a buffer
    return digest.hexdigest()
