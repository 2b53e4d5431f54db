"""Whether a run goes on: the same training as before, and the newest state of it that is whole."""

from __future__ import annotations

import logging
from typing import Any

from dlspark.config import Config
from dlspark.contracts import WorkerTask
from dlspark.errors import ConfigError, DatasetError
from dlspark.training.snapshots import checkpoints_folder, newest_snapshot
from pipelines.run_directory import RunDescription, next_attempt, read_config

_log = logging.getLogger(__name__)

_SECTIONS = ("model", "transfer", "loss", "optimizer", "schedule", "regularize", "augment", "train")
"""What a training is, beside its dataset. How its rows are read, where it runs and is recorded, and what is
saved of it may change from start to start."""


def require_same_training(config: Config, run_dir: str, fingerprint: str, earlier: RunDescription) -> None:
    """Return if a configuration is that of the run in `run_dir`, as far as it decides what is learned.

    Raises:
        ConfigError: keys differ; all are named.
        DatasetError: the dataset is another one.
    """
    if fingerprint != earlier.fingerprint:
        raise DatasetError(
            "the dataset is not the one that the run was started with",
            got=f"fingerprint {fingerprint} of {config.dataset}",
            allowed=f"{earlier.fingerprint}, as {earlier.dataset} had",
            where=f"run_dir={run_dir}",
            fix="restore the dataset, or choose another run_dir, or set overwrite=true to train anew",
        )
    now, before = _keys(config), _keys(read_config(run_dir))
    differ = sorted(key for key in now | before if now.get(key) != before.get(key))
    if differ:
        raise ConfigError(
            "the run was started with other values of keys that decide what it learns",
            got=", ".join(f"{key}={now.get(key)}" for key in differ),
            allowed=", ".join(f"{key}={before.get(key)}" for key in differ),
            where=f"run_dir={run_dir}",
            fix="set them back to go on, or choose another run_dir, or set overwrite=true to train anew",
        )


def resumed(task: WorkerTask) -> dict[str, Any]:
    """Return the fields of a task that say where its run goes on; logged."""
    stored = newest_snapshot(checkpoints_folder(task.run_dir))
    if stored is None:
        _log.info("the run in %s goes on from its beginning: nothing was saved", task.run_dir)
    else:
        at = stored.description
        _log.info("the run in %s goes on after step %d, from %s", task.run_dir, at.step, stored.url)
    return {"attempt": next_attempt(task.run_dir), "resume_from": stored.url if stored else None}


def _keys(config: Config) -> dict[str, Any]:
    values = config.model_dump(mode="json", include=set(_SECTIONS))
    return {f"{section}.{name}": value for section in values for name, value in values[section].items()}
