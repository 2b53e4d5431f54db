"""Optimizers by name: torch.optim's, and Muon.

Weight decay is for the weights of convolutions and dense layers only: pulling biases and the scales of norms
towards 0 costs accuracy (He et al. 2019, arXiv:1812.01187, section 3.1). They are told apart by their shape:
biases and norms have one axis.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import nn

from dlspark.errors import ModelError
from dlspark.training.frozen import lr_factors
from dlspark.training.muon import Muon, split_for_muon

_LOGGER = logging.getLogger(__name__)

# The lecture's names beside torch's: gradient descent is SGD that is given all rows in each step.
_OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], Mapping[str, Any]]] = {
    "gd": (torch.optim.SGD, {}),
    "sgd": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adagrad": (torch.optim.Adagrad, {}),
    "rmsprop": (torch.optim.RMSprop, {}),
    "adadelta": (torch.optim.Adadelta, {}),
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {}),
    "muon": (Muon, {}),
}
_FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
"""Those of which torch has one loop over all tensors, on CPUs and GPUs: Adam in a third of the time."""


def build_optimizer(
    model: nn.Module,
    name: str,
    *,
    weight_decay: float = 0.0,
    decay_norms_and_biases: bool = False,
    depth_decay: float = 1.0,
    **options: Any,
) -> torch.optim.Optimizer:
    """Build the optimizer of the parameters of a network that are trained.

    A parameter group carries `lr_factor`: its learning rate is that many times the one of the step.

    Args:
        model: on the device where it will be trained.
        name: gd, sgd, momentum, nesterov, adagrad, rmsprop, adadelta, adam (L2 penalty), adamw and muon
            (decoupled weight decay).
        weight_decay: of weights; biases and norms get 0.
        decay_norms_and_biases: True gives them the same.
        depth_decay: learning rate of a block by that of the next one towards the head, in (0, 1]; see
            `dlspark.training.frozen.lr_factors`.
        options: the other keys of the configuration group `optimizer` for this name that are torch's own, as
            lr, momentum, betas; for muon also adamw_lr.

    Raises:
        ModelError: the name or an option is unknown.
    """
    if name not in _OPTIMIZERS:
        allowed = ", ".join(_OPTIMIZERS)
        raise ModelError("unknown optimizer", got=repr(name), allowed=allowed, where="optimizer")
    kind, defaults = _OPTIMIZERS[name]
    options = {**defaults, **options}
    adamw_lr = options.pop("adamw_lr", options["lr"]) if kind is Muon else None
    unknown = sorted(set(options) - set(inspect.signature(kind).parameters))
    if unknown:
        raise ModelError(f"unknown option of optimizer {name}", got=", ".join(unknown), where="optimizer")
    parts: list[tuple[list[nn.Parameter], dict[str, Any]]] = [(list(model.parameters()), {})]
    if adamw_lr is not None:
        hidden, others = split_for_muon(model)
        parts = [(hidden, {}), (others, {"use_adamw": True, "lr_factor": adamw_lr / options["lr"]})]
    groups = []
    for parameters, own in parts:
        weights = [parameter for parameter in parameters if parameter.ndim > 1]
        rest = [parameter for parameter in parameters if parameter.ndim <= 1]
        groups.append({"params": weights, "weight_decay": weight_decay, **own})
        groups.append({"params": rest, "weight_decay": weight_decay * decay_norms_and_biases, **own})
    if kind in _FUSED:
        options["fused"] = True
    return kind(_by_rate(groups, model, depth_decay), **options)


def set_rates(optimizer: torch.optim.Optimizer, *, lr: float, momentum: float | None = None) -> None:
    """Give the learning rate and the momentum of the next step to all parameter groups.

    Args:
        optimizer: as built by `build_optimizer`.
        lr: of the step; a group's `lr_factor` multiplies it.
        momentum: for Adam, the first of betas; None leaves it.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)
        if momentum is None:
            continue
        if "momentum" in group:
            group["momentum"] = momentum
        else:
            group["betas"] = (momentum, group["betas"][1])


def momentum_schedule(
    start: float, end: float, *, epochs: float, steps_per_epoch: int
) -> Callable[[int], float]:
    """Return the momentum at each step: from `start` in a line to `end` over `epochs`, then held.

    The recipe of Hinton et al. 2012 (arXiv:1207.0580, appendix A) is 0.5 to 0.99 over 500 epochs.

    Args:
        start: in [0, 1).
        end: in [0, 1).
        epochs: > 0.
        steps_per_epoch: >= 1.
    """
    num_steps = epochs * steps_per_epoch
    return lambda step: start + (end - start) * min(step / num_steps, 1.0)


def scale_lr(lr: float, scaling: Literal["none", "linear", "sqrt"], *, num_ranks: int) -> float:
    """Return the base learning rate for a number of ranks, and log it where it is another one.

    linear: lr * N (Goyal et al. 2017, arXiv:1706.02677, who grow the batch with N); sqrt: lr * root of N
    (Krizhevsky 2014, arXiv:1404.5997). The global batch of a run does not grow with N, so only "none" keeps
    the result the same for any N.
    """
    factor = {"none": 1.0, "linear": float(num_ranks), "sqrt": math.sqrt(num_ranks)}[scaling]
    if scaling != "none":
        _LOGGER.warning(
            "optimizer.lr_scaling=%s: the learning rate is %g instead of optimizer.lr=%g, for %d ranks; "
            "another number of ranks gives another result",
            *(scaling, lr * factor, lr, num_ranks),
        )
    return lr * factor


def _by_rate(groups: list[dict[str, Any]], model: nn.Module, depth_decay: float) -> list[dict[str, Any]]:
    """Divide groups into those of one learning rate each, from the head down, without what is frozen."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    factors = lr_factors(model, depth_decay)
    divided = []
    for group in groups:
        by_factor: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            if parameter.requires_grad:
                by_factor.setdefault(factors[names[id(parameter)]], []).append(parameter)
        divided += [
            {**group, "params": by_factor[factor], "lr_factor": group.get("lr_factor", 1.0) * factor}
            for factor in sorted(by_factor, reverse=True)
        ]
    return divided
