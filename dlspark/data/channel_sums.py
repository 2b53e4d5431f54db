"""Exact sums of pixel values and of their squares, by channel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LINES = 256
"""float32 counts exactly to 2^24, and 256 * 255^2 is less: a product of matrices is as exact as integers, in
whatever order it adds, and faster."""
_BYTES_TOGETHER = 128 * 1024
"""Small images are added up together, as many as a processor's cache holds in float32."""
_WIDE = 4096
"""Values; an image that has no more is one line, since short lines are added up slowly."""


def sum_channels(images: NDArray[np.uint8]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the sums of the values and those of their squares, each by channel.

    Args:
        images: uint8 [n, H, W, C] with any strides; n may be 0.
    """
    height, width, channels = images.shape[1:]
    num_values = height * width * channels
    columns = num_values if num_values <= _WIDE else width * channels
    together = max(1, _BYTES_TOGETHER // num_values)
    sums = np.zeros((2, columns), dtype=np.int64)
    for start in range(0, len(images), together):
        lines = images[start : start + together].astype(np.float32).reshape(-1, columns)
        for first in range(0, len(lines), _LINES):
            part = lines[first : first + _LINES]
            ones = np.ones(len(part), dtype=np.float32)
            sums[0] += (ones @ part).astype(np.int64)
            np.square(part, out=part)
            sums[1] += (ones @ part).astype(np.int64)
    values, squares = sums.reshape(2, -1, channels).sum(axis=1).tolist()
    return tuple(values), tuple(squares)
