from __future__ import annotations

import numpy as np
import pytest

from dlspark.data.augment import augment, hash_rows

IDS = np.arange(64, dtype=np.int64) * 977 + 2**61
PIXELS = np.random.default_rng(0).integers(0, 256, (64, 6, 5, 3), dtype=np.uint8)


def changed(rows: slice | np.ndarray, **options: int) -> np.ndarray:
    values = {"seed": 3, "epoch": 2, "crop_padding": 2} | options
    return augment(PIXELS[rows], IDS[rows], mirror=True, **values)


def test_a_row_gets_the_same_pixels_in_any_batch() -> None:
    whole = changed(slice(None))
    parts = np.concatenate([changed(slice(start, start + 7)) for start in range(0, 64, 7)])
    order = np.random.default_rng(1).permutation(64)
    assert (parts == whole).all()
    assert (changed(order) == whole[order]).all()


def test_seed_and_epoch_change_the_pixels_and_the_input_is_left_alone() -> None:
    before = PIXELS.copy()
    whole = changed(slice(None))
    assert (changed(slice(None), seed=4) != whole).any()
    assert (changed(slice(None), epoch=3) != whole).any()
    assert (before == PIXELS).all()


def test_mirror_turns_about_half_of_the_rows_left_to_right_and_no_others() -> None:
    result = augment(PIXELS, IDS, seed=0, epoch=0, mirror=True, crop_padding=0)
    same = (result == PIXELS).all(axis=(1, 2, 3))
    turned = (result == PIXELS[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same | turned).all()
    assert 20 <= turned.sum() <= 44


def test_a_crop_is_a_shift_over_black_with_every_offset_in_reach() -> None:
    result = augment(PIXELS, IDS, seed=0, epoch=0, mirror=False, crop_padding=1)
    padded = np.pad(PIXELS, ((0, 0), (1, 1), (1, 1), (0, 0)))
    found = set()
    for row in range(64):
        places = [
            (y, x)
            for y in range(3)
            for x in range(3)
            if (padded[row, y : y + 6, x : x + 5] == result[row]).all()
        ]
        assert len(places) == 1
        found.update(places)
    assert len(found) == 9


def test_no_operation_changes_nothing() -> None:
    assert (augment(PIXELS, IDS, seed=0, epoch=0, mirror=False, crop_padding=0) == PIXELS).all()


@pytest.mark.parametrize("rows", [0, 1])
def test_an_empty_or_single_batch_keeps_its_shape(rows: int) -> None:
    assert changed(slice(0, rows)).shape == (rows, 6, 5, 3)


def test_the_hash_is_uniform_and_never_changes() -> None:
    values = hash_rows(np.arange(4096, dtype=np.int64), seed=0, epoch=0, operation="x")
    bits = np.unpackbits(values.view(np.uint8)).mean()
    assert abs(bits - 0.5) < 0.01
    assert len(np.unique(values)) == 4096
    assert values[:2].tolist() == [14649383821562998127, 10714422966412590499]
