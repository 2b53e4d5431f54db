"""The train loop: data-parallel gradient descent in which the number of ranks cannot be seen in the result.

Each global step, every rank sums the loss over its own rows and divides by the rows of the whole global
batch; one all-reduce sums gradients, loss and correct rows. So unequal ranks, and ranks without rows, weigh
what they should. Collectives of an epoch: one for each step, one more for a measured step, two for the
buffers of batch normalisation (none without them), one for the evaluation, one for each comparison of the
replicas and each checkpoint: the same on every rank, since what a rank asks for travels with the gradients. A
training that goes on from a snapshot is bit for bit one that never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import nn

from dlspark.contracts import Batch, BatchSource, Communicator, EvaluationResult, Tracker, Whereabouts
from dlspark.errors import DatasetError
from dlspark.training.checkpoint_writer import Checkpoints
from dlspark.training.diagnostics import Diagnostics, DiagnosticsOptions
from dlspark.training.divergence import require_finite
from dlspark.training.early_stopping import EarlyStopping
from dlspark.training.evaluation import evaluate_model
from dlspark.training.frozen import train_mode
from dlspark.training.gradients import GradientBuffer
from dlspark.training.loss_scale import LossScale
from dlspark.training.metrics import Figures, class_metrics, evaluation_metrics
from dlspark.training.plateau import PlateauSchedule
from dlspark.training.position import Position
from dlspark.training.precision import Precision
from dlspark.training.replica_check import ReplicaCheck
from dlspark.training.replicas import average_buffers, broadcast_state
from dlspark.training.schedules import Schedule
from dlspark.training.step import StepOptions, train_step
from dlspark.training.stopping import STOP
from dlspark.training.training_state import Snapshot, Stateful, TrainingState
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
    """Of the kept epoch; None without a val split."""
    metrics: Mapping[str, float]
    """Of the kept epoch; empty within an epoch."""
    kept_epoch: int
    """The epoch, from 1, whose weights the network has: the last, or with early stopping the best."""
    kept_step: int
    """Optimizer steps that made these weights."""
    stopped: bool
    """It was told to stop, and has saved where it was."""


def fit(  # noqa: PLR0917 - the parts of a training, in the order in which they are made
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    train: BatchSource,
    val: BatchSource | None,
    communicator: Communicator,
    tracker: Tracker,
    checkpoints: Checkpoints,
    *,
    resume: Snapshot | None = None,
    epochs: int,
    num_classes: int,
    base_lr: float,
    precision: Precision,
    device: torch.device,
    options: StepOptions = StepOptions(),  # noqa: B008 - frozen
    average: WeightAverage | None = None,
    figures: Figures = Figures(),  # noqa: B008 - frozen
    early_stopping: EarlyStopping | None = None,
    diagnostics: DiagnosticsOptions = DiagnosticsOptions(),  # noqa: B008 - frozen
    evidence_folder: str | None = None,
) -> FitResult:
    """Train a network. A collective: all ranks call it with the same arguments but their own rows.

    Rank 0's parameters and buffers are taken by all. Batch statistics are those of one rank's rows; the
    running ones are averaged over ranks, weighted by rows, at the end of each epoch, before the evaluation.
    Dropout draws from torch's global generator (nn.Dropout takes no other), so the caller seeds it before the
    call, by `torch.manual_seed` of a number made from (seed, rank).

    Args:
        model: [b, C, H, W] -> logits [b, K], on `device`; parameters without requires_grad stay as they are.
        optimizer: of the parameters of `model`; it has made no step yet.
        schedule: optimizer step, from 0, to the factor on `base_lr`.
        train: the rows of this rank; each row of the split once an epoch over all ranks.
        val: evaluated after each epoch, in fp32; None where there is no such split.
        communicator: joins the ranks.
        tracker: where metrics go; a silent one on all ranks but one.
        checkpoints: takes a snapshot after each epoch and where it asks for one; silent on all ranks but one.
        resume: where to go on, the same on all ranks, saved by any number of them; None: at the first step.
        epochs: how often all rows are seen; >= 1.
        num_classes: K.
        base_lr: learning rate of the global batch.
        precision: of the forward pass; weights, gradients and their sums are fp32.
        device: where the network is trained.
        options: the loss, which the evaluation has too, and what else is done in a step.
        average: of the weights of `model`; it is evaluated in their place, and the network keeps its own.
        figures: what the evaluation counts beside loss and confusion.
        early_stopping: ends the training, and gives network and average the weights of its best epoch; None:
            all epochs are done, and the last weights stay.
        diagnostics: what is watched; a measured step makes one all-reduce more.
        evidence_folder: URL of the folder that names the rows of a step that went wrong; None: none does.

    Raises:
        ModelError: the loss is not finite, or weights that are to be saved are not, or the replicas of the
            ranks differ; every rank raises it at the same step.
        DatasetError: the batches are not those that the source promised.
    """
    broadcast_state(model, communicator)
    gradients = GradientBuffer(model, device)
    watch = Diagnostics(
        *(model, communicator, tracker, device),
        base_lr=base_lr,
        num_rows=train.num_rows,
        options=diagnostics,
    )
    replicas = ReplicaCheck(
        *(model, optimizer, communicator, device), every_steps=diagnostics.replicas_every_steps
    )
    scale = LossScale() if precision == "fp16" else None
    kept: dict[str, Stateful | None] = {"model": model, "average": average}
    others: dict[str, Stateful | None] = {
        "schedule": schedule if isinstance(schedule, PlateauSchedule) else None,
        "average": average,
        "early_stopping": early_stopping,
        "diagnostics": watch,
        "loss_scale": scale,
    }
    state = TrainingState(model, optimizer, communicator, device, others=others)
    state.restore(resume)
    replicas.after_load(state.position.step)
    at = state.position
    while at.epoch < epochs and not (early_stopping is not None and early_stopping.is_over):
        train_mode(model)
        at.begin_epoch()
        for batch, wait_seconds in _timed_batches(train, at, communicator.whereabouts):
            ends_epoch = at.step_of_epoch + 1 == train.num_steps
            with watch.watching(at.step, batch) as weights:
                step = train_step(
                    *(model, optimizer, gradients, communicator, batch),
                    lr=base_lr * schedule(at.step),
                    momentum=None if options.momentum is None else options.momentum(at.step),
                    precision=precision,
                    options=options,
                    average=average,
                    scale=scale,
                    ask=checkpoints.ask(at.step + 1, ends_epoch=ends_epoch),
                    weights=weights,
                )
            at.add(step)
            require_finite(
                *(model, batch, communicator),
                loss=step.loss_sum,
                look_at_weights=ends_epoch or step.asked > 0,
                step=at.step,
                epoch=at.epoch + 1,
                lr=step.lr,
                precision=precision,
                folder=evidence_folder,
            )
            metrics = step.metrics(wait_seconds)
            tracker.log_metrics(metrics, step=at.step)
            watch.after_step(step, step=at.step)
            shown = {"loss": metrics["step/loss"], "images/s": metrics["step/images_per_second"]}
            tracker.log_progress(step=at.step, num_steps=epochs * train.num_steps, fields=shown)
            replicas.after_step(at.step, saves=step.asked > 0)
            if step.asked:
                _save(state, checkpoints, tracker, communicator.whereabouts)
            if step.asked >= STOP:
                return _result(at, train, stopped=True)
        average_buffers(model, communicator, local_rows=at.totals.local_rows)
        replicas.after_epoch(at.step)
        seconds = at.totals.seconds()
        metrics, validation = at.totals.metrics(seconds), None
        if val is not None:
            with nullcontext() if average is None else average.swapped_in():
                validation = evaluate_model(
                    *(model, val, communicator),
                    num_classes=num_classes,
                    device=device,
                    loss=options.loss,
                    figures=figures,
                )
            if isinstance(schedule, PlateauSchedule):
                schedule.observe(validation.loss)
            metrics |= evaluation_metrics(validation, "val")
            tracker.log_metrics(class_metrics(validation, "val"), step=at.step)
        at.end_epoch(seconds, metrics, validation)
        tracker.log_metrics({"epoch": float(at.epoch)} | metrics, step=at.step)
        watch.after_epoch(metrics, step=at.step, global_rows=-(-train.num_rows // train.num_steps))
        if early_stopping is not None:
            early_stopping.observe(kept, epoch=at.epoch, step=at.step, metrics=metrics, validation=validation)
            if early_stopping.is_over:
                tracker.log_note("early_stopping", early_stopping.verdict(), step=at.step)
        _save(state, checkpoints, tracker, communicator.whereabouts)
    if early_stopping is None:
        return _result(at, train, stopped=False)
    early_stopping.restore(kept)
    return replace(
        _result(at, train, stopped=False),
        validation=early_stopping.best_validation,
        metrics=early_stopping.best_metrics,
        kept_epoch=early_stopping.best_epoch,
        kept_step=early_stopping.best_step,
    )


def _save(state: TrainingState, checkpoints: Checkpoints, tracker: Tracker, whereabouts: Whereabouts) -> None:
    whereabouts.note("save")
    own = state.own_of_all_ranks()
    # First what was measured: a step that a checkpoint skips must not be missing in the curves.
    tracker.flush()
    checkpoints.save(lambda: state.snapshot(own))


def _result(at: Position, train: BatchSource, *, stopped: bool) -> FitResult:
    num_rows = at.epoch * train.num_rows + at.totals.global_rows
    seconds = at.train_seconds + (at.totals.seconds() if at.step_of_epoch else 0.0)
    return FitResult(
        steps=at.step,
        epochs=at.epoch,
        train_seconds=seconds,
        images_per_second=num_rows / seconds,
        validation=at.validation,
        metrics=dict(at.metrics),
        kept_epoch=at.epoch,
        kept_step=at.step,
        stopped=stopped,
    )


def _timed_batches(
    source: BatchSource, at: Position, whereabouts: Whereabouts
) -> Iterator[tuple[Batch, float]]:
    """Yield each batch that is left of the epoch, with the seconds it was waited for; check that all came."""
    epoch, num_steps, num_rows = at.epoch, at.step_of_epoch, at.totals.global_rows
    batches = source.batches(epoch, num_steps)
    asked = time.perf_counter()
    whereabouts.note("data", step=at.step + 1)
    for batch in batches:
        whereabouts.note("compute")
        yield batch, time.perf_counter() - asked
        num_steps, num_rows = num_steps + 1, num_rows + batch.global_rows
        asked = time.perf_counter()
        if num_steps < source.num_steps:
            whereabouts.note("data", step=at.step + 1)
    if (num_steps, num_rows) != (source.num_steps, source.num_rows) or num_rows == 0:
        raise DatasetError(
            f"epoch {epoch + 1} of the training was not whole",
            got=f"{num_steps} steps with {num_rows} rows over all ranks",
            allowed=f"{source.num_steps} steps with {source.num_rows} rows, each once",
            fix="ingest the dataset again",
        )
