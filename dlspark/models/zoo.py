"""What the published networks share: other numbers of channels, small images, and images that are too small.

Their published stems divide an image of 224 pixels by 4 at once and by 32 in all, which leaves nothing of one
of 32; for each there is a form that the field uses on CIFAR, called the small stem.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import torch
from torch import nn

from dlspark.errors import ModelError
from dlspark.models.options import require_choice

_LOGGER = logging.getLogger(__name__)

SMALL_STEM_UP_TO = 64
"""Pixels of the shorter side up to which the stem "auto" is the small one."""

STEMS = ("auto", "imagenet", "small")


def choose_stem(name: str, stem: str, *, height: int, width: int) -> str:
    """Return "imagenet" or "small"; what "auto" chose is logged.

    Args:
        name: of the network.
        stem: "auto" (small where the shorter side has at most 64 pixels), "imagenet" or "small".
        height: H, pixels.
        width: W, pixels.

    Raises:
        ModelError: the stem is another one.
    """
    require_choice("stem", stem, STEMS)
    if stem == "auto":
        stem = "small" if min(height, width) <= SMALL_STEM_UP_TO else "imagenet"
        _LOGGER.info("%s: stem %s for images of %dx%d pixels", name, stem, height, width)
    return stem


def require_total_stride(
    name: str, layer: str, *, height: int, width: int, stem: str, strides: Mapping[str, int]
) -> None:
    """Refuse an image of which less than one pixel would reach the last layers; padding would hide it.

    Args:
        name: of the network.
        layer: the last one with a stride.
        height: H, pixels.
        width: W, pixels.
        stem: a key of `strides`.
        strides: of the whole network, in pixels, by stem.

    Raises:
        ModelError: the height or the width is smaller than the stride.
    """
    stride = strides[stem]
    for axis, size in (("height", height), ("width", width)):
        if size < stride:
            raise ModelError(
                f"the image is too small for layer {layer}",
                got=f"{size} pixels, output W/S = {size}/{stride} = {size / stride:.2f}",
                allowed=f"at least {stride} pixels (total stride S={stride} with stem {stem})",
                where=f"{name} on images with a {axis} of {size} pixels",
                fix="use larger images (image.size) or a network for smaller ones",
            )


def take_channels(network: nn.Module, channels: int) -> None:
    """Let the first convolution of a network for RGB take images of another number of channels, in place.

    Its filters keep the weights they were drawn with, repeated or left out by channel and scaled by
    sqrt(3/C), so that the output keeps its spread on inputs of unit variance.

    Args:
        network: its first convolution has 3 input channels and one group.
        channels: C; >= 1.
    """
    first = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    if channels == first.in_channels:
        return
    repeated = first.weight.detach().repeat(1, math.ceil(channels / first.in_channels), 1, 1)[:, :channels]
    scaled = repeated * math.sqrt(first.in_channels / channels)
    first.weight = nn.Parameter(scaled.contiguous(memory_format=torch.contiguous_format))
    first.in_channels = channels
