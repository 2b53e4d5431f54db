"""The schedule that waits for the validation loss: the rate falls where the loss has stopped to improve.

The validation loss is exact and the same on every rank, so all ranks see the same falls without a message.
The state is three plain numbers; a checkpoint must carry it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

_LOGGER = logging.getLogger(__name__)


class PlateauSchedule:
    """A schedule (step -> factor on the base rate) that is told the validation loss after each epoch."""

    def __init__(
        self, *, gamma: float, patience_epochs: int, min_improvement: float, num_warmup_steps: int = 0
    ) -> None:
        """Start at factor 1.

        Args:
            gamma: factor at each fall, in (0, 1].
            patience_epochs: epochs in a row without a better loss before a fall; >= 1.
            min_improvement: a loss is better when it is below (1 - min_improvement) times the best one.
            num_warmup_steps: W; the factor is (s + 1)/(W + 1) at the steps s < W.
        """
        self._gamma, self._patience_epochs = gamma, patience_epochs
        self._min_improvement, self._num_warmup_steps = min_improvement, num_warmup_steps
        self._best_loss: float | None = None
        self._num_bad_epochs = 0
        self._num_falls = 0

    def __call__(self, step: int) -> float:
        """Return the factor on the base learning rate at optimizer step `step`, from 0."""
        rise = min((step + 1) / (self._num_warmup_steps + 1), 1.0)
        return float(rise * self._gamma**self._num_falls)

    def observe(self, val_loss: float) -> None:
        """Take the validation loss of the epoch that has ended; one that is not finite is no better."""
        best = self._best_loss
        if val_loss < (math.inf if best is None else best - self._min_improvement * abs(best)):
            self._best_loss, self._num_bad_epochs = val_loss, 0
            return
        self._num_bad_epochs += 1
        if self._num_bad_epochs >= self._patience_epochs:
            self._num_falls, self._num_bad_epochs = self._num_falls + 1, 0
            _LOGGER.info(
                "no better validation loss than %s for %d epochs: the learning rate falls by %g",
                *(best, self._patience_epochs, self._gamma),
            )

    def state_dict(self) -> dict[str, float | int | None]:
        """Return all that it has learned, as plain JSON values."""
        return {
            "best_loss": self._best_loss,
            "num_bad_epochs": self._num_bad_epochs,
            "num_falls": self._num_falls,
        }

    def load_state_dict(self, state: Mapping[str, float | int | None]) -> None:
        """Take over what `state_dict` returned."""
        self._best_loss = state["best_loss"]
        self._num_bad_epochs, self._num_falls = (
            int(state["num_bad_epochs"] or 0),
            int(state["num_falls"] or 0),
        )
