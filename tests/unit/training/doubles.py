"""Real second implementations of the protocols that the train loop uses: ranks as threads, data in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch

from dlspark.cluster.whereabouts import RankWhereabouts
from dlspark.contracts import Batch

Result = TypeVar("Result")


class ThreadCommunicator:
    """One rank of several that are threads of this process and meet at a barrier."""

    def __init__(self, rank: int, slots: list[torch.Tensor | None], barrier: threading.Barrier) -> None:
        self.rank, self.size = rank, len(slots)
        self.local_rank, self.local_size = rank, len(slots)
        self.host = "localhost"
        self.whereabouts = RankWhereabouts()
        self.num_collectives = 0
        self.num_reduced_bytes = 0
        self._slots, self._barrier = slots, barrier

    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        gathered = self._gather(tensor)
        self.num_reduced_bytes += tensor.nbytes
        tensor.copy_(torch.stack(gathered).sum(dim=0))
        return tensor

    def broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        tensor.copy_(self._gather(tensor)[0])
        return tensor

    def _gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        assert tensor.is_contiguous()
        self.num_collectives += 1
        self._slots[self.rank] = tensor.detach().clone()
        self._barrier.wait(timeout=30)
        gathered = [slot for slot in self._slots if slot is not None]
        self._barrier.wait(timeout=30)
        return gathered


def run_ranks(size: int, function: Callable[[ThreadCommunicator], Result]) -> list[Result]:
    """Run `function` on `size` ranks at once; return their results by rank, or raise the first error."""
    slots: list[torch.Tensor | None] = [None] * size
    barrier = threading.Barrier(size)

    def on_rank(rank: int) -> Result:
        try:
            return function(ThreadCommunicator(rank, slots, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(on_rank, rank) for rank in range(size)]
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in errors:
        if not isinstance(error, threading.BrokenBarrierError):
            raise error
    return [future.result() for future in futures]


class MemorySource:
    """One rank's part of a split that is in memory: the global batches are the same for any number of ranks.

    `owners` says for each row of a global batch, by its place there, which rank holds it.
    """

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        global_batch_size: int,
        rank: int = 0,
        owners: Sequence[int] = (0,),
        seed: int | None = None,
    ) -> None:
        self._images, self._labels, self._rank, self._seed = images, labels, rank, seed
        self._global_batch_size = global_batch_size
        self._owners = np.resize(np.asarray(owners), global_batch_size)
        self.num_rows = len(labels)
        self.num_steps = -(-len(labels) // global_batch_size)

    def batches(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        order = np.arange(self.num_rows)
        if self._seed is not None:
            order = np.random.default_rng((self._seed, epoch)).permutation(self.num_rows)
        for step in range(start_step, self.num_steps):
            rows = order[step * self._global_batch_size : (step + 1) * self._global_batch_size]
            mine = rows[self._owners[: len(rows)] == self._rank]
            yield Batch(
                step=step,
                global_rows=len(rows),
                row_ids=mine,
                images=self._images[mine],
                labels=self._labels[mine],
            )


class ListTracker:
    """Keeps what the train loop reports."""

    def __init__(self) -> None:
        self.metrics: dict[str, list[tuple[int, float]]] = {}
        self.progress: list[tuple[int, int, dict[str, float]]] = []
        self.num_flushes = 0
        self.notes: list[tuple[int, str, str]] = []

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        for name, value in metrics.items():
            self.metrics.setdefault(name, []).append((step, value))

    def log_progress(self, *, step: int, num_steps: int, fields: Mapping[str, float]) -> None:
        self.progress.append((step, num_steps, dict(fields)))

    def log_note(self, name: str, sentence: str, *, step: int) -> None:
        self.notes.append((step, name, sentence))

    def flush(self) -> None:
        self.num_flushes += 1

    def values(self, name: str) -> list[float]:
        return [value for _, value in self.metrics[name]]


def random_rows(
    num_rows: int, *, num_classes: int, size: int = 8, channels: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw images that carry their label weakly, so that there is something to learn."""
    generator = torch.Generator().manual_seed(num_rows)
    labels = torch.randint(num_classes, (num_rows,), generator=generator)
    images = torch.randn(num_rows, channels, size, size, generator=generator)
    return images + labels.view(-1, 1, 1, 1) / num_classes, labels
