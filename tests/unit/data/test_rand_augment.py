"""RandAugment: torchvision's operations, drawn for each row, the same in any batch and on any device."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandAugment, autoaugment

from dlspark.config.compose import compose
from dlspark.data.augment import NO_AUGMENTATION, Augmentation, augment
from dlspark.data.device_augment import augment_on_device
from dlspark.data.draws import Draws
from dlspark.data.rand_augment import list_operations, rand_augment
from dlspark.errors import ConfigError

IDS = np.arange(64, dtype=np.int64) * 977 + 2**61
RANDOM = np.random.default_rng(0)
# Blurred noise: edges for shifts, and not all levels, for autocontrast and equalize.
PIXELS = (RANDOM.integers(0, 40, (64, 14, 11, 3)) + 15 * np.arange(11)[:, np.newaxis]).astype(np.uint8)
CHANGES = Augmentation(mirror=True, randaugment_ops=2, randaugment_magnitude=9, erase=0.3)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_row_gets_the_same_pixels_in_any_batch(channels: int) -> None:
    pixels = PIXELS[..., :channels]
    before = pixels.copy()
    whole = augment(pixels, IDS, CHANGES, seed=3, epoch=2)
    assert whole.shape == pixels.shape
    for rows in (
        np.arange(4, 9),
        np.random.default_rng(1).permutation(64),
        np.array([63]),
        np.array([], int),
    ):
        assert (augment(pixels[rows], IDS[rows], CHANGES, seed=3, epoch=2) == whole[rows]).all()
    assert (augment(pixels, IDS, CHANGES, seed=3, epoch=3) != whole).any()
    assert (augment(pixels, IDS, CHANGES, seed=4, epoch=2) != whole).any()
    assert (pixels == before).all()


@pytest.mark.parametrize("magnitude", [0, 1, 9, 17, 30])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_operations_are_those_of_torchvision(magnitude: int, channels: int, sign: float) -> None:
    image = PIXELS[0] if channels == 3 else PIXELS[0, :, :, 0]
    height, width = image.shape[:2]
    space = RandAugment()._augmentation_space(31, (height, width))
    ours = list_operations(magnitude, height=height, width=width)
    assert len(ours) == len(space) == 14
    for (name, (strengths, signed)), (operation, strength, has_direction) in zip(
        space.items(), ours, strict=True
    ):
        theirs = float(strengths[magnitude]) if strengths.ndim else 0.0
        assert has_direction == signed, name
        assert strength == pytest.approx(theirs, rel=1e-6), name
        by = sign if signed else 1.0
        expected = autoaugment._apply_op(
            Image.fromarray(image), name, theirs * by, InterpolationMode.NEAREST, None
        )
        got = operation(Image.fromarray(image), strength * by)
        assert (np.asarray(got) == np.asarray(expected)).all(), name


def test_operations_and_directions_are_drawn_evenly() -> None:
    draws = Draws(np.arange(14_000, dtype=np.int64), seed=0, epoch=0)
    for turn in range(2):
        counts = np.bincount((draws.uniform(f"randaugment/{turn}/operation") * 14).astype(int), minlength=14)
        assert 850 < counts.min() <= counts.max() < 1150
    # A white image on black ground, only ever moved: to both sides alike.
    dots = np.zeros((600, 21, 21, 1), dtype=np.uint8)
    dots[:, 10, 10] = 255
    moved = rand_augment(
        dots, Draws(np.arange(600, dtype=np.int64), seed=0, epoch=0), num_ops=1, magnitude=15
    )
    rows, columns = np.unravel_index(moved.reshape(600, -1).argmax(axis=1), (21, 21))
    right, left = ((columns > 10) & (rows == 10)).sum(), ((columns < 10) & (rows == 10)).sum()
    assert min(right, left) > 10


def test_no_operations_change_nothing_whatever_the_magnitude() -> None:
    off = Augmentation(randaugment_magnitude=30)
    assert off.is_identity
    assert (augment(PIXELS, IDS, off, seed=0, epoch=0) == PIXELS).all()
    assert not Augmentation(randaugment_ops=1).is_identity
    assert not dataclasses.replace(NO_AUGMENTATION, mirror=True, randaugment_magnitude=3).is_identity


def test_code_for_a_gpu_refuses_what_it_would_leave_out() -> None:
    with pytest.raises(ConfigError, match="RandAugment"):
        augment_on_device(torch.from_numpy(PIXELS), IDS, CHANGES, seed=0, epoch=0)


def test_the_keys() -> None:
    config = compose(["augment.randaugment_ops=2", "augment.randaugment_magnitude=5"])
    assert Augmentation(**config.augment.changes) == Augmentation(randaugment_ops=2, randaugment_magnitude=5)
    for words in (["augment.randaugment_magnitude=31"], ["augment.randaugment_ops=-1"]):
        with pytest.raises(ConfigError):
            compose(words)
    with pytest.raises(ConfigError, match="would repeat the images"):
        compose(["augment.copies=1", "augment.randaugment_magnitude=5"])
    assert compose(["augment.copies=1", "augment.randaugment_ops=1"]).augment.copies == 1
