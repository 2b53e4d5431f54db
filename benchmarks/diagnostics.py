r"""What the diagnostics of a run cost: steps of mnist_cnn with and without its layers measured, in turns.

    python -m benchmarks.diagnostics

Batches of 128 random images of 28 x 28 in one process, which keeps freed memory as a worker does. The share
of the step time at the default interval is (measured - plain) / (interval * plain), of the medians.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.runs import say
from dlspark.cluster.communicator import LocalCommunicator
from dlspark.config import Config
from dlspark.contracts import Batch
from dlspark.heap import keep_freed_memory
from dlspark.models.build import build_model
from dlspark.tracking.journal import SilentTracker
from dlspark.training.diagnostics import Diagnostics, DiagnosticsOptions
from dlspark.training.gradients import GradientBuffer
from dlspark.training.optimizers import build_optimizer
from dlspark.training.precision import Precision, choose_precision
from dlspark.training.step import train_step

_NUM_WARM_UP, _NUM_PARTS = 6, 4
_CPU = torch.device("cpu")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=40, help="measured steps, and as many plain ones")
    turns = parser.parse_args().turns
    keep_freed_memory()
    every = Config().diagnostics.every_steps or 0
    precisions: dict[Precision, None] = {"fp32": None, choose_precision("auto", _CPU): None}
    for precision in precisions:
        measured, plain = time_steps(turns, precision)
        shares = [
            _share(measured[part], plain[part], every)
            for part in np.array_split(np.arange(turns), _NUM_PARTS)
        ]
        say(
            f"{precision}: a plain step {1e3 * np.median(plain):.1f} ms, a measured one "
            f"{1e3 * np.median(measured):.1f} ms: {_share(measured, plain, every):.2%} of the step time with "
            f"every_steps={every} ({min(shares):.2%} to {max(shares):.2%} in {_NUM_PARTS} parts)"
        )


def time_steps(turns: int, precision: Precision) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the seconds of measured and of plain steps, float64 [turns] each."""
    torch.manual_seed(0)
    model = build_model("mnist_cnn", channels=1, height=28, width=28, num_classes=10).train()
    communicator, optimizer = LocalCommunicator(), build_optimizer(model, "adam", lr=1e-3)
    gradients = GradientBuffer(model, _CPU)
    rows = torch.arange(128)
    batch = Batch(
        step=0, global_rows=128, row_ids=rows.numpy(), images=torch.randn(128, 1, 28, 28), labels=rows % 10
    )
    watch = Diagnostics(
        *(model, communicator, SilentTracker(), _CPU),
        base_lr=1e-3,
        num_rows=128,
        options=DiagnosticsOptions(every_steps=2),
    )
    seconds = []
    for step in range(_NUM_WARM_UP + 2 * turns):
        started = time.perf_counter()
        with watch.watching(step, batch) as weights:
            result = train_step(
                *(model, optimizer, gradients, communicator, batch),
                lr=1e-3,
                precision=precision,
                weights=weights,
            )
        watch.after_step(result, step=step + 1)
        seconds.append(time.perf_counter() - started)
    measured, plain = np.reshape(seconds[_NUM_WARM_UP:], (turns, 2)).T
    return measured, plain


def _share(measured: NDArray[np.float64], plain: NDArray[np.float64], every: int) -> float:
    return float((np.median(measured) - np.median(plain)) / (every * np.median(plain)))


if __name__ == "__main__":
    main()
