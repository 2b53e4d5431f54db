"""The sizes of layers: the lectures' golden numbers, and torch as the second opinion."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from dlspark.errors import ModelError
from dlspark.models.arithmetic import (
    convolution_parameters,
    dense_parameters,
    lost_pixels,
    output_size,
    same_padding,
)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "expected"),
    [
        (7, 3, 1, 0, 5),
        (7, 3, 2, 0, 3),
        (7, 3, 1, 1, 7),  # zero padding (F - 1)/2 keeps the size
        (7, 5, 1, 2, 7),
        (32, 5, 1, 2, 32),  # five 5x5 filters, stride 1, pad 2: 32x32x5
        (28, 5, 1, 2, 28),
        (32, 5, 1, 0, 28),  # 32x32 input with a 5x5 filter: 28x28
        (28, 5, 1, 0, 24),
        (28, 2, 2, 0, 14),  # pooling F = 2, S = 2
        (55, 3, 2, 0, 27),  # overlapping pooling F = 3, S = 2, as AlexNet's first
    ],
)
def test_golden_sizes(size: int, kernel: int, stride: int, padding: int, expected: int) -> None:
    assert output_size("conv", size=size, kernel=kernel, stride=stride, padding=padding) == expected
    image = torch.zeros(1, 1, size, size)
    assert nn.Conv2d(1, 1, kernel, stride, padding)(image).shape[-1] == expected


def test_stride_3_does_not_fit_7_pixels() -> None:
    with pytest.raises(ModelError) as error:
        output_size("conv1", size=7, kernel=3, stride=3)
    message = str(error.value)
    assert "conv1" in message
    assert "(W - F + 2P)/S + 1 = (7 - 3 + 2*0)/3 + 1 = 2.33" in message
    assert "6 or 9 pixels" in message
    for size, expected in ((6, 2), (9, 3)):  # the sizes that the message allows are right
        assert output_size("conv1", size=size, kernel=3, stride=3) == expected


def test_filter_larger_than_the_image_is_refused_with_the_least_size() -> None:
    with pytest.raises(ModelError, match=r"too small for layer conv2.*got 4 pixels.*at least 5 pixels"):
        output_size("conv2", size=4, kernel=5)
    assert output_size("conv2", size=5, kernel=5) == 1
    with pytest.raises(ModelError, match="at least 3 pixels"):
        output_size("conv2", size=2, kernel=5, padding=1, remainder="floor")


def test_floor_that_torch_takes_in_silence_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert output_size("pool", size=7, kernel=2, stride=2, remainder="warn") == 3
    assert nn.MaxPool2d(2)(torch.zeros(1, 1, 7, 7)).shape[-1] == 3
    assert "layer pool" in caplog.text
    assert "(7 - 2 + 2*0)/2 + 1 = 3.50" in caplog.text
    assert "last 1 pixels" in caplog.text


def test_a_size_that_fits_and_a_meant_floor_log_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        assert output_size("pool", size=8, kernel=2, stride=2, remainder="warn") == 4
        assert output_size("stem", size=224, kernel=7, stride=2, padding=3, remainder="floor") == 112
    assert caplog.text == ""


def test_pixels_are_lost_only_where_a_filter_could_have_reached_them() -> None:
    assert lost_pixels(size=7, kernel=2, stride=2) == 1
    assert lost_pixels(size=8, kernel=2, stride=2) == 0
    assert lost_pixels(size=9, kernel=4, stride=3) == 2
    assert lost_pixels(size=224, kernel=7, stride=2, padding=3) == 0  # the remainder is a zero of the padding
    assert lost_pixels(size=56, kernel=1, stride=2) == 0  # a shortcut that samples on purpose


def test_same_padding() -> None:
    assert [same_padding(kernel) for kernel in (1, 3, 5, 7)] == [0, 1, 2, 3]
    with pytest.raises(ModelError, match="F=4"):
        same_padding(4)


def test_golden_parameter_counts() -> None:
    assert convolution_parameters(kernel=5, in_channels=3, filters=5) == 380
    assert convolution_parameters(kernel=5, in_channels=1, filters=8) == 208
    assert dense_parameters(inputs=32 * 32 * 3, outputs=1) - 1 == 3_072
    assert dense_parameters(inputs=200 * 200 * 3, outputs=1) - 1 == 120_000
    assert dense_parameters(inputs=28 * 28, outputs=1) == 785  # MNIST: the pixels and the bias
    assert sum(weight.numel() for weight in nn.Conv2d(3, 5, 5).parameters()) == 380
