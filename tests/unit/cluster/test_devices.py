"""The GPU of a rank in the layouts that clusters have, and no GPU for two."""

from __future__ import annotations

import threading

import pytest
import torch

from dlspark.cluster.communicator import LocalCommunicator
from dlspark.cluster.devices import choose_device, require_own_device
from dlspark.errors import ClusterError


def _choose(assigned: tuple[str, ...], local_rank: int, num_devices: int, visible: str | None) -> int:
    return choose_device(assigned, local_rank=local_rank, num_devices=num_devices, visible=visible)


@pytest.mark.parametrize("local_rank", [0, 1, 3])
def test_a_task_that_sees_its_one_gpu_takes_it(local_rank: int) -> None:
    assert _choose((str(local_rank),), local_rank, 1, str(local_rank)) == 0
    assert _choose((), local_rank, 1, str(local_rank)) == 0
    assert _choose(("0",), local_rank, 1, None) == 0


def test_an_executor_with_several_gpus_gives_each_task_its_address() -> None:
    assert [_choose((address,), 0, 4, None) for address in ("2", "0", "3")] == [2, 0, 3]
    assert [_choose((address,), 0, 2, "5,2") for address in ("5", "2", "0")] == [0, 1, 0]
    assert _choose(("GPU-b",), 0, 2, "GPU-a, GPU-b") == 1


def test_ranks_that_share_a_host_and_are_told_nothing_take_turns() -> None:
    assert [_choose((), local_rank, 4, None) for local_rank in range(4)] == [0, 1, 2, 3]


def test_an_address_that_is_not_seen_is_refused() -> None:
    with pytest.raises(ClusterError, match=r"address 7, CUDA_VISIBLE_DEVICES=0,1"):
        _choose(("7",), 0, 2, "0,1")


def _errors_of_ranks(identities: tuple[str | None, ...]) -> list[str]:
    """What the ranks with these GPUs are told, each in a thread of its own."""
    size = len(identities)
    barrier, sums, lock = threading.Barrier(size), torch.zeros(size, dtype=torch.int64), threading.Lock()

    class Rank(LocalCommunicator):
        def __init__(self, rank: int) -> None:
            super().__init__()
            self.rank, self.size = rank, size

        def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
            with lock:
                sums.add_(tensor)
            barrier.wait()
            return sums

    told: list[str] = []

    def check(rank: int) -> None:
        try:
            require_own_device(identities[rank], Rank(rank))
        except ClusterError as error:
            told.append(str(error))

    threads = [threading.Thread(target=check, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


def test_two_ranks_on_one_gpu_are_both_named_on_all_ranks() -> None:
    told = _errors_of_ranks(("GPU-a", "GPU-b", "GPU-a"))
    assert len(told) == 3
    assert all("rank 0 and rank 2" in text for text in told)


@pytest.mark.parametrize("identities", [(None, None, None), ("GPU-a", "GPU-b", "GPU-c")])
def test_ranks_on_processors_and_on_gpus_of_their_own_are_told_nothing(
    identities: tuple[str | None, ...],
) -> None:
    assert _errors_of_ranks(identities) == []
