"""The rules that look at a run in flight: each a pure function from figures to one plain sentence, or None.

They follow the lecture of "babysitting the learning process" (Karpathy, CS231n). The thresholds are wide: a
rule that cries at a healthy run is soon read by nobody, so each stays silent where it cannot know.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

_FAR_FROM_THEORY = 1.5
_DEAD_SHARE, _SATURATED_SHARE = 0.3, 0.5
_RATIO, _RATIO_HIGH, _RATIO_LOW = 1e-3, 0.1, 1e-5
_DIVERGED, _NUM_RECENT_STEPS = 1.5, 20
_NUM_EPOCHS_WORSE, _WORSE = 2, 1.05
_NUM_EPOCHS_IDLE, _LEARNED = 3, 0.95
_NUM_EPOCHS_FLAT, _FLAT, _SOLVED = 5, 0.01, 0.05
_NUM_STEPS_OF_NOISE, _NOISY = 50, 0.25


def initial_loss_advice(first_loss: float, expected_loss: float) -> str | None:
    """Speak of first weights that are too large: the first loss is far above that of a network without any.

    Far is half above it: the first weights of all networks here stay within that.

    Args:
        first_loss: mean of the first step, before it.
        expected_loss: see `dlspark.training.losses.expected_initial_loss`; > 0.
    """
    if first_loss <= _FAR_FROM_THEORY * expected_loss:
        return None
    return (
        f"The first loss is {first_loss:.4g}, where a network that knows nothing yet has "
        f"{expected_loss:.4g}: the first weights are too large (model.initialisation), or the images are "
        "not normalised."
    )


def dead_units_advice(dead: Mapping[str, tuple[int, int]], *, num_rows: int) -> str | None:
    """Speak of the layer with the largest share of units that were never active, if that is over 30%.

    Args:
        dead: of each layer of rectifiers the dead units and all units.
        num_rows: over which they were watched.
    """
    layer, num_dead, num_units = _worst(dead)
    if num_dead <= _DEAD_SHARE * num_units:
        return None
    return (
        f"{num_dead} of the {num_units} units of layer {layer} were active for none of {num_rows} rows and "
        "learn nothing any more: lower optimizer.lr, or take model.activation=leaky_relu."
    )


def saturated_units_advice(saturated: Mapping[str, tuple[int, int]], *, num_rows: int) -> str | None:
    """Speak of the layer with the largest share of units at the ends of their range, if that is over 50%.

    Args:
        saturated: of each layer of sigmoids or tanhs the saturated units and all units.
        num_rows: over which they were watched.
    """
    layer, num_saturated, num_units = _worst(saturated)
    if num_saturated <= _SATURATED_SHARE * num_units:
        return None
    return (
        f"{num_saturated} of the {num_units} units of layer {layer} were at the ends of their range for "
        f"nearly all of {num_rows} rows, where the gradient is almost 0: start with smaller weights "
        "(model.initialisation), add batch normalisation, or take model.activation=relu."
    )


def update_ratio_advice(ratios: Sequence[float]) -> str | None:
    """Speak of a learning rate that moves the weights by far too much or too little a step.

    Args:
        ratios: |update| / |weights| of each weight layer at each measured step of an epoch, of those steps
            whose rate was not lowered by the schedule.
    """
    if not ratios:
        return None
    middle = statistics.median(ratios)
    if _RATIO_LOW <= middle <= _RATIO_HIGH:
        return None
    wrong, change = ("high", "lower") if middle > _RATIO_HIGH else ("low", "raise")
    return (
        f"A step changes the weights by {middle:.1g} of their length (median over layers), where about "
        f"{_RATIO:g} is healthy: the learning rate looks too {wrong}, {change} optimizer.lr."
    )


def divergence_advice(step_losses: Sequence[float], first_loss: float) -> str | None:
    """Speak of a loss that has risen well above its first value.

    Args:
        step_losses: of the last steps; fewer than 20 say nothing.
        first_loss: of the first step of the run.
    """
    if len(step_losses) < _NUM_RECENT_STEPS:
        return None
    recent = statistics.median(step_losses[-_NUM_RECENT_STEPS:])
    if math.isfinite(recent) and recent <= _DIVERGED * first_loss:
        return None
    return (
        f"The loss has risen from {first_loss:.4g} to {recent:.4g}: the training diverges, lower "
        "optimizer.lr or set schedule.warmup_epochs=1."
    )


def overfitting_advice(train_losses: Sequence[float], val_losses: Sequence[float]) -> str | None:
    """Speak of a validation loss that rises while the training loss falls, two epochs or more after its best.

    Args:
        train_losses: of the epochs so far.
        val_losses: likewise.
    """
    if not val_losses:
        return None
    best = min(range(len(val_losses)), key=val_losses.__getitem__)
    since = len(val_losses) - 1 - best
    rises = since >= _NUM_EPOCHS_WORSE and val_losses[-1] > _WORSE * val_losses[best]
    gap, gap_then = val_losses[-1] - train_losses[-1], val_losses[best] - train_losses[best]
    if not (rises and train_losses[-1] < train_losses[best] and gap > gap_then and gap > 0.0):
        return None
    return (
        f"The validation loss has risen from {val_losses[best]:.4g} (epoch {best + 1}) to "
        f"{val_losses[-1]:.4g} while the training loss fell to {train_losses[-1]:.4g}: the network learns "
        "its rows by heart; augment more, raise dropout or optimizer.weight_decay, or stop early."
    )


def underfitting_advice(train_losses: Sequence[float], expected_loss: float) -> str | None:
    """Speak of a training loss that is after three epochs still what a network has that knows nothing.

    Args:
        train_losses: of the epochs so far.
        expected_loss: see `dlspark.training.losses.expected_initial_loss`.
    """
    if len(train_losses) < _NUM_EPOCHS_IDLE or min(train_losses) < _LEARNED * expected_loss:
        return None
    return (
        f"After {len(train_losses)} epochs the training loss is {train_losses[-1]:.4g}, hardly below the "
        f"{expected_loss:.4g} of a network that knows nothing: change optimizer.lr, take a larger network, "
        "or see whether the labels belong to the images."
    )


def plateau_advice(train_losses: Sequence[float]) -> str | None:
    """Speak of a training loss that has not moved by 1% in five epochs, far above 0.

    Args:
        train_losses: of the epochs so far; one below 5% of the first is as good as solved.
    """
    if len(train_losses) <= _NUM_EPOCHS_FLAT or train_losses[-1] < _SOLVED * train_losses[0]:
        return None
    before = min(train_losses[:-_NUM_EPOCHS_FLAT])
    lately = min(train_losses[-_NUM_EPOCHS_FLAT:])
    if lately < (1.0 - _FLAT) * before or train_losses[-1] > _DIVERGED * train_losses[0]:
        return None
    return (
        f"The training loss has stayed at {lately:.4g} for {_NUM_EPOCHS_FLAT} epochs: lower the learning "
        "rate in steps (schedule=plateau, schedule=cosine), or end the training."
    )


def batch_noise_advice(step_losses: Sequence[float], first_loss: float, *, global_rows: int) -> str | None:
    """Speak of step losses that swing by a quarter of their mean around a trend that does not show.

    The trend is the least-squares line through the losses. Near the end of a training that went well the
    losses swing too, so nothing is said once their mean is below a quarter of the first loss.

    Args:
        step_losses: of the last steps; fewer than 50 say nothing.
        first_loss: of the first step of the run.
        global_rows: rows of a step over all ranks.
    """
    if len(step_losses) < _NUM_STEPS_OF_NOISE:
        return None
    losses = np.asarray(step_losses, dtype=np.float64)
    steps = np.arange(len(losses))
    slope, start = np.polyfit(steps, losses, 1)
    swing = float(np.std(losses - (slope * steps + start)))
    fall, mean = -float(slope) * len(losses), float(losses.mean())
    if mean < _NOISY * first_loss or swing < _NOISY * mean or fall > swing:
        return None
    return (
        f"The loss of a step swings by {swing:.4g} around {mean:.4g}, more than it falls in {len(losses)} "
        f"steps: a batch of {global_rows} rows is small; raise train.global_batch_size or lower optimizer.lr."
    )


def _worst(counts: Mapping[str, tuple[int, int]]) -> tuple[str, int, int]:
    """Return name, counted units and all units of the layer with the largest share; none: ("", 0, 0)."""
    if not counts:
        return "", 0, 0
    name = max(counts, key=lambda layer: counts[layer][0] / counts[layer][1])
    return name, *counts[name]
