"""LeNet-5 (LeCun et al. 1998, "Gradient-Based Learning Applied to Document Recognition", figure 2).

As it is taught today: average pooling without learned scale, all 6 maps feed all 16 filters of the second
convolution, and a linear output layer stands for the radial basis units. 61,706 parameters at 32x32x1 with 10
classes. The paper centres the 28x28 digits in 32x32; here the first convolution pads by 2 where the image is
28 pixels, which is the same.
"""

from __future__ import annotations

from torch import nn

from dlspark.models.arithmetic import output_size
from dlspark.models.layers import activation_layer, initialise

_MNIST_SIZE = 28


def build_lenet5(
    *, channels: int, height: int, width: int, num_classes: int, activation: str = "tanh"
) -> nn.Sequential:
    """Build conv 6@5x5, pool 2, conv 16@5x5, pool 2, dense 120, dense 84, logits [b, K].

    Args:
        channels: C.
        height: H, pixels; 28, or 16 and any multiple of 4 above (so that both poolings fit).
        width: W, pixels; as the height.
        num_classes: K.
        activation: after each layer with weights but the last: sigmoid, tanh, relu or leaky_relu.

    Raises:
        ModelError: a layer does not fit the image, or the activation is unknown.
    """
    padding = _first_padding(height), _first_padding(width)
    rows = _features_along("height", height, padding[0])
    columns = _features_along("width", width, padding[1])
    network = nn.Sequential(
        nn.Conv2d(channels, 6, kernel_size=5, padding=padding),
        activation_layer(activation),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, kernel_size=5),
        activation_layer(activation),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * rows * columns, 120),
        activation_layer(activation),
        nn.Linear(120, 84),
        activation_layer(activation),
        nn.Linear(84, num_classes),
    )
    return initialise(network, activation)


def _first_padding(size: int) -> int:
    return 2 if size == _MNIST_SIZE else 0


def _features_along(axis: str, size: int, padding: int) -> int:
    where = f"lenet5 on images with a {axis} of {size} pixels"
    size = output_size("conv1", size=size, kernel=5, padding=padding, where=where)
    size = output_size("pool1", size=size, kernel=2, stride=2, where=where)
    size = output_size("conv2", size=size, kernel=5, where=where)
    return output_size("pool2", size=size, kernel=2, stride=2, where=where)
