"""The learning rate over the run, as a pure function of the optimizer step: a factor on the base rate.

A function of the step needs no state, so a resumed run has the right rate at once, and nothing depends on the
number of workers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from dlspark.errors import ConfigError

_LOGGER = logging.getLogger(__name__)

Schedule = Callable[[int], float]
"""Optimizer step, from 0, to the factor in [0, 1] on the base learning rate."""


def build_schedule(
    name: str,
    *,
    steps_per_epoch: int,
    epochs: int,
    warmup_epochs: float = 0.0,
    step_epochs: int = 10,
    gamma: float = 0.1,
) -> Schedule:
    """Return the factor on the learning rate for each optimizer step.

    With S steps per epoch, E epochs and W = round(warmup_epochs * S) steps of warm-up, at step s (from 0):
    the warm-up gives (s + 1)/(W + 1) for s < W, so that the first step already learns; after it

    - constant: 1;
    - cosine: (1 + cos(pi * (s - W)/(E*S - W)))/2 (Loshchilov and Hutter 2017, arXiv:1608.03983);
    - step: gamma to the power floor(floor(s/S)/step_epochs);
    - exponential: gamma to the power s/S.

    Args:
        name: constant, cosine, step or exponential.
        steps_per_epoch: S; >= 1.
        epochs: E; >= 1.
        warmup_epochs: length of the linear rise, in epochs; >= 0.
        step_epochs: step: epochs between two falls; >= 1.
        gamma: step: factor at each fall; exponential: factor per epoch; in (0, 1].

    Raises:
        ConfigError: the name is unknown.
    """
    total = steps_per_epoch * epochs
    warmup = round(warmup_epochs * steps_per_epoch)
    if warmup >= total:
        _LOGGER.warning(
            "schedule.warmup_epochs=%g is as long as the run (train.epochs=%d): the learning rate only rises",
            warmup_epochs,
            epochs,
        )

    def cosine(step: int) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))

    factors: dict[str, Schedule] = {
        "constant": lambda step: 1.0,
        "cosine": cosine,
        "step": lambda step: gamma ** (step // steps_per_epoch // step_epochs),
        "exponential": lambda step: gamma ** (step / steps_per_epoch),
    }
    if name not in factors:
        raise ConfigError("unknown schedule", got=repr(name), allowed=", ".join(factors), where="schedule")
    factor = factors[name]

    def schedule(step: int) -> float:
        return (step + 1) / (warmup + 1) if step < warmup else factor(step)

    return schedule
