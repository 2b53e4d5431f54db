"""The learning rate over the run, as a function of the optimizer step: a factor on the base rate.

All but plateau are pure functions of the step: they need no state, so a resumed run has the right rate at
once, and nothing depends on the number of workers. Plateau looks at the validation loss, and has a state.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from dlspark.errors import ConfigError
from dlspark.training.plateau import PlateauSchedule

_LOGGER = logging.getLogger(__name__)

Schedule = Callable[[int], float]
"""Optimizer step, from 0, to the factor in [0, 1] on the base learning rate."""


def build_schedule(
    name: str, *, steps_per_epoch: int, epochs: int, warmup_epochs: float = 0.0, **options: Any
) -> Schedule:
    """Return the factor on the learning rate for each optimizer step.

    With S steps per epoch, E epochs and W = round(warmup_epochs * S) steps of warm-up, at step s (from 0):
    the warm-up gives (s + 1)/(W + 1) for s < W, so that the first step already learns; after it

    - constant: 1;
    - cosine: (1 + cos(pi * (s - W)/(E*S - W)))/2 (Loshchilov and Hutter 2017, arXiv:1608.03983);
    - step: gamma to the power floor(floor(s/S)/step_epochs);
    - exponential: gamma to the power s/S;
    - inverse_time: 1/(1 + decay * s/S);
    - one_cycle: a line from start_factor at s = 0 up to 1 at s = rise_share * (E*S - 1), a line down to
      final_factor at the last step (Smith and Topin 2018, arXiv:1708.07120); it takes no warm-up;
    - plateau: gamma to the power of the falls so far, see `PlateauSchedule`.

    Args:
        name: one of those.
        steps_per_epoch: S; >= 1.
        epochs: E; >= 1.
        warmup_epochs: length of the linear rise, in epochs; >= 0.
        options: of the name. step: step_epochs >= 1 and gamma in (0, 1]; exponential: gamma; inverse_time:
            decay > 0 per epoch; one_cycle: rise_share in (0, 1), start_factor and final_factor in [0, 1];
            plateau: gamma, patience_epochs >= 1, min_improvement in [0, 1).

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
    makers: dict[str, Callable[..., Schedule]] = {
        "constant": lambda: lambda step: 1.0,
        "cosine": lambda: lambda step: _cosine((step - warmup) / max(total - warmup, 1)),
        "step": lambda step_epochs, gamma: lambda step: gamma ** (step // steps_per_epoch // step_epochs),
        "exponential": lambda gamma: lambda step: gamma ** (step / steps_per_epoch),
        "inverse_time": lambda decay: lambda step: 1.0 / (1.0 + decay * step / steps_per_epoch),
        "one_cycle": lambda **shape: _one_cycle(total - 1, **shape),
        "plateau": lambda **rule: PlateauSchedule(num_warmup_steps=warmup, **rule),
    }
    if name not in makers:
        raise ConfigError("unknown schedule", got=repr(name), allowed=", ".join(makers), where="schedule")
    factor = makers[name](**options)
    if isinstance(factor, PlateauSchedule):
        return factor

    def schedule(step: int) -> float:
        return (step + 1) / (warmup + 1) if step < warmup else factor(step)

    return schedule


def schedule_table(schedule: Schedule, num_steps: int) -> list[float]:
    """Return the factor at each of the first steps; for plateau, as if the loss always improved from now."""
    return [schedule(step) for step in range(num_steps)]


def _cosine(share: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * share))


def _one_cycle(last_step: int, *, rise_share: float, start_factor: float, final_factor: float) -> Schedule:
    top = rise_share * last_step

    def factor(step: int) -> float:
        if step < top:
            return start_factor + (1.0 - start_factor) * step / top
        return 1.0 + (final_factor - 1.0) * (step - top) / max(last_step - top, 1.0)

    return factor
