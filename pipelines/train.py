"""The stage `train`: a published dataset becomes a trained network, recorded in one MLflow run.

Everything that can be refused is refused before the run exists: the dataset, the network, the slots, the
tracking server. The driver then launches the workers, ships their journal to MLflow and logs the model.
"""

from __future__ import annotations

import logging
import signal
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from dlspark import storage
from dlspark.cluster.backends import choose_backend
from dlspark.cluster.launch import launch
from dlspark.config import Config
from dlspark.contracts import TrainResult, WorkerTask
from dlspark.data.manifest import Manifest, read_manifest
from dlspark.errors import DatasetError, TrackingError
from dlspark.progress import show_progress
from dlspark.recipe import build_network, head_of_run
from dlspark.tracking.facts import DatasetFacts, dataset_name
from dlspark.tracking.follow import follow_progress
from dlspark.tracking.run import TrackedRun, continue_run, require_reachable, start_run
from dlspark.worker import run_training
from pipelines.feature_cache import with_features
from pipelines.first_weights import FirstWeights, find_first_weights, log_frozen
from pipelines.preflight import require_workers
from pipelines.restart import train_with_restarts
from pipelines.resume import require_same_training, resumed
from pipelines.run_directory import (
    RunDescription,
    clear_run_dir,
    find_run,
    new_run_dir,
    read_result,
    write_config,
    write_result,
    write_run_description,
)
from pipelines.run_model import first_image, log_run_model
from pipelines.run_pictures import log_dataset, log_pictures
from pipelines.stage import required, with_backend

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainStageResult:
    """What a training made."""

    run_id: str
    """Of the MLflow run."""
    run_dir: str
    model_uri: str | None
    """Of the logged model, for mlflow.pyfunc.load_model; None where the server was away at the end."""
    tracking_uri: str
    dataset: str
    fingerprint: str
    steps: int
    epochs: int
    val_loss: float | None
    val_accuracy: float | None
    """Share in [0, 1] of the val split after the last epoch; None without a val split."""
    images_per_second: float
    train_seconds: float
    backend: str
    workers: int
    precision: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def run(config: Config, spark: SparkSession | None, *, parent_run_id: str | None = None) -> TrainStageResult:
    """Train as configured, or go on with the run in run_dir; a complete run is left as it is.

    Args:
        config: dataset is required; run_dir defaults to a new folder below ./runs.
        spark: the session whose executors train; None for cluster.backend=local.
        parent_run_id: the MLflow run below which this one is shown; None: it stands alone.

    Raises:
        SystemExit: the training was told to stop (SIGTERM), and is saved.
        DlsparkError: whatever is wrong with the dataset, the network, the cluster or the tracking server,
            before anything is written; WorkerFailedError once the workers run.
    """
    dataset = storage.absolute(required(config.dataset, "dataset", "train"))
    manifest = read_manifest(dataset)
    run_dir = storage.absolute(config.run_dir) if config.run_dir else new_run_dir()
    config = with_backend(config.model_copy(update={"dataset": dataset, "run_dir": run_dir}))
    earlier = find_run(run_dir, overwrite=config.overwrite, resume=config.resume)
    if earlier is not None:
        require_same_training(config, run_dir, manifest.fingerprint, earlier)
        if (known := read_result(run_dir)) is not None:
            _log.info("the run in %s is complete: nothing to do; overwrite=true trains anew", run_dir)
            return TrainStageResult(**known)
    first = refuse_what_cannot_train(config, manifest, is_new=earlier is None)
    require_workers(config, spark, dataset=dataset, run_dir=run_dir)
    if earlier is None:
        clear_run_dir(run_dir)
    write_config(run_dir, config)
    if first is not None:
        first.write(run_dir)
    task = WorkerTask(
        dataset=dataset,
        fingerprint=manifest.fingerprint,
        run_dir=run_dir,
        config=config.model_dump(mode="json"),
    )
    if earlier is not None:
        task = replace(task, **resumed(task))
    with (
        with_features(task, spark) if config.transfer.cache_features else nullcontext(task) as task,
        _start(
            config, manifest, task, spark, earlier=earlier, first=first, parent_run_id=parent_run_id
        ) as tracked,
    ):
        write_run_description(run_dir, _describe(tracked, task))
        log_dataset(config, manifest, run_dir, tracked)
        with show_progress("train", "steps") as progress, follow_progress(run_dir, progress):
            result = train_with_restarts(
                partial(_launch, config, spark), task, config.cluster, spark, tracked
            )
        if result.stopped:
            _log.warning("the run was told to stop and is saved: the same command goes on with it")
            raise SystemExit(128 + signal.SIGTERM)
        tracked.set_tags({"dlspark.precision": result.precision, "dlspark.device": result.device})
        log_pictures(run_dir, manifest, result, tracked)
        model_uri = _log_model(run_dir, dataset, tracked)
    done = _result(config, task, tracked, result, model_uri)
    write_result(run_dir, done.to_json())
    return done


def _result(
    config: Config, task: WorkerTask, tracked: TrackedRun, result: TrainResult, model_uri: str | None
) -> TrainStageResult:
    return TrainStageResult(
        run_id=tracked.run_id,
        run_dir=task.run_dir,
        model_uri=model_uri,
        tracking_uri=tracked.tracking_uri,
        dataset=task.dataset,
        fingerprint=task.fingerprint,
        steps=result.steps,
        epochs=result.epochs,
        val_loss=result.validation.loss if result.validation else None,
        val_accuracy=result.validation.accuracy if result.validation else None,
        images_per_second=result.images_per_second,
        train_seconds=result.train_seconds,
        backend=config.cluster.backend,
        workers=config.cluster.workers,
        precision=result.precision,
    )


def refuse_what_cannot_train(config: Config, manifest: Manifest, *, is_new: bool) -> FirstWeights | None:
    """Return the first weights made elsewhere, if a training can start but for its workers; writes nothing.

    Raises:
        DlsparkError: the dataset, the network, the first weights or the tracking server is not as needed.
    """
    num_rows = manifest.splits["train"].rows
    if num_rows < config.cluster.workers:
        raise DatasetError(
            "fewer training rows than workers",
            got=f"{num_rows} rows and cluster.workers={config.cluster.workers}",
            allowed=f"cluster.workers <= {num_rows}",
            where=config.dataset,
            fix="lower cluster.workers, or ingest more images",
        )
    with torch.device("meta"):
        network = build_network(config, manifest)
    log_frozen(config.transfer, network)
    if config.transfer.cache_features:
        head_of_run(config, manifest, network)
    if is_new:
        # A run that goes on has its MLflow run already; the journal keeps the rest until the server answers.
        require_reachable(config.tracking.uri)
    # A run that goes on has its first weights already.
    return find_first_weights(config, manifest, network) if is_new else None


def _start(
    config: Config,
    manifest: Manifest,
    task: WorkerTask,
    spark: SparkSession | None,
    *,
    earlier: RunDescription | None,
    first: FirstWeights | None,
    parent_run_id: str | None,
) -> AbstractContextManager[TrackedRun]:
    image = manifest.preprocessing.image
    application = (
        {"dlspark.spark_application_id": spark.sparkContext.applicationId} if spark is not None else {}
    )
    tags = {
        "dlspark.backend": config.cluster.backend,
        "dlspark.workers": config.cluster.workers,
        "dlspark.run_dir": task.run_dir,
        **application,
        **({} if parent_run_id is None else {"mlflow.parentRunId": parent_run_id}),
    }
    if earlier is not None:
        return continue_run(
            run_dir=task.run_dir,
            tracking_uri=earlier.tracking_uri,
            experiment_id=earlier.experiment_id,
            run_id=earlier.run_id,
            attempt=task.attempt,
            config=config.model_dump(mode="json"),
            tags=tags,
            system_metrics_seconds=config.tracking.system_metrics_seconds,
        )
    return start_run(
        tracking_uri=config.tracking.uri,
        experiment=config.tracking.experiment,
        run_name=config.tracking.run_name,
        run_dir=task.run_dir,
        config=config.model_dump(mode="json"),
        tags={"dlspark.fingerprint": manifest.fingerprint, **tags, **(first.tags() if first else {})},
        dataset=DatasetFacts(
            name=dataset_name(config.dataset or ""),
            url=config.dataset or "",
            fingerprint=manifest.fingerprint,
            num_rows={split: entry.rows for split, entry in manifest.splits.items()},
            classes=manifest.classes,
            image_shape=(image.height, image.width, image.channels),
        ),
        system_metrics_seconds=config.tracking.system_metrics_seconds,
    )


def _describe(tracked: TrackedRun, task: WorkerTask) -> RunDescription:
    return RunDescription(
        run_id=tracked.run_id,
        experiment_id=tracked.experiment_id,
        tracking_uri=tracked.tracking_uri,
        dataset=task.dataset,
        fingerprint=task.fingerprint,
    )


def _launch(config: Config, spark: SparkSession | None, task: WorkerTask, num_workers: int) -> TrainResult:
    """Return rank 0's result; the others say the same."""
    results = launch(
        run_training,
        task,
        backend=choose_backend(config.cluster.backend),
        num_workers=num_workers,
        spark=spark,
        start_timeout_seconds=config.cluster.start_timeout_seconds,
        threads_per_worker=config.cluster.threads_per_worker,
        stall_timeout_seconds=config.cluster.stall_timeout_seconds,
        ports=config.cluster.ports,
        interface=config.cluster.network_interface,
    )
    result: TrainResult = results[0]
    return result


def _log_model(run_dir: str, dataset: str, tracked: TrackedRun) -> str | None:
    """Log the model; a server that is away now loses nothing: the checkpoint is in the run directory."""
    try:
        return log_run_model(
            run_dir,
            tracking_uri=tracked.tracking_uri,
            run_id=tracked.run_id,
            example_image=first_image(dataset),
        )
    except TrackingError as error:
        _log.warning("the model is not in MLflow yet: %s", error)
        _log.warning("log it later with: dlspark register run_dir=%s", run_dir)
        return None
