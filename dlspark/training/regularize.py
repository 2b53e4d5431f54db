"""What holds gradients and weights in bounds: an L1 penalty, clipping, and a largest length of weights.

All of it is done after the all-reduce, on what is equal on every rank: so N ranks do what one would, and a
penalty counts once.
"""

from __future__ import annotations

import torch
from torch import nn

from dlspark.training.gradients import GradientBuffer

_EPS = 1e-6
"""Keeps a gradient of length 0 from being divided by it; that of torch.nn.utils.clip_grad_norm_."""


@torch.no_grad()
def add_l1_gradient(model: nn.Module, strength: float) -> None:
    """Add the gradient of strength * sum of |w| over all weights, strength * sign(w); 0 where w = 0.

    Weights are the parameters with more than one axis: norms and biases are left out, as by weight decay.

    Args:
        model: its parameters have gradients, those over all ranks.
        strength: of the penalty on the mean loss; > 0.
    """
    for parameter in model.parameters():
        if parameter.grad is not None and parameter.ndim > 1:
            parameter.grad.add_(parameter.sign(), alpha=strength)


def clip_gradient_norm(gradients: GradientBuffer, largest: float) -> None:
    """Scale the whole gradient down to the length `largest` where it is longer (Pascanu et al. 2013).

    Args:
        gradients: those over all ranks.
        largest: > 0.
    """
    flat = gradients.values
    flat.mul_((largest / (flat.norm() + _EPS)).clamp(max=1.0))


def clip_gradient_values(gradients: GradientBuffer, largest: float) -> None:
    """Bring each number of the gradient into [-largest, largest].

    Args:
        gradients: those over all ranks.
        largest: > 0.
    """
    gradients.values.clamp_(-largest, largest)


@torch.no_grad()
def limit_weight_norms(model: nn.Module, max_squared_norm: float) -> None:
    """Scale down the incoming weights of each unit whose squared length is above a limit, in place.

    A unit is a row of a dense layer or a filter of a convolution; its bias is left out. Hinton et al. 2012
    (arXiv:1207.0580, appendix A) limit the squared length to 15, after each step.

    Args:
        model: its trainable parameters with more than one axis have units first.
        max_squared_norm: > 0.
    """
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.ndim > 1:
            rows = parameter.flatten(1)
            limited = torch.renorm(rows, p=2, dim=0, maxnorm=max_squared_norm**0.5)
            parameter.copy_(limited.view(parameter.shape))
