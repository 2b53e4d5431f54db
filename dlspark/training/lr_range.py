"""The learning-rate range test: train while the rate grows, and see where the loss falls and where it breaks.

After Smith 2017, "Cyclical Learning Rates for Training Neural Networks" (arXiv:1506.01186, section 3.3), with
an exponential growth, so that every decade gets as many steps. The steps are those of a training. One pass
over noisy batches gives a suggestion to start from, not an optimum.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from dlspark.contracts import Batch, BatchSource, Communicator, Progress
from dlspark.errors import ConfigError
from dlspark.training.frozen import train_mode
from dlspark.training.gradients import GradientBuffer
from dlspark.training.precision import Precision
from dlspark.training.step import StepOptions, train_step

_KEPT = 0.9
"""Share of the mean so far in the smoothed loss: it spans about ten steps, and lags nine."""
_GROWN = 4.0
_HALF_WINDOW = 7
"""Steps to each side of one whose slope is taken: with 100 steps over 7 decades, about a decade in all."""
_BELOW_LOWEST = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class LrCurve:
    """The loss over a growing learning rate; n steps."""

    rates: tuple[float, ...]
    """[n] learning rate of each step."""
    losses: tuple[float, ...]
    """[n] mean loss of the batch of each step, before the step, as in the metrics of a training."""
    smoothed: tuple[float, ...]
    """[n] exponential moving mean of the losses, weighted by their rows, without a bias to its start."""
    rows: tuple[int, ...]
    """[n] of each step: the last one of an epoch may have few, and a loss that says little."""
    end: Literal["largest rate", "loss grew", "loss not finite"]
    """Why it ended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LrSuggestion:
    """What a curve says."""

    steepest: float
    """Where the loss fell fastest."""
    largest: float
    """A tenth of the rate at which the smoothed loss was lowest: no more than that in a schedule."""

    @property
    def rate(self) -> float:
        """The smaller of the two: the one to start from."""
        return min(self.steepest, self.largest)


def measure_lr_curve(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    train: BatchSource,
    communicator: Communicator,
    *,
    min_lr: float,
    max_lr: float,
    num_steps: int,
    precision: Precision,
    device: torch.device,
    options: StepOptions,
    progress: Progress,
) -> LrCurve:
    """Train while the learning rate grows; the weights are of no use afterwards.

    Step i of n, from 0, has the rate min_lr * (max_lr / min_lr)^(i / (n - 1)). It ends early where the
    smoothed loss is more than four times its lowest value, or a loss is not finite; such a loss is left out.

    Args:
        model: [b, C, H, W] -> logits [b, K], on `device`.
        optimizer: of its parameters; it has made no step yet.
        train: batches, epoch after epoch as far as they are needed.
        communicator: joins the ranks.
        min_lr: > 0.
        max_lr: > min_lr.
        num_steps: n, >= 2.
        precision: of the forward pass.
        device: where the network is.
        options: what a step of the training does.
        progress: shows the steps.
    """
    train_mode(model)
    gradients = GradientBuffer(model, device)
    rates, losses, smoothed, rows = [], [], [], []
    loss_sum, row_sum, lowest = 0.0, 0.0, math.inf
    end: Literal["largest rate", "loss grew", "loss not finite"] = "largest rate"
    for step, batch in zip(range(num_steps), _without_end(train), strict=False):
        lr = min_lr * (max_lr / min_lr) ** (step / (num_steps - 1))
        done = train_step(
            *(model, optimizer, gradients, communicator, batch),
            lr=lr,
            precision=precision,
            momentum=None if options.momentum is None else options.momentum(step),
            options=options,
        )
        loss = done.loss_sum / done.global_rows
        if not math.isfinite(loss):
            end = "loss not finite"
            break
        loss_sum = _KEPT * loss_sum + done.loss_sum
        row_sum = _KEPT * row_sum + done.global_rows
        rates.append(lr)
        losses.append(loss)
        smoothed.append(loss_sum / row_sum)
        rows.append(done.global_rows)
        lowest = min(lowest, smoothed[-1])
        progress.update(step + 1, num_steps, {"loss": smoothed[-1], "learning rate": lr})
        if smoothed[-1] > _GROWN * lowest:
            end = "loss grew"
            break
    return LrCurve(
        rates=tuple(rates), losses=tuple(losses), smoothed=tuple(smoothed), rows=tuple(rows), end=end
    )


def suggest_lr(curve: LrCurve) -> LrSuggestion:
    """Return where the loss fell fastest, and the most that a schedule should reach.

    The fall is the slope of a straight line (least squares, weighted by rows) through the losses of 15 steps
    over the logarithm of the rate, in the middle of the 15: unlike the smoothed loss it does not lag behind.

    Raises:
        ConfigError: the loss did not fall at any rate.
    """
    lowest = int(np.argmin(curve.smoothed)) if curve.smoothed else 0
    slopes = _slopes(curve.losses[: lowest + _HALF_WINDOW + 1], curve.rows)
    if min(slopes, default=0.0) >= 0.0:
        raise ConfigError(
            "the loss did not fall at any learning rate",
            got=f"{len(curve.losses)} steps, {curve.end} at {curve.rates[-1]:.3g}"
            if curve.rates
            else f"{curve.end} at the first step",
            where="lr_find",
            fix="lower lr_find.min, or look at the network and the data: it learned at none of these rates",
        )
    return LrSuggestion(
        steepest=curve.rates[int(np.argmin(slopes)) + _HALF_WINDOW],
        largest=curve.rates[lowest] / _BELOW_LOWEST,
    )


def _slopes(losses: Sequence[float], rows: Sequence[int]) -> list[float]:
    """Return the slope around each step that has 7 others on both sides; steps are even in the logarithm."""
    offsets = np.arange(-_HALF_WINDOW, _HALF_WINDOW + 1)
    windows = [slice(start, start + len(offsets)) for start in range(len(losses) - len(offsets) + 1)]
    return [float(np.polyfit(offsets, losses[window], 1, w=np.sqrt(rows[window]))[0]) for window in windows]


def _without_end(source: BatchSource) -> Iterator[Batch]:
    for epoch in itertools.count():
        yield from source.batches(epoch)
