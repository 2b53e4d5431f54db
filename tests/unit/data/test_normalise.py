from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from dlspark.contracts import ImageFormat, Preprocessing
from dlspark.data.normalise import normalise

PREPROCESSING = Preprocessing(
    image=ImageFormat(height=4, width=5, channels=3, resize="none"),
    mean=(0.2, 0.5, 0.7),
    std=(0.1, 0.25, 1.0),
)
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)


def test_it_is_the_formula_channels_first() -> None:
    result = normalise(torch.from_numpy(PIXELS), PREPROCESSING)
    expected = ((PIXELS / 255 - PREPROCESSING.mean) / PREPROCESSING.std).transpose(0, 3, 1, 2)
    assert result.dtype == torch.float32
    assert result.is_contiguous()
    assert np.abs(result.numpy() - expected).max() < 2e-6


def test_a_row_is_the_same_in_any_batch_and_the_input_is_left_alone() -> None:
    before = PIXELS.copy()
    whole = normalise(torch.from_numpy(PIXELS), PREPROCESSING)
    for row in range(6):
        assert torch.equal(normalise(torch.from_numpy(PIXELS[row : row + 1]), PREPROCESSING)[0], whole[row])
    assert (before == PIXELS).all()


def test_the_network_sees_the_centre_of_a_crop_and_of_what_is_cropped_already_all() -> None:
    cropping = dataclasses.replace(PREPROCESSING, crop=2)
    result = normalise(torch.from_numpy(PIXELS), cropping)
    assert result.shape == (6, 3, 2, 2)
    assert torch.equal(result, normalise(torch.from_numpy(PIXELS[:, 1:3, 1:3]), cropping))
    assert torch.equal(result, normalise(torch.from_numpy(PIXELS), PREPROCESSING)[:, :, 1:3, 1:3])


def test_images_smaller_than_the_input_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 5\) are smaller than the input \(5, 5\)"):
        normalise(torch.from_numpy(PIXELS), dataclasses.replace(PREPROCESSING, crop=5))


def test_no_rows_keep_their_shape() -> None:
    assert normalise(torch.from_numpy(PIXELS[:0]), PREPROCESSING).shape == (0, 3, 4, 5)
