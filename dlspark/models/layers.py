"""What the networks of our own are made of: activations by name, and blocks of a layer and its activation."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from dlspark.models.batch_norm import BatchNorm1d, BatchNorm2d
from dlspark.models.options import require_at_least, require_choice, require_share

LEAKY_SLOPE = 0.01
"""Slope of leaky_relu below 0 (Maas et al. 2013)."""

_DRAWS = 2**16
"""Values that the bits drawn for a unit can have."""

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(LEAKY_SLOPE),
}
ACTIVATIONS = (*_ACTIVATIONS, "maxout")


class Maxout(nn.Module):
    """The largest of k linear pieces, one activation learned for each unit (Goodfellow et al. 2013).

    arXiv:1302.4389. The layer before it has k outputs for each unit: unit u takes those from k*u on.
    """

    def __init__(self, pieces: int) -> None:
        """Take the number of pieces.

        Args:
            pieces: k; >= 2.

        Raises:
            ModelError: k is smaller.
        """
        super().__init__()
        require_at_least("maxout_pieces", pieces, 2)
        self.pieces = pieces

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Map [b, k*U] to [b, U], or [b, k*C, H, W] to [b, C, H, W]."""
        rows, outputs, *maps = values.shape
        return values.reshape(rows, outputs // self.pieces, self.pieces, *maps).amax(2)

    def extra_repr(self) -> str:
        """Show k where the network is printed."""
        return f"pieces={self.pieces}"


class Flatten(nn.Flatten):
    """nn.Flatten; its gradient has the layout of the images that it got.

    torch's own hands back a gradient in the order of the features. Max pooling takes the layout of that, and
    would copy its large tensors to it and back: on a CPU, a sixth of the time of a step of mnist_cnn.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map [b, C, H, W] to [b, C*H*W]."""
        is_channels_last = images.is_contiguous(memory_format=torch.channels_last)
        if is_channels_last and images.requires_grad and not torch.compiler.is_compiling():
            images.register_hook(_channels_last)  # type: ignore[no-untyped-call]
        return super().forward(images)


def _channels_last(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.contiguous(memory_format=torch.channels_last)


class Dropout(nn.Dropout):
    """nn.Dropout; on a CPU it draws 16 random bits for a unit, in a fraction of the time of torch's own draw.

    The share is therefore a multiple of 1 / 65,536 there, and what is left is scaled by exactly that one. The
    draws are of torch's global generator, like torch's own. torch.compile cannot look into them, and gets
    nn.Dropout.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Set units to 0 at random and scale the others, while training; the same shape and layout."""
        if not self.training or self.p == 0 or values.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(values)
        num_dropped = min(round(self.p * _DRAWS), _DRAWS - 1)
        mask = torch.empty_like(values)
        # random_ without bounds leaves the sign bit alone.
        words = torch.empty(math.ceil(mask.numel() / 4), dtype=torch.int64).random_(-(2**63), None)
        is_kept = words.view(torch.int16)[: mask.numel()] >= num_dropped - _DRAWS // 2
        mask.as_strided((mask.numel(),), (1,)).copy_(is_kept).mul_(_DRAWS / (_DRAWS - num_dropped))
        return values * mask


def activation_layer(name: str, *, maxout_pieces: int = 2) -> nn.Module:
    """Return a new activation layer.

    Args:
        name: sigmoid, tanh, relu, leaky_relu or maxout.
        maxout_pieces: k of maxout; >= 2.

    Raises:
        ModelError: the name is another one, or k is too small.
    """
    require_choice("activation", name, ACTIVATIONS)
    return Maxout(maxout_pieces) if name == "maxout" else _ACTIVATIONS[name]()


def dense_block(
    inputs: int, units: int, *, activation: str, maxout_pieces: int = 2, batch_norm: bool = False
) -> list[nn.Module]:
    """Return a fully connected layer, its batch normalisation where asked, and its activation: [b, units].

    Args:
        inputs: of each unit.
        units: of the output; maxout has k linear pieces for each.
        activation: see `activation_layer`.
        maxout_pieces: k of maxout.
        batch_norm: normalise before the activation; the layer then has no bias, which it would take away.

    Raises:
        ModelError: an option is out of range.
    """
    require_at_least("units of a layer", units, 1)
    last = activation_layer(activation, maxout_pieces=maxout_pieces)
    outputs = units * (maxout_pieces if activation == "maxout" else 1)
    norm = [BatchNorm1d(outputs)] if batch_norm else []
    return [nn.Linear(inputs, outputs, bias=not batch_norm), *norm, last]


def convolution_block(
    in_channels: int,
    filters: int,
    *,
    kernel: int,
    padding: int | tuple[int, int] = 0,
    activation: str,
    maxout_pieces: int = 2,
    batch_norm: bool = False,
) -> list[nn.Module]:
    """Return a convolution of stride 1, its batch normalisation where asked, and its activation.

    Args:
        in_channels: C.
        filters: channels of the output; maxout has k linear pieces for each.
        kernel: F, pixels.
        padding: P, zeros on each side, or one for the height and one for the width.
        activation: see `activation_layer`.
        maxout_pieces: k of maxout.
        batch_norm: normalise before the activation; the layer then has no bias, which it would take away.

    Raises:
        ModelError: an option is out of range.
    """
    require_at_least("filters of a layer", filters, 1)
    last = activation_layer(activation, maxout_pieces=maxout_pieces)
    outputs = filters * (maxout_pieces if activation == "maxout" else 1)
    norm = [BatchNorm2d(outputs)] if batch_norm else []
    layer = nn.Conv2d(in_channels, outputs, kernel_size=kernel, padding=padding, bias=not batch_norm)
    return [layer, *norm, last]


def dropout_layer(key: str, share: float) -> Dropout:
    """Return a layer that sets a share of its inputs to 0 in training (Hinton et al. 2012, arXiv:1207.0580).

    Args:
        key: of the configuration, for the message.
        share: in [0, 1).

    Raises:
        ModelError: the share is out of range.
    """
    require_share(key, share)
    return Dropout(share)
