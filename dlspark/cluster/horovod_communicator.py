"""The ranks of a Horovod job behind the communicator protocol.

Collectives are named by kind, dtype and shape. Horovod negotiates a name once and caches the answer; its own
names carry a counter, so that each call would be negotiated anew. The names may repeat because a call returns
only when it is done: no two collectives of a rank are ever under way together.
"""

from __future__ import annotations

import socket
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import torch

    from dlspark.cluster.seat import Seat
    from dlspark.cluster.whereabouts import RankWhereabouts


class HorovodCommunicator:
    """One rank of a Horovod job, from `hvd.init` (entering the block) to `hvd.shutdown` (leaving it).

    Leaving the block on an error shuts Horovod down too, which ends the collectives that the other ranks
    wait in with a `HorovodInternalError`.
    """

    def __init__(self, seat: Seat, whereabouts: RankWhereabouts) -> None:
        """Take a seat; nothing is connected yet.

        Args:
            seat: of this rank; the environment of the process names it too, see `horovod_environment`.
            whereabouts: notes where this rank is.
        """
        self.rank, self.size = seat.rank, seat.size
        self.local_rank, self.local_size = seat.local_rank, seat.local_size
        self.gpus = seat.gpus
        self.host = socket.gethostname()
        self.whereabouts = whereabouts
        self._horovod: Any = None

    def __enter__(self) -> Self:
        """Join the job: a collective of all ranks, over Gloo."""
        import horovod.torch as hvd

        hvd.init()
        self._horovod = hvd
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the job."""
        self._horovod.shutdown()

    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace `tensor` (contiguous; float16 to float64, int64) in place by its sum; return it."""
        hvd = self._horovod
        with self.whereabouts.communicating():
            summed: torch.Tensor = hvd.allreduce_(tensor, op=hvd.Sum, name=_name("all_reduce_sum", tensor))
        return summed

    def broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace `tensor` (contiguous) in place by rank 0's; return it."""
        name = _name("broadcast", tensor)
        with self.whereabouts.communicating():
            copied: torch.Tensor = self._horovod.broadcast_(tensor, root_rank=0, name=name)
        return copied


def _name(kind: str, tensor: torch.Tensor) -> str:
    return f"{kind}.{str(tensor.dtype).removeprefix('torch.')}.{'x'.join(map(str, tensor.shape))}"
