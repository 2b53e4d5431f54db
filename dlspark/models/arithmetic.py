"""The sizes of layers, before there are layers: which images a network fits, and how many numbers it learns.

One formula serves convolution and pooling, (W - F + 2P)/S + 1 (CS231n, "Convolutional Neural Networks", and
Dumoulin and Visin 2016, arXiv:1603.07285). torch takes the floor of it in silence, so a network can lose the
last rows and columns of its input unseen. Here the caller says what a remainder means, and an image that is
too small is refused with the layer, the sizes and the formula.
"""

from __future__ import annotations

import logging
from fractions import Fraction
from typing import Literal

from dlspark.errors import ModelError

_LOGGER = logging.getLogger(__name__)

Remainder = Literal["refuse", "warn", "floor"]
"""refuse: an error; warn: the floor, logged if it leaves pixels out; floor: the floor, as torch takes it."""


def output_size(
    layer: str,
    *,
    size: int,
    kernel: int,
    stride: int = 1,
    padding: int = 0,
    remainder: Remainder = "refuse",
    where: str | None = None,
) -> int:
    """Return the output size of a convolution or a pooling along one axis: (W - F + 2P)/S + 1.

    Args:
        layer: the name of the layer, for the message.
        size: W, pixels of the input along the axis; >= 1.
        kernel: F, pixels of the filter or of the pooling window; >= 1.
        stride: S, pixels between two places of the filter; >= 1.
        padding: P, zeros added on each side; >= 0.
        remainder: what to do where the stride does not end at the border.
        where: the network and the image that the layer belongs to, for the message.

    Raises:
        ModelError: the filter is larger than the padded input, or the stride does not fit and `remainder` is
            "refuse".
    """
    exact, formula = size_formula(size=size, kernel=kernel, stride=stride, padding=padding)
    if exact < 1:
        raise ModelError(
            f"the image is too small for layer {layer}",
            got=f"{size} pixels at its input, output (W - F + 2P)/S + 1 = {formula}",
            allowed=f"at least {kernel - 2 * padding} pixels there (filter F={kernel}, padding P={padding})",
            where=where,
            fix="use larger images (image.size) or a network for smaller ones",
        )
    if exact.denominator == 1:
        return int(exact)
    if remainder == "refuse":
        last = size - (size - kernel + 2 * padding) % stride
        raise ModelError(
            f"layer {layer} does not fit the image",
            got=f"{size} pixels at its input, output (W - F + 2P)/S + 1 = {formula}, not a whole number",
            allowed=f"{last} or {last + stride} pixels there (filter F={kernel}, stride S={stride})",
            where=where,
            fix="choose another image.size, or a network that takes any size",
        )
    lost = lost_pixels(size=size, kernel=kernel, stride=stride, padding=padding)
    if remainder == "warn" and lost:
        _LOGGER.warning(
            "layer %s%s: output (W - F + 2P)/S + 1 = %s is not a whole number; the last %d pixels of its "
            "input are not used",
            layer,
            f" of {where}" if where else "",
            formula,
            lost,
        )
    return int(exact)


def size_formula(*, size: int, kernel: int, stride: int = 1, padding: int = 0) -> tuple[Fraction, str]:
    """Return (W - F + 2P)/S + 1 as an exact number, and spelled out with its numbers.

    Args:
        size: W, pixels.
        kernel: F, pixels.
        stride: S, pixels.
        padding: P, zeros on each side.
    """
    exact = Fraction(size - kernel + 2 * padding, stride) + 1
    return exact, f"({size} - {kernel} + 2*{padding})/{stride} + 1 = {_decimal(exact)}"


def lost_pixels(*, size: int, kernel: int, stride: int = 1, padding: int = 0) -> int:
    """Return how many last pixels of the input no filter reaches, where the floor is taken.

    A remainder that falls into the padding loses none, as in the first layers of AlexNet and ResNet; and a
    filter smaller than its stride leaves pixels out by intent, as in the shortcuts of ResNet.

    Args:
        size: W, pixels.
        kernel: F, pixels.
        stride: S, pixels.
        padding: P, zeros on each side.
    """
    if kernel < stride:
        return 0
    return max(0, (size - kernel + 2 * padding) % stride - padding)


def same_padding(kernel: int) -> int:
    """Return the padding (F - 1)/2 that keeps the size at stride 1.

    Args:
        kernel: F, pixels; odd.

    Raises:
        ModelError: the filter is even, so that no padding equal on both sides keeps the size.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise ModelError(
            "only an odd filter can keep the size: the padding is (F - 1)/2 on both sides",
            got=f"F={kernel}",
            allowed="1, 3, 5, 7, ...",
            fix="use an odd filter",
        )
    return (kernel - 1) // 2


def convolution_parameters(*, kernel: int, in_channels: int, filters: int) -> int:
    """Return the learned numbers of a square convolution, biases included: (F*F*C + 1) * filters."""
    return (kernel * kernel * in_channels + 1) * filters


def dense_parameters(*, inputs: int, outputs: int) -> int:
    """Return the learned numbers of a fully connected layer, biases included: (inputs + 1) * outputs."""
    return (inputs + 1) * outputs


def _decimal(value: Fraction) -> str:
    return str(int(value)) if value.denominator == 1 else f"{float(value):.2f}"
