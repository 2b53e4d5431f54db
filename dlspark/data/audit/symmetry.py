"""The eight flips and rotations of a picture, and what each does to its cosine coefficients.

A transform is a transposition or none, then a flip of the rows or none, then a flip of the columns or none.
On the coefficients [u, v] of a cosine transform the transposition swaps u and v, and a flip changes the signs
of the odd frequencies: the coefficients of all eight pictures come from one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Transform(NamedTuple):
    """One of the eight, applied in the order of its fields."""

    name: str
    transpose: bool
    flip_rows: bool
    """The top becomes the bottom."""
    flip_columns: bool
    """Left becomes right."""


TRANSFORMS = (
    Transform("identity", False, False, False),
    Transform("mirror", False, False, True),
    Transform("flip", False, True, False),
    Transform("rotate_180", False, True, True),
    Transform("transpose", True, False, False),
    Transform("rotate_90", True, False, True),
    Transform("rotate_270", True, True, False),
    Transform("anti_transpose", True, True, True),
)
"""Rotations are clockwise. Places in this tuple number the transforms."""


def transform_picture(pixels: NDArray[np.uint8], transform: Transform) -> NDArray[np.uint8]:
    """Return a picture [H, W] or [H, W, C] under a transform, as a view."""
    if transform.transpose:
        pixels = np.swapaxes(pixels, 0, 1)
    rows, columns = (-1 if flip else 1 for flip in transform[2:])
    return pixels[::rows, ::columns]


def coefficient_order(transform: Transform, size: int) -> NDArray[np.int64]:
    """Return where each coefficient comes from: int64 [size * size], places in C order."""
    places = np.arange(size * size).reshape(size, size)
    return (places.T if transform.transpose else places).reshape(-1)


def coefficient_signs(transform: Transform, size: int) -> NDArray[np.float32]:
    """Return the sign that each coefficient gets after `coefficient_order`: float32 [size * size]."""
    odd = np.where(np.arange(size) % 2, -1.0, 1.0)
    rows = odd if transform.flip_rows else np.ones(size)
    columns = odd if transform.flip_columns else np.ones(size)
    return (rows[:, None] * columns[None]).reshape(-1).astype(np.float32)
