"""Random changes to whole batches of training pixels, the same for a row wherever and whenever it is read.

Each parameter is a hash of (seed, epoch, row id, operation); see draws. The arithmetic of a row looks at that
row only, with exact sums, so that its pixels do not depend on its batch either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dlspark.data.draws import Draws
from dlspark.data.elastic import bend
from dlspark.data.rand_augment import rand_augment
from dlspark.data.resized_crop import resized_crops

_LARGE_BATCH_BYTES = 1024**2
"""From here on torch mirrors five times as fast as numpy; a copy that ingest makes is less, and does not wait
for torch to be imported."""
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """Which random changes are made, in this order; the default makes none."""

    crop_padding: int = 0
    """Pad by so many black pixels on each side and crop at a random place."""
    crop_size: int | None = None
    """Height and width of the crop in pixels; None: those of the image."""
    crop_min_area: float = 0.0
    """Above 0: crop a random part of at least this share of the area, in (0, 1], and scale it to the size."""
    mirror: bool = False
    """Mirror left to right with probability 1/2."""
    rotate_degrees: float = 0.0
    """Rotate about the centre by up to so much either way, in [0, 180]; bilinear, black outside."""
    elastic: float = 0.0
    """Above 0: distort smoothly, each point by up to so many pixels along each axis; see elastic."""
    colour: float = 0.0
    """Brightness, contrast and (RGB) saturation are each scaled by a factor in [1 - colour, 1 + colour]."""
    randaugment_ops: int = 0
    """Operations of RandAugment on each image, >= 0."""
    randaugment_magnitude: int = 9
    """Strength of these, in [0, 30]."""
    erase: float = 0.0
    """Probability of one black rectangle of 2 to 20% of the area (random erasing, Zhong et al. 2017)."""

    @property
    def is_identity(self) -> bool:
        """Whether no pixel is ever changed."""
        if self.randaugment_ops:
            return False
        return replace(self, randaugment_magnitude=NO_AUGMENTATION.randaugment_magnitude) == NO_AUGMENTATION


NO_AUGMENTATION = Augmentation()


def augment(
    pixels: NDArray[np.uint8],
    row_ids: NDArray[np.int64],
    augmentation: Augmentation,
    *,
    seed: int,
    epoch: int,
) -> NDArray[np.uint8]:
    """Return the batch after the random changes.

    Args:
        pixels: uint8 [b, H, W, C]; never changed.
        row_ids: int64 [b], >= 0.
        augmentation: see there.
        seed: of the run, >= 0.
        epoch: from 0; copies that ingest makes count as epochs -1, -2, ...

    Returns:
        uint8 [b, h, w, C], where h and w are H and W, or crop_size.
    """
    given = pixels
    draws = Draws(row_ids, seed=seed, epoch=epoch)
    if augmentation.crop_min_area:
        size = augmentation.crop_size or pixels.shape[1]
        pixels = resized_crops(pixels, draws.uniform, size=size, min_area=augmentation.crop_min_area)
    elif augmentation.crop_padding or augmentation.crop_size:
        pixels = _crop(pixels, draws, augmentation.crop_padding, augmentation.crop_size)
    if augmentation.mirror:
        pixels = pixels.copy() if pixels is given else pixels
        _mirror(pixels, np.flatnonzero(draws.mirrored()))
    if augmentation.rotate_degrees:
        pixels = _rotate(pixels, draws.degrees(augmentation.rotate_degrees))
    if augmentation.elastic:
        pixels = bend(pixels, draws, most=augmentation.elastic)
    if augmentation.colour:
        pixels = _recolour(pixels, draws.colour_factors(augmentation.colour))
    if augmentation.randaugment_ops:
        num_ops, magnitude = augmentation.randaugment_ops, augmentation.randaugment_magnitude
        pixels = rand_augment(pixels, draws, num_ops=num_ops, magnitude=magnitude)
    if augmentation.erase:
        height, width = pixels.shape[1:3]
        pixels = _erase(pixels, draws.erased_boxes(height, width, augmentation.erase))
    return pixels


def _crop(pixels: NDArray[np.uint8], draws: Draws, padding: int, size: int | None) -> NDArray[np.uint8]:
    """Return a part of each image, at a random place in its padding.

    A line of a crop is contiguous, so it is gathered as one element out of all that begin anywhere: one call
    for the batch, several times faster than a slice of each image or an index of each pixel.
    """
    number, height, width, channels = pixels.shape
    tall, wide = (size, size) if size else (height, width)
    outer_height, outer_width = height + 2 * padding, width + 2 * padding
    padded = pixels
    if padding:
        padded = np.zeros((number, outer_height, outer_width, channels), dtype=np.uint8)
        padded[:, padding : padding + height, padding : padding + width] = pixels
    top, left = draws.crop_places(outer_height - tall + 1, outer_width - wide + 1)
    first = (np.arange(number) * outer_height + top) * outer_width + left
    starts = (first[:, np.newaxis] + np.arange(tall) * outer_width) * channels
    flat = np.ascontiguousarray(padded).reshape(-1)
    line = np.dtype((np.void, wide * channels))
    lines: NDArray[np.void] = np.ndarray(
        (max(flat.size - line.itemsize + 1, 0),), line, buffer=flat, strides=(1,)
    )
    cropped: NDArray[np.uint8] = lines[starts].view(np.uint8).reshape(number, tall, wide, channels)
    return cropped


def _mirror(pixels: NDArray[np.uint8], rows: NDArray[np.int64]) -> None:
    """Turn some images of a batch left to right, in place."""
    channels = pixels.shape[3]
    if pixels.nbytes >= _LARGE_BATCH_BYTES:
        import torch

        turned = torch.from_numpy(pixels[rows]).permute(0, 3, 1, 2).flip(3)
        pixels[rows] = turned.permute(0, 2, 3, 1).numpy()
        return
    # A pixel moves as one element, whatever its channels.
    whole = pixels.view(np.dtype((np.void, channels)))[..., 0] if channels > 1 else pixels[..., 0]
    whole[rows] = whole[rows][:, :, ::-1]


def _rotate(pixels: NDArray[np.uint8], degrees: NDArray[np.float64]) -> NDArray[np.uint8]:
    rotated = np.empty_like(pixels)
    for row, angle in enumerate(degrees.tolist()):
        picture = Image.fromarray(pixels[row, :, :, 0] if pixels.shape[3] == 1 else pixels[row])
        turned = np.asarray(picture.rotate(angle, Image.Resampling.BILINEAR))
        rotated[row] = turned.reshape(pixels.shape[1:])
    return rotated


def _recolour(pixels: NDArray[np.uint8], strengths: NDArray[np.float32]) -> NDArray[np.uint8]:
    brightness, contrast, saturation = strengths[:, :, np.newaxis, np.newaxis, np.newaxis]
    values = pixels.astype(np.float32) * brightness
    # The mean of the integers is exact, so it does not depend on the order of the sum.
    num_values = math.prod(pixels.shape[1:])
    mean = pixels.sum(axis=(1, 2, 3), dtype=np.int64).astype(np.float32) / np.float32(num_values)
    mean = mean[:, np.newaxis, np.newaxis, np.newaxis] * brightness
    values = mean + (values - mean) * contrast
    if pixels.shape[3] > 1:
        red, green, blue = np.moveaxis(values, 3, 0)
        luma = (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[..., np.newaxis]
        values = luma + (values - luma) * saturation
    changed: NDArray[np.uint8] = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return changed


def _erase(pixels: NDArray[np.uint8], boxes: NDArray[np.int64]) -> NDArray[np.uint8]:
    erased = pixels.copy()
    for image, (top, left, tall, wide) in zip(erased, boxes.tolist(), strict=True):
        image[top : top + tall, left : left + wide] = 0
    return erased
