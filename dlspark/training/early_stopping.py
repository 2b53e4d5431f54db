"""The end of a training that has stopped to get better, and the weights of its best epoch.

The metric is exact and the same on every rank, so all ranks decide alike without a message. The best weights
are a copy in memory and travel with each checkpoint: a resume neither forgets them nor depends on which
checkpoints were kept. The price is one more copy of the weights on each rank and in each checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from dlspark.contracts import EvaluationResult
from dlspark.training.position import validation_of, validation_state
from dlspark.training.training_state import Stateful


class EarlyStopping:
    """Watches one metric of the epochs and keeps the weights of the best one; equal on all ranks."""

    def __init__(self, *, patience_epochs: int, metric: str, min_improvement: float) -> None:
        """Start without a best epoch.

        Args:
            patience_epochs: epochs in a row without a better value before the end; >= 1.
            metric: its name among the metrics of an epoch; of an accuracy the largest is best, else the
                smallest.
            min_improvement: a value is better when it beats the best one by this share of it; in [0, 1).
        """
        self._patience_epochs, self._metric = patience_epochs, metric
        self._min_improvement = min_improvement
        self._num_bad_epochs = 0
        self._epoch, self._step = 0, 0
        self._metrics: dict[str, float] = {}
        self._validation: EvaluationResult | None = None
        self._weights: dict[str, dict[str, torch.Tensor]] = {}

    @property
    def is_over(self) -> bool:
        """Tell whether the training has been without a better value for long enough."""
        return self._num_bad_epochs >= self._patience_epochs

    @property
    def best_epoch(self) -> int:
        """The best epoch, from 1; 0 before the first one."""
        return self._epoch

    @property
    def best_step(self) -> int:
        """Optimizer steps done at its end."""
        return self._step

    @property
    def best_metrics(self) -> dict[str, float]:
        """Of the best epoch."""
        return dict(self._metrics)

    @property
    def best_validation(self) -> EvaluationResult | None:
        """After the best epoch; None without a val split."""
        return self._validation

    def observe(
        self,
        parts: Mapping[str, Stateful | None],
        *,
        epoch: int,
        step: int,
        metrics: Mapping[str, float],
        validation: EvaluationResult | None,
    ) -> None:
        """Take in an epoch that has ended.

        Args:
            parts: what is kept of the best epoch and restored, by name: state dicts of tensors.
            epoch: from 1.
            step: optimizer steps done.
            metrics: of the epoch.
            validation: after it.
        """
        if not self._is_better(metrics[self._metric]):
            self._num_bad_epochs += 1
            return
        self._num_bad_epochs, self._epoch, self._step = 0, epoch, step
        self._metrics, self._validation = dict(metrics), validation
        self._weights = {
            name: {key: tensor.detach().clone() for key, tensor in part.state_dict().items()}
            for name, part in parts.items()
            if part is not None
        }

    def restore(self, parts: Mapping[str, Stateful | None]) -> None:
        """Put the state of the best epoch back into the parts; nothing before the first epoch."""
        for name, weights in self._weights.items():
            part = parts[name]
            if part is not None:
                part.load_state_dict(dict(weights))

    def verdict(self) -> str:
        """Return in one sentence why the training ends."""
        return (
            f"{self._metric} has not been better than {self._metrics[self._metric]:.6g} of epoch "
            f"{self._epoch} for {self._num_bad_epochs} epochs: the training ends with its weights."
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all that it remembers; the best weights are tensors."""
        state: dict[str, Any] = {
            "num_bad_epochs": self._num_bad_epochs,
            "epoch": self._epoch,
            "step": self._step,
            "metrics": dict(self._metrics),
            "weights": self._weights,
        }
        if self._validation is not None:
            state["validation"] = validation_state(self._validation)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._num_bad_epochs, self._epoch, self._step = (
            state["num_bad_epochs"],
            state["epoch"],
            state["step"],
        )
        self._metrics, self._weights = dict(state["metrics"]), state["weights"]
        validation = state.get("validation")
        self._validation = None if validation is None else validation_of(validation)

    def _is_better(self, value: float) -> bool:
        if not self._epoch:
            return True
        best = self._metrics[self._metric]
        margin = self._min_improvement * abs(best)
        return value > best + margin if self._metric.endswith("accuracy") else value < best - margin
