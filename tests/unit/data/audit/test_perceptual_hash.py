from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlspark.data.audit.perceptual_hash import look_at, similarities, transformed_hashes, unpack
from dlspark.data.audit.symmetry import TRANSFORMS, transform_picture
from tests.unit.data.audit.planted import near_twin


def picture(seed: int, side: int, channels: int = 1) -> np.ndarray:
    """Smooth random blobs: neighbouring pixels of a picture are alike."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(side, side, channels))
    for axis in (0, 1):
        values = values + np.roll(values, 1, axis) + np.roll(values, -1, axis)
    values -= values.min()
    return np.rint(255 * values / values.max()).astype(np.uint8)


def bits_between(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return unpack(one ^ other).sum(axis=1)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), side=st.integers(8, 40), channels=st.sampled_from([1, 3]))
def test_the_looks_of_a_transformed_picture_are_the_transformed_looks(
    seed: int, side: int, channels: int
) -> None:
    pixels = picture(seed, side, channels)
    turned = np.stack([transform_picture(pixels, transform) for transform in TRANSFORMS])
    looks, base = look_at(turned), look_at(pixels[None])
    expected = transformed_hashes(base.hashes, side)[:, 0]
    # A coefficient that is zero but for rounding may have either sign.
    assert bits_between(looks.hashes, expected).max() <= 1
    alike = similarities(
        looks.descriptors, np.repeat(base.descriptors, 8, axis=0), np.arange(8, dtype=np.int8)
    )
    assert alike.min() > 0.998


@pytest.mark.parametrize("kind", ["jpeg", "brighter", "darker", "blur"])
def test_a_recoded_picture_differs_in_few_bits(kind: str) -> None:
    rng = np.random.default_rng(0)
    pixels = np.stack([picture(seed, 32) for seed in range(50)])
    twins = np.stack([near_twin(one, kind, rng) for one in pixels])
    one, other = look_at(pixels), look_at(twins)
    assert np.quantile(bits_between(one.hashes, other.hashes), 0.95) <= 8
    assert (bits_between(one.hashes, np.roll(other.hashes, 1)) > 8).mean() > 0.95


def test_a_shifted_digit_on_an_empty_ground_keeps_its_hash() -> None:
    pixels = np.zeros((1, 28, 28, 1), dtype=np.uint8)
    pixels[0, 6:20, 8:18, 0] = picture(1, 20)[:14, :10, 0]
    shifted = np.roll(pixels, (2, -2), axis=(1, 2))
    assert bits_between(look_at(pixels).hashes, look_at(shifted).hashes)[0] <= 2


def test_only_blank_pictures_are_flat() -> None:
    blank, grey = np.zeros((8, 8, 3), dtype=np.uint8), np.full((8, 8, 3), 7, dtype=np.uint8)
    assert look_at(np.stack([blank, grey, picture(2, 8, 3)])).is_flat.tolist() == [True, True, False]
