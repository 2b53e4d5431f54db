"""What runs in the process of a rank, around the function that the driver sends, and what its parent notes.

The function is unpickled only after the number of threads is in the environment, since unpickling imports
torch, which reads it then.
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
from dlspark.cluster.whereabouts import Board, Place, RankWhereabouts

if TYPE_CHECKING:
    from dlspark.contracts import Communicator

_log = logging.getLogger(__name__)


def run_rank(
    call: bytes,
    join: Callable[[RankWhereabouts], AbstractContextManager[Communicator]],
    *,
    rank: int,
    num_ranks: int,
    failures: str,
    num_threads: int,
    board: Board,
) -> bytes:
    """Join a job and run a function, in the process of the rank; an error is recorded and raised.

    Args:
        call: cloudpickle of (function, task).
        join: returns the communicator, a context manager that joins and leaves the job.
        rank: of this process.
        num_ranks: of the job.
        failures: folder for the record of a failure.
        num_threads: of torch.
        board: shared with the parent, which watches this rank from when it has joined the job.

    Returns:
        cloudpickle of what `function(task, communicator)` returned.
    """
    host = socket.gethostname()
    _start_logging(rank, host)
    write_host(failures, rank, host)
    board.take_stacks()
    whereabouts = RankWhereabouts(board)
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    # The record is written before the job is left, so that it is older than those of other ranks.
    with ExitStack() as stack, _recording(failures, rank, num_ranks, host, whereabouts):
        function, task = cloudpickle.loads(call)
        import torch

        torch.set_num_threads(num_threads)
        communicator = stack.enter_context(join(whereabouts))
        whereabouts.note("start")
        result = function(task, communicator)
        whereabouts.note("end")
        return bytes(cloudpickle.dumps(result))


def note_end(
    failures: str,
    exit_code: int,
    *,
    rank: int,
    num_ranks: int,
    output: Sequence[str] = (),
    place: Place | None = None,
) -> None:
    """Record how the process of a rank ended, on its host, unless it has left a record itself."""
    if not has_failure(failures, rank):
        record = record_end(
            exit_code,
            rank=rank,
            num_ranks=num_ranks,
            host=socket.gethostname(),
            output=output,
            place=place,
        )
        write_failure(failures, record)


@contextmanager
def _recording(
    folder: str, rank: int, num_ranks: int, host: str, whereabouts: RankWhereabouts
) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        record = record_failure(error, rank=rank, num_ranks=num_ranks, host=host, place=whereabouts.place)
        try:
            # The parent may have written why this rank is to end, of which the error is a consequence.
            if not has_failure(folder, rank):
                write_failure(folder, record)
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
