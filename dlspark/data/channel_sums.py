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


class ChannelSums:
    """Adds up images of one shape."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        """Begin with zeros.

        Args:
            shape: height, width and channels.
        """
        height, width, self._channels = shape
        num_values = height * width * self._channels
        self._columns = num_values if num_values <= _WIDE else width * self._channels
        self._images_together = max(1, _BYTES_TOGETHER // num_values)
        self._sums = np.zeros((2, self._columns), dtype=np.int64)

    def add(self, images: NDArray[np.uint8]) -> None:
        """Take n images, uint8 [n, H, W, C] with any strides."""
        for start in range(0, len(images), self._images_together):
            values = images[start : start + self._images_together].astype(np.float32)
            lines = values.reshape(-1, self._columns)
            whole = len(lines) // _LINES * _LINES
            for part in (lines[:whole].reshape(-1, _LINES, self._columns), lines[np.newaxis, whole:]):
                self._sums[0] += np.einsum("glc->gc", part).astype(np.int64).sum(axis=0)
                self._sums[1] += np.einsum("glc,glc->gc", part, part).astype(np.int64).sum(axis=0)

    def totals(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the sums of the values and those of their squares, each by channel."""
        values, squares = self._sums.reshape(2, -1, self._channels).sum(axis=1).tolist()
        return tuple(values), tuple(squares)
