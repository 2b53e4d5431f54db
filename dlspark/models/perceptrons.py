"""Fully connected networks on the flattened image: the perceptron, one hidden layer, and deeper ones."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from dlspark.models.layers import activation_layer, initialise


def build_mlp(
    *,
    channels: int,
    height: int,
    width: int,
    num_classes: int,
    hidden: Sequence[int] = (500, 500),
    activation: str = "relu",
    dropout_input: float = 0.0,
    dropout_hidden: float = 0.0,
) -> nn.Sequential:
    """Build [b, C, H, W] -> flatten -> (dense, activation, dropout) for each hidden layer -> logits [b, K].

    With the default sizes, dropout_input=0.2 and dropout_hidden=0.5 it is the MNIST network of Hinton et al.
    2012 (arXiv:1207.0580).

    Args:
        channels: C.
        height: H, pixels.
        width: W, pixels.
        num_classes: K.
        hidden: units of each hidden layer; empty for a perceptron, one linear unit for each class.
        activation: of the hidden units: sigmoid, tanh, relu or leaky_relu.
        dropout_input: share of the inputs set to 0 in training, in [0, 1).
        dropout_hidden: share of the units of each hidden layer set to 0 in training, in [0, 1).

    Raises:
        ModelError: the activation is unknown.
    """
    layers: list[nn.Module] = [nn.Flatten(), nn.Dropout(dropout_input)]
    inputs = channels * height * width
    for units in hidden:
        layers += [nn.Linear(inputs, units), activation_layer(activation), nn.Dropout(dropout_hidden)]
        inputs = units
    layers.append(nn.Linear(inputs, num_classes))
    return initialise(nn.Sequential(*layers), activation)
