"""Which GPU a rank computes on: the one that Spark gave its task, else one by its number on the host.

Spark tells physical addresses, CUDA counts only what CUDA_VISIBLE_DEVICES leaves, and containers count anew:
an address is looked up among the visible ones first. Whether two ranks ended on one GPU cannot be told from
numbers, so the ranks compare the GPUs' own identities in one small all-reduce before any work.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import torch

from dlspark.contracts import Communicator
from dlspark.errors import ClusterError


def device_of(communicator: Communicator) -> torch.device:
    """Return the device of this rank, and make sure that it is its own; a collective of all ranks.

    Raises:
        ClusterError: the rank does not see the GPU that Spark gave it, or another rank computes on it.
    """
    if not torch.cuda.is_available():
        require_own_device(None, communicator)
        return torch.device("cpu")
    index = choose_device(
        communicator.gpus,
        local_rank=communicator.local_rank,
        num_devices=torch.cuda.device_count(),
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
    )
    require_own_device(str(torch.cuda.get_device_properties(index).uuid), communicator)
    # Where a library asks for "the GPU" without a number, it gets this one.
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def choose_device(assigned: Sequence[str], *, local_rank: int, num_devices: int, visible: str | None) -> int:
    """Return the index, in CUDA's count, of the GPU of a rank.

    Args:
        assigned: addresses of the GPUs that Spark gave to the rank's task; empty where it assigns none.
        local_rank: number of the rank among those on its host.
        num_devices: GPUs that CUDA sees in the rank's process, >= 1.
        visible: CUDA_VISIBLE_DEVICES; None if it is not set.

    Raises:
        ClusterError: the rank's process does not see the GPU that Spark gave it.
    """
    if not assigned:
        # With one GPU visible to each process this is 0 for all of them, and right.
        return local_rank % num_devices
    address = assigned[0].strip()
    names = [name.strip() for name in visible.split(",")] if visible else []
    if address in names[:num_devices]:
        return names.index(address)
    if address.isdecimal() and int(address) < num_devices:
        return int(address)
    if num_devices == 1:
        return 0
    raise ClusterError(
        "a rank does not see the GPU that Spark gave to its task",
        got=f"address {address}, CUDA_VISIBLE_DEVICES={visible or '(not set)'}",
        allowed=f"an address in it, or below {num_devices}",
        fix="let spark.worker.resource.gpu.discoveryScript and CUDA_VISIBLE_DEVICES name the same GPUs",
    )


def require_own_device(identity: str | None, communicator: Communicator) -> None:
    """Return if no two ranks compute on one GPU; a collective of all ranks.

    Args:
        identity: of this rank's GPU, the same in each process that uses it (its UUID); None on a CPU.
        communicator: of the job.

    Raises:
        ClusterError: two ranks do; raised on all ranks.
    """
    codes = torch.zeros(communicator.size, dtype=torch.int64)
    if identity is not None:
        digest = hashlib.sha256(identity.encode()).digest()
        codes[communicator.rank] = 1 + int.from_bytes(digest[:7], "big")
    found: dict[int, int] = {}
    for rank, code in enumerate(communicator.all_reduce_sum(codes).tolist()):
        if code and code in found:
            raise ClusterError(
                "two ranks compute on one GPU",
                got=f"rank {found[code]} and rank {rank}",
                allowed="one rank for each GPU",
                fix="lower cluster.workers, or give each task a GPU of its own "
                "(spark.task.resource.gpu.amount=1), or hide the GPUs with CUDA_VISIBLE_DEVICES=''",
            )
        found[code] = rank
