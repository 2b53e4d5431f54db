"""The stage `full`: from a folder of images to a registered model, in one command and one MLflow run."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dlspark.config import Config
from dlspark.tracking.run import require_reachable
from pipelines import evaluate, ingest, register, train
from pipelines.evaluate import EvaluateStageResult
from pipelines.ingest import IngestResult
from pipelines.register import RegisterResult
from pipelines.train import TrainStageResult

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class FullResult:
    """What the four stages made."""

    ingested: IngestResult
    trained: TrainStageResult
    tested: EvaluateStageResult
    registered: RegisterResult | None
    """None where tracking.registered_model is not set."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values, all in one object; the test figures carry the prefix `test_`."""
        registered = {}
        if self.registered is not None:
            name, version = self.registered.name, self.registered.version
            registered = {"registered_model": name, "version": version, "alias": self.registered.alias}
        return {
            **self.ingested.to_json(),
            **self.trained.to_json(),
            "test_rows": self.tested.num_rows,
            "test_loss": self.tested.loss,
            "test_accuracy": self.tested.accuracy,
            "test_views": self.tested.views,
            **registered,
        }


def run(config: Config, spark: SparkSession | None) -> FullResult:
    """Ingest, train, evaluate the test split once, and register.

    Args:
        config: source and dataset are required.
        spark: the session that ingests, and trains unless cluster.backend=local.

    Raises:
        DlsparkError: a stage was refused or failed; what earlier stages published stays.
    """
    require_reachable(config.tracking.uri)
    ingested = ingest.run(config, spark)
    trained = train.run(config.model_copy(update={"dataset": ingested.dataset}), spark)
    known = {"dataset": ingested.dataset, "run_dir": trained.run_dir, "split": "test"}
    tested = evaluate.run(config.model_copy(update=known), spark)
    registered = None
    if config.tracking.registered_model is not None:
        registered = register.run(config.model_copy(update=known), spark)
    result = FullResult(ingested=ingested, trained=trained, tested=tested, registered=registered)
    _log.info("%s", _summary(result))
    return result


def _summary(result: FullResult) -> str:
    ingested, trained, tested = result.ingested, result.trained, result.tested
    rows = ", ".join(f"{split} {num_rows:,}" for split, num_rows in ingested.splits.items())
    workers = f"{trained.workers} {trained.backend} worker{'s' if trained.workers > 1 else ''}"
    views = "" if tested.views == 1 else f", mean of {tested.views} views of each"
    val = "" if trained.val_accuracy is None else f", val {trained.val_accuracy:.4f}"
    facts = {
        "images": f"{ingested.listed:,} listed = {ingested.written:,} written "
        f"+ {ingested.quarantined:,} quarantined + {ingested.deduplicated:,} deduplicated",
        "rows": rows,
        "dataset": f"{ingested.dataset} (fingerprint {ingested.fingerprint})",
        "training": f"{trained.epochs} epochs, {trained.steps:,} steps, "
        f"{trained.images_per_second:,.0f} images/s on {workers}, {trained.precision}",
        "accuracy": f"test {tested.accuracy:.4f} of {tested.num_rows:,} images{views}{val}",
        "run": trained.run_dir,
        "MLflow run": trained.run_id,
    }
    if result.registered is not None:
        registered = result.registered
        facts["model"] = f"models:/{registered.name}@{registered.alias} (version {registered.version})"
    facts["look at it"] = f"mlflow ui --backend-store-uri {trained.tracking_uri}"
    return "\n".join(["", *(f"  {name:<11} {fact}" for name, fact in facts.items()), ""])
