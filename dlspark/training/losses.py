"""Losses as sums over rows, in fp32 whatever the logits are.

A rank knows only its own rows, and ranks hold unequal numbers of them. So a loss is summed here, and the one
division, by the rows of the whole global batch or split, is done once by the caller. Class weights do not
change the divisor: the mean over rows is of w * loss, where torch divides by the sum of the weights, which
would differ from batch to batch and make rare classes weigh less where they are many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch.nn import functional

from dlspark.errors import ConfigError

_RowLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits, float32 [b, K], and labels, int64 [b], to the loss of each row, float32 [b]."""


class Loss(Protocol):
    """A loss as the sum over rows."""

    def __call__(
        self, logits: torch.Tensor, labels: torch.Tensor, share: torch.Tensor | None = None, /
    ) -> torch.Tensor:
        """Return a float32 scalar; 0 where b = 0.

        Args:
            logits: float [b, K].
            labels: int64 [b], in [0, K).
            share: float32 [b], factor of the loss of each row; None: 1.
        """
        ...


def cross_entropy_sum(
    logits: torch.Tensor, labels: torch.Tensor, share: torch.Tensor | None = None, /
) -> torch.Tensor:
    """Return the sum over rows of the softmax cross entropy, in nats, in fp32 whatever the logits are.

    Args:
        logits: float [b, K].
        labels: int64 [b], in [0, K).
        share: float32 [b], factor of the loss of each row; None: 1.

    Returns:
        float32 scalar; 0 where b = 0.
    """
    if share is None:
        return functional.cross_entropy(logits.float(), labels, reduction="sum")
    return (functional.cross_entropy(logits.float(), labels, reduction="none") * share).sum()


def mixed_sum(
    loss: Loss,
    logits: torch.Tensor,
    labels: torch.Tensor,
    other_labels: torch.Tensor,
    label_share: torch.Tensor,
) -> torch.Tensor:
    """Return the sum over mixed rows of share * loss(label) + (1 - share) * loss(other label).

    For cross entropy it is the loss against the mixed target (Zhang et al. 2018, arXiv:1710.09412).

    Args:
        loss: of one label.
        logits: float [b, K].
        labels: int64 [b].
        other_labels: int64 [b], of the rows that these are mixed with.
        label_share: float32 [b], in [0, 1], of `labels`.

    Returns:
        float32 scalar; 0 where b = 0.
    """
    return loss(logits, labels, label_share) + loss(logits, other_labels, 1.0 - label_share)


def build_loss(
    name: str,
    *,
    class_weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
    outputs: str = "softmax",
    over_outputs: str = "mean",
) -> Loss:
    """Build a loss from its name.

    With scores s (the logits) and one-hot target t, the loss of a row of class y is

    - cross_entropy: -log p_y, with p = softmax(s), times (1 - p_y)^focal_gamma (Lin et al. 2017,
      arXiv:1708.02002); label_smoothing spreads its share of the target over all classes;
    - bce: mean or sum over outputs j of the binary cross entropy of sigmoid(s_j) against t_j;
    - mse, mae: mean or sum over outputs j of (o_j - t_j)^2 or |o_j - t_j|, with o = softmax(s) or o = s;
    - hinge, squared_hinge: sum over j != y of max(0, 1 + s_j - s_y), or of its square (Weston and Watkins
      1999).

    Args:
        name: one of those.
        class_weights: w, [K]; the loss of a row is multiplied by w_y. None: 1.
        label_smoothing: cross_entropy: in [0, 1).
        focal_gamma: cross_entropy: >= 0.
        outputs: mse, mae: softmax or raw.
        over_outputs: bce, mse, mae: mean or sum.

    Raises:
        ConfigError: the name is unknown.
    """
    error = partial(_error, outputs=outputs, over_outputs=over_outputs)
    of_rows: dict[str, _RowLoss] = {
        "cross_entropy": partial(_cross_entropy, smoothing=label_smoothing, gamma=focal_gamma),
        "bce": partial(_binary_cross_entropy, over_outputs=over_outputs),
        "mse": partial(error, power=2),
        "mae": partial(error, power=1),
        "hinge": partial(_hinge, power=1),
        "squared_hinge": partial(_hinge, power=2),
    }
    if name not in of_rows:
        raise ConfigError("unknown loss", got=repr(name), allowed=", ".join(of_rows), where="loss")
    if name == "cross_entropy" and class_weights is None and label_smoothing == focal_gamma == 0.0:
        return cross_entropy_sum  # one kernel
    return _weighted_sum(of_rows[name], class_weights)


def balanced_weights(class_rows: Sequence[int]) -> tuple[float, ...]:
    """Return N / (K * n_k) for each class k, whose mean over the N rows is 1; 0 for a class without rows.

    Args:
        class_rows: n_k, training rows of each class, [K].
    """
    present = sum(rows > 0 for rows in class_rows)
    return tuple(sum(class_rows) / (present * rows) if rows else 0.0 for rows in class_rows)


def expected_initial_loss(
    name: str,
    *,
    num_classes: int,
    focal_gamma: float = 0.0,
    outputs: str = "softmax",
    over_outputs: str = "mean",
) -> float:
    """Return the mean loss of a network that knows nothing yet: all its outputs are 0, whatever the row.

    For K classes it is ln K for cross_entropy (with smoothing too), ln 2 per output for bce and K - 1 for
    both hinges. A first loss far from it says that the first weights are too large. Class weights of mean 1,
    as the balanced ones are, leave it as it is.

    Args:
        name: as in `build_loss`.
        num_classes: K.
        focal_gamma: as in `build_loss`.
        outputs: as in `build_loss`.
        over_outputs: as in `build_loss`.
    """
    given = 1.0 / num_classes if outputs == "softmax" else 0.0
    sums: dict[str, float] = {
        "bce": num_classes * math.log(2.0),
        "mse": (1.0 - given) ** 2 + (num_classes - 1) * given**2,
        "mae": (1.0 - given) + (num_classes - 1) * given,
    }
    if name in sums:
        return sums[name] / num_classes if over_outputs == "mean" else sums[name]
    if name == "cross_entropy":
        return float((1.0 - 1.0 / num_classes) ** focal_gamma) * math.log(num_classes)
    return num_classes - 1.0


def _weighted_sum(of_rows: _RowLoss, class_weights: Sequence[float] | None) -> Loss:
    weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)

    def loss(
        logits: torch.Tensor, labels: torch.Tensor, share: torch.Tensor | None = None, /
    ) -> torch.Tensor:
        losses = of_rows(logits.float(), labels)
        if share is not None:
            losses = losses * share
        if weights is not None:
            losses = losses * weights.to(losses.device)[labels]
        return losses.sum()

    return loss


def _cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, *, smoothing: float, gamma: float
) -> torch.Tensor:
    losses = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    if gamma == 0.0:
        return losses
    own = logits.softmax(dim=1).gather(1, labels[:, None]).squeeze(1)
    # Not below the smallest step of fp32: the slope of 0^gamma is infinite for gamma < 1.
    return (1.0 - own).clamp(min=torch.finfo(own.dtype).eps) ** gamma * losses


def _binary_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, *, over_outputs: str) -> torch.Tensor:
    target = functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
    losses = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return _join(losses, over_outputs)


def _error(
    logits: torch.Tensor, labels: torch.Tensor, *, power: int, outputs: str, over_outputs: str
) -> torch.Tensor:
    given = logits.softmax(dim=1) if outputs == "softmax" else logits
    error = given - functional.one_hot(labels, logits.shape[1])
    return _join(error.abs() if power == 1 else error.square(), over_outputs)


def _hinge(logits: torch.Tensor, labels: torch.Tensor, *, power: int) -> torch.Tensor:
    mean = functional.multi_margin_loss(logits, labels, p=power, reduction="none")
    return mean * logits.shape[1]  # torch divides by K


def _join(of_outputs: torch.Tensor, over_outputs: str) -> torch.Tensor:
    return of_outputs.mean(dim=1) if over_outputs == "mean" else of_outputs.sum(dim=1)
