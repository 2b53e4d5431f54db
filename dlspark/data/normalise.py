"""Pixels to the input of a network: the half of the preprocessing that runs in torch."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import torch

from dlspark.contracts import Preprocessing

_PIECE_VALUES = 32_000
"""On the CPU the three passes over a piece find it in the cache, and torch starts no threads for so few: the
callers are threads themselves."""


def normalise(pixels: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Return (pixels / 255 - mean) / std of the centre that the network sees, channels first.

    Args:
        pixels: uint8 [b, H, W, C]; with preprocessing.crop also images that were cropped to it already.
        preprocessing: mean and std by channel, in units of [0, 1], and the crop.

    Raises:
        ValueError: the images are smaller than what the network sees.

    Returns:
        float32 [b, C, h, w] with (h, w) = preprocessing.input_size, contiguous, on the device of `pixels`.
    """
    tall, wide = preprocessing.input_size
    if tall > pixels.shape[1] or wide > pixels.shape[2]:
        raise ValueError(f"images of {tuple(pixels.shape[1:3])} are smaller than the input {(tall, wide)}")
    top, left = (pixels.shape[1] - tall) // 2, (pixels.shape[2] - wide) // 2
    pixels = pixels[:, top : top + tall, left : left + wide]
    scale, offset = _factors(preprocessing.mean, preprocessing.std, pixels.device)
    pixels = pixels.permute(0, 3, 1, 2)
    if pixels.device.type != "cpu":
        return pixels.to(torch.float32, memory_format=torch.contiguous_format).mul_(scale).add_(offset)
    # By numpy, which asks for huge pages: filling new small ones would take longer than the arithmetic.
    values = torch.from_numpy(np.empty(pixels.shape, dtype=np.float32))
    for piece in _pieces(*pixels.shape):
        values[piece].copy_(pixels[piece]).mul_(scale).add_(offset)
    return values


def _pieces(number: int, channels: int, height: int, width: int) -> Iterator[tuple[slice, ...]]:
    """Yield parts of a batch [number, channels, height, width]: some images, or some rows of one."""
    values = channels * height * width
    if values <= _PIECE_VALUES:
        num_images = _PIECE_VALUES // max(values, 1)
        yield from ((slice(image, image + num_images),) for image in range(0, number, num_images))
        return
    num_rows = max(1, _PIECE_VALUES // (channels * width))
    for image in range(number):
        for row in range(0, height, num_rows):
            yield slice(image, image + 1), slice(None), slice(row, row + num_rows)


@functools.lru_cache(maxsize=16)
def _factors(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    scale = torch.tensor([1 / (255 * value) for value in std], device=device)
    offset = torch.tensor([-middle / value for middle, value in zip(mean, std, strict=True)], device=device)
    return scale.view(1, -1, 1, 1), offset.view(1, -1, 1, 1)
