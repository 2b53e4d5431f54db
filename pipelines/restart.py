"""Restarts: a training that lost a worker goes on by itself from its newest checkpoint, in the same run.

Only a rank that went away without an error of its own is worth it (killed, crashed, lost with its executor):
an error that a rank raised would come again. So would a crash that a step itself causes, which is told by its
coming twice after the same step.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dlspark.cluster.preflight import count_slots, require_slots
from dlspark.config.schema import ClusterConfig
from dlspark.contracts import TrainResult, WorkerTask
from dlspark.errors import ClusterError, LostWorkerError
from dlspark.tracking.events import MetricsEvent
from dlspark.tracking.journal import read_segments
from dlspark.tracking.run import TrackedRun
from dlspark.training.checkpoint import read_description
from pipelines.resume import resumed

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_log = logging.getLogger(__name__)

Launch = Callable[[WorkerTask, int], TrainResult]
"""Trains a task with so many workers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LostWorker:
    """How an attempt lost a worker, and where it was then."""

    what: str
    """What happened, in one line."""
    step: int | None
    """The last optimizer step that rank 0 journaled; None: it had done none."""


def train_with_restarts(
    launch: Launch, task: WorkerTask, cluster: ClusterConfig, spark: SparkSession | None, tracked: TrackedRun
) -> TrainResult:
    """Train, and start again after the loss of a worker, `cluster.max_restarts` times at most.

    Args:
        launch: trains a task with a number of workers.
        task: of the first attempt.
        cluster: how often, and with how many workers.
        spark: the session; None for the local backend.
        tracked: the run, which each restart and the time that it lost are logged to.

    Raises:
        LostWorkerError: a worker was lost, and no restart is left or would help.
        WorkerFailedError: a rank raised an error.
        ClusterError: there are too few slots for a restart.
    """
    num_workers, num_restarts, before = cluster.workers, 0, None
    while True:
        started = time.time()
        try:
            return launch(task, num_workers)
        except LostWorkerError as error:
            loss = LostWorker(what=error.what, step=_last_step(task))
            reason = reason_to_stop(loss, before, num_restarts, max_restarts=cluster.max_restarts)
            if reason is not None:
                raise _stopped(error, reason) from error
        before, num_restarts = loss, num_restarts + 1
        _log.warning("%s; restart %d of %d", loss.what, num_restarts, cluster.max_restarts)
        num_workers = _free_workers(spark, cluster)
        task = replace(task, **resumed(task))
        lost_seconds = time.time() - max(started, _passed(task))
        _log.info("the restart lost %.1f s of training, and what it takes to start", lost_seconds)
        tracked.set_tags(
            {
                "dlspark.attempt": task.attempt,
                "dlspark.restarts": num_restarts,
                "dlspark.last_restart": f"after step {loss.step}: {loss.what}",
            }
        )
        tracked.log_metrics({"restart/lost_seconds": lost_seconds}, step=num_restarts)


def reason_to_stop(
    loss: LostWorker, before: LostWorker | None, num_restarts: int, *, max_restarts: int
) -> str | None:
    """Return why a training is not started again after a loss; None if it is.

    Args:
        loss: the one that just happened.
        before: the one before it, in the same run.
        num_restarts: done so far.
        max_restarts: allowed.
    """
    if max_restarts == 0:
        return ""
    if before is not None and before.step == loss.step:
        where = "before the first step" if loss.step is None else f"after step {loss.step}"
        return f"not started again: it has failed twice {where}"
    if num_restarts >= max_restarts:
        return f"not started again: cluster.max_restarts={max_restarts} is used up"
    return None


def _stopped(error: LostWorkerError, reason: str) -> LostWorkerError:
    """Return the error with the reason in its first line."""
    if not reason:
        return error
    first, *more = str(error).split("\n", 1)
    error.args = ("\n".join((f"{first.rstrip('.')}; {reason}.", *more)),)
    return error


def _free_workers(spark: SparkSession | None, cluster: ClusterConfig) -> int:
    """Return with how many workers a training starts again: all if their slots come back in time."""
    if spark is None:
        return cluster.workers
    try:
        require_slots(spark, cluster.workers, cluster.slots_timeout_seconds)
    except ClusterError:
        slots = count_slots(spark)
        free = slots.available - slots.in_use
        if cluster.min_workers is None or free < cluster.min_workers:
            raise
        _log.warning("going on with %d of %d workers: there are no more slots", free, cluster.workers)
        return min(free, cluster.workers)
    return cluster.workers


def _last_step(task: WorkerTask) -> int | None:
    return max((event.step for event in _steps_of(task.run_dir, task.attempt)), default=None)


def _passed(task: WorkerTask) -> float:
    """Return the Unix time at which the last attempt passed the step that a task goes back to; else 0."""
    if task.resume_from is None:
        return 0.0
    step = read_description(task.resume_from).step
    times = [event.time_ms for event in _steps_of(task.run_dir, task.attempt - 1) if event.step == step]
    return max(times, default=0) / 1000


def _steps_of(run_dir: str, attempt: int) -> list[MetricsEvent]:
    return [
        event
        for segment in read_segments(run_dir)
        if segment.attempt == f"rank0-{attempt:03d}"
        for event in segment.events
        if isinstance(event, MetricsEvent) and "step/loss" in event.values
    ]
