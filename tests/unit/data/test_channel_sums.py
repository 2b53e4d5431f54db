"""The sums behind mean and standard deviation are exact, whatever the shape and the number of images."""

from __future__ import annotations

import numpy as np
import pytest

from dlspark.data.channel_sums import sum_channels


@pytest.mark.parametrize(
    ("shape", "number"),
    [((1, 1, 1), 3), ((28, 28, 1), 1000), ((256, 256, 3), 3), ((257, 3, 3), 40), ((700, 41, 3), 4)],
)
def test_sums_are_exact(shape: tuple[int, int, int], number: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (number, *shape), dtype=np.uint8)
    images[0] = 255  # the largest sums there can be
    exact = images.reshape(-1, shape[2]).astype(np.int64)
    expected = tuple(exact.sum(axis=0).tolist()), tuple((exact * exact).sum(axis=0).tolist())
    assert sum_channels(images) == expected
    assert sum_channels(images[:, ::-1]) == expected, "whatever the strides"


def test_without_images_the_sums_are_zero() -> None:
    assert sum_channels(np.zeros((0, 2, 2, 3), dtype=np.uint8)) == ((0, 0, 0), (0, 0, 0))
