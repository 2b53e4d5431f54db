"""Run one function on N ranks and give back what they return, or one error that names rank, host and cause.

Three backends: `local` is this process with a communicator of one; `horovod` and `torch` start one process in
each of N Spark tasks of a barrier stage, joined by Horovod or by torch.distributed. On all, slots are checked
first, a failing rank ends the job and is named, Ctrl-C works, and nothing reaches stdout.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dlspark import storage
from dlspark.cluster.backends import Backend, choose_backend
from dlspark.cluster.communicator import LocalCommunicator
from dlspark.cluster.connections import Ports
from dlspark.cluster.failures import record_failure, recorded_error
from dlspark.cluster.local_watch import LocalWatch
from dlspark.cluster.preflight import require_slots
from dlspark.cluster.rank_job import run_rank_job
from dlspark.contracts import WorkerFunction, WorkerTask
from dlspark.errors import ClusterError
from dlspark.heap import keep_freed_memory

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_log = logging.getLogger(__name__)


def launch(
    function: WorkerFunction,
    task: WorkerTask,
    *,
    backend: Backend,
    num_workers: int,
    spark: SparkSession | None,
    start_timeout_seconds: float,
    threads_per_worker: int | None,
    slots_timeout_seconds: float = 20.0,
    stall_timeout_seconds: float = 300.0,
    ports: Ports | None = None,
    interface: str | None = None,
) -> list[Any]:
    """Run `function(task, communicator)` on every rank and return the results in the order of ranks.

    Args:
        function: a top-level function, importable where the ranks run.
        task: what it works on; failures of ranks are recorded below its `run_dir`.
        backend: horovod or torch (processes on the executors of `spark`), or local (this process).
        num_workers: ranks; 1 with backend local.
        spark: the session that horovod and torch use; None with backend local.
        start_timeout_seconds: how long the ranks may take to find each other.
        threads_per_worker: torch threads of a rank; None shares the cores of a host among its ranks.
        slots_timeout_seconds: how long to wait for free task slots, at most 25 s.
        stall_timeout_seconds: how long a rank may stand still until all leave their Python stacks and the
            late one is named; with backend local only what comes back to Python can be interrupted.
        ports: first and last of a range, of which one is for the ranks to meet; None: any.
        interface: network interface over which the ranks meet and talk; None: the one that leads to another
            rank's host. Neither is used with backend local.

    Raises:
        WorkerFailedError: a rank failed; its traceback is the error's note.
        ClusterError: Horovod is not usable, slots are missing, the ranks did not find each other in time, or
            a host has no free port of the range or no such interface.
    """
    if backend == "local":
        if num_workers != 1:
            raise ClusterError("the local backend is one process", got=f"{num_workers} workers", allowed="1")
        return [_run_here(function, task, threads_per_worker, stall_timeout_seconds)]
    if spark is None:
        raise ClusterError(
            f"cluster.backend={backend} needs a Spark session", fix="set cluster.backend=local"
        )
    choose_backend(backend)
    require_slots(spark, num_workers, slots_timeout_seconds)
    failures = _failures_of(task)
    _log.debug("launching %d ranks, whose failures go to %s", num_workers, failures)
    return run_rank_job(
        function,
        task,
        joined=backend,
        num_ranks=num_workers,
        spark=spark,
        start_timeout_seconds=start_timeout_seconds,
        threads_per_rank=threads_per_worker,
        stall_timeout_seconds=stall_timeout_seconds,
        failures=failures,
        ports=ports,
        interface=interface,
    )


def _failures_of(task: WorkerTask) -> str:
    """Return the folder for what is recorded of the failures of one launch."""
    attempt = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
    return storage.join(storage.absolute(task.run_dir), "failures", attempt)


def _run_here(function: WorkerFunction, task: WorkerTask, threads: int | None, stall_seconds: float) -> Any:
    keep_freed_memory()
    communicator, host, failures = LocalCommunicator(), socket.gethostname(), _failures_of(task)
    whereabouts = communicator.whereabouts
    watch = LocalWatch(whereabouts, failures, host=host, timeout_seconds=stall_seconds)
    try:
        with _torch_threads(threads), watch.over_this_thread():
            whereabouts.note("start")
            return function(task, communicator)
    except KeyboardInterrupt:
        if watch.record is None:
            raise
        raise recorded_error(watch.record, num_others=0, where=failures) from None
    except Exception as error:
        record = record_failure(error, rank=0, num_ranks=1, host=host, place=whereabouts.place)
        raise recorded_error(record, num_others=0, where=None) from error


@contextlib.contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    if threads is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
