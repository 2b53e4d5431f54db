"""torchvision's ResNet-18 (He et al. 2015, arXiv:1512.03385) for 1 or 3 channels and for small images.

The published stem divides the image by 4 before the first block, which leaves nothing of a 32x32 image; the
small stem (3x3, stride 1, no pooling) is that of the paper's own CIFAR-10 networks (section 4.2). Batch
normalisation takes its statistics from the rows of one rank.
"""

from __future__ import annotations

import logging
from functools import partial

import torch
from torch import nn

from dlspark.errors import ModelError

_LOGGER = logging.getLogger(__name__)

SMALL_STEM_UP_TO = 64
"""Pixels of the shorter side up to which the stem "auto" is the small one."""

_TOTAL_STRIDE = {"imagenet": 32, "small": 8}


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that also takes a single row of 1x1 maps, as a short last step leaves.

    One value has no variance; nn.BatchNorm2d refuses it in training. This one normalises it with the running
    statistics and leaves them as they are.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - the name in nn.BatchNorm2d
        """Normalise [b, C, H, W] per channel."""
        if self.training and input.numel() == input.shape[1]:
            return nn.functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


def build_resnet18(
    *, channels: int, height: int, width: int, num_classes: int, stem: str = "auto"
) -> nn.Module:
    """Build ResNet-18: stem, 8 basic blocks of 64 to 512 filters, global average pool, logits [b, K].

    Args:
        channels: C.
        height: H, pixels; at least the total stride: 8 with the small stem, 32 with the imagenet stem.
        width: W, pixels; as the height.
        num_classes: K.
        stem: "imagenet" (7x7 stride 2, max pool 3x3 stride 2), "small" (3x3 stride 1, no pool), or "auto":
            small where the shorter side has at most 64 pixels; the choice is logged.

    Raises:
        ModelError: the image is smaller than the total stride, or the stem is unknown.
    """
    if stem not in ("auto", *_TOTAL_STRIDE):
        raise ModelError("unknown stem", got=repr(stem), allowed="auto, imagenet, small", where="model.stem")
    if stem == "auto":
        stem = "small" if min(height, width) <= SMALL_STEM_UP_TO else "imagenet"
        _LOGGER.info("resnet18: stem %s for images of %dx%d pixels", stem, height, width)
    for axis, size in (("height", height), ("width", width)):
        _check_fits(axis, size, stem)

    # Here, since it imports torch's compiler, which the other networks need not wait for.
    from torchvision.models import resnet18

    network: nn.Module = resnet18(num_classes=num_classes, norm_layer=BatchNorm2d)
    convolution = partial(nn.Conv2d, channels, 64, bias=False)
    if stem == "small":
        network.conv1 = convolution(kernel_size=3, padding=1)
        network.maxpool = nn.Identity()
    else:
        network.conv1 = convolution(kernel_size=7, stride=2, padding=3)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    return network


def _check_fits(axis: str, size: int, stem: str) -> None:
    """Refuse an image of which less than one pixel would reach the last block; padding would hide it."""
    stride = _TOTAL_STRIDE[stem]
    if size < stride:
        raise ModelError(
            "the image is too small for layer layer4",
            got=f"{size} pixels, output W/S = {size}/{stride} = {size / stride:.2f}",
            allowed=f"at least {stride} pixels (total stride S={stride} with stem {stem})",
            where=f"resnet18 on images with a {axis} of {size} pixels",
            fix="use larger images (image.size) or a network for smaller ones",
        )
