"""The spread of the activations, layer by layer: whether the first weights let a signal through.

Where the standard deviation shrinks or grows from layer to layer, where most units are 0 (rectifiers) or at
the ends of their range (sigmoid, tanh), little is learned (Glorot and Bengio 2010; He et al. 2015).
"""

from __future__ import annotations

import copy
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

SATURATION_LIMITS: dict[type[nn.Module], tuple[float, float]] = {
    nn.Sigmoid: (0.05, 0.95),
    nn.Tanh: (-0.9, 0.9),
}
"""Beyond these an activation is saturated: it is in the outer 5% of its range on either side."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSpread:
    """The output of one layer over a batch."""

    name: str
    """As in the network's state dict."""
    kind: str
    """The class of the layer."""
    mean: float
    std: float
    zeros: float
    """Share of values that are exactly 0, in [0, 1]."""
    saturated: float | None
    """Sigmoid and tanh: share of values in the outer 5% of the range on either side, in [0, 1]."""


@torch.no_grad()
def measure_spread(network: nn.Module, images: torch.Tensor) -> tuple[LayerSpread, ...]:
    """Return the spread of each layer's output, in the order in which the images pass them.

    Batch normalisation takes the statistics of this batch, as in training; dropout is off. A copy is
    measured: the network is left as it was.

    Args:
        network: [b, C, H, W] -> [b, K].
        images: float32 [b, C, H, W], on the device of the network: a batch, or unit normal noise.
    """
    network = copy.deepcopy(network).train()
    found: list[LayerSpread] = []
    names = {layer: name for name, layer in network.named_modules() if not list(layer.children())}

    def leave(layer: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        found.append(_spread(names[layer], layer, output))

    with ExitStack() as stack:
        for layer in names:
            if isinstance(layer, nn.Dropout):
                layer.eval()
            elif not isinstance(layer, nn.Flatten | nn.Identity):
                stack.callback(layer.register_forward_hook(leave).remove)
        network(images)
    return tuple(found)


def _spread(name: str, layer: nn.Module, output: torch.Tensor) -> LayerSpread:
    values = output.float()
    limits = SATURATION_LIMITS.get(type(layer))
    return LayerSpread(
        name=name,
        kind=type(layer).__name__,
        mean=float(values.mean()),
        std=float(values.std(correction=0)),
        zeros=float((values == 0).float().mean()),
        saturated=float(((values < limits[0]) | (values > limits[1])).float().mean()) if limits else None,
    )
