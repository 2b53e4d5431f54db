"""RandAugment (Cubuk et al. 2020, arXiv:1909.13719): a few operations on each image, all of one strength.

The 14 operations and their strengths are those of torchvision's RandAugment, made by torchvision and Pillow
on one image at a time: slow beside the other changes, and the same pixels for a row in any batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dlspark.data.draws import Draws

MOST = 30
"""The largest magnitude."""

_Operation = Callable[[Image.Image, float], Image.Image]


def rand_augment(
    pixels: NDArray[np.uint8], draws: Draws, *, num_ops: int, magnitude: int
) -> NDArray[np.uint8]:
    """Return the images after `num_ops` operations each, drawn with replacement, at even odds.

    Args:
        pixels: uint8 [b, H, W, C], C 1 or 3; never changed.
        draws: of these rows.
        num_ops: operations on each image, one after the other, >= 0.
        magnitude: strength of all, in [0, 30]; those with a direction draw it.

    Returns:
        uint8 [b, H, W, C].
    """
    operations = list_operations(magnitude, height=pixels.shape[1], width=pixels.shape[2])
    chosen = [draws.uniform(f"randaugment/{turn}/operation") * len(operations) for turn in range(num_ops)]
    signs = [1.0 - 2.0 * (draws.bits(f"randaugment/{turn}/sign") % 2) for turn in range(num_ops)]
    changed = np.empty_like(pixels)
    for row, image in enumerate(pixels):
        picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        for choice, sign in zip(chosen, signs, strict=True):
            operation, strength, has_direction = operations[int(choice[row])]
            picture = operation(picture, strength * sign[row] if has_direction else strength)
        changed[row] = np.asarray(picture).reshape(image.shape)
    return changed


def list_operations(magnitude: int, *, height: int, width: int) -> list[tuple[_Operation, float, bool]]:
    """Return each operation with its strength, and whether it has two directions.

    Strengths grow in a line to a shear of 0.3, a shift of 150/331 of the side (whole pixels), a turn of 30
    degrees, a factor of 1.9 (0.1 the other way), 4 of 8 bits, and a threshold of 0.

    Args:
        magnitude: in [0, 30].
        height: of the images, in pixels.
        width: of the images, in pixels.
    """
    # Imported here: it takes as long as torch, and ingest without RandAugment does without.
    from torchvision.transforms import functional as tv

    share = magnitude / MOST

    def shift(picture: Image.Image, *, right: float = 0, down: float = 0) -> Image.Image:
        moved: Image.Image = tv.affine(
            picture, angle=0.0, translate=[int(right), int(down)], scale=1.0, shear=[0.0, 0.0]
        )
        return moved

    def shear(picture: Image.Image, *, x: float = 0.0, y: float = 0.0) -> Image.Image:
        degrees = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
        sheared: Image.Image = tv.affine(
            picture, angle=0.0, translate=[0, 0], scale=1.0, shear=degrees, center=[0, 0]
        )
        return sheared

    return [
        (lambda picture, _: picture, 0.0, False),
        (lambda picture, by: shear(picture, x=by), 0.3 * share, True),
        (lambda picture, by: shear(picture, y=by), 0.3 * share, True),
        (lambda picture, by: shift(picture, right=by), 150 / 331 * width * share, True),
        (lambda picture, by: shift(picture, down=by), 150 / 331 * height * share, True),
        (tv.rotate, 30.0 * share, True),
        (lambda picture, by: tv.adjust_brightness(picture, 1.0 + by), 0.9 * share, True),
        (lambda picture, by: tv.adjust_saturation(picture, 1.0 + by), 0.9 * share, True),
        (lambda picture, by: tv.adjust_contrast(picture, 1.0 + by), 0.9 * share, True),
        (lambda picture, by: tv.adjust_sharpness(picture, 1.0 + by), 0.9 * share, True),
        (lambda picture, bits: tv.posterize(picture, int(bits)), 8.0 - round(4 * share), False),
        (tv.solarize, 255.0 * (1.0 - share), False),
        (lambda picture, _: tv.autocontrast(picture), 0.0, False),
        (lambda picture, _: tv.equalize(picture), 0.0, False),
    ]
