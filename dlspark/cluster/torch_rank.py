"""The process of one rank of a torch job: `python -m dlspark.cluster.torch_rank`, its order on stdin."""

from __future__ import annotations

import os
import pickle
import sys

from dlspark.cluster.rank import run_rank
from dlspark.cluster.supervise import end_with_parent
from dlspark.cluster.torch_communicator import TorchCommunicator
from dlspark.cluster.torch_task import RankOrder
from dlspark.cluster.whereabouts import Board


def main() -> None:
    """Run a rank; its result goes to the file that the order names, an error ends it with exit code 1."""
    order: RankOrder = pickle.loads(sys.stdin.buffer.read())  # noqa: S301 - from the task that started this
    end_with_parent(order.parent)
    result = run_rank(
        order.call,
        lambda whereabouts: TorchCommunicator(order.seat, whereabouts, timeout_seconds=order.timeout_seconds),
        rank=order.seat.rank,
        num_ranks=order.seat.size,
        failures=order.failures,
        num_threads=order.num_threads,
        board=Board(order.board),
    )
    with os.fdopen(order.result_file, "wb") as file:
        file.write(result)


if __name__ == "__main__":
    main()
