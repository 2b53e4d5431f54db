"""Random resized crops (Szegedy et al. 2015): a part of the image, of random size and shape, in one size.

A part is drawn as torchvision's RandomResizedCrop draws it: its share of the area is uniform, the logarithm
of its width over height uniform in [3/4, 4/3]; of ten draws the first that fits is taken, else the centre.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_LOG_RATIO = math.log(4 / 3)
_NUM_DRAWS = 10


def resized_crops(
    pixels: NDArray[np.uint8], uniform: Callable[[str], NDArray[np.float64]], *, size: int, min_area: float
) -> NDArray[np.uint8]:
    """Return a random part of each image, scaled bilinearly with antialias.

    Args:
        pixels: uint8 [b, H, W, C].
        uniform: gives by the name of a parameter its draw for each image, float64 [b] in [0, 1).
        size: height and width of the results, in pixels.
        min_area: smallest share of the area, in (0, 1].

    Returns:
        uint8 [b, size, size, C].
    """
    import torch
    from torch.nn import functional

    number, height, width, channels = pixels.shape
    boxes = draw_boxes(height, width, uniform, min_area=min_area)
    cropped = np.empty((number, size, size, channels), dtype=np.uint8)
    source, target = (torch.from_numpy(images).permute(0, 3, 1, 2) for images in (pixels, cropped))
    for row, (top, left, tall, wide) in enumerate(boxes.tolist()):
        part = source[row : row + 1, :, top : top + tall, left : left + wide]
        target[row] = functional.interpolate(part, (size, size), mode="bilinear", antialias=True)[0]
    return cropped


def draw_boxes(
    height: int, width: int, uniform: Callable[[str], NDArray[np.float64]], *, min_area: float
) -> NDArray[np.int64]:
    """Return top, left, height and width of the parts, int64 [b, 4]; see `resized_crops`."""
    draws = range(_NUM_DRAWS)
    areas = np.stack([uniform(f"resized_crop/area/{draw}") for draw in draws])
    ratios = np.stack([uniform(f"resized_crop/ratio/{draw}") for draw in draws])
    areas = (min_area + (1 - min_area) * areas) * height * width
    ratios = np.exp((2 * ratios - 1) * _LOG_RATIO)
    tall, wide = np.rint(np.sqrt(areas / ratios)), np.rint(np.sqrt(areas * ratios))
    fits = (tall >= 1) & (tall <= height) & (wide >= 1) & (wide <= width)
    first = fits.argmax(axis=0)
    images = np.arange(fits.shape[1])
    tall, wide = tall[first, images].astype(np.int64), wide[first, images].astype(np.int64)
    top = (uniform("resized_crop/top") * (height - tall + 1)).astype(np.int64)
    left = (uniform("resized_crop/left") * (width - wide + 1)).astype(np.int64)
    boxes: NDArray[np.int64] = np.stack([top, left, tall, wide], axis=1)
    boxes[~fits.any(axis=0)] = _centre(height, width)
    return boxes


def _centre(height: int, width: int) -> tuple[int, int, int, int]:
    """Return the largest part in the middle whose shape is allowed."""
    tall = min(height, round(width * 4 / 3))
    wide = min(width, round(height * 4 / 3))
    return (height - tall) // 2, (width - wide) // 2, tall, wide
