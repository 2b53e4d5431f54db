"""The lecture's CNN for MNIST: two convolutions, one subsampling, two dense layers, with dropout between."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from dlspark.errors import ModelError
from dlspark.models.arithmetic import output_size, same_padding
from dlspark.models.layers import activation_layer, initialise

_KERNEL = 3


def build_mnist_cnn(
    *,
    channels: int,
    height: int,
    width: int,
    num_classes: int,
    widths: Sequence[int] = (32, 64),
    padding: str = "valid",
    dense: int = 128,
    activation: str = "relu",
    dropout_features: float = 0.25,
    dropout_dense: float = 0.5,
) -> nn.Sequential:
    """Build conv 3x3, conv 3x3, max pool 2x2, dropout, dense, dropout, logits [b, K].

    Args:
        channels: C.
        height: H, pixels; >= 6 with padding "valid", >= 2 with "same".
        width: W, pixels; as the height.
        num_classes: K.
        widths: filters of the two convolutions.
        padding: "valid" (none: each convolution takes 2 pixels) or "same" (zeros keep the size).
        dense: units of the dense layer.
        activation: after both convolutions and the dense layer: sigmoid, tanh, relu or leaky_relu.
        dropout_features: share set to 0 in training after the pooling, in [0, 1).
        dropout_dense: share set to 0 in training after the dense layer, in [0, 1).

    Raises:
        ModelError: the image is too small, or the padding or the activation is unknown.
    """
    if padding not in ("valid", "same"):
        raise ModelError("unknown padding", got=repr(padding), allowed="valid, same", where="model.padding")
    zeros = same_padding(_KERNEL) if padding == "same" else 0
    rows = _features_along("height", height, zeros)
    columns = _features_along("width", width, zeros)
    first, second = widths
    network = nn.Sequential(
        nn.Conv2d(channels, first, kernel_size=_KERNEL, padding=zeros),
        activation_layer(activation),
        nn.Conv2d(first, second, kernel_size=_KERNEL, padding=zeros),
        activation_layer(activation),
        nn.MaxPool2d(2),
        nn.Dropout(dropout_features),
        nn.Flatten(),
        nn.Linear(second * rows * columns, dense),
        activation_layer(activation),
        nn.Dropout(dropout_dense),
        nn.Linear(dense, num_classes),
    )
    return initialise(network, activation)


def _features_along(axis: str, size: int, padding: int) -> int:
    where = f"mnist_cnn on images with a {axis} of {size} pixels"
    size = output_size("conv1", size=size, kernel=_KERNEL, padding=padding, where=where)
    size = output_size("conv2", size=size, kernel=_KERNEL, padding=padding, where=where)
    return output_size("pool", size=size, kernel=2, stride=2, remainder="warn", where=where)
