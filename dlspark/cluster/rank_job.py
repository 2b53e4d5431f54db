"""One job of ranks on a barrier stage of Spark, joined by Horovod or torch.distributed, and its watch.

Both have launchers for Spark, `horovod.spark.run` and pyspark's TorchDistributor. With both a failing rank
reaches the driver as "exited with non-zero status", without its host or its error, and nothing ends a rank
whose task was killed. Horovod's sleeps for seconds after the ranks have ended, and takes over signals. So the
stage is our own, and what joins the ranks is theirs: Horovod's rendezvous server, torch's store.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any

import cloudpickle  # type: ignore[import-untyped]

from dlspark.cluster.connections import Ports
from dlspark.cluster.failures import explain_failure, read_failures, read_hosts, spark_job_error
from dlspark.cluster.rank_task import RankEnd, run_task
from dlspark.cluster.seat import Joined
from dlspark.contracts import WorkerFunction, WorkerTask
from dlspark.errors import ClusterError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_log = logging.getLogger(__name__)
_rank_log = logging.getLogger("dlspark.ranks")

_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_FOR_OTHERS_TO_END = 5.0
_SECONDS_FOR_JOB_TO_END = 30.0
_CANCELLED = "[SPARK_JOB_CANCELLED]"
"""Spark's name of the error of a job that was cancelled, in its message."""


def run_rank_job(
    function: WorkerFunction,
    task: WorkerTask,
    *,
    joined: Joined,
    num_ranks: int,
    spark: SparkSession,
    start_timeout_seconds: float,
    threads_per_rank: int | None,
    stall_timeout_seconds: float,
    failures: str,
    ports: Ports | None = None,
    interface: str | None = None,
) -> list[Any]:
    """Run `function(task, communicator)` on `num_ranks` processes; return results by rank.

    Args:
        function: a top-level function, importable on the executors.
        task: its first argument.
        joined: what joins the ranks.
        num_ranks: processes; so many task slots must be free.
        spark: the session whose executors run them.
        start_timeout_seconds: how long they may take to start, and then to connect.
        threads_per_rank: torch threads of each; None shares the cores of a host among its ranks.
        stall_timeout_seconds: how long a rank may stand still; see `RankWatch`.
        failures: folder for the records of failures, writable from all ranks.
        ports: of which one is for the ranks to meet; None: any.
        interface: over which the ranks meet and talk; None: the one that leads to another rank's host.

    Raises:
        WorkerFailedError: a rank failed.
        ClusterError: the ranks did not start or did not find each other, a host has no free port of the range
            or no such interface, or somebody cancelled the job.
    """
    run = partial(
        run_task,
        joined=joined,
        call=cloudpickle.dumps((function, task)),
        failures=failures,
        threads=threads_per_rank,
        timeout_seconds=start_timeout_seconds,
        stall_timeout_seconds=stall_timeout_seconds,
        ports=ports,
        interface=interface,
    )
    job = _Job(spark, run, num_ranks)
    try:
        _watch(job, failures, num_ranks, start_timeout_seconds)
    finally:
        # Also on Ctrl-C and SIGTERM, which arrive here since the job runs in a thread of its own.
        job.end()
    ends = sorted(job.ends, key=lambda end: end.rank)
    if refusals := [end.refusal for end in ends if end.refusal is not None]:
        raise refusals[0]
    output = [line for end in ends for line in end.output]
    for line in output:
        _rank_log.log(logging.WARNING if line.startswith("[rank ") else logging.DEBUG, "%s", line)
    results = [end.result for end in ends if end.result is not None]
    if len(results) == num_ranks:
        return [cloudpickle.loads(result) for result in results]
    if job.was_cancelled_elsewhere():
        raise ClusterError(
            "the Spark job of the training was cancelled",
            where=f"the Spark application on {spark.sparkContext.master}",
            fix="if that was not meant, run the same command again: it goes on with the run",
        ) from job.error
    has_lost_rank = _has_lost_rank(failures, num_ranks)
    failed = explain_failure(num_ranks, failures, output, has_lost_rank=has_lost_rank)
    raise failed or spark_job_error(str(job.error)) from job.error


class _Job:
    """A Spark job of one barrier stage, in a thread."""

    def __init__(self, spark: SparkSession, run: Any, num_ranks: int) -> None:
        from pyspark import InheritableThread

        self.ends: list[RankEnd] = []
        self.error: Exception | None = None
        self._context = spark.sparkContext
        self._group = f"dlspark.ranks.{uuid.uuid4().hex}"
        self._ended = threading.Event()
        self._cancelled_here = False

        def work() -> None:
            try:
                # Without interrupts Spark waits two seconds until it kills the ranks beside a lost one: the
                # time in which they record that they lost their peer, and so tell which one it was.
                self._context.setJobGroup(self._group, f"{num_ranks} ranks", interruptOnCancel=False)
                rows = self._context.parallelize(range(num_ranks), num_ranks)
                self.ends = rows.barrier().mapPartitions(run).collect()
            except Exception as error:  # noqa: BLE001 - raised by run_rank_job, with what the ranks say
                self.error = error
            finally:
                self._ended.set()

        self._thread = InheritableThread(target=work, name="dlspark-rank-job", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Return whether the job has ended, at most so many seconds from now."""
        return self._ended.wait(seconds)

    def end(self) -> None:
        """Cancel what still runs, and wait for it."""
        if not self._ended.is_set():
            self._cancelled_here = True
            self._context.cancelJobGroup(self._group)
            self._ended.wait(_SECONDS_FOR_JOB_TO_END)

    def was_cancelled_elsewhere(self) -> bool:
        """Tell whether somebody else cancelled the job: in Spark's UI, or from a program."""
        return not self._cancelled_here and _CANCELLED in str(self.error)


def _watch(job: _Job, failures: str, num_ranks: int, start_timeout_seconds: float) -> None:
    """Return when the job has ended, or has to because a rank failed.

    Raises:
        ClusterError: the ranks did not start in time.
    """
    start_deadline = time.monotonic() + start_timeout_seconds
    have_started = False
    while not job.wait(_SECONDS_BETWEEN_LOOKS):
        if read_failures(failures):
            if not job.wait(_SECONDS_FOR_OTHERS_TO_END):
                _log.debug("a rank failed and others still run: cancelling the job")
            return
        have_started = have_started or _have_started(failures, num_ranks)
        if not have_started and time.monotonic() > start_deadline:
            raise ClusterError(
                f"the {num_ranks} workers did not start within {start_timeout_seconds:g} s",
                fix="check that nothing else takes the slots, or raise cluster.start_timeout_seconds",
            )


def _have_started(failures: str, num_ranks: int) -> bool:
    return "(not started)" not in read_hosts(failures, num_ranks)


def _has_lost_rank(failures: str, num_ranks: int) -> bool:
    """Tell whether a rank went away without a record; the others have some seconds to write theirs."""
    if not _have_started(failures, num_ranks):
        return False
    deadline = time.monotonic() + _SECONDS_FOR_OTHERS_TO_END
    while len(read_failures(failures)) < num_ranks - 1 and time.monotonic() < deadline:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    return len(read_failures(failures)) < num_ranks
