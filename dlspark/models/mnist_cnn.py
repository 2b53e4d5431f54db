"""The lecture's CNN for MNIST: two convolutions, one subsampling, two dense layers, with dropout between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from dlspark.models.arithmetic import output_size, same_padding
from dlspark.models.initialise import initialise
from dlspark.models.layers import Flatten, convolution_block, dense_block, dropout_layer
from dlspark.models.options import require_choice

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
    maxout_pieces: int = 2,
    batch_norm: bool = False,
    initialisation: str = "auto",
    initialisation_std: float = 0.01,
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
        activation: after both convolutions and the dense layer: sigmoid, tanh, relu, leaky_relu or maxout.
        maxout_pieces: k, linear pieces of each maxout unit; >= 2.
        batch_norm: normalise each layer but the last over the batch, before its activation.
        initialisation: first weights, see `dlspark.models.initialise.initialise`.
        initialisation_std: standard deviation of initialisation "normal"; > 0.
        dropout_features: share set to 0 in training after the pooling, in [0, 1).
        dropout_dense: share set to 0 in training after the dense layer, in [0, 1).

    Raises:
        ModelError: the image is too small, or an option is unknown or out of range.
    """
    require_choice("padding", padding, ("valid", "same"))
    zeros = same_padding(_KERNEL) if padding == "same" else 0
    rows = _features_along("height", height, zeros)
    columns = _features_along("width", width, zeros)
    first, second = widths
    units: dict[str, Any] = {
        "activation": activation,
        "maxout_pieces": maxout_pieces,
        "batch_norm": batch_norm,
    }
    network = nn.Sequential(
        *convolution_block(channels, first, kernel=_KERNEL, padding=zeros, **units),
        *convolution_block(first, second, kernel=_KERNEL, padding=zeros, **units),
        nn.MaxPool2d(2),
        dropout_layer("dropout_features", dropout_features),
        Flatten(),
        *dense_block(second * rows * columns, dense, **units),
        dropout_layer("dropout_dense", dropout_dense),
        nn.Linear(dense, num_classes),
    )
    return initialise(
        network,
        activation=activation,
        initialisation=initialisation,
        initialisation_std=initialisation_std,
        maxout_pieces=maxout_pieces,
    )


def _features_along(axis: str, size: int, padding: int) -> int:
    where = f"mnist_cnn on images with a {axis} of {size} pixels"
    size = output_size("conv1", size=size, kernel=_KERNEL, padding=padding, where=where)
    size = output_size("conv2", size=size, kernel=_KERNEL, padding=padding, where=where)
    return output_size("pool", size=size, kernel=2, stride=2, remainder="warn", where=where)
