"""The mean over views: every view once, moved and turned as Pillow does it, black where nothing was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dlspark.contracts import ImageFormat, Preprocessing
from dlspark.training.views import NO_VIEWS, MeanOfViews, Views, rotated, shifted, with_views

PREPROCESSING = Preprocessing(
    image=ImageFormat(height=6, width=9, channels=3, resize="none"),
    mean=(0.1, 0.2, 0.3),
    std=(0.4, 0.5, 0.6),
)
BLACK = torch.tensor([-0.1 / 0.4, -0.2 / 0.5, -0.3 / 0.6]).view(3, 1, 1)


class Asked(nn.Module):
    """Notes the images that it is asked about, and answers with their first pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map [b, C, H, W] to [b, C]."""
        self.images.append(images)
        return images[:, :, 0, 0]


def normalised(number: int = 2) -> torch.Tensor:
    drawn = torch.rand(number, 3, 6, 9, generator=torch.Generator().manual_seed(3))
    return drawn + 0.5 + BLACK


@pytest.mark.parametrize(
    ("views", "number"),
    [
        (Views(shift=1), 9),
        (Views(rotate_degrees=5.0), 3),
        (Views(mirror=True), 2),
        (Views(shift=2, rotate_degrees=10.0), 27),
        (Views(shift=2, rotate_degrees=10.0, mirror=True), 54),
    ],
)
def test_each_view_is_asked_about_once_and_the_outputs_are_averaged(views: Views, number: int) -> None:
    network, images = Asked(), normalised()
    outputs = with_views(network, views, PREPROCESSING)(images)
    assert views.number == number == len(network.images)
    assert torch.equal(network.images[0], images)
    distinct = {view.numpy().tobytes() for view in network.images}
    assert len(distinct) == number
    means = torch.stack([view[:, :, 0, 0] for view in network.images]).mean(dim=0)
    torch.testing.assert_close(outputs, means)


def test_without_views_the_network_is_the_one_that_came() -> None:
    network = Asked()
    assert with_views(network, NO_VIEWS, PREPROCESSING) is network


def test_what_moves_in_is_black() -> None:
    network = Asked()
    views = Views(shift=2, rotate_degrees=20.0, mirror=True)
    black = BLACK.expand(1, 3, 6, 9)
    MeanOfViews(network, views, PREPROCESSING)(black)
    for view in network.images:
        torch.testing.assert_close(view, black)
    MeanOfViews(network, Views(shift=2), PREPROCESSING)(normalised(1))
    moved = next(view for view in network.images[-9:] if torch.allclose(view[0, :, :2], BLACK))
    assert (moved[0, :, 2:, 2:-2] > BLACK).all()


@pytest.mark.parametrize(("down", "right"), [(1, 0), (-2, 0), (0, 2), (0, -1), (1, -1)])
def test_shifted_moves_the_pixels(down: int, right: int) -> None:
    images = torch.arange(1.0, 55.0).view(1, 1, 6, 9)
    moved = shifted(images, down, right)
    assert moved.shape == images.shape
    for row in range(6):
        for column in range(9):
            inside = 0 <= row - down < 6 and 0 <= column - right < 9
            expected = images[0, 0, row - down, column - right] if inside else 0.0
            assert moved[0, 0, row, column] == expected


@pytest.mark.parametrize("degrees", [5.0, -12.0, 90.0])
def test_rotated_turns_as_the_training_does(degrees: float) -> None:
    pixels = np.zeros((20, 31), dtype=np.uint8)
    pixels[6:14, 9:22] = np.random.default_rng(1).integers(0, 256, (8, 13))
    theirs = np.asarray(Image.fromarray(pixels).rotate(degrees, Image.Resampling.BILINEAR))
    ours = rotated(torch.from_numpy(pixels).float().view(1, 1, 20, 31), degrees)[0, 0].numpy()
    assert np.abs(ours - theirs).max() <= 1.0  # Pillow rounds to whole values
    assert np.abs(ours - pixels).max() > 50.0
