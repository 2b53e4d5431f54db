"""How fast a network takes batches that are there already."""

from __future__ import annotations

import time

import torch
from torch import nn

from dlspark.contracts import Batch, Communicator
from dlspark.training.gradients import GradientBuffer
from dlspark.training.precision import Precision
from dlspark.training.step import train_step

_NUM_WARM_UP = 3


def measure_steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    communicator: Communicator,
    batch: Batch,
    *,
    precision: Precision,
    device: torch.device,
    seconds: float,
) -> float:
    """Return the rows per second that optimizer steps on one batch take; the network is trained by them.

    Args:
        model: [b, C, H, W] -> logits [b, K], on `device`.
        optimizer: of its parameters.
        communicator: joins the ranks.
        batch: of this rank, b > 0.
        precision: of the forward pass.
        device: where the network is.
        seconds: at least, after three steps to warm up.
    """
    model.train()
    gradients = GradientBuffer(model, device)
    for _ in range(_NUM_WARM_UP):
        train_step(model, optimizer, gradients, communicator, batch, lr=0.0, precision=precision)
    started, num_steps, elapsed = time.perf_counter(), 0, 0.0
    while elapsed < seconds:
        train_step(model, optimizer, gradients, communicator, batch, lr=0.0, precision=precision)
        num_steps, elapsed = num_steps + 1, time.perf_counter() - started
    return num_steps * len(batch.labels) / elapsed
