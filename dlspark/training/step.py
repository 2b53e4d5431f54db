"""One optimizer step over all ranks, and the sums and times that it leaves."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from dlspark.contracts import Batch, Communicator
from dlspark.training.diagnostics_layers import WeightProbe
from dlspark.training.gradients import GradientBuffer
from dlspark.training.loss_scale import LossScale
from dlspark.training.losses import Loss, cross_entropy_sum, mixed_sum
from dlspark.training.metrics import count_correct
from dlspark.training.optimizers import set_rates
from dlspark.training.precision import AUTOCAST_TYPES, Precision
from dlspark.training.regularize import (
    add_l1_gradient,
    clip_gradient_norm,
    clip_gradient_values,
    limit_weight_norms,
)
from dlspark.training.weight_average import WeightAverage

_HALF = 0.5
_NUM_IMAGE_DIMENSIONS = 4

Forward = Callable[[torch.Tensor], torch.Tensor]
"""Images [b, C, H, W] to logits [b, K]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepOptions:
    """What a step does beside the plain one; the same for all steps of a run."""

    loss: Loss = cross_entropy_sum
    num_parts: int = 1
    """Parts into which a rank cuts its rows, one forward and backward each; >= 1."""
    all_ranks_compute: bool = False
    """A rank passes through the network also without rows, since the layers talk to those of other ranks."""
    momentum: Callable[[int], float] | None = None
    """Optimizer step, from 0, to its momentum; None: the optimizer's own."""
    l1: float = 0.0
    """See `add_l1_gradient`; before the clipping, as a part of the gradient."""
    clip_norm: float | None = None
    clip_value: float | None = None
    max_squared_norm: float | None = None
    """See `limit_weight_norms`; after the optimizer."""


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    gradients: GradientBuffer,
    communicator: Communicator,
    batch: Batch,
    *,
    lr: float,
    precision: Precision,
    momentum: float | None = None,
    options: StepOptions = StepOptions(),
    average: WeightAverage | None = None,
    scale: LossScale | None = None,
    ask: int = 0,
    weights: WeightProbe | None = None,
    compiled: Forward | None = None,
) -> StepResult:
    """Make one optimizer step from the rows of all ranks. A collective: see `GradientBuffer.all_reduce`.

    Args:
        model: [b, C, H, W] -> logits [b, K], in training mode, on the device of `gradients`.
        optimizer: of the parameters of `model`.
        gradients: of the parameters of `model`.
        communicator: joins the ranks.
        batch: the rows of this rank; b = 0 contributes zeros.
        lr: learning rate of this step.
        precision: of the forward pass.
        momentum: of this step; None: the optimizer's own.
        options: what else is done.
        average: takes the new weights in.
        scale: of the loss, for gradients in fp16; the weights stay as they are where it was too large. None:
            none.
        ask: what this rank asks for after the step; the all-reduce carries it, so that all ranks agree.
        weights: notes gradients and weights before they change; None on most steps.
        compiled: the network through torch.compile, for steps whose layers are not measured: hooks do not
            reach compiled layers. None: the network as it is.
    """
    device = gradients.device
    started = _now(device)
    gradients.clear()
    gradients.put_ask(ask)
    if len(batch.labels) or options.all_ranks_compute:
        factor = (1.0 if scale is None else scale.value) / gradients.num_rows_of_mean(batch)
        forward = model if compiled is None or weights is not None else compiled
        _add_gradients(forward, gradients, batch, precision=precision, options=options, factor=factor)
    computed = _now(device)
    total_loss, total_correct, asked = gradients.all_reduce(communicator)
    reduced = _now(device)
    follows = scale is None or scale.unscale(gradients)
    if weights is not None:
        weights.before_update()
    if follows:
        _bound_gradients(model, gradients, options)
        set_rates(optimizer, lr=lr, momentum=momentum)
        optimizer.step()
        if options.max_squared_norm is not None:
            limit_weight_norms(model, options.max_squared_norm)
        if average is not None:
            average.update()
    stepped = _now(device)
    return StepResult(
        global_rows=batch.global_rows,
        local_rows=len(batch.labels),
        loss_sum=total_loss,
        num_correct=total_correct,
        lr=lr,
        asked=asked,
        compute_seconds=(computed - started) + (stepped - reduced),
        communication_seconds=reduced - computed,
        copy_seconds=batch.copy_seconds,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """One optimizer step: sums over all ranks, times by this rank's clock."""

    global_rows: int
    local_rows: int
    """Rows of this rank."""
    loss_sum: float
    """Over the global rows, before the step, with dropout on."""
    num_correct: int
    """Global rows whose label was given; of a mixed row, the label with the larger share of it."""
    lr: float
    asked: int
    """Sum over ranks of what they asked for."""
    compute_seconds: float
    """Forward, backward and the optimizer."""
    communication_seconds: float
    """Of the all-reduce, with the wait for the slowest rank."""
    copy_seconds: float
    """Of the batch's way to a GPU, beside the training of others; see Batch."""

    def metrics(self, wait_seconds: float) -> dict[str, float]:
        """Return the metrics of the step, given the seconds that its batch was waited for."""
        seconds = wait_seconds + self.compute_seconds + self.communication_seconds
        return {
            "step/loss": self.loss_sum / self.global_rows,
            "step/accuracy": self.num_correct / self.global_rows,
            "step/learning_rate": self.lr,
            "step/images_per_second": self.global_rows / seconds,
            "step/data_wait_seconds": wait_seconds,
            "step/copy_seconds": self.copy_seconds,
            "step/compute_seconds": self.compute_seconds,
            "step/communication_seconds": self.communication_seconds,
        }


@dataclass(kw_only=True, slots=True)
class EpochTotals:
    """The sums of the steps of one epoch, and its stopwatch."""

    started: float = field(default_factory=time.perf_counter)
    loss_sum: float = 0.0
    num_correct: int = 0
    global_rows: int = 0
    local_rows: int = 0
    lost_rows: int = 0
    """Of the global rows, those of steps that were taken back and are not in the sums."""

    def add(self, step: StepResult, *, counts: bool = True) -> None:
        """Count one more step; one that does not count leaves its rows alone."""
        self.global_rows += step.global_rows
        self.local_rows += step.local_rows
        if counts:
            self.loss_sum += step.loss_sum
            self.num_correct += step.num_correct
        else:
            self.lost_rows += step.global_rows

    def seconds(self) -> float:
        """Return the seconds since the epoch began."""
        return time.perf_counter() - self.started

    def metrics(self, seconds: float) -> dict[str, float]:
        """Return the metrics of the epoch, given how long its training took; inf and 0 if no step counted."""
        num_rows = self.global_rows - self.lost_rows
        return {
            "train_loss": self.loss_sum / num_rows if num_rows else math.inf,
            "train_accuracy": self.num_correct / num_rows if num_rows else 0.0,
            "images_per_second": self.global_rows / seconds,
        }


def _add_gradients(
    forward: Forward,
    gradients: GradientBuffer,
    batch: Batch,
    *,
    precision: Precision,
    options: StepOptions,
    factor: float,
) -> None:
    """Add up the gradient of `factor` times the sum of this rank's losses."""
    device, num_parts = gradients.device, options.num_parts
    # Matrix units read the channels of a pixel side by side; convolutions pass the layout of their input on.
    is_for_matrix_units = precision != "fp32" and batch.images.ndim == _NUM_IMAGE_DIMENSIONS
    layout = torch.channels_last if is_for_matrix_units else torch.preserve_format
    targets = [batch.labels]
    if batch.other_labels is not None and batch.label_share is not None:
        targets += [batch.other_labels, batch.label_share]
    # tensor_split gives so many parts of any number of rows, chunk leaves out those without rows.
    cut = torch.tensor_split if options.all_ranks_compute else torch.chunk
    chunks = [cut(target, num_parts) for target in targets]
    for images, *parts in zip(cut(batch.images, num_parts), *chunks, strict=True):
        here = [part.to(device, non_blocking=True) for part in parts]
        with torch.autocast(device.type, dtype=AUTOCAST_TYPES.get(precision), enabled=precision != "fp32"):
            logits = forward(images.to(device, non_blocking=True, memory_format=layout))
        loss_sum, labels = _judge(logits, here, options.loss)
        torch.autograd.backward(loss_sum * factor)
        gradients.add_totals(loss_sum, count_correct(logits, labels))


def _judge(
    logits: torch.Tensor, targets: Sequence[torch.Tensor], loss: Loss
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of the losses, and the labels that count as correct: those of the larger share."""
    if len(targets) == 1:
        return loss(logits, targets[0]), targets[0]
    labels, others, share = targets
    larger = torch.where(share >= _HALF, labels, others)
    return mixed_sum(loss, logits, labels, others, share), larger


def _bound_gradients(model: nn.Module, gradients: GradientBuffer, options: StepOptions) -> None:
    if options.l1 > 0.0:
        add_l1_gradient(model, options.l1)
    if options.clip_norm is not None:
        clip_gradient_norm(gradients, options.clip_norm)
    if options.clip_value is not None:
        clip_gradient_values(gradients, options.clip_value)


def _now(device: torch.device) -> float:
    """Return the clock after the work given to the device is done, else the times would be of queueing."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
