"""Fully connected networks on the flattened image: the perceptron, one hidden layer, and deeper ones."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from dlspark.models.initialise import initialise
from dlspark.models.layers import Flatten, dense_block, dropout_layer


def build_perceptron(
    *,
    channels: int,
    height: int,
    width: int,
    num_classes: int,
    initialisation: str = "auto",
    initialisation_std: float = 0.01,
) -> nn.Sequential:
    """Build [b, C, H, W] -> flatten -> one linear unit for each class: logits [b, K].

    The activation of its units is that of the loss: the sigmoid, the softmax or the sign.

    Args:
        channels: C.
        height: H, pixels.
        width: W, pixels.
        num_classes: K.
        initialisation: first weights, see `dlspark.models.initialise.initialise`.
        initialisation_std: standard deviation of initialisation "normal"; > 0.

    Raises:
        ModelError: an option is unknown or out of range.
    """
    network = nn.Sequential(Flatten(), nn.Linear(channels * height * width, num_classes))
    return initialise(
        network,
        activation="sigmoid",
        initialisation=initialisation,
        initialisation_std=initialisation_std,
    )


def build_mlp(
    *,
    channels: int,
    height: int,
    width: int,
    num_classes: int,
    hidden: Sequence[int] = (500, 500),
    activation: str = "relu",
    maxout_pieces: int = 2,
    batch_norm: bool = False,
    initialisation: str = "auto",
    initialisation_std: float = 0.01,
    dropout_input: float = 0.0,
    dropout_hidden: float = 0.0,
) -> nn.Sequential:
    """Build [b, C, H, W] -> flatten -> (dense, activation, dropout) for each hidden layer -> logits [b, K].

    With the default sizes, dropout_input=0.2, dropout_hidden=0.5, initialisation="normal" and a standard
    deviation of 0.01 it is the MNIST network of Hinton et al. 2012 (arXiv:1207.0580).

    Args:
        channels: C.
        height: H, pixels.
        width: W, pixels.
        num_classes: K.
        hidden: units of each hidden layer; empty for a perceptron, one linear unit for each class.
        activation: of the hidden units: sigmoid, tanh, relu, leaky_relu or maxout.
        maxout_pieces: k, linear pieces of each maxout unit; >= 2.
        batch_norm: normalise each hidden layer over the batch, before its activation.
        initialisation: first weights, see `dlspark.models.initialise.initialise`.
        initialisation_std: standard deviation of initialisation "normal"; > 0.
        dropout_input: share of the inputs set to 0 in training, in [0, 1).
        dropout_hidden: share of the units of each hidden layer set to 0 in training, in [0, 1).

    Raises:
        ModelError: an option is unknown or out of range.
    """
    layers: list[nn.Module] = [Flatten(), dropout_layer("dropout_input", dropout_input)]
    inputs = channels * height * width
    for units in hidden:
        layers += dense_block(
            inputs, units, activation=activation, maxout_pieces=maxout_pieces, batch_norm=batch_norm
        )
        layers.append(dropout_layer("dropout_hidden", dropout_hidden))
        inputs = units
    layers.append(nn.Linear(inputs, num_classes))
    return initialise(
        nn.Sequential(*layers),
        activation=activation,
        initialisation=initialisation,
        initialisation_std=initialisation_std,
        maxout_pieces=maxout_pieces,
    )
