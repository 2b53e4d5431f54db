"""One `horovod.spark.run`, and the parts of it that a user would otherwise suffer from.

A failing rank does not end the others (a watcher cancels the Spark job some seconds after the first record of
a failure); the error says only "exited with non-zero status" (the records say why); SIGINT and SIGTERM are
taken over and kept (they are put back, and a Ctrl-C in between is raised as one); the output of ranks goes to
the executors' logs (it comes here as log lines); what `--py-files` ships is not importable (it is made so).
"""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import cloudpickle  # type: ignore[import-untyped]

from dlspark.cluster.failures import explain_failure, read_failures, spark_job_error
from dlspark.contracts import WorkerFunction, WorkerTask
from dlspark.errors import ClusterError, DlsparkError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_log = logging.getLogger(__name__)
_rank_log = logging.getLogger("dlspark.ranks")

_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_FOR_OTHERS_TO_END = 5.0
_NUM_LAST_LINES = 40


def run_horovod_job(
    function: WorkerFunction,
    task: WorkerTask,
    *,
    num_ranks: int,
    spark: SparkSession,
    start_timeout_seconds: float,
    threads_per_rank: int | None,
    stall_timeout_seconds: float,
    failures: str,
) -> list[Any]:
    """Run `function(task, communicator)` on `num_ranks` Horovod processes; return results by rank.

    Args:
        function: a top-level function, importable on the executors.
        task: its first argument.
        num_ranks: processes; so many task slots must be free.
        spark: the session whose executors run them.
        start_timeout_seconds: how long they may take to register and connect.
        threads_per_rank: torch threads of each; None shares the cores of a host among its ranks.
        stall_timeout_seconds: how long a rank may stand still; see `RankWatch`.
        failures: folder for the records of failures, writable from all ranks.

    Raises:
        WorkerFailedError: a rank failed.
        ClusterError: the ranks did not start or did not find each other.
    """
    if threading.current_thread() is not threading.main_thread():
        raise ClusterError("Horovod handles signals", got="another thread", fix="launch from the main thread")
    import horovod.spark
    from horovod.runner.common.util.timeout import TimeoutException
    from horovod.spark.driver import job_id

    call = cloudpickle.dumps((function, task))
    output = _RankOutput()
    job_group = f"horovod.spark.run.{job_id.JOB_ID + 1}"
    with _signals() as received, _thread_errors() as thread_errors, _watcher(spark, job_group, failures):
        try:
            results = horovod.spark.run(
                _rank_entry(spark, call, failures, threads_per_rank, stall_timeout_seconds),
                num_proc=num_ranks,
                start_timeout=start_timeout_seconds,
                use_gloo=True,
                env={"HOROVOD_LOG_LEVEL": "error"},
                stdout=output,
                stderr=output,
                verbose=0,
                executable=spark.sparkContext.pythonExec,
            )
        except TimeoutException as error:
            raise ClusterError(
                f"the {num_ranks} workers did not start within {start_timeout_seconds:g} s",
                got=str(error).split(".")[0],
                where=f"the Spark application on {spark.sparkContext.master}",
                fix="check that nothing else takes the slots and that executors and driver reach each other, "
                "or raise cluster.start_timeout_seconds",
            ) from error
        except Exception as error:
            arrived = received()
            if signal.SIGINT in arrived:
                raise KeyboardInterrupt from error
            if signal.SIGTERM in arrived:
                raise SystemExit(128 + signal.SIGTERM) from error
            raise _explain(error, num_ranks, failures, output.last_lines(), thread_errors) from error
    return [cloudpickle.loads(result) for result in results]


def _rank_entry(
    spark: SparkSession, call: bytes, failures: str, threads: int | None, stall_timeout_seconds: float
) -> Callable[[], bytes]:
    """Return a function that is pickled by value, so that it can make dlspark importable on the rank."""
    from pyspark import SparkFiles

    folder = SparkFiles.getRootDirectory()
    names = ["", *(spark.sparkContext._python_includes or ())]

    def enter() -> bytes:
        import sys
        from pathlib import Path

        # Spark puts these on the path of its own Python workers only. On executors they lie in the working
        # folder, in local mode in the driver's.
        found = [Path(root, name) for root in (Path.cwd(), folder) for name in names]
        sys.path[1:1] = [str(path) for path in found if path.exists()]
        from dlspark.cluster.rank import run_horovod_rank

        return run_horovod_rank(call, failures, threads, stall_timeout_seconds)

    return enter


def _explain(
    error: Exception, num_ranks: int, failures: str, output: Sequence[str], thread_errors: Sequence[str]
) -> DlsparkError:
    # Horovod names the rank whose end it saw first, which may be one that failed because of another.
    has_lost_rank = re.search(r"Process name: \d+\s+Exit code: \S+", str(error)) is not None
    failed = explain_failure(num_ranks, failures, output, has_lost_rank=has_lost_rank)
    if failed is not None:
        return failed
    reason = thread_errors[0] if thread_errors else str(error)
    return spark_job_error(reason)


class _RankOutput:
    """Takes what the ranks print: log lines of ours become warnings here, the rest is for --debug."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_NUM_LAST_LINES)
        self._rests: dict[int, str] = {}

    def write(self, text: str) -> int:
        """Take a piece of text from one of Horovod's threads, one for each stream of each rank."""
        thread = threading.get_ident()
        *lines, self._rests[thread] = (self._rests.get(thread, "") + text).split("\n")
        for line in lines:
            content = re.sub(r"^\[\d+\]<std(out|err)>:", "", line.rstrip("\r"))
            self._lines.append(content)
            _rank_log.log(logging.WARNING if content.startswith("[rank ") else logging.DEBUG, "%s", content)
        return len(text)

    def flush(self) -> None:
        """Do nothing: lines are passed on as they end."""

    def last_lines(self) -> list[str]:
        """Return the last lines of all ranks."""
        return [*self._lines, *filter(None, self._rests.values())]


@contextlib.contextmanager
def _watcher(spark: SparkSession, job_group: str, failures: str) -> Iterator[None]:
    """Cancel the Spark job some seconds after a rank failed: others may be far from their next collective."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_SECONDS_BETWEEN_LOOKS):
            if read_failures(failures):
                if not ended.wait(_SECONDS_FOR_OTHERS_TO_END):
                    _log.debug("a rank failed and others still run: cancelling %s", job_group)
                    spark.sparkContext.cancelJobGroup(job_group)
                return

    thread = threading.Thread(target=watch, name="dlspark-watch-ranks", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], set[int]]]:
    """Give a function that tells which signals arrived; put the handlers back that Horovod replaces."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def received() -> set[int]:
        with contextlib.suppress(BlockingIOError):
            return set(reader.recv(4096))
        return set()

    try:
        yield received
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        reader.close()
        writer.close()


@contextlib.contextmanager
def _thread_errors() -> Iterator[list[str]]:
    """Collect the errors of Horovod's own threads, which would print tracebacks over the one that matters."""
    errors: list[str] = []
    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        trace = arguments.exc_traceback
        while trace is not None:
            if str(trace.tb_frame.f_globals.get("__name__", "")).startswith("horovod."):
                errors.append(str(arguments.exc_value))
                return
            trace = trace.tb_next
        before(arguments)

    threading.excepthook = hook
    try:
        yield errors
    finally:
        threading.excepthook = before
