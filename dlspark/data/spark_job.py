"""Run one Spark action while the driver shows how many of its tasks are done.

The action runs in a thread of its own, under a job group, and Spark's status tracker is polled for the
group's last stage. Whatever ends the wait (an error, Ctrl-C) cancels the group.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from py4j.protocol import Py4JError  # type: ignore[import-untyped]
from pyspark import InheritableThread, SparkContext
from pyspark.errors import PySparkException

from dlspark.contracts import Progress
from dlspark.errors import DatasetError, SourceError

Result = TypeVar("Result")

_POLL_SECONDS = 0.25


def run_job(
    context: SparkContext,
    action: Callable[[], Result],
    *,
    description: str,
    num_tasks: int,
    num_units: int,
    progress: Progress,
    stage: str = "ingest",
) -> Result:
    """Return what `action` returns.

    Args:
        context: of the session that runs it.
        action: calls one Spark action whose last stage has `num_tasks` tasks.
        description: of the job, in Spark's UI.
        num_tasks: see `action`.
        num_units: what the tasks make, such as files; a task that is done counts as its share of them.
        progress: is told the units that are done.
        stage: that the job is a part of, for the messages.

    Raises:
        DatasetError: see `task_errors`.
        SourceError: see `task_errors`.
    """
    group = f"dlspark-{uuid.uuid4().hex}"
    future: Future[Result] = Future()

    def run() -> None:
        context.setJobGroup(group, description, interruptOnCancel=True)
        try:
            future.set_result(action())
        except BaseException as error:  # noqa: BLE001 - raised by future.result()
            future.set_exception(error)

    thread = InheritableThread(target=run, daemon=True)
    progress.update(0, num_units)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_POLL_SECONDS)
            num_done = min(_num_done(context, group, num_tasks), num_tasks)
            progress.update(num_done * num_units // num_tasks, num_units)
        with task_errors(stage):
            result = future.result()
    except (DatasetError, SourceError):
        raise
    except BaseException:
        context.cancelJobGroup(group)
        raise
    progress.update(num_units, num_units)
    return result


@contextlib.contextmanager
def task_errors(stage: str = "ingest") -> Iterator[None]:
    """Raise what failed in a task of a stage for good as one line, without the traces of Python and the JVM.

    Raises:
        DatasetError: the storage of the dataset is full.
        SourceError: any other failure; the message has the last line of the task's own error.
    """
    try:
        yield
    except (Py4JError, PySparkException) as error:
        line = last_python_line(str(error))
        if os.strerror(errno.ENOSPC) in line:
            raise DatasetError(
                "the storage is full",
                got=line,
                fix=f"make room, or choose another place, and run {stage} again; nothing was published",
            ) from error
        raise SourceError(
            f"a task of the stage {stage} failed",
            got=line,
            fix=f"repair the cause and run {stage} again; nothing was published",
        ) from error


def last_python_line(text: str) -> str:
    """Return the last line of the Python traceback in an error of Spark, else the error's first line."""
    before_java = text.split("\n\tat ", maxsplit=1)[0]
    _, traceback, lines = before_java.rpartition("Traceback (most recent call last):")
    return lines.strip().splitlines()[-1 if traceback else 0].strip()


def _num_done(context: SparkContext, group: str, num_tasks: int) -> int:
    tracker = context.statusTracker()
    done = 0
    for job in tracker.getJobIdsForGroup(group):
        info = tracker.getJobInfo(job)
        for stage in info.stageIds if info else ():
            stage_info = tracker.getStageInfo(stage)
            if stage_info and stage_info.numTasks == num_tasks:
                done = max(done, stage_info.numCompletedTasks)
    return done
