"""How fast a network takes batches that are there already, on any number of ranks."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import nn

from dlspark.contracts import Batch, Communicator
from dlspark.training.frozen import train_mode
from dlspark.training.gradients import Compression, GradientBuffer, Reduction
from dlspark.training.precision import Precision
from dlspark.training.step import train_step

_NUM_WARM_UP = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class StepSpeed:
    """What steps on one batch came to, by this rank's clock."""

    images_per_second: float
    """Over all ranks."""
    communication_share: float
    """Share of the time in the all-reduce, the wait for the slowest rank included, in [0, 1]."""


def measure_steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    communicator: Communicator,
    batch: Batch,
    *,
    precision: Precision,
    device: torch.device,
    seconds: float,
    compression: Compression = "none",
    reduction: Reduction = "mean",
) -> StepSpeed:
    """Return how fast optimizer steps on one batch are, without data to wait for. A collective.

    Args:
        model: [b, C, H, W] -> logits [b, K], on `device`; its weights stay as they are.
        optimizer: of its parameters.
        communicator: joins the ranks.
        batch: of this rank, b > 0.
        precision: of the forward pass.
        device: where the network is.
        seconds: about so long, after three steps to warm up and one to measure by.
        compression: of the gradients between the ranks.
        reduction: what they become.
    """
    train_mode(model)
    gradients = GradientBuffer(model, device, compression=compression, reduction=reduction)

    def run(num_steps: int) -> StepSpeed:
        started, communicating = time.perf_counter(), 0.0
        for _ in range(num_steps):
            step = train_step(model, optimizer, gradients, communicator, batch, lr=0.0, precision=precision)
            communicating += step.communication_seconds
        elapsed = time.perf_counter() - started
        return StepSpeed(
            images_per_second=num_steps * batch.global_rows / elapsed,
            communication_share=communicating / elapsed,
        )

    run(_NUM_WARM_UP)
    wanted = math.ceil(seconds * run(1).images_per_second / batch.global_rows)
    # Rank 0's figure: ranks that disagree on the number of steps would wait for each other forever.
    num_steps = communicator.broadcast(torch.tensor([wanted], dtype=torch.int64, device=device))
    return run(int(num_steps))
