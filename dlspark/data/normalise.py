"""Pixels to the input of a network: the half of the preprocessing that runs in torch."""

from __future__ import annotations

import torch

from dlspark.contracts import Preprocessing


def normalise(pixels: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Return (pixels / 255 - mean) / std, channels first.

    Args:
        pixels: uint8 [b, H, W, C].
        preprocessing: mean and std by channel, in units of [0, 1].

    Returns:
        float32 [b, C, H, W], contiguous, on the device of `pixels`.
    """
    shape = (1, -1, 1, 1)
    scale = torch.tensor([1 / (255 * std) for std in preprocessing.std], device=pixels.device).view(shape)
    offset = torch.tensor(
        [-mean / std for mean, std in zip(preprocessing.mean, preprocessing.std, strict=True)],
        device=pixels.device,
    ).view(shape)
    values = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return values.mul_(scale).add_(offset)
