"""Optimizers by name, from torch.optim.

Weight decay is for the weights of convolutions and dense layers only: pulling biases and the scales of norms
towards 0 costs accuracy (He et al. 2019, arXiv:1812.01187, section 3.1). They are told apart by their shape:
biases and norms have one axis.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from dlspark.errors import ModelError

_OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def build_optimizer(
    model: nn.Module, name: str, *, weight_decay: float = 0.0, **options: Any
) -> torch.optim.Optimizer:
    """Build the optimizer of all parameters of a network.

    Args:
        model: on the device where it will be trained.
        name: sgd, adam (L2 penalty) or adamw (decoupled weight decay).
        weight_decay: of weights; biases and norms get 0.
        options: the other keys of the configuration group `optimizer` for this name: lr; for sgd momentum and
            nesterov; for adam and adamw betas and eps.

    Raises:
        ModelError: the name or an option is unknown.
    """
    if name not in _OPTIMIZERS:
        allowed = ", ".join(_OPTIMIZERS)
        raise ModelError("unknown optimizer", got=repr(name), allowed=allowed, where="optimizer")
    known = inspect.signature(_OPTIMIZERS[name]).parameters
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ModelError(f"unknown option of optimizer {name}", got=", ".join(unknown), where="optimizer")
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return _OPTIMIZERS[name]([group for group in groups if group["params"]], **options)
