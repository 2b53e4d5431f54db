"""Adasum: the gradients of the ranks are added where they are orthogonal, averaged where they are parallel.

Maleki et al. 2020, "Scaling Distributed Training with Adaptive Summation" (arXiv:2006.02924). Horovod's own
needs MPI, and is not in a build on Gloo. So this one gathers all gradients on every rank and folds them
there: exact and simple, at the price of N times the memory and N times the bytes of a sum, for few ranks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def adasum(rows: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Return the Adasum of gradients, float32 [P], each layer (tensor of the network) by itself.

    Of two ranks it is (1 - a.b / 2|a|^2) a + (1 - a.b / 2|b|^2) b; of more, that of the two halves' Adasums
    (section 3 of the paper). A gradient of zeros leaves the other as it is. Sums are float64; a number that
    is not finite stays so.

    Args:
        rows: float [N, P], the gradients of N ranks; N is a power of two.
        sizes: of the layers, P together.
    """
    while len(rows) > 1:
        ones = torch.split(rows[0::2], [*sizes], dim=1)
        others = torch.split(rows[1::2], [*sizes], dim=1)
        rows = torch.cat([_add(one, other) for one, other in zip(ones, others, strict=True)], dim=1)
    return rows[0].float()


def _add(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the Adasum of each row [n, p] of one tensor with that of another, float64."""
    one, other = one.double(), other.double()
    half_product = (one * other).sum(dim=1, keepdim=True) / 2
    return one * _share(half_product, one) + other * _share(half_product, other)


def _share(half_product: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    squared = rows.square().sum(dim=1, keepdim=True)
    return torch.where(squared == 0, 1.0, 1 - half_product / squared)
