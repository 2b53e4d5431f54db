"""The process of one rank: `python -m dlspark.cluster.rank_process`, with its order on stdin."""

from __future__ import annotations

import logging
import os
import pickle
import sys
from contextlib import AbstractContextManager
from functools import partial
from typing import NoReturn

from dlspark.cluster.rank import run_rank
from dlspark.cluster.rank_task import RankOrder
from dlspark.cluster.supervise import end_with_parent
from dlspark.cluster.whereabouts import Board, RankWhereabouts
from dlspark.contracts import Communicator
from dlspark.heap import keep_freed_memory


def main() -> None:
    """Run a rank; its result goes to the file that the order names, an error ends it with exit code 1."""
    order: RankOrder = pickle.loads(sys.stdin.buffer.read())  # noqa: S301 - from the task that started this
    end_with_parent(order.parent)
    keep_freed_memory()
    result = run_rank(
        order.call,
        partial(_communicator, order),
        rank=order.seat.rank,
        num_ranks=order.seat.size,
        failures=order.failures,
        num_threads=order.num_threads,
        board=Board(order.board),
    )
    with os.fdopen(order.result_file, "wb") as file:
        file.write(result)
    _end()


def _end() -> NoReturn:
    """End this process without the interpreter's end.

    In that, a thread of a library that lets go of a Python object (gloo's, of the tensor of the last
    collective) aborts the process, and a rank that has done all its work counts as lost.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _communicator(order: RankOrder, whereabouts: RankWhereabouts) -> AbstractContextManager[Communicator]:
    # Imported here: Horovod is not installed where only torch is used.
    if order.joined == "horovod":
        from dlspark.cluster.horovod_communicator import HorovodCommunicator

        return HorovodCommunicator(order.seat, whereabouts)
    from dlspark.cluster.torch_communicator import TorchCommunicator

    return TorchCommunicator(order.seat, whereabouts, timeout_seconds=order.timeout_seconds)


if __name__ == "__main__":
    main()
