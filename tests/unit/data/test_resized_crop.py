from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dlspark.data.augment import Augmentation, augment
from dlspark.data.resized_crop import draw_boxes, resized_crops


def _draws(values: dict[str, float], number: int = 1) -> object:
    return lambda name: np.full(number, values.get(name, values.get(name.rpartition("/")[0], 0.5)))


def test_the_parts_are_in_the_image_and_of_the_sizes_and_shapes_that_are_allowed() -> None:
    generator = np.random.default_rng(0)
    boxes = draw_boxes(100, 160, lambda _: generator.random(20_000), min_area=0.25)
    top, left, tall, wide = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + tall <= 100).all()
    assert (left + wide <= 160).all()
    share, ratio = tall * wide / 16_000, wide / tall
    assert 0.24 < share.min() < 0.26
    assert share.max() > 0.8
    assert 0.73 < ratio.min() < 0.77
    assert 1.31 < ratio.max() < 1.36


def test_an_image_that_no_draw_fits_gives_its_centre() -> None:
    (box,) = draw_boxes(10, 100, _draws({"resized_crop/area": 0.999}), min_area=0.9)  # type: ignore[arg-type]
    assert box.tolist() == [0, 43, 10, 13]


def test_a_part_is_scaled_as_pillow_scales_it() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (1, 40, 40, 3), dtype=np.uint8)
    draws = {
        "resized_crop/area": 0.0,
        "resized_crop/ratio": 0.5,
        "resized_crop/top": 0.5,
        "resized_crop/left": 0.0,
    }
    (cropped,) = resized_crops(pixels, _draws(draws), size=16, min_area=0.25)  # type: ignore[arg-type]
    part = Image.fromarray(pixels[0, 10:30, 0:20]).resize((16, 16), Image.Resampling.BILINEAR)
    assert np.abs(cropped.astype(int) - np.asarray(part)).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_a_row_gets_the_same_part_in_any_batch_and_another_one_in_another_epoch(channels: int) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (9, 20, 24, channels), dtype=np.uint8)
    row_ids = np.arange(9, dtype=np.int64) * 31
    changes = Augmentation(crop_size=12, crop_min_area=0.3, mirror=True)

    def changed(rows: slice, epoch: int = 0) -> np.ndarray:
        return augment(pixels[rows], row_ids[rows], changes, seed=1, epoch=epoch)

    whole = changed(slice(None))
    assert whole.shape == (9, 12, 12, channels)
    assert (np.concatenate([changed(slice(row, row + 2)) for row in range(0, 9, 2)]) == whole).all()
    assert (changed(slice(None), epoch=1) != whole).any()
    assert changed(slice(0, 0)).shape == (0, 12, 12, channels)
