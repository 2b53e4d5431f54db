"""What a GPU does to a batch is what the CPU does; the code is the same on any device of torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dlspark.data.augment import Augmentation, augment
from dlspark.data.device_augment import augment_on_device

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]
RANDOM = np.random.default_rng(0)
ROW_IDS = RANDOM.integers(0, 2**62, 24)


def both(
    augmentation: Augmentation, device: str, *, channels: int = 3, smooth: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The batch changed on the CPU by numpy and Pillow, and on the device by torch; both int64."""
    shape = (len(ROW_IDS), 32, 32, channels)
    pixels = RANDOM.integers(0, 256, shape, dtype=np.uint8)
    if smooth:
        ramp = np.add.outer(np.arange(32), 2 * np.arange(32))[None, :, :, None]
        pixels = np.broadcast_to(40 + ramp, shape).astype(np.uint8).copy()
    before = pixels.copy()
    expected = augment(pixels, ROW_IDS, augmentation, seed=4, epoch=7)
    on_device = torch.from_numpy(pixels).to(device)
    got = augment_on_device(on_device, ROW_IDS, augmentation, seed=4, epoch=7)
    assert got.dtype == torch.uint8
    assert (on_device.cpu().numpy() == before).all()
    assert not (expected.shape == before.shape and (expected == before).all())
    return expected.astype(np.int64), got.cpu().numpy().astype(np.int64)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(crop_padding=4),
        Augmentation(crop_size=20),
        Augmentation(mirror=True),
        Augmentation(erase=0.7),
        Augmentation(crop_padding=2, crop_size=30, mirror=True, erase=0.5),
    ],
    ids=str,
)
def test_pixels_that_only_move_are_equal(augmentation: Augmentation, channels: int, device: str) -> None:
    expected, got = both(augmentation, device, channels=channels)
    assert (got == expected).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "augmentation", [Augmentation(crop_size=24, crop_min_area=0.1), Augmentation(colour=0.4)], ids=str
)
def test_computed_pixels_differ_by_a_rounding_at_most(augmentation: Augmentation, device: str) -> None:
    expected, got = both(augmentation, device)
    assert np.abs(got - expected).max() <= 1
    assert (got == expected).mean() > 0.75


@pytest.mark.parametrize("device", DEVICES)
def test_a_distortion_is_the_same_away_from_its_black_border(device: str) -> None:
    expected, got = both(Augmentation(elastic=3.0), device, smooth=True)
    inner = np.abs(got - expected)[:, 8:24, 8:24]
    assert inner.max() <= 1
    assert (got == expected).mean() > 0.75


@pytest.mark.parametrize("device", DEVICES)
def test_a_rotation_is_the_same_away_from_its_black_border(device: str) -> None:
    expected, got = both(Augmentation(rotate_degrees=25), device, smooth=True)
    inner = np.abs(got - expected)[:, 8:24, 8:24]
    assert inner.max() <= 2
    assert (got[:, 0, 0] != 0).any()
    assert (got[:, 0, 0] == 0).any()
