"""Puts the model of a run into the MLflow registry, under a name and an alias."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dlspark.config import Config
from dlspark.tracking.registry import logged_model, register_model
from dlspark.tracking.server import require_reachable
from pipelines.run_directory import read_run_description
from pipelines.run_model import first_image, log_run_model
from pipelines.stage import required

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisterResult:
    """What the registry holds now."""

    name: str
    version: int
    alias: str
    model_uri: str
    """models:/<model id> of the logged model behind the version."""
    run_id: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)


def run(config: Config, spark: SparkSession | None) -> RegisterResult:
    """Register the model of `run_dir` as `tracking.registered_model` and move `tracking.alias` to it.

    A run whose model is not in MLflow yet (the server was away at its end) has it logged first. Repeating it
    makes no second version.

    Args:
        config: `run_dir` and `tracking.registered_model` are needed.
        spark: not used.

    Raises:
        ConfigError: a needed key is missing, or `run_dir` is not a run.
        ModelError: the run has no checkpoint.
        TrackingError: the server does not answer or refuses.
    """
    run_dir = required(config.run_dir, "run_dir", "register")
    name = required(config.tracking.registered_model, "tracking.registered_model", "register")
    described = read_run_description(run_dir)
    run_id, tracking_uri = described.run_id, described.tracking_uri
    require_reachable(tracking_uri)
    model_uri = logged_model(tracking_uri=tracking_uri, run_id=run_id)
    if model_uri is None:
        model_uri = log_run_model(
            run_dir,
            tracking_uri=tracking_uri,
            run_id=run_id,
            example_image=first_image(described.dataset),
        )
    version = register_model(
        tracking_uri=tracking_uri,
        model_uri=model_uri,
        name=name,
        alias=config.tracking.alias,
    )
    return RegisterResult(
        name=name,
        version=version,
        alias=config.tracking.alias,
        model_uri=model_uri,
        run_id=run_id,
    )
