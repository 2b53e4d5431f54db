"""The random changes of `augment` on a GPU: the same parameters, applied to a whole batch by torch.

Crops out of a padding, mirrors and erased rectangles give the bytes that the CPU gives. Scaled crops,
rotations, distortions and colours are computed in float32 by other code: a value may differ by a rounding,
and at the black border of a rotation by more. RandAugment works on one image at a time and has no place here.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from dlspark.data.augment import LUMA, Augmentation
from dlspark.data.draws import Draws
from dlspark.data.elastic import displacements
from dlspark.data.resized_crop import draw_boxes
from dlspark.errors import ConfigError


def augment_on_device(
    pixels: torch.Tensor, row_ids: NDArray[np.int64], augmentation: Augmentation, *, seed: int, epoch: int
) -> torch.Tensor:
    """Return the batch after the random changes.

    Args:
        pixels: uint8 [b, H, W, C] on any device; never changed.
        row_ids: int64 [b], >= 0.
        augmentation: see there.
        seed: of the run, >= 0.
        epoch: from 0.

    Returns:
        uint8 [b, h, w, C] on the device of `pixels`, where h and w are H and W, or crop_size.

    Raises:
        ConfigError: RandAugment is asked for.
    """
    if augmentation.randaugment_ops:
        raise ConfigError(
            "RandAugment is not made on a GPU",
            where="augment.randaugment_ops",
            fix="change the pixels before they are sent there",
        )
    draws = Draws(row_ids, seed=seed, epoch=epoch)
    if augmentation.crop_min_area:
        size = augmentation.crop_size or pixels.shape[1]
        height, width = pixels.shape[1:3]
        boxes = draw_boxes(height, width, draws.uniform, min_area=augmentation.crop_min_area)
        pixels = _scale_parts(pixels, boxes, size)
    elif augmentation.crop_padding or augmentation.crop_size:
        pixels = _crop(pixels, draws, augmentation.crop_padding, augmentation.crop_size)
    if augmentation.mirror:
        chosen = _along_batch(draws.mirrored(), pixels)
        pixels = torch.where(chosen, pixels.flip(2), pixels)
    if augmentation.rotate_degrees:
        pixels = _rotate(pixels, draws.degrees(augmentation.rotate_degrees))
    if augmentation.elastic:
        pixels = _bend(pixels, draws, augmentation.elastic)
    if augmentation.colour:
        pixels = _recolour(pixels, draws.colour_factors(augmentation.colour))
    if augmentation.erase:
        height, width = pixels.shape[1:3]
        pixels = _erase(pixels, draws.erased_boxes(height, width, augmentation.erase))
    return pixels


def _along_batch(values: NDArray[np.generic], pixels: torch.Tensor) -> torch.Tensor:
    """Return values, one for each image, in the shape [b, 1, 1, 1] on the device of the pixels."""
    return torch.from_numpy(values).to(pixels.device, non_blocking=True).view(-1, 1, 1, 1)


def _crop(pixels: torch.Tensor, draws: Draws, padding: int, size: int | None) -> torch.Tensor:
    number, height, width, _ = pixels.shape
    tall, wide = (size, size) if size else (height, width)
    padded = functional.pad(pixels, (0, 0, padding, padding, padding, padding))
    places = draws.crop_places(padded.shape[1] - tall + 1, padded.shape[2] - wide + 1)
    top, left = (_along_batch(place, pixels).view(-1, 1) for place in places)
    rows = top + torch.arange(tall, device=pixels.device)
    columns = left + torch.arange(wide, device=pixels.device)
    images = torch.arange(number, device=pixels.device)
    return padded[images[:, None, None], rows[:, :, None], columns[:, None, :]]


def _scale_parts(pixels: torch.Tensor, boxes: NDArray[np.int64], size: int) -> torch.Tensor:
    scaled = pixels.new_empty((len(pixels), size, size, pixels.shape[3]))
    for image, target, (top, left, tall, wide) in zip(pixels, scaled, boxes.tolist(), strict=True):
        part = image[top : top + tall, left : left + wide].permute(2, 0, 1).unsqueeze(0).float()
        values = functional.interpolate(part, (size, size), mode="bilinear", antialias=True)
        target.copy_(values[0].round_().clamp_(0, 255).permute(1, 2, 0))
    return scaled


def _rotate(pixels: torch.Tensor, degrees: NDArray[np.float64]) -> torch.Tensor:
    number, height, width, channels = pixels.shape
    angles = torch.from_numpy(np.deg2rad(degrees)).to(pixels.device, torch.float32)
    cosine, sine, zero = torch.cos(angles), torch.sin(angles), torch.zeros_like(angles)
    # Where a pixel comes from, in the units of the grid, in which both sides are 2 long.
    top = torch.stack([cosine, -sine * height / width, zero], dim=1)
    bottom = torch.stack([sine * width / height, cosine, zero], dim=1)
    grid = functional.affine_grid(
        torch.stack([top, bottom], dim=1), [number, channels, height, width], align_corners=False
    )
    planes = pixels.permute(0, 3, 1, 2).float()
    turned = functional.grid_sample(planes, grid, mode="bilinear", align_corners=False)
    return turned.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def _bend(pixels: torch.Tensor, draws: Draws, most: float) -> torch.Tensor:
    _, height, width, _ = pixels.shape
    fields = displacements(draws, height, width, most=most)
    down, right = (torch.from_numpy(field.copy()).to(pixels.device) for field in fields)
    # In the units of the grid, in which both sides are 2 long and a pixel has its place in its middle.
    rows = torch.arange(height, device=pixels.device).view(-1, 1)
    y = (2 * (rows + down) + 1) / height - 1
    x = (2 * (torch.arange(width, device=pixels.device) + right) + 1) / width - 1
    planes = pixels.permute(0, 3, 1, 2).float()
    bent = functional.grid_sample(planes, torch.stack([x, y], dim=3), mode="bilinear", align_corners=False)
    return bent.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def _recolour(pixels: torch.Tensor, factors: NDArray[np.float32]) -> torch.Tensor:
    brightness, contrast, saturation = (_along_batch(factor, pixels) for factor in factors)
    num_values = math.prod(pixels.shape[1:])
    mean = pixels.sum(dim=(1, 2, 3), dtype=torch.int64).float() / num_values
    mean = mean.view(-1, 1, 1, 1) * brightness
    values = mean + (pixels.float() * brightness - mean) * contrast
    if pixels.shape[3] > 1:
        luma = (values * torch.tensor(LUMA, device=pixels.device)).sum(dim=3, keepdim=True)
        values = luma + (values - luma) * saturation
    return values.round_().clamp_(0, 255).to(torch.uint8)


def _erase(pixels: torch.Tensor, boxes: NDArray[np.int64]) -> torch.Tensor:
    top, left, tall, wide = (_along_batch(side, pixels) for side in boxes.T.copy())
    rows = torch.arange(pixels.shape[1], device=pixels.device).view(1, -1, 1, 1)
    columns = torch.arange(pixels.shape[2], device=pixels.device).view(1, 1, -1, 1)
    inside = (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)
    return pixels.masked_fill(inside, 0)
