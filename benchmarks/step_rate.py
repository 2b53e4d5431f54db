"""Images per second of the trainer beside those of a bare PyTorch loop, on data in memory, in turns.

    python -m benchmarks.step_rate

Same network, optimizer, rate, batch and rows; the trainer does all that it does by default (diagnostics,
comparison of replicas, metrics of each step), without evaluation and checkpoints. The process keeps freed
memory, as every worker of dlspark does: the bare loop gains a tenth by it, which by itself it would not have,
and the ratio does not depend on what glibc happens to give back.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from collections.abc import Iterator

import torch

from benchmarks.plain_mnist import BATCH, RATE, build_network, train_epoch
from benchmarks.runs import say
from dlspark.cluster.communicator import LocalCommunicator
from dlspark.config import Config
from dlspark.contracts import Batch
from dlspark.heap import keep_freed_memory
from dlspark.recipe import diagnostics_of
from dlspark.tracking.journal import SilentTracker
from dlspark.training.checkpoint_writer import SilentCheckpoints
from dlspark.training.optimizers import build_optimizer
from dlspark.training.trainer import fit

_CPU = torch.device("cpu")


class MemorySource:
    """Rows in memory, in a random order, as the trainer reads them."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, order: torch.Tensor) -> None:
        """Take the rows and their order."""
        self._images, self._labels, self._order = images, labels, order
        self.num_rows, self.num_steps = len(order), -(-len(order) // BATCH)

    def batches(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield the batches."""
        for step, rows in enumerate(self._order.split(BATCH)):
            yield Batch(
                step=step,
                global_rows=len(rows),
                row_ids=rows.numpy(),
                images=self._images[rows],
                labels=self._labels[rows],
            )


def main() -> None:
    """Measure in turns."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=100, help="of each turn")
    parser.add_argument("--turns", type=int, default=9)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    keep_freed_memory()
    torch.manual_seed(0)
    num_rows = options.steps * BATCH
    images, labels = torch.randn(num_rows, 1, 28, 28), torch.randint(10, (num_rows,))
    rates: dict[str, list[float]] = {"bare": [], "dlspark": []}
    for turn in range(options.turns + 1):
        for name, run in (("bare", run_bare), ("dlspark", run_fit)):
            seconds = run(images, labels, torch.randperm(num_rows))
            if turn:  # the first warms up
                rates[name].append(num_rows / seconds)
    ratios = sorted(ours / bare for ours, bare in zip(rates["dlspark"], rates["bare"], strict=True))
    say(
        f"bare {statistics.median(rates['bare']):.0f} images/s, dlspark "
        f"{statistics.median(rates['dlspark']):.0f} images/s; ratio {statistics.median(ratios):.3f} "
        f"[{ratios[0]:.3f}-{ratios[-1]:.3f}] of {options.turns} turns of {options.steps} steps"
    )


def run_bare(images: torch.Tensor, labels: torch.Tensor, order: torch.Tensor) -> float:
    """Return the seconds of an epoch of the bare loop."""
    model = build_network()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    started = time.perf_counter()
    train_epoch(model, optimizer, images, labels, order)
    return time.perf_counter() - started


def run_fit(images: torch.Tensor, labels: torch.Tensor, order: torch.Tensor) -> float:
    """Return the seconds of an epoch of the trainer, by the outer clock."""
    model = build_network()
    optimizer = build_optimizer(model, "adam", lr=RATE)
    started = time.perf_counter()
    fit(
        *(model, optimizer, lambda step: 1.0, MemorySource(images, labels, order), None),
        *(LocalCommunicator(), SilentTracker(), SilentCheckpoints(lambda: False)),
        epochs=1,
        num_classes=10,
        base_lr=RATE,
        precision="fp32",
        device=_CPU,
        diagnostics=diagnostics_of(Config(), 10),
    )
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
