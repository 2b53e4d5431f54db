"""LeNet-5 (LeCun et al. 1998, "Gradient-Based Learning Applied to Document Recognition", figure 2).

As it is taught today: average pooling without learned scale, all 6 maps feed all 16 filters of the second
convolution, and a linear output layer stands for the radial basis units. 61,706 parameters at 32x32x1 with 10
classes. The paper centres the 28x28 digits in 32x32; here the first convolution pads by 2 where the image is
28 pixels, which is the same.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from dlspark.models.arithmetic import output_size
from dlspark.models.initialise import initialise
from dlspark.models.layers import Flatten, convolution_block, dense_block

_MNIST_SIZE = 28


def build_lenet5(
    *,
    channels: int,
    height: int,
    width: int,
    num_classes: int,
    activation: str = "tanh",
    maxout_pieces: int = 2,
    batch_norm: bool = False,
    initialisation: str = "auto",
    initialisation_std: float = 0.01,
) -> nn.Sequential:
    """Build conv 6@5x5, pool 2, conv 16@5x5, pool 2, dense 120, dense 84, logits [b, K].

    Args:
        channels: C.
        height: H, pixels; 28, or 16 and any multiple of 4 above (so that both poolings fit).
        width: W, pixels; as the height.
        num_classes: K.
        activation: after each layer with weights but the last: sigmoid, tanh, relu, leaky_relu or maxout.
        maxout_pieces: k, linear pieces of each maxout unit; >= 2.
        batch_norm: normalise each layer but the last over the batch, before its activation.
        initialisation: first weights, see `dlspark.models.initialise.initialise`.
        initialisation_std: standard deviation of initialisation "normal"; > 0.

    Raises:
        ModelError: a layer does not fit the image, or an option is unknown or out of range.
    """
    padding = _first_padding(height), _first_padding(width)
    rows = _features_along("height", height, padding[0])
    columns = _features_along("width", width, padding[1])
    units: dict[str, Any] = {
        "activation": activation,
        "maxout_pieces": maxout_pieces,
        "batch_norm": batch_norm,
    }
    network = nn.Sequential(
        *convolution_block(channels, 6, kernel=5, padding=padding, **units),
        nn.AvgPool2d(2),
        *convolution_block(6, 16, kernel=5, **units),
        nn.AvgPool2d(2),
        Flatten(),
        *dense_block(16 * rows * columns, 120, **units),
        *dense_block(120, 84, **units),
        nn.Linear(84, num_classes),
    )
    return initialise(
        network,
        activation=activation,
        initialisation=initialisation,
        initialisation_std=initialisation_std,
        maxout_pieces=maxout_pieces,
    )


def _first_padding(size: int) -> int:
    return 2 if size == _MNIST_SIZE else 0


def _features_along(axis: str, size: int, padding: int) -> int:
    where = f"lenet5 on images with a {axis} of {size} pixels"
    size = output_size("conv1", size=size, kernel=5, padding=padding, where=where)
    size = output_size("pool1", size=size, kernel=2, stride=2, where=where)
    size = output_size("conv2", size=size, kernel=5, where=where)
    return output_size("pool2", size=size, kernel=2, stride=2, where=where)
