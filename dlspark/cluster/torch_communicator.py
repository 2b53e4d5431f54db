"""The ranks of a torch.distributed job behind the communicator protocol: gloo on CPUs, nccl on GPUs.

A collective that fails because another rank is gone is raised as PeerLostError, so that the failures that
only follow from another one can be told from it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from dlspark.errors import ClusterError

if TYPE_CHECKING:
    import torch

    from dlspark.cluster.seat import Seat
    from dlspark.cluster.whereabouts import RankWhereabouts


class PeerLostError(RuntimeError):
    """A collective failed: the connection to another rank is gone."""


class TorchCommunicator:
    """One rank of a torch.distributed job, from joining (entering the block) to leaving it."""

    def __init__(self, seat: Seat, whereabouts: RankWhereabouts, *, timeout_seconds: float) -> None:
        """Take a seat; nothing is connected yet.

        Args:
            seat: of this rank.
            whereabouts: notes where this rank is.
            timeout_seconds: how long the ranks may take to find each other.
        """
        self.rank, self.size = seat.rank, seat.size
        self.local_rank, self.local_size = seat.local_rank, seat.local_size
        self.gpus = seat.gpus
        self.host = socket.gethostname()
        self.whereabouts = whereabouts
        self._seat = seat
        self._timeout_seconds = timeout_seconds
        self._distributed: Any = None

    def __enter__(self) -> Self:
        """Join the job: a collective of all ranks.

        Raises:
            ClusterError: the ranks do not reach each other.
        """
        import torch
        import torch.distributed

        backend = "gloo"
        if torch.cuda.is_available() and torch.distributed.is_nccl_available():
            backend = "cpu:gloo,cuda:nccl"
        seat = self._seat
        try:
            store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
                seat.meeting_host,
                seat.meeting_port,
                seat.size,
                is_master=seat.rank == 0,
                timeout=timedelta(seconds=self._timeout_seconds),
                wait_for_workers=False,
                master_listen_fd=seat.meeting_socket,
            )
            torch.distributed.init_process_group(backend, store=store, rank=seat.rank, world_size=seat.size)
            torch.distributed.all_reduce(torch.zeros(1))
        except (RuntimeError, OSError) as error:
            raise ClusterError(
                f"the {seat.size} ranks do not reach each other",
                got=(str(error).splitlines() or [type(error).__name__])[0],
                where=f"rank 0's store at {seat.meeting_host}:{seat.meeting_port}",
                fix="open the TCP ports between executors, or name a network in cluster.network_interface",
            ) from error
        self._distributed = torch.distributed
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the job; on an error the end of the process does, since leaving may wait for other ranks."""
        if kind is None:
            self._distributed.destroy_process_group()

    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace `tensor` (contiguous; float16 to float64, int64) in place by its sum; return it."""
        with _naming_lost_peers(), self.whereabouts.communicating():
            self._distributed.all_reduce(tensor)
        return tensor

    def broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace `tensor` (contiguous) in place by rank 0's; return it."""
        with _naming_lost_peers(), self.whereabouts.communicating():
            self._distributed.broadcast(tensor, src=0)
        return tensor


@contextmanager
def _naming_lost_peers() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise PeerLostError((str(error).splitlines() or [""])[0]) from error
