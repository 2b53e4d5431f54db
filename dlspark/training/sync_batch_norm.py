"""Batch normalisation over the rows of all ranks, so that the number of ranks cannot be seen in it.

Without it each rank normalises by its own rows: 8 ranks of a global batch of 64 have 8 rows each, a noisy
mean and variance, and another network than one rank would train. Here each layer sums its statistics over the
ranks, forward and backward: two small all-reduces a layer and step, which is what it costs. A rank without
rows takes part with none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dlspark.contracts import Communicator


def synchronise_batch_norm(network: nn.Module, communicator: Communicator) -> int:
    """Make all batch normalisation of a network that of all ranks, in place; return the number of its layers.

    Names and tensors stay as they are, so that a checkpoint fits either kind. In evaluation nothing changes.

    Args:
        network: the same on all ranks, each of which must use it equally often, if need be with b = 0.
        communicator: joins the ranks.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    for layer in layers:
        layer.__class__ = SyncBatchNorm
        layer.communicator = communicator  # type: ignore[assignment] # a module takes any attribute
    return len(layers)


class SyncBatchNorm(_BatchNorm):
    """Batch normalisation of [b, C, ...] per channel over the rows of all ranks; b may be 0."""

    communicator: Communicator

    def _check_input_dim(self, input: torch.Tensor) -> None:  # noqa: A002 - the name in _BatchNorm
        """Take any number of axes."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - the name in _BatchNorm
        """Normalise; in training a collective, forward and backward."""
        if not self.training:
            return super().forward(input)
        sums = self.communicator.all_reduce_sum(_sums_of(input.detach()))
        total = int(sums[-1])
        if total <= 1:
            # One value has no variance; see dlspark.models.batch_norm.
            mean, variance = self.running_mean, self.running_var
        else:
            mean = sums[: self.num_features] / total
            variance = (sums[self.num_features : -1] / total - mean.square()).clamp(min=0.0)
            self._follow(mean, variance * total / (total - 1))
        normalised: torch.Tensor = _Normalise.apply(  # type: ignore[no-untyped-call]
            input, self.weight, self.bias, mean, variance, self.eps, total, self.communicator
        )
        return normalised

    def _follow(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        """Move the running statistics; the variance is the unbiased one, as in torch."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


def _sums_of(values: torch.Tensor) -> torch.Tensor:
    """Return the sum by channel, that of squares, and the number of values a channel, float64 [2 C + 1]."""
    channels = values.shape[1]
    num_values = values.numel() // channels
    if not num_values:
        return torch.zeros(2 * channels + 1, dtype=torch.float64, device=values.device)
    others = [axis for axis in range(values.ndim) if axis != 1]
    # From mean and variance, since a sum of float32 squares would lose a variance far below the mean.
    variance, mean = (part.double() for part in torch.var_mean(values.float(), dim=others, correction=0))
    return torch.cat([mean, variance + mean.square(), mean.new_ones(1)]) * num_values


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, with mean and variance of the x of all ranks."""

    @staticmethod
    def forward(  # noqa: PLR0917 - a Function takes no keywords
        ctx: Any,
        values: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        mean: torch.Tensor,
        variance: torch.Tensor,
        eps: float,
        total: int,
        communicator: Communicator,
    ) -> torch.Tensor:
        shape = [1, -1, *[1] * (values.ndim - 2)]
        inverse = (variance.double() + eps).rsqrt().float().view(shape)
        unit = (values.float() - mean.float().view(shape)) * inverse
        ctx.save_for_backward(unit, inverse, weight)
        ctx.total, ctx.communicator, ctx.shape = total, communicator, shape
        if weight is None or bias is None:
            return unit.to(values.dtype)
        return torch.addcmul(bias.view(shape), unit, weight.view(shape)).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of this rank's share; those of weight and bias are summed with all others."""
        unit, inverse, weight = ctx.saved_tensors
        gradient = gradients[0].float()
        others = [axis for axis in range(gradient.ndim) if axis != 1]
        own = torch.stack([part.sum(others, dtype=torch.float64) for part in (gradient, gradient * unit)])
        of_bias, of_weight = own.float()
        if ctx.total > 1:
            # Of all ranks: the loss of each depends on the x of every other through mean and variance.
            means = (ctx.communicator.all_reduce_sum(own.clone()) / ctx.total).float()
            gradient = gradient - means[0].view(ctx.shape) - unit * means[1].view(ctx.shape)
        scale = inverse if weight is None else inverse * weight.view(ctx.shape)
        of_values = (gradient * scale).to(gradients[0].dtype)
        if weight is None:
            of_weight = of_bias = None
        return of_values, of_weight, of_bias, None, None, None, None, None
