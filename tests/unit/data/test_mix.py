"""Mixed rows: their draws, their pixels, and that a row is the same in any batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from dlspark.contracts import ImageFormat, Preprocessing
from dlspark.data.augment import NO_AUGMENTATION, Augmentation, augment
from dlspark.data.finish_batch import BatchFinisher
from dlspark.data.gather import StoredRows
from dlspark.data.mix import NO_MIXING, Mixing, beta_shares, draw_mixes, draw_partners, mix_rows
from dlspark.data.normalise import normalise

NUM, HEIGHT, WIDTH = 64, 12, 10
IDS = np.arange(NUM, dtype=np.int64) * 977 + 2**61
RANDOM = np.random.default_rng(0)
OWN = RANDOM.integers(0, 256, (NUM, HEIGHT, WIDTH, 3), dtype=np.uint8)
PARTNERS = RANDOM.integers(0, 256, (NUM, HEIGHT, WIDTH, 3), dtype=np.uint8)
BOTH = Mixing(mixup_alpha=0.4, cutmix_alpha=1.0)
MIXINGS = [Mixing(mixup_alpha=0.4), Mixing(cutmix_alpha=1.0), BOTH]
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


def finisher(
    mixing: Mixing, augmentation: Augmentation = NO_AUGMENTATION, device: str = "cpu"
) -> BatchFinisher:
    image = ImageFormat(height=HEIGHT, width=WIDTH, channels=3, resize="none")
    preprocessing = Preprocessing(image=image, mean=(0.5,) * 3, std=(0.25,) * 3)
    return BatchFinisher(preprocessing, augmentation, mixing=mixing, seed=3, device=torch.device(device))


def doubled(rows: np.ndarray) -> StoredRows:
    ids = np.concatenate([IDS[rows], IDS[rows] + 10**6])
    labels = np.concatenate([rows, rows + NUM]).astype(np.int64)
    return StoredRows(np.concatenate([OWN[rows], PARTNERS[rows]]), ids, labels)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mixing", MIXINGS, ids=str)
def test_a_row_is_mixed_in_the_same_way_in_any_batch(mixing: Mixing, device: str) -> None:
    finish = finisher(mixing, Augmentation(mirror=True, crop_padding=2), device).finish
    whole = finish(doubled(np.arange(NUM)), step=0, global_rows=NUM, epoch=2)
    assert whole.other_labels is not None
    assert whole.label_share is not None
    assert (whole.row_ids == IDS).all()
    for rows in (
        np.arange(5, 9),
        np.random.default_rng(1).permutation(NUM),
        np.array([63]),
        np.array([], int),
    ):
        part = finish(doubled(rows), step=7, global_rows=NUM, epoch=2)
        assert torch.equal(part.images, whole.images[rows])
        assert torch.equal(part.labels, whole.labels[rows])
        assert part.other_labels is not None
        assert part.label_share is not None
        assert torch.equal(part.other_labels, whole.other_labels[rows])
        assert torch.equal(part.label_share, whole.label_share[rows])
    again = finish(doubled(np.arange(NUM)), step=0, global_rows=NUM, epoch=3)
    assert not torch.equal(again.images, whole.images)


def test_off_is_the_batch_as_it_was() -> None:
    changes = Augmentation(mirror=True, crop_padding=2, erase=0.5)
    off = finisher(NO_MIXING, changes)
    assert off.partners(0) is None
    batch = off.finish(StoredRows(OWN, IDS, IDS % 10), step=0, global_rows=NUM, epoch=1)
    expected = augment(OWN, IDS, changes, seed=3, epoch=1)
    image = ImageFormat(height=HEIGHT, width=WIDTH, channels=3, resize="none")
    preprocessing = Preprocessing(image=image, mean=(0.5,) * 3, std=(0.25,) * 3)
    assert torch.equal(batch.images, normalise(torch.from_numpy(expected), preprocessing))
    assert (batch.other_labels, batch.label_share) == (None, None)
    assert batch.labels.tolist() == (IDS % 10).tolist()


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 4.0])
def test_shares_are_of_the_beta_distribution(alpha: float) -> None:
    ids = np.arange(10_000, dtype=np.int64)
    share = draw_mixes(ids, Mixing(mixup_alpha=alpha), 8, 8, seed=0, epoch=0).label_share.astype(float)
    variance = 1 / (4 * (2 * alpha + 1))
    assert share.mean() == pytest.approx(0.5, abs=4 * (variance / 10_000) ** 0.5)
    assert share.var() == pytest.approx(variance, rel=0.05)
    uniform = np.random.default_rng(0).random(10_000)
    assert stats.kstest(beta_shares(uniform, alpha), stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    assert 0.0 <= share.min() <= share.max() <= 1.0


@pytest.mark.parametrize("device", DEVICES)
def test_mixup_is_the_weighted_mean_to_half_a_level(device: str) -> None:
    mixes = draw_mixes(IDS, Mixing(mixup_alpha=1.0), HEIGHT, WIDTH, seed=0, epoch=0)
    assert not mixes.boxes[:, 2].any()
    own, partners = (torch.from_numpy(pixels).to(device) for pixels in (OWN, PARTNERS))
    mixed = mix_rows(own, partners, mixes).cpu().numpy()
    share = mixes.label_share.astype(np.float64)[:, None, None, None]
    assert (mixes.label_share.astype(np.float64) * 65536 == mixes.parts).all()
    assert np.abs(mixed - (share * OWN + (1 - share) * PARTNERS)).max() <= 0.5
    assert (own.cpu().numpy() == OWN).all()
    assert (partners.cpu().numpy() == PARTNERS).all()


@pytest.mark.parametrize("device", DEVICES)
def test_cutmix_puts_in_one_rectangle_and_shares_the_label_by_pixels(device: str) -> None:
    mixes = draw_mixes(IDS, Mixing(cutmix_alpha=1.0), HEIGHT, WIDTH, seed=0, epoch=0)
    black = torch.zeros((NUM, HEIGHT, WIDTH, 1), dtype=torch.uint8, device=device)
    mixed = mix_rows(black, black + 255, mixes).cpu().numpy()[..., 0]
    assert set(np.unique(mixed)) == {0, 255}
    inside = mixed == 255
    assert mixes.label_share == pytest.approx(1 - inside.mean(axis=(1, 2)))
    for hole in inside:
        rows, columns = hole.any(axis=1), hole.any(axis=0)
        assert (hole == (rows[:, np.newaxis] & columns)).all()
    covered = inside.mean(axis=(1, 2))
    assert covered.min() < 0.1
    assert covered.max() > 0.6
    assert (inside.mean(axis=0) > 0.1).all(), "some place is never covered"


def test_cut_areas_are_those_of_the_paper() -> None:
    ids = np.arange(20_000, dtype=np.int64)
    mixes = draw_mixes(ids, Mixing(cutmix_alpha=1.0), 256, 256, seed=0, epoch=0)
    # Drawn by the authors' published recipe, with numpy's own sampler.
    random = np.random.default_rng(1)
    side = (256 * np.sqrt(1 - random.beta(1.0, 1.0, 20_000))).astype(int)
    ends = []
    for centre in random.integers(0, 256, (2, 20_000)):
        ends.append(np.clip(centre + side // 2, 0, 256) - np.clip(centre - side // 2, 0, 256))
    expected = 1 - ends[0] * ends[1] / 256**2
    assert mixes.label_share.mean() == pytest.approx(expected.mean(), abs=0.01)
    assert mixes.label_share.std() == pytest.approx(expected.std(), abs=0.01)


def test_with_both_a_row_draws_one_of_the_two_and_mixes_as_that_one_alone() -> None:
    together, *alone = (
        draw_mixes(IDS, mixing, HEIGHT, WIDTH, seed=0, epoch=0)
        for mixing in (
            BOTH,
            Mixing(mixup_alpha=BOTH.mixup_alpha),
            Mixing(cutmix_alpha=BOTH.cutmix_alpha),
        )
    )
    fits = np.array(
        [
            [(one[row] == other[row]).all() for one, other in zip(together, single, strict=True)]
            for single in alone
            for row in range(NUM)
        ]
    ).reshape(2, NUM, 3)
    as_mixup, as_cutmix = fits.all(axis=2)
    assert (as_mixup | as_cutmix).all()
    assert 20 <= as_cutmix.sum() <= 44


def test_partners_are_all_other_rows_of_the_file_alike() -> None:
    ids = np.arange(6000, dtype=np.int64) * 31
    places = np.arange(6000, dtype=np.int64) % 6
    partners = draw_partners(ids, places, 6, seed=0, epoch=0)
    counts = np.zeros((6, 6), dtype=int)
    np.add.at(counts, (places, partners), 1)
    assert (counts.diagonal() == 0).all()
    assert 140 < counts[~np.eye(6, dtype=bool)].min() <= counts.max() < 260
    assert (draw_partners(ids[7:9], places[7:9], 6, seed=0, epoch=0) == partners[7:9]).all()
    assert (draw_partners(ids, places, np.full(6000, 6), seed=0, epoch=0) == partners).all()
    assert (draw_partners(ids, places, 6, seed=0, epoch=1) != partners).any()


def test_the_only_row_of_a_file_is_its_own_partner_and_stays_as_it_is() -> None:
    ids, place = IDS[:1], np.zeros(1, dtype=np.int64)
    assert draw_partners(ids, place, 1, seed=0, epoch=0).tolist() == [0]
    same = torch.from_numpy(OWN)
    for mixing in MIXINGS:
        assert torch.equal(
            mix_rows(same, same, draw_mixes(IDS, mixing, HEIGHT, WIDTH, seed=0, epoch=0)), same
        )
