from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlspark.data.split import row_id_of, split_of

KEYS = [f"cat/{index:05d}.png" for index in range(20_000)]


def splits(seed: int = 0, val_share: float = 0.1, test_share: float = 0.2) -> list[str]:
    return [split_of(key, seed=seed, val_share=val_share, test_share=test_share) for key in KEYS]


def test_the_shares_are_met() -> None:
    counts = Counter(splits())
    assert counts["val"] == pytest.approx(2000, abs=200)
    assert counts["test"] == pytest.approx(4000, abs=250)


def test_another_seed_draws_other_splits() -> None:
    assert splits(seed=1) != splits(seed=0)


def test_without_shares_all_is_train() -> None:
    assert set(splits(val_share=0.0, test_share=0.0)) == {"train"}


def test_a_larger_share_only_adds() -> None:
    small, large = splits(test_share=0.2), splits(test_share=0.3)
    assert all(b == "test" for a, b in zip(small, large, strict=True) if a == "test")


def test_membership_and_ids_never_change_between_releases() -> None:
    assert Counter(splits()) == {"train": 13993, "test": 4028, "val": 1979}
    assert [row_id_of(key) for key in KEYS[:2]] == [992235219460133057, 5028248365563584433]


@given(st.text())
def test_a_row_id_is_a_non_negative_int64(key: str) -> None:
    try:
        key.encode()
    except UnicodeEncodeError:
        return
    assert 0 <= row_id_of(key) < 2**63


def test_row_ids_are_spread_over_their_range() -> None:
    ids = sorted(row_id_of(key) for key in KEYS)
    assert len(set(ids)) == len(KEYS)
    assert ids[len(ids) // 2] / 2**63 == pytest.approx(0.5, abs=0.02)
