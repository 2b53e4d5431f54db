from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlspark.data.split import (
    UNDECLARED,
    SplitRule,
    copy_id_of,
    position_of,
    row_id_of,
    split_of,
    stratified_borders,
)

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


def codes(
    rule: SplitRule, keys: list[str], declared: list[int] | None = None, labels: list[str] | None = None
) -> list[int]:
    positions = np.array([position_of(key, seed=0) for key in keys])
    given = np.array(declared or [UNDECLARED] * len(keys), dtype=np.int8)
    ids = np.array([row_id_of(key) for key in keys])
    return rule.codes(positions, given, list(labels or [""] * len(keys)), ids).tolist()


def test_a_split_that_the_source_names_is_kept() -> None:
    rule = SplitRule(val_share=0.5, test_share=0.4)
    assert codes(rule, KEYS[:3], [0, 1, 2]) == [0, 1, 2]


def test_what_an_audit_has_moved_is_in_train() -> None:
    rule = SplitRule(val_share=0.5, test_share=0.4, moved=frozenset({row_id_of(KEYS[1])}))
    assert codes(rule, KEYS[:3], [1, 1, 2]) == [1, 0, 2]


def test_validation_is_drawn_from_the_training_images_of_a_source_without_any() -> None:
    found = codes(SplitRule(val_share=0.1, test_share=0.2, draw_val=True), KEYS, [0, 2] * 10_000)
    assert set(found[1::2]) == {2}
    assert set(found[::2]) == {0, 1}
    assert found[::2].count(1) == pytest.approx(1000, abs=120)


@given(st.lists(st.sampled_from("abc"), min_size=3, max_size=200), st.floats(0, 0.4), st.floats(0, 0.4))
def test_stratified_shares_are_met_in_every_class(
    labels: list[str], val_share: float, test_share: float
) -> None:
    keys = KEYS[: len(labels)]
    positions = np.array([position_of(key, seed=0) for key in keys])
    borders = {
        name: stratified_borders(
            positions[np.array(labels) == name], val_share=val_share, test_share=test_share
        )
        for name in set(labels)
    }
    rule = SplitRule(val_share=val_share, test_share=test_share, borders=borders)
    found = codes(rule, keys, labels=labels)
    for name in set(labels):
        mine = [code for code, label in zip(found, labels, strict=True) if label == name]
        most = len(mine) - 1
        assert mine.count(2) == min(round(len(mine) * test_share), most)
        assert mine.count(1) + mine.count(2) == min(round(len(mine) * (test_share + val_share)), most)
        assert 0 in mine


def test_copies_have_ids_of_their_own() -> None:
    ids = {copy_id_of(key, copy) for key in KEYS[:1000] for copy in (1, 2, 3)}
    assert len(ids) == 3000
    assert not ids & {row_id_of(key) for key in KEYS}
