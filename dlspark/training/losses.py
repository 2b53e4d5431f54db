"""Losses as sums over rows.

A rank knows only its own rows, and ranks hold unequal numbers of them. So a loss is summed here, and the one
division, by the rows of the whole global batch or split, is done once by the caller.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def cross_entropy_sum(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the sum over rows of the softmax cross entropy, in nats, in fp32 whatever the logits are.

    Args:
        logits: float [b, K].
        labels: int64 [b], in [0, K).

    Returns:
        float32 scalar; 0 where b = 0.
    """
    return functional.cross_entropy(logits.float(), labels, reduction="sum")
