"""A sum over the ranks of a launch that does nothing else: proof that they reach each other, and how fast."""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass

from dlspark.cluster.preflight import require_horovod
from dlspark.contracts import Communicator, WorkerTask
from dlspark.errors import ClusterError

NUM_BYTES = 4 * 2**20
"""Of the tensor: the gradients of a network of a million weights."""
_NUM_TIMES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class AllReduced:
    """What one rank saw."""

    rank: int
    host: str
    device: str
    seconds: float
    """Median of one all-reduce of `NUM_BYTES`."""
    horovod: str | None
    """What Horovod was built with there; None on other backends."""


def all_reduce_once(task: WorkerTask, communicator: Communicator) -> AllReduced:
    """Sum a tensor over the ranks, where a training would have its gradients, and see that the sum is right.

    Raises:
        ClusterError: the sum is wrong, or two ranks are on one GPU.
    """
    import torch

    from dlspark.cluster.devices import device_of

    device = device_of(communicator)
    right = communicator.size * (communicator.size + 1) / 2
    seconds = []
    # The first one is not timed: it connects, and agrees on the tensor.
    for _ in range(1 + _NUM_TIMES):
        tensor = torch.full((NUM_BYTES // 4,), float(communicator.rank + 1), device=device)
        started = time.perf_counter()
        low, high = communicator.all_reduce_sum(tensor).aminmax()
        wrong = next((value for value in (low.item(), high.item()) if value != right), None)
        seconds.append(time.perf_counter() - started)
        if wrong is not None:
            raise ClusterError("an all-reduce gave a wrong sum", got=wrong, allowed=right)
    return AllReduced(
        rank=communicator.rank,
        host=communicator.host,
        device=str(device),
        seconds=statistics.median(seconds[1:]),
        horovod=require_horovod() if "horovod.torch" in sys.modules else None,
    )
