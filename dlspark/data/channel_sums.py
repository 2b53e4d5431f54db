"""Exact sums of pixel values and of their squares, by channel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LINES = 256
"""float32 counts exactly to 2^24, and 256 * 255^2 is less: faster than integers, and as exact."""
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
        whole = len(lines) // _LINES * _LINES
        for part in (lines[:whole].reshape(-1, _LINES, columns), lines[np.newaxis, whole:]):
            sums[0] += np.einsum("glc->gc", part).astype(np.int64).sum(axis=0)
            sums[1] += np.einsum("glc,glc->gc", part, part).astype(np.int64).sum(axis=0)
    values, squares = sums.reshape(2, -1, channels).sum(axis=1).tolist()
    return tuple(values), tuple(squares)
