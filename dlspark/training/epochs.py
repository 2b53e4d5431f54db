"""The epochs of a training: the steps of one, and what comes at its end.

Each global step, every rank sums the loss over its own rows and divides by the rows of the whole global
batch; one all-reduce sums gradients, loss and correct rows. So unequal ranks, and ranks without rows, weigh
what they should. Collectives of an epoch: one for each step (two with compression), one more for a measured
step, two for the buffers of batch normalisation (none without them), one for the evaluation, one for each
comparison of the replicas and each checkpoint: the same on every rank, since what a rank asks for travels
with the gradients.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from dlspark.contracts import Batch, BatchSource, Communicator, EvaluationResult, Tracker, Whereabouts
from dlspark.errors import DatasetError
from dlspark.training.checkpoint_writer import Checkpoints
from dlspark.training.diagnostics import Diagnostics
from dlspark.training.divergence import NotFiniteError, require_finite
from dlspark.training.early_stopping import EarlyStopping
from dlspark.training.evaluation import evaluate_model
from dlspark.training.frozen import train_mode
from dlspark.training.gradients import GradientBuffer
from dlspark.training.loss_scale import LossScale
from dlspark.training.metrics import Figures, class_metrics, evaluation_metrics
from dlspark.training.plateau import PlateauSchedule
from dlspark.training.position import Position
from dlspark.training.precision import Precision
from dlspark.training.reactions import DIVERGENCE, Reactions
from dlspark.training.replica_check import ReplicaCheck
from dlspark.training.replicas import average_buffers
from dlspark.training.schedules import Schedule
from dlspark.training.step import Forward, StepOptions, StepResult, train_step
from dlspark.training.stopping import STOP
from dlspark.training.training_state import Stateful, TrainingState
from dlspark.training.weight_average import WeightAverage


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """The parts of a running training on one rank; those that change are in `state`."""

    model: nn.Module
    compiled: Forward | None
    """The network through torch.compile; None: it is not compiled."""
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    train: BatchSource
    val: BatchSource | None
    communicator: Communicator
    tracker: Tracker
    checkpoints: Checkpoints
    gradients: GradientBuffer
    state: TrainingState
    watch: Diagnostics
    replicas: ReplicaCheck
    buffers: Mapping[str, torch.Tensor]
    """Running statistics of the network and of its average: each rank has its own within an epoch."""
    reactions: Reactions
    average: WeightAverage | None
    scale: LossScale | None
    early_stopping: EarlyStopping | None
    kept: Mapping[str, Stateful | None]
    """What early stopping keeps of the best epoch."""
    epochs: int
    num_classes: int
    base_lr: float
    precision: Precision
    device: torch.device
    options: StepOptions
    figures: Figures
    evidence_folder: str | None

    @property
    def is_over(self) -> bool:
        """Tell whether no epoch is left to do."""
        stopped_early = self.early_stopping is not None and self.early_stopping.is_over
        return self.state.position.epoch >= self.epochs or stopped_early or self.reactions.is_over


def run_epoch(training: Training) -> bool:
    """Do the steps that are left of an epoch; return False if the training was told to stop, and is saved.

    Raises:
        ModelError: see `dlspark.training.trainer.fit`.
        DatasetError: likewise.
    """
    at = training.state.position
    train_mode(training.model)
    at.begin_epoch()
    for batch, wait_seconds in _timed_batches(training.train, at, training.communicator.whereabouts):
        step = _make_step(training, batch)
        if _keep_finite(training, batch, step):
            metrics = step.metrics(wait_seconds)
            training.tracker.log_metrics(metrics, step=at.step)
            training.watch.after_step(step, step=at.step)
            _react(training)
            shown = {"loss": metrics["step/loss"], "images/s": metrics["step/images_per_second"]}
            num_steps = training.epochs * training.train.num_steps
            training.tracker.log_progress(step=at.step, num_steps=num_steps, fields=shown)
        training.replicas.after_step(at.step, saves=step.asked > 0)
        if step.asked:
            _save(training)
        if step.asked >= STOP:
            return False
    return True


def end_epoch(training: Training) -> None:
    """Evaluate, report and save after the last step of an epoch.

    Raises:
        ModelError: see `dlspark.training.trainer.fit`.
    """
    at, tracker = training.state.position, training.tracker
    training.watch.before_evaluation(step=at.step)
    _react(training)
    average_buffers(training.buffers.values(), training.communicator, local_rows=at.totals.local_rows)
    training.replicas.after_epoch(at.step)
    seconds = at.totals.seconds()
    metrics, validation = at.totals.metrics(seconds), _validate(training)
    if validation is not None:
        if isinstance(training.schedule, PlateauSchedule):
            training.schedule.observe(validation.loss)
        metrics |= evaluation_metrics(validation, "val")
        tracker.log_metrics(class_metrics(validation, "val"), step=at.step)
    at.end_epoch(seconds, metrics, validation)
    tracker.log_metrics({"epoch": float(at.epoch)} | metrics, step=at.step)
    rows_of_a_step = -(-training.train.num_rows // training.train.num_steps)
    training.watch.after_epoch(metrics, step=at.step, global_rows=rows_of_a_step)
    _react(training)
    training.reactions.keep()
    stopping = training.early_stopping
    if stopping is not None:
        stopping.observe(training.kept, epoch=at.epoch, step=at.step, metrics=metrics, validation=validation)
        if stopping.is_over:
            tracker.log_note("early_stopping", stopping.verdict(), step=at.step)
    _save(training)


def _make_step(training: Training, batch: Batch) -> StepResult:
    at, momentum = training.state.position, training.options.momentum
    with training.watch.watching(at.step, batch) as weights:
        return train_step(
            *(training.model, training.optimizer, training.gradients, training.communicator, batch),
            lr=training.base_lr * training.schedule(at.step) * training.reactions.rate_factor,
            momentum=None if momentum is None else momentum(at.step),
            precision=training.precision,
            options=training.options,
            average=training.average,
            scale=training.scale,
            ask=training.checkpoints.ask(at.step + 1, ends_epoch=_is_last_step(training)),
            weights=weights,
            compiled=training.compiled,
        )


def _keep_finite(training: Training, batch: Batch, step: StepResult) -> bool:
    """Count a step; return False if its loss or weights were not finite, and are taken back."""
    at = training.state.position
    try:
        require_finite(
            *(training.model, batch, training.communicator),
            loss=step.loss_sum,
            look_at_weights=_is_last_step(training) or step.asked > 0,
            step=at.step + 1,
            epoch=at.epoch + 1,
            lr=step.lr,
            precision=training.precision,
            folder=training.evidence_folder,
        )
    except NotFiniteError as error:
        if not training.reactions.can_roll_back():
            raise
        at.add(step, counts=False)
        _note_reaction(training, DIVERGENCE, f"{error} {training.reactions.roll_back()}")
        return False
    at.add(step)
    return True


def _react(training: Training) -> None:
    """Do what was asked for about the advice that was just given."""
    for advice in training.watch.take_fresh():
        done = training.reactions.react(advice)
        if done is not None:
            _note_reaction(training, advice, done)


def _note_reaction(training: Training, advice: str, done: str) -> None:
    training.tracker.log_note(f"reaction_to_{advice}", done, step=training.state.position.step)
    if training.reactions.takes_back(advice):
        training.watch.forget_divergence()


def _validate(training: Training) -> EvaluationResult | None:
    if training.val is None:
        return None
    with nullcontext() if training.average is None else training.average.swapped_in():
        return evaluate_model(
            *(training.model, training.val, training.communicator),
            num_classes=training.num_classes,
            device=training.device,
            loss=training.options.loss,
            figures=training.figures,
        )


def _save(training: Training) -> None:
    training.communicator.whereabouts.note("save")
    own = training.state.own_of_all_ranks()
    # First what was measured: a step that a checkpoint skips must not be missing in the curves.
    training.tracker.flush()
    training.checkpoints.save(lambda: training.state.snapshot(own))


def _is_last_step(training: Training) -> bool:
    """Tell whether the step that is under way, or was not counted yet, ends the epoch."""
    return training.state.position.step_of_epoch + 1 == training.train.num_steps


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
