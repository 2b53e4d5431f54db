"""Elastic distortion: each point of an image moves a little, its neighbours nearly as far (handwriting).

Simard, Steinkraus and Platt 2003, "Best Practices for Convolutional Neural Networks Applied to Visual
Document Analysis". Their field of displacements is noise that a Gaussian smooths; here it is a B-spline
over random displacements of a coarse grid, as smooth for less. Sums over the points of that grid are
made one point after the other, so that a row's field depends on neither its batch nor the processor.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from dlspark.data.draws import Draws

_NUM_CELLS = 4
"""Of the coarse grid along each side: with 28 pixels a cell is 7, the smoothness of a Gaussian of 4."""
_NUM_POINTS = _NUM_CELLS + 3
_SHAPE = (2, _NUM_POINTS, _NUM_POINTS)


def bend(pixels: NDArray[np.uint8], draws: Draws, *, most: float) -> NDArray[np.uint8]:
    """Return the images distorted; bilinear, black where a point comes from outside.

    Args:
        pixels: uint8 [b, H, W, C].
        draws: of the b rows.
        most: largest displacement along each axis in pixels, > 0; a third of it is usual.
    """
    number, height, width, channels = pixels.shape
    down, right = displacements(draws, height, width, most=most)
    # A black frame of one pixel, and one more for the neighbours of the last: all outside is moved there.
    y = np.clip(np.arange(height, dtype=np.float32)[:, np.newaxis] + down, -1, height) + 1
    x = np.clip(np.arange(width, dtype=np.float32) + right, -1, width) + 1
    framed = np.zeros((number, height + 3, width + 3, channels), dtype=np.float32)
    framed[:, 1:-2, 1:-2] = pixels
    flat, line = framed.reshape(-1, channels), width + 3
    top, left = np.floor(y), np.floor(x)
    below, beside = (y - top)[..., np.newaxis], (x - left)[..., np.newaxis]
    images = np.arange(number)[:, np.newaxis, np.newaxis] * (height + 3)
    first = (images + top.astype(np.int64)) * line + left.astype(np.int64)
    upper_left, lower_left = flat.take(first, axis=0), flat.take(first + line, axis=0)
    upper = upper_left + (flat.take(first + 1, axis=0) - upper_left) * beside
    lower = lower_left + (flat.take(first + line + 1, axis=0) - lower_left) * beside
    bent: NDArray[np.uint8] = np.rint(upper + (lower - upper) * below).astype(np.uint8)
    return bent


def displacements(
    draws: Draws, height: int, width: int, *, most: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return how far down, and how far right, of its place each pixel comes from: float32 [b, H, W] each.

    Args:
        draws: of the b rows.
        height: H, pixels.
        width: W, pixels.
        most: largest absolute value, pixels.
    """
    points = _points(draws) * np.float32(most)
    rows, columns = _basis(height), _basis(width)
    lines = points[..., 0, np.newaxis] * columns[0]
    for column in range(1, _NUM_POINTS):
        lines += points[..., column, np.newaxis] * columns[column]
    fields = lines[:, :, 0, np.newaxis, :] * rows[0][:, np.newaxis]
    for row in range(1, _NUM_POINTS):
        fields += lines[:, :, row, np.newaxis, :] * rows[row][:, np.newaxis]
    return fields[:, 0], fields[:, 1]


def _points(draws: Draws) -> NDArray[np.float32]:
    """Return the displacements of the coarse grid, down and right, in [-1, 1]: float32 [b, 2, rows, columns].

    Each has 16 random bits, four of one hash.
    """
    num_numbers = math.prod(_SHAPE)
    hashes = np.stack([draws.bits(f"elastic/{index}") for index in range(-(-num_numbers // 4))], axis=1)
    numbers = hashes.astype("<u8").view("<u2")[:, :num_numbers]
    return (numbers.astype(np.float32) / np.float32(32767.5) - np.float32(1)).reshape(-1, *_SHAPE)


@functools.lru_cache(maxsize=8)
def _basis(size: int) -> NDArray[np.float32]:
    """Return the weights of the points of the coarse grid at each pixel, float32 [points, size]."""
    place = (np.arange(size) + 0.5) / size * _NUM_CELLS
    distance = np.abs(place - (np.arange(_NUM_POINTS) - 1)[:, np.newaxis])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, near, far).astype(np.float32)
