"""What several networks share: activations by name, and the first weights that suit them.

The spread of the first weights follows the activation, so that the signal keeps its size through the layers:
He for the rectifiers, which halve it, and Xavier for the symmetric sigmoid and tanh.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from dlspark.errors import ModelError

LEAKY_SLOPE = 0.01
"""Slope of leaky_relu below 0 (Maas et al. 2013)."""

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(LEAKY_SLOPE),
}


def activation_layer(name: str) -> nn.Module:
    """Return a new activation layer.

    Args:
        name: sigmoid, tanh, relu or leaky_relu.

    Raises:
        ModelError: the name is another one.
    """
    if name not in _ACTIVATIONS:
        raise ModelError(
            "unknown activation", got=repr(name), allowed=", ".join(_ACTIVATIONS), where="model.activation"
        )
    return _ACTIVATIONS[name]()


def initialise_he(layer: nn.Conv2d | nn.Linear, *, slope: float = 0.0) -> None:
    """Draw weights from N(0, 2/((1 + slope^2) * fan_in)) and zero the biases, in place.

    Source: He et al. 2015, "Delving Deep into Rectifiers" (arXiv:1502.01852).

    Args:
        layer: a convolution or a fully connected layer in front of a rectifier.
        slope: of the rectifier below 0.
    """
    nn.init.kaiming_normal_(layer.weight, a=slope, mode="fan_in", nonlinearity="leaky_relu")
    _zero_bias(layer)


def initialise_xavier(layer: nn.Conv2d | nn.Linear) -> None:
    """Draw weights uniformly with variance 2/(fan_in + fan_out) and zero the biases, in place.

    Source: Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward networks".
    """
    nn.init.xavier_uniform_(layer.weight)
    _zero_bias(layer)


def initialise(network: nn.Sequential, activation: str) -> nn.Sequential:
    """Draw the first weights of a feed-forward network from torch's global generator; return it.

    Args:
        network: its last layer gives the logits, so no activation follows it and Xavier serves it; each other
            convolution and fully connected layer is followed by `activation`.
        activation: sigmoid, tanh, relu or leaky_relu.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer in layers[:-1]:
        if activation == "relu":
            initialise_he(layer)
        elif activation == "leaky_relu":
            initialise_he(layer, slope=LEAKY_SLOPE)
        else:
            initialise_xavier(layer)
    initialise_xavier(layers[-1])
    return network


def _zero_bias(layer: nn.Conv2d | nn.Linear) -> None:
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
