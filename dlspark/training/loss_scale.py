"""The factor on the loss that keeps fp16 gradients from vanishing, found while training.

fp16 has no numbers below 6e-8, where many gradients are; a loss that is multiplied by 2^16 has gradients that
can be stored and sent, and their sum is divided again in fp32 (Micikevicius et al. 2018, arXiv:1710.03740,
section 3.2). Where the factor is too large a gradient becomes infinite: that step is left out and the factor
halved; at 1 it is followed, and the training ends as one without a factor does. It is looked at after the
all-reduce, so every rank comes to the same end. bf16 needs none of this.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from dlspark.training.gradients import GradientBuffer

_LOGGER = logging.getLogger(__name__)
_FIRST, _LEAST = 2.0**16, 1.0
_STEPS_TO_GROWTH = 2000


class LossScale:
    """The factor, a part of the training's state; equal on all ranks."""

    def __init__(self) -> None:
        """Begin with 65,536."""
        self.value = _FIRST
        """What the loss is multiplied by, a power of 2."""
        self._num_good_steps = 0

    def unscale(self, gradients: GradientBuffer) -> bool:
        """Divide the gradients by the factor; return whether to follow them: they are finite, or it was 1.

        After 2,000 steps in a row with finite gradients the factor doubles.

        Args:
            gradients: those over all ranks, of the loss times `value`.
        """
        gradients.values.div_(self.value)
        if not bool(torch.isfinite(gradients.values).all()):
            if self.value <= _LEAST:
                return True
            self.value, self._num_good_steps = self.value / 2, 0
            _LOGGER.info("a step is left out: its fp16 gradient is not finite; loss scale %g now", self.value)
            return False
        self._num_good_steps += 1
        if self._num_good_steps == _STEPS_TO_GROWTH:
            self.value, self._num_good_steps = self.value * 2, 0
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"value": self.value, "num_good_steps": self._num_good_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.value, self._num_good_steps = state["value"], state["num_good_steps"]
