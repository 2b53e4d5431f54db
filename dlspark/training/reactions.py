"""What a training does about its own advice, where it was asked to: lower the rate, take back, or end.

The advice follows from sums over all ranks, so all react alike at the same step, without a message. Taking
back gives network, optimizer and average the state that they had after the last epoch, at a lower rate; the
position goes on, so that each row is still seen once an epoch and no curve runs backwards. It is how large
trainings get over a spike (Chowdhery et al. 2022, arXiv:2204.02311, section 5.1): back to good weights, on
with other rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dlspark.errors import ModelError
from dlspark.training.tensor_tree import join_tensors, split_tensors
from dlspark.training.training_state import Stateful

Action = Literal["lower_rate", "roll_back", "stop"]
DIVERGENCE = "divergence"
"""The rule that can take back; see `dlspark.training.advice`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReactionOptions:
    """What is done about which advice; the same for all steps of a run."""

    actions: Mapping[str, Action] = field(default_factory=dict)
    """By the name of the advice; roll_back only for divergence."""
    rate_factor: float = 0.5
    """What the learning rate is multiplied by when it is lowered, in (0, 1)."""
    max_roll_backs: int = 3
    """After so many the next divergence is an error."""


class Reactions:
    """Acts on the advice of one training; equal on all ranks."""

    def __init__(self, options: ReactionOptions, parts: Mapping[str, Stateful | None]) -> None:
        """Begin with the rate as it is.

        Args:
            options: what is done.
            parts: what is taken back, by name: the network, its optimizer, the average of its weights.
        """
        self._options = options
        self._parts = {name: part for name, part in parts.items() if part is not None}
        self._kept: dict[str, Any] | None = None
        self._num_roll_backs = 0
        self.rate_factor = 1.0
        """Factor on the learning rate of the schedule, in (0, 1]."""
        self.is_over = False
        """The training is to end after this epoch."""

    def keep(self) -> None:
        """Remember the state of the parts, if it may be asked for: a copy in host memory."""
        if self.takes_back(DIVERGENCE):
            self._kept = _copy({name: part.state_dict() for name, part in self._parts.items()})

    def react(self, advice: str) -> str | None:
        """Do what was asked for about an advice.

        Args:
            advice: its name.

        Returns:
            In one sentence what was done; None: nothing was asked for.

        Raises:
            ModelError: the training diverges and is to stop then, or has been taken back too often.
        """
        action = self._options.actions.get(advice)
        if action is None:
            return None
        if action == "roll_back":
            return self.roll_back()
        if action == "lower_rate":
            return f"Because of {advice} {self._lower_rate()}."
        if advice == DIVERGENCE:
            raise ModelError(
                "the training diverges",
                where="train.reactions.divergence=stop",
                fix="lower optimizer.lr, or set schedule.warmup_epochs=1",
            )
        self.is_over = True
        return f"Because of {advice} the training ends after this epoch."

    def takes_back(self, advice: str) -> bool:
        """Tell whether an advice is answered by taking back."""
        return self._options.actions.get(advice) == "roll_back"

    def can_roll_back(self) -> bool:
        """Tell whether a divergence is answered by taking back, and not too often yet."""
        return self.takes_back(DIVERGENCE) and self._num_roll_backs < self._options.max_roll_backs

    def roll_back(self) -> str:
        """Put the kept state back and lower the rate; return in one sentence what was done.

        Raises:
            ModelError: it was done `max_roll_backs` times already.
        """
        if self._kept is None or not self.can_roll_back():
            raise ModelError(
                "the training still diverges",
                got=f"{self._num_roll_backs} times back to the weights of an earlier epoch",
                allowed=f"train.reactions.max_roll_backs={self._options.max_roll_backs}",
                where=f"learning rate {self.rate_factor:g} times that of the schedule",
                fix="lower optimizer.lr, or set schedule.warmup_epochs=1",
            )
        kept = _copy(self._kept)
        for name, part in self._parts.items():
            part.load_state_dict(kept[name])
        self._num_roll_backs += 1
        return f"The weights of the last good epoch are back, and {self._lower_rate()}."

    def state_dict(self) -> dict[str, Any]:
        """Return what was done so far, and the kept state."""
        return {
            "rate_factor": self.rate_factor,
            "is_over": self.is_over,
            "num_roll_backs": self._num_roll_backs,
            "kept": self._kept,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.rate_factor, self.is_over = state["rate_factor"], state["is_over"]
        self._num_roll_backs, self._kept = state["num_roll_backs"], state["kept"]

    def _lower_rate(self) -> str:
        self.rate_factor *= self._options.rate_factor
        return f"the learning rate is {self.rate_factor:g} times that of the schedule from now on"


def _copy(state: dict[str, Any]) -> dict[str, Any]:
    copied: dict[str, Any] = join_tensors(*split_tensors(state))
    return copied
