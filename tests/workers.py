"""Functions that ranks run in the tests of the launch; the session ships this file to its executors."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from dlspark.contracts import Communicator, WorkerTask


def add_and_copy(task: WorkerTask, communicator: Communicator) -> dict[str, Any]:
    """Use both collectives, several times and with each dtype, and report what this rank has."""
    import torch

    sums = []
    for dtype in (torch.float16, torch.float32, torch.float64, torch.int64):
        for turn in range(3):
            tensor = torch.full((4,), communicator.rank + 1 + turn, dtype=dtype)
            sums.append(communicator.all_reduce_sum(tensor).tolist())
    copied = communicator.broadcast(torch.full((2, 2), float(communicator.rank + 7)))
    sys.stdout.write("a rank that prints\n")
    return {
        "rank": communicator.rank,
        "size": communicator.size,
        "host": communicator.host,
        "local_size": communicator.local_size,
        "pid": os.getpid(),
        "sums": sums,
        "copied": copied.tolist(),
        "threads": torch.get_num_threads(),
        "split": task.split,
    }


def tell_network(task: WorkerTask, communicator: Communicator) -> dict[str, Any]:
    """Use a collective, then tell on which ports this rank and its task listen, and from where it talks."""
    import psutil
    import torch

    communicator.all_reduce_sum(torch.zeros(3))
    own = psutil.Process().net_connections("tcp")
    task_own = psutil.Process(os.getppid()).net_connections("tcp")
    return {
        "listens": [each.laddr.port for each in (*own, *task_own) if each.status == psutil.CONN_LISTEN],
        "talks": sorted(
            {each.laddr.ip.removeprefix("::ffff:") for each in own if each.status == psutil.CONN_ESTABLISHED}
        ),
    }


def raise_on_rank_one(task: WorkerTask, communicator: Communicator) -> None:
    """Fail on one rank while the other waits in a collective."""
    import torch

    if communicator.rank == 1:
        error = ValueError(f"boom in {task.dataset}\nsecond line")
        error.add_note("step 17")
        raise error
    communicator.all_reduce_sum(torch.zeros(3))


def raise_while_other_sleeps(task: WorkerTask, communicator: Communicator) -> None:
    """Fail on one rank while the other is far from its next collective."""
    if communicator.rank == 0:
        raise ValueError("boom")
    time.sleep(600)


def die_on_rank_one(task: WorkerTask, communicator: Communicator) -> None:
    """End one rank without a word."""
    import torch

    if communicator.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    communicator.all_reduce_sum(torch.zeros(3))


def raise_here(task: WorkerTask, communicator: Communicator) -> None:
    """Fail on the only rank."""
    raise ValueError(f"boom on rank {communicator.rank}")


def hang_in_step_seven(task: WorkerTask, communicator: Communicator) -> None:
    """Make steps until rank 1 hangs in native code that holds the interpreter's lock."""
    import ctypes

    def wait_for_itself() -> None:
        mutex = ctypes.create_string_buffer(64)
        for _ in range(2):
            ctypes.PyDLL(None).pthread_mutex_lock(mutex)

    _step_until(task, communicator, wait_for_itself)


def stop_in_step_seven(task: WorkerTask, communicator: Communicator) -> None:
    """Make steps until the process of rank 1 is stopped."""
    _step_until(task, communicator, lambda: os.kill(os.getpid(), signal.SIGSTOP))


def _step_until(task: WorkerTask, communicator: Communicator, end: Callable[[], object]) -> None:
    """Make seven steps; in the last one rank 1 leaves a file and calls `end` while it computes."""
    from pathlib import Path

    import torch

    for step in range(1, 8):
        communicator.whereabouts.note("data", step=step)
        communicator.whereabouts.note("compute")
        if (communicator.rank, step) == (1, 7):
            Path(task.run_dir, "last-move").touch()
            end()
        communicator.all_reduce_sum(torch.zeros(3))


def kill_the_parent_on_rank_one(task: WorkerTask, communicator: Communicator) -> None:
    """End the task of one rank, as when its executor is lost; leave a file for each start."""
    from pathlib import Path

    import torch

    Path(task.run_dir, f"started-{communicator.rank}-{os.getpid()}").touch()
    communicator.all_reduce_sum(torch.zeros(3))
    if communicator.rank == 1:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
    communicator.all_reduce_sum(torch.zeros(3))
