"""Several views of an image instead of one: the answer of the network is the mean of its outputs for them.

Krizhevsky et al. 2012 (AlexNet, section 4.1) average over ten crops; here the views are those that training
images are changed into: moved, turned, mirrored. They are the same for every image, so an answer depends on
the image alone. Each view costs one pass through the network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from dlspark.contracts import Preprocessing


@dataclass(frozen=True, kw_only=True, slots=True)
class Views:
    """Which views an image has beside itself; all combinations of them are averaged. The default is none."""

    shift: int = 0
    """Moved by so many pixels in each of the eight directions, black at the border; >= 0."""
    rotate_degrees: float = 0.0
    """Turned by so much either way about the centre; bilinear, black outside; in [0, 180]."""
    mirror: bool = False
    """Mirrored left to right."""

    @property
    def number(self) -> int:
        """Views of an image, itself included."""
        return (9 if self.shift else 1) * (3 if self.rotate_degrees else 1) * (2 if self.mirror else 1)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


NO_VIEWS = Views()


class MeanOfViews(nn.Module):
    """A network that is asked about each view of its images."""

    black: torch.Tensor

    def __init__(self, network: nn.Module, views: Views, preprocessing: Preprocessing) -> None:
        """Put the views before a network.

        Args:
            network: images [b, C, H, W] to outputs [b, K].
            views: of each image.
            preprocessing: of the images, which says what black is once they are normalised.
        """
        super().__init__()
        self.network, self.views = network, views
        black = [-mean / std for mean, std in zip(preprocessing.mean, preprocessing.std, strict=True)]
        self.register_buffer("black", torch.tensor(black).view(-1, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map normalised images [b, C, H, W] to the mean of the outputs [b, K] for their views."""
        outputs: torch.Tensor = self.network(images)
        for view in self._others(images - self.black):
            outputs = outputs + self.network(view + self.black)
        return outputs / self.views.number

    def _others(self, images: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield all views but the images themselves, whose black is 0."""
        degrees, side = self.views.rotate_degrees, self.views.shift
        steps = (0, -side, side) if side else (0,)
        for angle in (0.0, -degrees, degrees) if degrees else (0.0,):
            turned = rotated(images, angle) if angle else images
            for down in steps:
                for right in steps:
                    moved = shifted(turned, down, right) if down or right else turned
                    if moved is not images:
                        yield moved
                    if self.views.mirror:
                        yield moved.flip(3)


def with_views(network: nn.Module, views: Views, preprocessing: Preprocessing) -> nn.Module:
    """Return a network that answers with the mean over the views; without any, the network itself."""
    return network if views.number == 1 else MeanOfViews(network, views, preprocessing).eval()


def shifted(images: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """Return images [b, C, H, W] moved by so many pixels, 0 where nothing was."""
    height, width = images.shape[2:]
    side = max(abs(down), abs(right))
    padded = functional.pad(images, (side, side, side, side))
    return padded[:, :, side - down : side - down + height, side - right : side - right + width]


def rotated(images: torch.Tensor, degrees: float) -> torch.Tensor:
    """Return images [b, C, H, W] turned counter-clockwise about their centre; bilinear, 0 outside."""
    height, width = images.shape[2:]
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # affine_grid counts from -1 to 1 along both axes, whatever their lengths.
    turn = [[cosine, -sine * height / width, 0.0], [sine * width / height, cosine, 0.0]]
    grid = functional.affine_grid(
        images.new_tensor(turn).expand(len(images), 2, 3), list(images.shape), align_corners=False
    )
    return functional.grid_sample(images, grid, align_corners=False)
