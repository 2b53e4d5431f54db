"""Exact sums of pixel values and of their squares, by channel, as the images go by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LINES = 256
"""float32 counts exactly to 2^24, and 256 * 255^2 is less: faster than integers, and as exact."""
_BYTES_TOGETHER = 128 * 1024
"""Small images are added up together: a call of numpy costs more than one of them."""


class ChannelSums:
    """Adds up images of one shape."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        """Begin with zeros.

        Args:
            shape: height, width and channels.
        """
        height, width, self._channels = shape
        self._columns = width * self._channels
        self._images_together = max(1, _BYTES_TOGETHER // (height * self._columns))
        self._waiting: list[NDArray[np.uint8]] = []
        self._sums = np.zeros((2, self._columns), dtype=np.int64)

    def add(self, pixels: NDArray[np.uint8]) -> None:
        """Take an image, contiguous uint8 [H, W, C]."""
        self._waiting.append(pixels)
        if len(self._waiting) == self._images_together:
            self._add_waiting()

    def totals(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the sums of the values and those of their squares, each by channel."""
        self._add_waiting()
        values, squares = self._sums.reshape(2, -1, self._channels).sum(axis=1).tolist()
        return tuple(values), tuple(squares)

    def _add_waiting(self) -> None:
        joined = b"".join(self._waiting)  # type: ignore[arg-type] # an array is a buffer
        self._waiting = []
        lines = np.frombuffer(joined, dtype=np.uint8).reshape(-1, self._columns)
        whole = len(lines) // _LINES * _LINES
        for part in (lines[:whole].reshape(-1, _LINES, self._columns), lines[np.newaxis, whole:]):
            values = part.astype(np.float32)
            self._sums[0] += np.einsum("glc->gc", values).astype(np.int64).sum(axis=0)
            self._sums[1] += np.einsum("glc,glc->gc", values, values).astype(np.int64).sum(axis=0)
