"""The diagnostics of a run in flight: figures of the layers every so many steps, and advice in plain words.

A measured step costs one all-reduce more than the others, at steps that all ranks know beforehand. What was
seen is a part of the training's state, so a run that goes on after a stop neither repeats nor forgets advice.
All ranks see the same figures; only the tracker of one of them writes them down.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from dlspark.contracts import Batch, Communicator, Tracker
from dlspark.training.advice import (
    batch_noise_advice,
    dead_units_advice,
    divergence_advice,
    initial_loss_advice,
    overfitting_advice,
    plateau_advice,
    saturated_units_advice,
    underfitting_advice,
    update_ratio_advice,
)
from dlspark.training.diagnostics_layers import ActivationLayer, ActivationProbe, UnitSums, WeightProbe
from dlspark.training.step import StepResult

_NUM_STEP_LOSSES = 200
_NUM_LAYERS_SHOWN = 20
_MIN_ROWS = 256
_FULL_RATE = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class DiagnosticsOptions:
    """What is watched; the same for all steps of a run."""

    every_steps: int | None = None
    """Optimizer steps from one measured step to the next, >= 1; None: no layer is measured."""
    expected_loss: float | None = None
    """Of a network that knows nothing yet; None where no theory says it."""
    replicas_every_steps: int | None = None
    """Optimizer steps from one comparison of the ranks' replicas to the next, >= 1; None: none is made."""
    starts_trained: bool = False
    """The first weights know something, and may be trained at several rates: neither the first loss nor the
    size of the updates is judged."""


class Diagnostics:
    """Watches one training; equal on all ranks."""

    def __init__(
        self,
        model: nn.Module,
        communicator: Communicator,
        tracker: Tracker,
        device: torch.device,
        *,
        base_lr: float,
        num_rows: int,
        options: DiagnosticsOptions,
    ) -> None:
        """Begin at the first step.

        Args:
            model: on `device`.
            communicator: joins the ranks.
            tracker: takes figures and advice.
            device: where the network is trained.
            base_lr: steps with less than half of it do not speak of the learning rate.
            num_rows: of the training split over all ranks.
            options: what is watched.
        """
        self._model, self._communicator, self._tracker = model, communicator, tracker
        self._device, self._options = device, options
        self._base_lr, self._min_rows = base_lr, min(_MIN_ROWS, num_rows)
        self._activations: ActivationProbe | None = None
        self._layers: list[ActivationLayer] = []
        self._measured: UnitSums | None = None
        self._weights: dict[str, tuple[float, float]] = {}
        self._units: UnitSums | None = None
        self._noted: list[str] = []
        self._fresh: list[str] = []
        self._first_loss: float | None = None
        self._step_losses: deque[float] = deque(maxlen=_NUM_STEP_LOSSES)
        self._train_losses: list[float] = []
        self._val_losses: list[float] = []
        self._ratios: list[float] = []

    @contextmanager
    def watching(self, step: int, batch: Batch) -> Iterator[WeightProbe | None]:
        """Measure the step in the block if it is its turn. A collective then: one all-reduce.

        Args:
            step: optimizer steps done before it.
            batch: of the step, the rows of this rank.

        Yields:
            What must be told between the all-reduce of the gradients and the optimizer; None: not measured.
        """
        every = self._options.every_steps
        if every is None or step % every:
            yield None
            return
        if self._activations is None:
            self._activations = ActivationProbe(self._model, tuple(batch.images.shape[1:]), self._device)
            self._layers = self._activations.layers
        weights = WeightProbe(self._model)
        with self._activations.watching(len(batch.labels)):
            yield weights
        self._weights = weights.after_update()
        self._measured = self._activations.join(self._communicator)

    def after_step(self, result: StepResult, *, step: int) -> None:
        """Take in a step, write down what was measured, and give advice.

        Args:
            result: of the step; its loss is finite.
            step: optimizer steps done, with this one.
        """
        loss = result.loss_sum / result.global_rows
        self._step_losses.append(loss)
        if self._first_loss is None:
            self._first_loss = loss
            if self._options.expected_loss is not None and not self._options.starts_trained:
                advice = initial_loss_advice(loss, self._options.expected_loss)
                self._note("initial_loss", advice, step)
        if self._measured is None:
            return
        measured, self._measured = self._measured, None
        if result.lr >= _FULL_RATE * self._base_lr and not self._options.starts_trained:
            self._ratios += [ratio for _, ratio in self._weights.values()]
        spread = measured.spread(self._layers)
        self._tracker.log_metrics(
            _layer_metrics(("gradient_norm", "update_ratio"), self._weights)
            | _layer_metrics(("activation_mean", "activation_std"), spread),
            step=step,
        )
        if self._units is None:
            self._units = measured
        else:
            self._units.add(measured)
        self._note("divergence", divergence_advice(list(self._step_losses), self._first_loss), step)

    def before_evaluation(self, *, step: int) -> None:
        """Look at the losses of the steps of an epoch, which may call for other weights to be evaluated.

        Args:
            step: optimizer steps done.
        """
        if self._first_loss is not None:
            self._note("divergence", divergence_advice(list(self._step_losses), self._first_loss), step)

    def after_epoch(self, metrics: Mapping[str, float], *, step: int, global_rows: int) -> None:
        """Take in an epoch, write down the state of the units, and give advice.

        Args:
            metrics: of the epoch: train_loss, and val_loss where there is a val split.
            step: optimizer steps done.
            global_rows: rows of a step over all ranks.
        """
        self._train_losses.append(metrics["train_loss"])
        if "val_loss" in metrics:
            self._val_losses.append(metrics["val_loss"])
        losses, first = list(self._step_losses), self._first_loss
        if first is not None:
            self._note("batch_noise", batch_noise_advice(losses, first, global_rows=global_rows), step)
        self._note("overfitting", overfitting_advice(self._train_losses, self._val_losses), step)
        self._note("plateau", plateau_advice(self._train_losses), step)
        if self._options.expected_loss is not None:
            idle = underfitting_advice(self._train_losses, self._options.expected_loss)
            self._note("underfitting", idle, step)
        self._note("update_ratio", update_ratio_advice(self._ratios), step)
        self._ratios = []
        self._judge_units(step)

    def take_fresh(self) -> list[str]:
        """Return the names of the advice that was given since the last call."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def forget_divergence(self) -> None:
        """Begin to watch the loss anew, after its cause was taken back."""
        self._step_losses.clear()
        self._measured = None
        self._noted = [name for name in self._noted if name != "divergence"]

    def state_dict(self) -> dict[str, Any]:
        """Return all that was seen, as plain values and tensors."""
        units = self._units
        return {
            "noted": list(self._noted),
            "first_loss": self._first_loss,
            "step_losses": list(self._step_losses),
            "train_losses": list(self._train_losses),
            "val_losses": list(self._val_losses),
            "ratios": list(self._ratios),
            "layers": [asdict(layer) for layer in self._layers],
            "units": None if units is None else {"sums": units.sums, "counts": units.counts},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._noted, self._first_loss = state["noted"], state["first_loss"]
        self._step_losses = deque(state["step_losses"], maxlen=_NUM_STEP_LOSSES)
        self._train_losses, self._val_losses = state["train_losses"], state["val_losses"]
        self._ratios = state["ratios"]
        self._layers = [ActivationLayer(**layer) for layer in state["layers"]]
        self._units = None if state["units"] is None else UnitSums(**state["units"])

    def _judge_units(self, step: int) -> None:
        """Speak of the units once enough rows have passed them; fewer would make the rare ones look dead."""
        units = self._units
        if units is None or units.num_rows < self._min_rows:
            return
        self._units = None
        dead, saturated = units.dead(self._layers), units.saturated(self._layers)
        shares = {name: (count / of,) for name, (count, of) in dead.items()}
        ends = {name: (count / of,) for name, (count, of) in saturated.items()}
        self._tracker.log_metrics(
            _layer_metrics(("dead_share",), shares) | _layer_metrics(("saturated_share",), ends), step=step
        )
        self._note("dead_units", dead_units_advice(dead, num_rows=units.num_rows), step)
        self._note("saturated_units", saturated_units_advice(saturated, num_rows=units.num_rows), step)

    def _note(self, name: str, sentence: str | None, step: int) -> None:
        if sentence is not None and name not in self._noted:
            self._noted.append(name)
            self._fresh.append(name)
            self._tracker.log_note(name, sentence, step=step)


def _layer_metrics(kinds: Sequence[str], values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return layer/<name>/<kind> of at most 20 layers, the first, the last and evenly between."""
    names = list(values)
    if len(names) > _NUM_LAYERS_SHOWN:
        last = len(names) - 1
        names = [names[round(index * last / (_NUM_LAYERS_SHOWN - 1))] for index in range(_NUM_LAYERS_SHOWN)]
    return {
        f"layer/{name}/{kind}": value
        for name in names
        for kind, value in zip(kinds, values[name], strict=True)
    }
