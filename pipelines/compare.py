"""The stage `compare`: trainings that differ in a few words, below one run that shows them together.

Each training is an ordinary one in a folder of its own below run_dir: the same command again goes on with
those that are not complete. One that fails (a learning rate that diverges, say) is a result too.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from dlspark import storage
from dlspark.config import Config
from dlspark.config.vary import vary
from dlspark.data.manifest import read_manifest
from dlspark.errors import ConfigError, LostWorkerError, ModelError, WorkerFailedError
from dlspark.tracking.journal import metric_history, read_events
from dlspark.tracking.run import TrackedRun, continue_run, start_run
from pipelines import train
from pipelines.preflight import require_workers
from pipelines.run_directory import (
    RunDescription,
    clear_run_dir,
    find_run,
    new_run_dir,
    next_attempt,
    write_config,
    write_run_description,
)
from pipelines.stage import required, with_backend

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_log = logging.getLogger(__name__)
_FEWEST = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedRun:
    """One of the trainings."""

    words: str
    """In which it differs from the others."""
    run_dir: str
    run_id: str | None
    """Of its MLflow run; None where it failed."""
    steps: int | None
    train_seconds: float | None
    val_loss: float | None
    val_accuracy: float | None
    """Share in [0, 1], of the val split after the last epoch."""
    error: str | None = None
    """Why it failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareResult:
    """All trainings."""

    run_id: str
    """Of the MLflow run that is their parent."""
    run_dir: str
    picture: str
    runs: tuple[ComparedRun, ...]
    best: str | None
    """The words of the one with the highest validation accuracy."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)


def run(config: Config, spark: SparkSession | None) -> CompareResult:
    """Train once for each text of `compare.runs`, and draw all their curves in one picture.

    Args:
        config: dataset and compare.runs are required; the rest is what the trainings share.
        spark: the session whose executors train; None for cluster.backend=local.

    Raises:
        DlsparkError: before anything is written, what is wrong with any of the trainings.
    """
    dataset = storage.absolute(required(config.dataset, "dataset", "compare"))
    run_dir = storage.absolute(config.run_dir) if config.run_dir else new_run_dir()
    config = with_backend(config.model_copy(update={"dataset": dataset, "run_dir": run_dir}))
    variants = _variants(config, run_dir)
    manifest = read_manifest(dataset)
    earlier = find_run(run_dir, overwrite=config.overwrite, resume=config.resume)
    for variant in variants.values():
        train.refuse_what_cannot_train(variant, manifest, is_new=earlier is None)
    require_workers(config, spark, dataset=dataset, run_dir=run_dir)
    if earlier is None:
        clear_run_dir(run_dir)
    write_config(run_dir, config)
    with _start(config, run_dir, manifest.fingerprint, earlier) as tracked:
        described = RunDescription(
            run_id=tracked.run_id,
            experiment_id=tracked.experiment_id,
            tracking_uri=tracked.tracking_uri,
            dataset=dataset,
            fingerprint=manifest.fingerprint,
        )
        write_run_description(run_dir, described)
        runs = tuple(
            _train(words, variant, spark, tracked, index)
            for index, (words, variant) in enumerate(variants.items())
        )
        picture = _draw(runs, run_dir, tracked)
    best = max(
        (each for each in runs if each.val_accuracy is not None),
        key=lambda each: each.val_accuracy or 0.0,
        default=None,
    )
    result = CompareResult(
        run_id=tracked.run_id,
        run_dir=run_dir,
        picture=picture,
        runs=runs,
        best=best.words if best else None,
    )
    _show(result)
    return result


def _variants(config: Config, run_dir: str) -> dict[str, Config]:
    """Return words -> configuration of each training."""
    texts = [" ".join(text.split()) for text in config.compare.runs]
    folders = [_folder(text) for text in texts]
    if len(set(folders)) < max(len(texts), _FEWEST):
        raise ConfigError(
            "`compare` needs trainings that differ",
            got=", ".join(repr(text) for text in texts) or "nothing",
            allowed="two texts or more, each once",
            where="compare.runs",
            fix='add compare.runs=\'["optimizer=sgd", "optimizer=adam optimizer.lr=0.01"]\'',
        )
    shared = config.model_copy(update={"overwrite": False, "resume": "auto"})
    return {
        text: _named(vary(shared, text.split()), storage.join(run_dir, folder), text)
        for text, folder in zip(texts, folders, strict=True)
    }


def _named(config: Config, run_dir: str, text: str) -> Config:
    tracking = config.tracking.model_copy(update={"run_name": text})
    return config.model_copy(update={"run_dir": run_dir, "tracking": tracking})


def _folder(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)


def _start(
    config: Config, run_dir: str, fingerprint: str, earlier: RunDescription | None
) -> AbstractContextManager[TrackedRun]:
    values = config.model_dump(mode="json")
    tags = {"dlspark.run_dir": run_dir, "dlspark.fingerprint": fingerprint}
    if earlier is not None:
        return continue_run(
            run_dir=run_dir,
            tracking_uri=earlier.tracking_uri,
            experiment_id=earlier.experiment_id,
            run_id=earlier.run_id,
            attempt=next_attempt(run_dir),
            config=values,
            tags=tags,
            system_metrics_seconds=None,
        )
    return start_run(
        tracking_uri=config.tracking.uri,
        experiment=config.tracking.experiment,
        run_name=config.tracking.run_name,
        run_dir=run_dir,
        config=values,
        tags=tags,
        dataset=None,
        system_metrics_seconds=None,
    )


def _train(
    words: str, config: Config, spark: SparkSession | None, tracked: TrackedRun, index: int
) -> ComparedRun:
    run_dir = config.run_dir or ""
    _log.info("training %d: %s", index + 1, words)
    try:
        done = train.run(config, spark, parent_run_id=tracked.run_id)
    except LostWorkerError:
        raise
    except (ModelError, WorkerFailedError) as error:
        first = str(error).splitlines()[0]
        _log.error("%s failed: %s", words, first)
        return ComparedRun(
            words=words,
            run_dir=run_dir,
            run_id=None,
            steps=None,
            train_seconds=None,
            val_loss=None,
            val_accuracy=None,
            error=first,
        )
    figures = {"val_loss": done.val_loss, "val_accuracy": done.val_accuracy}
    tracked.log_metrics(
        {f"{name}/{_folder(words)}": value for name, value in figures.items() if value is not None},
        step=done.steps,
    )
    return ComparedRun(
        words=words,
        run_dir=run_dir,
        run_id=done.run_id,
        steps=done.steps,
        train_seconds=done.train_seconds,
        val_loss=done.val_loss,
        val_accuracy=done.val_accuracy,
    )


def _draw(runs: tuple[ComparedRun, ...], run_dir: str, tracked: TrackedRun) -> str:
    # Here, and not above: matplotlib takes seconds to import.
    from dlspark.inspection.comparison import draw_comparison

    picture = storage.join(run_dir, "pictures", "comparison.png")
    draw_comparison({each.words: metric_history(read_events(each.run_dir)) for each in runs}, picture)
    tracked.log_artifact(picture)
    table = storage.join(run_dir, "comparison.json")
    storage.write_json(table, {"runs": [dataclasses.asdict(each) for each in runs]})
    tracked.log_artifact(table)
    return picture


def _show(result: CompareResult) -> None:
    table = Table("words", "val accuracy", "val loss", "steps", "seconds", box=None)
    for each in result.runs:
        if each.error is not None:
            table.add_row(each.words, f"failed: {each.error}")
            continue
        accuracy = "-" if each.val_accuracy is None else f"{each.val_accuracy:.4f}"
        loss = "-" if each.val_loss is None else f"{each.val_loss:.4g}"
        table.add_row(each.words, accuracy, loss, f"{each.steps:,}", f"{each.train_seconds:.1f}")
    console = Console(stderr=True)
    console.print(table)
    console.print(f"{result.picture}")
