from __future__ import annotations

import numpy as np
import pytest

from dlspark.data.augment import Augmentation, augment
from dlspark.data.draws import Draws
from dlspark.data.elastic import displacements

IDS = np.arange(64, dtype=np.int64) * 977 + 2**61
PIXELS = np.random.default_rng(0).integers(0, 256, (64, 6, 5, 3), dtype=np.uint8)


EVERYTHING = Augmentation(
    crop_padding=2, mirror=True, rotate_degrees=20.0, elastic=1.5, colour=0.4, erase=0.5
)


def changed(rows: slice | np.ndarray, *, seed: int = 3, epoch: int = 2) -> np.ndarray:
    return augment(PIXELS[rows], IDS[rows], EVERYTHING, seed=seed, epoch=epoch)


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
    result = augment(PIXELS, IDS, Augmentation(mirror=True), seed=0, epoch=0)
    same = (result == PIXELS).all(axis=(1, 2, 3))
    turned = (result == PIXELS[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same | turned).all()
    assert 20 <= turned.sum() <= 44


def test_a_crop_is_a_shift_over_black_with_every_offset_in_reach() -> None:
    result = augment(PIXELS, IDS, Augmentation(crop_padding=1), seed=0, epoch=0)
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
    assert (augment(PIXELS, IDS, Augmentation(), seed=0, epoch=0) == PIXELS).all()


@pytest.mark.parametrize("rows", [0, 1])
def test_an_empty_or_single_batch_keeps_its_shape(rows: int) -> None:
    assert changed(slice(0, rows)).shape == (rows, 6, 5, 3)


def test_the_hash_is_uniform_and_never_changes() -> None:
    values = Draws(np.arange(4096, dtype=np.int64), seed=0, epoch=0).bits("x")
    bits = np.unpackbits(values.view(np.uint8)).mean()
    assert abs(bits - 0.5) < 0.01
    assert len(np.unique(values)) == 4096
    assert values[:2].tolist() == [14649383821562998127, 10714422966412590499]


def test_rotation_is_bounded_and_about_the_centre() -> None:
    cross = np.zeros((64, 9, 9, 1), dtype=np.uint8)
    cross[:, 4] = 255
    turned = augment(cross, IDS, Augmentation(rotate_degrees=90.0), seed=0, epoch=0)
    assert (turned[:, 4, 4, 0] > 200).all()
    assert (turned != cross).any(axis=(1, 2, 3)).sum() > 50
    little = augment(cross, IDS, Augmentation(rotate_degrees=1.0), seed=0, epoch=0)
    assert (little[:, :2] == 0).all()


def test_an_elastic_distortion_moves_each_point_a_little_and_smoothly() -> None:
    down, right = displacements(Draws(IDS, seed=0, epoch=0), 28, 20, most=3.0)
    assert down.shape == right.shape == (64, 28, 20)
    for field in (down, right):
        assert 1.5 < np.abs(field).max() <= 3.0
        assert np.abs(np.diff(field, axis=1)).max() < 0.7
        assert np.abs(np.diff(field, axis=2)).max() < 0.9
        assert abs(field.mean()) < 0.1
    assert np.abs(np.corrcoef(down.ravel(), right.ravel())[0, 1]) < 0.1


def test_a_distorted_ramp_shows_where_each_pixel_comes_from() -> None:
    ramp = np.broadcast_to(np.arange(28, dtype=np.uint8)[:, np.newaxis] * 5, (64, 28, 28))[..., np.newaxis]
    bent = augment(ramp, IDS, Augmentation(elastic=3.0), seed=0, epoch=0)
    down, _ = displacements(Draws(IDS, seed=0, epoch=0), 28, 28, most=3.0)
    inside = slice(4, 24)
    wanted = 5 * (np.arange(28)[:, np.newaxis] + down)
    assert np.abs(bent[:, inside, inside, 0] - wanted[:, inside, inside]).max() <= 0.51


def test_what_an_elastic_distortion_brings_in_from_outside_is_black() -> None:
    white = np.full((64, 12, 12, 1), 255, dtype=np.uint8)
    bent = augment(white, IDS, Augmentation(elastic=4.0), seed=0, epoch=0)
    assert (bent[:, 5:7, 5:7] == 255).all()
    assert (bent[:, 0] == 0).any()


def test_colour_stays_between_its_factors() -> None:
    gray = np.full((64, 4, 4, 3), 100, dtype=np.uint8)
    result = augment(gray, IDS, Augmentation(colour=0.3), seed=0, epoch=0)
    # Contrast and saturation leave one gray as it is; brightness scales it.
    assert (result == result[:, :1, :1, :1]).all()
    values = result[:, 0, 0, 0]
    assert 70 <= values.min() < 80
    assert 120 < values.max() <= 130


def test_erasing_blackens_one_rectangle_of_a_share_of_the_rows() -> None:
    white = np.full((64, 20, 20, 1), 255, dtype=np.uint8)
    result = augment(white, IDS, Augmentation(erase=0.5), seed=0, epoch=0)
    holes = (result == 0).all(axis=3)
    erased = holes.any(axis=(1, 2))
    assert 20 <= erased.sum() <= 44
    for hole in holes[erased]:
        rows, columns = hole.any(axis=1), hole.any(axis=0)
        assert (hole == (rows[:, np.newaxis] & columns)).all()
        assert 0.01 <= hole.mean() <= 0.25


def test_a_crop_of_another_size_is_a_part_of_the_padded_image() -> None:
    changes = Augmentation(crop_padding=1, crop_size=4)
    result = augment(PIXELS, IDS, changes, seed=0, epoch=0)
    assert result.shape == (64, 4, 4, 3)
    padded = np.pad(PIXELS, ((0, 0), (1, 1), (1, 1), (0, 0)))
    found = set()
    for row in range(64):
        places = [
            (y, x)
            for y in range(5)
            for x in range(4)
            if (padded[row, y : y + 4, x : x + 4] == result[row]).all()
        ]
        assert len(places) == 1
        found.update(places)
    assert len(found) > 15


def test_large_batches_are_mirrored_as_small_ones_are() -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (64, 96, 64, 3), dtype=np.uint8)
    whole = augment(pixels, IDS, Augmentation(mirror=True), seed=0, epoch=0)
    parts = [
        augment(pixels[row : row + 1], IDS[row : row + 1], Augmentation(mirror=True), seed=0, epoch=0)
        for row in range(64)
    ]
    assert (whole == np.concatenate(parts)).all()


@pytest.mark.parametrize("shape", [(7, 4, 1), (4, 7, 3)])
def test_crop_and_mirror_together_are_a_crop_and_then_a_mirror(shape: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (32, *shape), dtype=np.uint8)
    ids = IDS[:32]
    both = augment(pixels, ids, Augmentation(crop_padding=2, mirror=True), seed=5, epoch=1)
    cropped = augment(pixels, ids, Augmentation(crop_padding=2), seed=5, epoch=1)
    assert (both == augment(cropped, ids, Augmentation(mirror=True), seed=5, epoch=1)).all()
