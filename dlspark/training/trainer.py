"""The train loop: data-parallel gradient descent in which the number of ranks cannot be seen in the result.

`fit` puts the parts of a training together; `dlspark.training.epochs` runs them. A training that goes on from
a snapshot is bit for bit one that never stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from dlspark.contracts import BatchSource, Communicator, EvaluationResult, Tracker
from dlspark.training.checkpoint_writer import Checkpoints
from dlspark.training.diagnostics import Diagnostics, DiagnosticsOptions
from dlspark.training.early_stopping import EarlyStopping
from dlspark.training.epochs import Training, end_epoch, run_epoch
from dlspark.training.gradients import Compression, GradientBuffer, Reduction
from dlspark.training.loss_scale import LossScale
from dlspark.training.metrics import Figures
from dlspark.training.named_optimizer import NamedOptimizer
from dlspark.training.plateau import PlateauSchedule
from dlspark.training.precision import Precision
from dlspark.training.reactions import ReactionOptions, Reactions
from dlspark.training.replica_check import ReplicaCheck
from dlspark.training.replicas import broadcast_state
from dlspark.training.schedules import Schedule
from dlspark.training.step import StepOptions
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
    compression: Compression = "none",
    reduction: Reduction = "mean",
    options: StepOptions = StepOptions(),  # noqa: B008 - frozen
    average: WeightAverage | None = None,
    figures: Figures = Figures(),  # noqa: B008 - frozen
    early_stopping: EarlyStopping | None = None,
    diagnostics: DiagnosticsOptions = DiagnosticsOptions(),  # noqa: B008 - frozen
    reactions: ReactionOptions = ReactionOptions(),  # noqa: B008 - frozen
    compiles: bool = False,
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
        compression: of the gradients between the ranks; fp16 needs a loss scale, as it does in `precision`.
        reduction: what the ranks' gradients become; adasum: the number of ranks is seen in the result.
        options: the loss, which the evaluation has too, and what else is done in a step.
        average: of the weights of `model`; it is evaluated in their place, and the network keeps its own.
        figures: what the evaluation counts beside loss and confusion.
        early_stopping: ends the training, and gives network and average the weights of its best epoch; None:
            all epochs are done, and the last weights stay.
        diagnostics: what is watched; a measured step makes one all-reduce more.
        reactions: what is done about the advice.
        compiles: forward and backward pass run through torch.compile, but in measured steps and evaluation.
        evidence_folder: URL of the folder that names the rows of a step that went wrong; None: none does.

    Raises:
        ModelError: the loss is not finite, or weights that are to be saved are not, or the replicas of the
            ranks differ; every rank raises it at the same step.
        DatasetError: the batches are not those that the source promised.
    """
    broadcast_state(model, communicator)
    # Tensors that stay the same ones, however their values change.
    buffers = dict(model.named_buffers())
    if average is not None:
        buffers |= {f"average.{name}": buffer for name, buffer in average.statistics.items()}
    watch = Diagnostics(
        *(model, communicator, tracker, device),
        base_lr=base_lr,
        num_rows=train.num_rows,
        options=diagnostics,
    )
    kept: dict[str, Stateful | None] = {"model": model, "average": average}
    reacting = Reactions(reactions, kept | {"optimizer": NamedOptimizer(model, optimizer)})
    scale = LossScale() if "fp16" in {precision, compression} else None
    others: dict[str, Stateful | None] = {
        "schedule": schedule if isinstance(schedule, PlateauSchedule) else None,
        "average": average,
        "early_stopping": early_stopping,
        "diagnostics": watch,
        "reactions": reacting,
        "loss_scale": scale,
    }
    training = Training(
        model=model,
        compiled=torch.compile(model) if compiles else None,
        optimizer=optimizer,
        schedule=schedule,
        train=train,
        val=val,
        communicator=communicator,
        tracker=tracker,
        checkpoints=checkpoints,
        gradients=GradientBuffer(model, device, compression=compression, reduction=reduction),
        state=TrainingState(model, optimizer, communicator, device, buffers=buffers, others=others),
        watch=watch,
        replicas=ReplicaCheck(
            *(model, optimizer, communicator, device),
            buffers=buffers,
            every_steps=diagnostics.replicas_every_steps,
        ),
        buffers=buffers,
        reactions=reacting,
        average=average,
        scale=scale,
        early_stopping=early_stopping,
        kept=kept,
        epochs=epochs,
        num_classes=num_classes,
        base_lr=base_lr,
        precision=precision,
        device=device,
        options=options,
        figures=figures,
        evidence_folder=evidence_folder,
    )
    return _run(training, resume)


def _run(training: Training, resume: Snapshot | None) -> FitResult:
    """Do the epochs that are left, and put the weights that early stopping kept back."""
    training.state.restore(resume)
    training.replicas.after_load(training.state.position.step)
    if resume is None:
        training.reactions.keep()
    while not training.is_over:
        if not run_epoch(training):
            return _result(training, stopped=True)
        end_epoch(training)
    result, stopping = _result(training, stopped=False), training.early_stopping
    if stopping is None:
        return result
    stopping.restore(training.kept)
    return replace(
        result,
        validation=stopping.best_validation,
        metrics=stopping.best_metrics,
        kept_epoch=stopping.best_epoch,
        kept_step=stopping.best_step,
    )


def _result(training: Training, *, stopped: bool) -> FitResult:
    at = training.state.position
    num_rows = at.epoch * training.train.num_rows + at.totals.global_rows
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
