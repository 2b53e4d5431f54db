"""A network by its name: the one door through which a worker and a checkpoint build one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

from torch import nn

from dlspark.errors import ModelError
from dlspark.models.alexnet import build_alexnet
from dlspark.models.googlenet import build_googlenet
from dlspark.models.lenet import build_lenet5
from dlspark.models.mnist_cnn import build_mnist_cnn
from dlspark.models.options import nearest
from dlspark.models.perceptrons import build_mlp, build_perceptron
from dlspark.models.resnet import RESNETS, build_resnet
from dlspark.models.torchvision_models import build_torchvision
from dlspark.models.vgg import VGGS, build_vgg

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "perceptron": build_perceptron,
    "mlp": build_mlp,
    "lenet5": build_lenet5,
    "mnist_cnn": build_mnist_cnn,
    "alexnet": build_alexnet,
    "googlenet": build_googlenet,
    **{name: partial(build_vgg, name) for name in VGGS},
    **{name: partial(build_resnet, name) for name in RESNETS},
    "torchvision": build_torchvision,
}
"""The networks by name; each builder's other arguments are the keys of its section of the configuration."""

_SHAPE = ("channels", "height", "width", "num_classes")


def build_model(
    name: str, *, channels: int, height: int, width: int, num_classes: int, **options: object
) -> nn.Module:
    """Build a network with first weights drawn from torch's global generator, which the caller has seeded.

    Args:
        name: a key of BUILDERS.
        channels: C; >= 1.
        height: H, pixels; >= 1.
        width: W, pixels; >= 1.
        num_classes: K; >= 2.
        options: the keys of the configuration group `model` for this name, without `name`; those left out
            take the same defaults as there.

    Returns:
        A module of float32 [b, C, H, W] -> float32 logits [b, K], on the CPU, in training mode.

    Raises:
        ModelError: the name or an option is unknown, a size is out of range, or the image does not fit.
    """
    if name not in BUILDERS:
        raise ModelError(
            "unknown model",
            got=repr(name),
            allowed=", ".join(BUILDERS),
            where="model",
            fix=nearest(name, BUILDERS),
        )
    allowed = option_names(name)
    for option in options:
        if option not in allowed:
            raise ModelError(
                f"unknown option of model {name}",
                got=repr(option),
                allowed=", ".join(allowed),
                where=f"model.{option}",
                fix=nearest(option, allowed),
            )
    sizes = {"channels": channels, "height": height, "width": width, "num_classes": num_classes}
    for key, size in sizes.items():
        least = 2 if key == "num_classes" else 1
        if size < least:
            raise ModelError(
                f"{key} of a network is out of range", got=size, allowed=f">= {least}", where=f"model {name}"
            )
    return BUILDERS[name](**sizes, **options)


def option_names(name: str) -> tuple[str, ...]:
    """Return the options of the network `name`, in the order of its builder's signature."""
    return tuple(key for key in inspect.signature(BUILDERS[name]).parameters if key not in _SHAPE)
