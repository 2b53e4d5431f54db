"""Batch normalisation (Ioffe and Szegedy 2015, arXiv:1502.03167) that also takes a single value a channel.

A short last step can leave a rank one row, and a small image 1x1 maps: one value has no variance, and torch's
layers refuse it in training. These normalise it with the running statistics and leave them as they are. The
statistics are those of the rows of one rank.
"""

from __future__ import annotations

import torch
from torch import nn


class BatchNorm1d(nn.BatchNorm1d):
    """Batch normalisation of the units of a fully connected layer."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - the name in nn.BatchNorm1d
        """Normalise [b, U] per unit."""
        return _by_running_statistics(self, input) if _is_lone(self, input) else super().forward(input)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation of the maps of a convolution."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - the name in nn.BatchNorm2d
        """Normalise [b, C, H, W] per channel."""
        return _by_running_statistics(self, input) if _is_lone(self, input) else super().forward(input)


def accept_lone_values(network: nn.Module) -> None:
    """Make each nn.BatchNorm2d of a network a BatchNorm2d of this file, in place, with its tensors."""
    for layer in network.modules():
        if type(layer) is nn.BatchNorm2d:
            layer.__class__ = BatchNorm2d


def _is_lone(layer: nn.BatchNorm1d | nn.BatchNorm2d, values: torch.Tensor) -> bool:
    return layer.training and values.numel() == values.shape[1]


def _by_running_statistics(layer: nn.BatchNorm1d | nn.BatchNorm2d, values: torch.Tensor) -> torch.Tensor:
    return nn.functional.batch_norm(
        values, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps
    )
