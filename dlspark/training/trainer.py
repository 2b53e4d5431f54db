"""The train loop: data-parallel gradient descent in which the number of ranks cannot be seen in the result.

Each global step, every rank sums the loss over its own rows and divides by the rows of the whole global
batch; one all-reduce sums gradients, loss and correct rows. So unequal ranks, and ranks without rows, weigh
what they should. Collectives of an epoch: one for each step, two for the buffers of batch normalisation (none
without them), one for the evaluation: the same on every rank, known beforehand.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from dlspark.contracts import Batch, BatchSource, Communicator, EvaluationResult, Tracker
from dlspark.errors import DatasetError, ModelError
from dlspark.training.evaluation import evaluate_model
from dlspark.training.gradients import GradientBuffer
from dlspark.training.plateau import PlateauSchedule
from dlspark.training.precision import Precision
from dlspark.training.replicas import average_buffers, broadcast_state
from dlspark.training.schedules import Schedule
from dlspark.training.step import EpochTotals, StepOptions, StepResult, train_step
from dlspark.training.weight_average import WeightAverage


@dataclass(frozen=True, kw_only=True, slots=True)
class FitResult:
    """What a training came to; counts and the validation are the same on every rank."""

    steps: int
    """Optimizer steps done."""
    epochs: int
    train_seconds: float
    """Of all epochs, without evaluation and start-up, by this rank's clock."""
    images_per_second: float
    """Training rows of all ranks per second of `train_seconds`."""
    validation: EvaluationResult | None
    """Of the last epoch; None without a val split."""


def fit(  # noqa: PLR0917 - the parts of a training, in the order in which they are made
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    train: BatchSource,
    val: BatchSource | None,
    communicator: Communicator,
    tracker: Tracker,
    *,
    epochs: int,
    num_classes: int,
    base_lr: float,
    precision: Precision,
    device: torch.device,
    options: StepOptions = StepOptions(),  # noqa: B008 - frozen
    average: WeightAverage | None = None,
) -> FitResult:
    """Train a network. A collective: all ranks call it with the same arguments but their own rows.

    Rank 0's parameters and buffers are taken by all. Batch statistics are those of one rank's rows; the
    running ones are averaged over ranks, weighted by rows, at the end of each epoch, before the evaluation.
    Dropout draws from torch's global generator (nn.Dropout takes no other), so the caller seeds it before the
    call, by `torch.manual_seed` of a number made from (seed, rank).

    Args:
        model: [b, C, H, W] -> logits [b, K], on `device`.
        optimizer: of the parameters of `model`; it has made no step yet.
        schedule: optimizer step, from 0, to the factor on `base_lr`.
        train: the rows of this rank; each row of the split once an epoch over all ranks.
        val: evaluated after each epoch, in fp32; None where there is no such split.
        communicator: joins the ranks.
        tracker: where metrics go; a silent one on all ranks but one.
        epochs: how often all rows are seen; >= 1.
        num_classes: K.
        base_lr: learning rate of the global batch.
        precision: of the forward pass; weights, gradients and their sums are fp32.
        device: where the network is trained.
        options: the loss, which the evaluation has too, and what else is done in a step.
        average: of the weights of `model`; it is evaluated in their place, and the network keeps its own.

    Raises:
        ModelError: the loss is not finite; every rank raises it at the same step.
        DatasetError: the batches are not those that the source promised.
    """
    broadcast_state(model, communicator)
    gradients = GradientBuffer(model, device)
    done, train_seconds, validation = 0, 0.0, None
    for epoch in range(epochs):
        model.train()
        totals = EpochTotals()
        for batch, wait_seconds in _timed_batches(train, epoch):
            lr = base_lr * schedule(done)
            step = train_step(
                *(model, optimizer, gradients, communicator, batch),
                lr=lr,
                momentum=None if options.momentum is None else options.momentum(done),
                precision=precision,
                options=options,
                average=average,
            )
            done += 1
            if not math.isfinite(step.loss_sum):
                raise _diverged(step, done, epoch, precision)
            totals.add(step)
            metrics = step.metrics(wait_seconds)
            tracker.log_metrics(metrics, step=done)
            shown = {"loss": metrics["step/loss"], "images/s": metrics["step/images_per_second"]}
            tracker.log_progress(step=done, num_steps=epochs * train.num_steps, fields=shown)
        average_buffers(model, communicator, local_rows=totals.local_rows)
        epoch_seconds = totals.seconds()
        train_seconds += epoch_seconds

        metrics = {"epoch": float(epoch + 1)} | totals.metrics(epoch_seconds)
        if val is not None:
            with nullcontext() if average is None else average.swapped_in():
                validation = evaluate_model(
                    model, val, communicator, num_classes=num_classes, device=device, loss=options.loss
                )
            if isinstance(schedule, PlateauSchedule):
                schedule.observe(validation.loss)
            metrics |= {"val_loss": validation.loss, "val_accuracy": validation.accuracy}
        tracker.log_metrics(metrics, step=done)
        tracker.flush()
    return FitResult(
        steps=done,
        epochs=epochs,
        train_seconds=train_seconds,
        images_per_second=epochs * train.num_rows / train_seconds,
        validation=validation,
    )


def _timed_batches(source: BatchSource, epoch: int) -> Iterator[tuple[Batch, float]]:
    """Yield each batch with the seconds it was waited for; check that the epoch was whole."""
    num_steps, num_rows = 0, 0
    batches = source.batches(epoch)
    asked = time.perf_counter()
    for batch in batches:
        yield batch, time.perf_counter() - asked
        num_steps, num_rows = num_steps + 1, num_rows + batch.global_rows
        asked = time.perf_counter()
    if (num_steps, num_rows) != (source.num_steps, source.num_rows) or num_rows == 0:
        raise DatasetError(
            f"epoch {epoch + 1} of the training was not whole",
            got=f"{num_steps} steps with {num_rows} rows over all ranks",
            allowed=f"{source.num_steps} steps with {source.num_rows} rows, each once",
            fix="ingest the dataset again",
        )


def _diverged(step: StepResult, done: int, epoch: int, precision: Precision) -> ModelError:
    precise = "" if precision == "fp32" else ", or set train.precision=fp32"
    return ModelError(
        "the training loss is not finite",
        got=step.loss_sum,
        allowed="a finite number",
        where=f"step {done} (epoch {epoch + 1}), learning rate {step.lr:g}, precision {precision}",
        fix=f"lower optimizer.lr, or set schedule.warmup_epochs=1{precise}",
    )
