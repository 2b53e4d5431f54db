"""Where a training is: the epoch, the step, and the sums that the epoch has gathered so far.

The data needs nothing else to go on: the rows of step s of epoch e are the same whoever asks for them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from dlspark.contracts import EvaluationResult
from dlspark.training.step import EpochTotals, StepResult


@dataclass(kw_only=True, slots=True)
class Position:
    """A training between two steps; a part of its state."""

    epoch: int = 0
    """Epochs done, each with its evaluation."""
    step: int = 0
    """Optimizer steps done."""
    step_of_epoch: int = 0
    """Of these, steps of the epoch that is under way."""
    totals: EpochTotals = field(default_factory=EpochTotals)
    """Of the epoch that is under way."""
    train_seconds: float = 0.0
    """Of the epochs done, without their evaluations."""
    validation: EvaluationResult | None = None
    """Of the last epoch that was done."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the epoch that has just ended; empty within an epoch."""

    def begin_epoch(self) -> None:
        """Start the stopwatch, unless the epoch is under way already."""
        if not self.step_of_epoch:
            self.totals = EpochTotals()

    def add(self, step: StepResult, *, counts: bool = True) -> None:
        """Count one more step; loss and accuracy of the epoch are without one that does not count."""
        self.step += 1
        self.step_of_epoch += 1
        self.totals.add(step, counts=counts)
        self.metrics = {}

    def end_epoch(
        self, seconds: float, metrics: dict[str, float], validation: EvaluationResult | None
    ) -> None:
        """Count one more epoch.

        Args:
            seconds: that its steps took.
            metrics: of it.
            validation: after it.
        """
        self.epoch += 1
        self.step_of_epoch = 0
        self.train_seconds += seconds
        self.metrics, self.validation = metrics, validation
        self.totals = EpochTotals()

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and tensors."""
        totals = {name: value for name, value in asdict(self.totals).items() if name != "started"}
        state = {name: getattr(self, name) for name in ("epoch", "step", "step_of_epoch", "train_seconds")}
        state |= {"metrics": dict(self.metrics), "totals": totals, "seconds": self.totals.seconds()}
        if self.validation is not None:
            state["validation"] = validation_state(self.validation)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; the stopwatch shows what it showed."""
        for name in ("epoch", "step", "step_of_epoch", "train_seconds", "metrics"):
            setattr(self, name, state[name])
        self.totals = EpochTotals(started=time.perf_counter() - state["seconds"], **state["totals"])
        validation = state.get("validation")
        self.validation = None if validation is None else validation_of(validation)


def validation_state(validation: EvaluationResult) -> dict[str, Any]:
    """Return plain values, and what has a value for each class or two as tensors."""
    return asdict(validation) | {
        "confusion": torch.tensor(validation.confusion, dtype=torch.int64),
        "class_bias": torch.tensor(validation.class_bias, dtype=torch.float64),
    }


def validation_of(state: Mapping[str, Any]) -> EvaluationResult:
    """Rebuild from `validation_state`."""
    confusion = tuple(tuple(row) for row in state["confusion"].tolist())
    bias = tuple(state["class_bias"].tolist())
    return EvaluationResult(**{**state, "confusion": confusion, "class_bias": bias})
