"""The communicator of one process: the same protocol as Horovod's, so that one trainer serves both."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from dlspark.cluster.whereabouts import RankWhereabouts

if TYPE_CHECKING:
    import torch


class LocalCommunicator:
    """One rank, alone: a sum over ranks is the tensor itself, and rank 0's tensor is its own."""

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1
    gpus: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.host = socket.gethostname()
        self.whereabouts = RankWhereabouts()

    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return `tensor` as it is."""
        return tensor

    def broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return `tensor` as it is."""
        return tensor
