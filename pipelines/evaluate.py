"""The stage `evaluate`: one split through a trained network, each row once, into the run that trained it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from dlspark import storage
from dlspark.cluster.backends import choose_backend
from dlspark.cluster.launch import launch
from dlspark.config import Config
from dlspark.contracts import EvaluationResult, Split, WorkerTask
from dlspark.data.manifest import read_manifest
from dlspark.errors import DatasetError
from dlspark.recipe import views_of
from dlspark.tracking.run import reopen_run
from dlspark.training.checkpoint import read_description
from dlspark.training.metrics import class_metrics, evaluation_metrics
from dlspark.training.snapshots import final_checkpoint
from dlspark.worker_evaluation import run_evaluation
from pipelines.preflight import require_workers
from pipelines.run_directory import RunDescription, read_config, read_run_description
from pipelines.stage import required, with_backend

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateStageResult:
    """The figures of one split."""

    run_id: str
    run_dir: str
    dataset: str
    split: Split
    num_rows: int
    loss: float
    """Mean over rows, in nats for cross entropy."""
    accuracy: float
    """Share in [0, 1]."""
    views: int
    """Of each image, over which the outputs are averaged; 1: the image alone."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def run(config: Config, spark: SparkSession | None) -> EvaluateStageResult:
    """Evaluate the final checkpoint of `run_dir` on `split`, by the loss that the run was trained on.

    Args:
        config: run_dir is required; dataset defaults to the one the run was trained on.
        spark: the session whose executors evaluate; None for cluster.backend=local.

    Raises:
        DlsparkError: there is no run, no complete checkpoint, another dataset, an empty split, too few slots,
            or hosts that are not fit.
    """
    config = with_backend(config)
    run_dir = storage.absolute(required(config.run_dir, "run_dir", "evaluate"))
    described = read_run_description(run_dir)
    dataset = storage.absolute(config.dataset or described.dataset)
    manifest = read_manifest(dataset)
    if manifest.splits[config.split].rows == 0:
        raise DatasetError(
            f"the {config.split} split is empty",
            where=dataset,
            fix=f"evaluate another split, or ingest again with data.{config.split}_share above 0",
        )
    checkpoint = read_description(final_checkpoint(run_dir))
    _refuse_other_classes(checkpoint.classes, manifest.classes, dataset)
    require_workers(config, spark, dataset=dataset, run_dir=run_dir)
    views = views_of(config, checkpoint.views).number
    task = WorkerTask(
        dataset=dataset,
        fingerprint=manifest.fingerprint,
        run_dir=run_dir,
        config=config.model_copy(update={"loss": read_config(run_dir).loss}).model_dump(mode="json"),
        split=config.split,
    )
    result: EvaluationResult = launch(
        run_evaluation,
        task,
        backend=choose_backend(config.cluster.backend),
        num_workers=config.cluster.workers,
        spark=spark,
        start_timeout_seconds=config.cluster.start_timeout_seconds,
        threads_per_worker=config.cluster.threads_per_worker,
        stall_timeout_seconds=config.cluster.stall_timeout_seconds,
        ports=config.cluster.ports,
        interface=config.cluster.network_interface,
    )[0]
    _record(described, run_dir, config.split, manifest.classes, result, views=views, step=checkpoint.step)
    return EvaluateStageResult(
        run_id=described.run_id,
        run_dir=run_dir,
        dataset=dataset,
        split=config.split,
        num_rows=result.num_rows,
        loss=result.loss,
        accuracy=result.accuracy,
        views=views,
    )


def _refuse_other_classes(trained: tuple[str, ...], found: tuple[str, ...], dataset: str) -> None:
    if trained != found:
        raise DatasetError(
            "the dataset has other classes than the run was trained on",
            got=", ".join(found),
            allowed=", ".join(trained),
            where=dataset,
            fix="evaluate on a dataset with the same class folders",
        )


def _record(
    described: RunDescription,
    run_dir: str,
    split: Split,
    classes: tuple[str, ...],
    result: EvaluationResult,
    *,
    views: int,
    step: int,
) -> None:
    # Here, and not above: matplotlib takes seconds to import.
    from dlspark.inspection.pictures import draw_confusion_matrix

    picture = storage.join(run_dir, "pictures", f"confusion_matrix_{split}.png")
    draw_confusion_matrix(result.confusion, classes, picture)
    with reopen_run(
        run_dir=run_dir,
        tracking_uri=described.tracking_uri,
        experiment_id=described.experiment_id,
        run_id=described.run_id,
        attempt="evaluate",
    ) as tracked:
        figures = evaluation_metrics(result, split) | class_metrics(result, split)
        tracked.log_metrics(figures | {f"{split}_views": float(views)}, step=step)
        tracked.log_artifact(picture)
