"""What runs in the processes of one rank, around the function that the driver sends, on both backends.

Horovod's process only watches; the rank is its child (see `supervise`), so that its end is recorded however
it comes. The function is unpickled only after the number of threads is in the environment, since unpickling
imports torch, which reads it then.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING

import cloudpickle  # type: ignore[import-untyped]

from dlspark.cluster.failures import has_failure, record_end, record_failure, write_failure, write_host
from dlspark.cluster.supervise import run_supervised

if TYPE_CHECKING:
    from dlspark.contracts import Communicator

_log = logging.getLogger(__name__)


def run_horovod_rank(call: bytes, failures: str, threads: int | None) -> bytes:
    """Join the job and run a function; whatever else ends the rank is recorded and ends this process too.

    Args:
        call: cloudpickle of (function, task).
        failures: folder for the record of a failure.
        threads: torch threads; None: the host's cores shared by the ranks on it.

    Returns:
        cloudpickle of what `function(task, communicator)` returned.

    Raises:
        SystemExit: the rank failed.
    """
    # Horovod's launcher sets these for each process.
    rank, num_ranks = int(os.environ["HOROVOD_RANK"]), int(os.environ["HOROVOD_SIZE"])
    local_size = int(os.environ["HOROVOD_LOCAL_SIZE"])

    def ended(exit_code: int, told_to_end: bool) -> None:
        note_end(failures, exit_code, rank=rank, num_ranks=num_ranks, told_to_end=told_to_end)

    def run() -> bytes:
        return run_rank(
            call,
            _join_horovod,
            rank=rank,
            num_ranks=num_ranks,
            failures=failures,
            num_threads=threads or share_of_cores(local_size),
        )

    return run_supervised(run, ended)


def _join_horovod() -> AbstractContextManager[Communicator]:
    from dlspark.cluster.horovod_communicator import HorovodCommunicator

    return HorovodCommunicator()


def run_rank(
    call: bytes,
    join: Callable[[], AbstractContextManager[Communicator]],
    *,
    rank: int,
    num_ranks: int,
    failures: str,
    num_threads: int,
) -> bytes:
    """Join a job and run a function, in the process of the rank; an error is recorded and raised.

    Args:
        call: cloudpickle of (function, task).
        join: returns the communicator, a context manager that joins and leaves the job.
        rank: of this process.
        num_ranks: of the job.
        failures: folder for the record of a failure.
        num_threads: of torch.

    Returns:
        cloudpickle of what `function(task, communicator)` returned.
    """
    host = socket.gethostname()
    _start_logging(rank, host)
    write_host(failures, rank, host)
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    # The record is written before the job is left, so that it is older than those of other ranks.
    with ExitStack() as stack, _recording(failures, rank, num_ranks, host):
        function, task = cloudpickle.loads(call)
        import torch

        torch.set_num_threads(num_threads)
        communicator = stack.enter_context(join())
        return bytes(cloudpickle.dumps(function(task, communicator)))


def note_end(
    failures: str,
    exit_code: int,
    *,
    rank: int,
    num_ranks: int,
    told_to_end: bool = False,
    output: Sequence[str] = (),
) -> None:
    """Record how the process of a rank ended, on its host, unless it has left a record itself."""
    if not has_failure(failures, rank):
        record = record_end(
            exit_code,
            rank=rank,
            num_ranks=num_ranks,
            host=socket.gethostname(),
            told_to_end=told_to_end,
            output=output,
        )
        write_failure(failures, record)


@contextmanager
def _recording(folder: str, rank: int, num_ranks: int, host: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        try:
            write_failure(folder, record_failure(error, rank=rank, num_ranks=num_ranks, host=host))
        except OSError:
            _log.exception("the failure of this rank could not be recorded in %s", folder)
        raise


def share_of_cores(local_size: int) -> int:
    """Return the cores that this process may use, shared by the ranks of its host; at least 1."""
    return max(1, len(os.sched_getaffinity(0)) // local_size)


def _start_logging(rank: int, host: str) -> None:
    """Send warnings to stderr, which the driver reads line by line, and Python stacks on a crash too."""
    logging.basicConfig(
        level=logging.WARNING,
        stream=sys.stderr,
        format=f"[rank {rank} {host}] %(levelname)s %(name)s: %(message)s",
        force=True,
    )
    faulthandler.enable()
