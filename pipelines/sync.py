"""Sends to MLflow what a run's journal holds and MLflow lacks: after an outage, or a killed driver."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dlspark.config import Config
from dlspark.tracking.server import require_reachable
from dlspark.tracking.shipper import Shipper
from pipelines.run_directory import read_run_description
from pipelines.stage import required

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@dataclass(frozen=True, kw_only=True, slots=True)
class SyncResult:
    """What a sync has done."""

    run_dir: str
    run_id: str
    events: int
    """Events that were sent now."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)


def run(config: Config, spark: SparkSession | None) -> SyncResult:
    """Ship the journal of `run_dir` to the run's MLflow server; repeating it sends nothing twice.

    Args:
        config: `run_dir` is needed.
        spark: not used.

    Raises:
        ConfigError: `run_dir` is missing, or is not a run.
        TrackingError: the server does not answer; repeat later.
    """
    run_dir = required(config.run_dir, "run_dir", "sync")
    described = read_run_description(run_dir)
    require_reachable(described.tracking_uri)
    shipper = Shipper(run_dir, tracking_uri=described.tracking_uri, run_id=described.run_id)
    return SyncResult(run_dir=run_dir, run_id=described.run_id, events=shipper.ship_all())
