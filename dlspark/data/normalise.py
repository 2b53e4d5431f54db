"""Pixels to the input of a network: the half of the preprocessing that runs in torch."""

from __future__ import annotations

import functools

import torch

from dlspark.contracts import Preprocessing


def normalise(pixels: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Return (pixels / 255 - mean) / std of the centre that the network sees, channels first.

    Args:
        pixels: uint8 [b, H, W, C]; with preprocessing.crop also images that were cropped to it already.
        preprocessing: mean and std by channel, in units of [0, 1], and the crop.

    Returns:
        float32 [b, C, h, w] with (h, w) = preprocessing.input_size, contiguous, on the device of `pixels`.
    """
    tall, wide = preprocessing.input_size
    top, left = (pixels.shape[1] - tall) // 2, (pixels.shape[2] - wide) // 2
    pixels = pixels[:, top : top + tall, left : left + wide]
    scale, offset = _factors(preprocessing.mean, preprocessing.std, pixels.device)
    number, height, width, channels = pixels.shape
    values = torch.empty((number, channels, height, width), device=pixels.device)
    return torch.mul(pixels.permute(0, 3, 1, 2), scale, out=values).add_(offset)


@functools.lru_cache(maxsize=16)
def _factors(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    scale = torch.tensor([1 / (255 * value) for value in std], device=device)
    offset = torch.tensor([-middle / value for middle, value in zip(mean, std, strict=True)], device=device)
    return scale.view(1, -1, 1, 1), offset.view(1, -1, 1, 1)
