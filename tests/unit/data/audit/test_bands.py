from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dlspark.data.audit.bands import buckets_of, compare, probes_of
from dlspark.data.audit.perceptual_hash import NUM_BITS, transformed_hashes, unpack

HASHES = st.integers(0, 2**NUM_BITS - 1)


@given(hashed=HASHES, distance=st.integers(2, 16), data=st.data())
def test_any_two_hashes_within_the_distance_share_a_bucket(
    hashed: int, distance: int, data: st.DataObject
) -> None:
    bits = data.draw(st.sets(st.integers(0, NUM_BITS - 1), max_size=distance))
    other = hashed ^ sum(1 << bit for bit in bits)
    buckets = buckets_of(np.array([hashed, other], dtype=np.uint64), distance)
    assert (buckets[:, 0] == buckets[:, 1]).any()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_buckets_give_the_same_pairs_as_comparing_all_with_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    distance = 6
    hashes = rng.integers(0, 2**NUM_BITS, 40, dtype=np.uint64)
    turned = transformed_hashes(hashes, 28)
    for row in range(1, 40, 2):
        flipped = sum(1 << int(bit) for bit in rng.choice(NUM_BITS, rng.integers(0, 9), replace=False))
        hashes[row] = turned[rng.integers(8), row - 1] ^ np.uint64(flipped)
    turned = transformed_hashes(hashes, 28)
    expected = {
        (a, b, transform, int(unpack(hashes[a : a + 1] ^ turned[transform, b : b + 1]).sum()))
        for a in range(40)
        for b in range(a + 1, 40)
        for transform in range(8)
    }
    expected = {pair for pair in expected if pair[3] <= distance}
    assert expected
    probes = probes_of(hashes, np.arange(40), side=28, max_distance=distance)
    parts = [part for part, _ in compare(probes, max_distance=distance, max_bucket_rows=100)]
    pairs = np.concatenate(parts)
    found = list(zip(*(pairs[name].tolist() for name in ("a", "b", "transform", "distance")), strict=True))
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_an_overfull_bucket_is_capped_and_says_so() -> None:
    probes = probes_of(np.full(100, 5, dtype=np.uint64), np.arange(100), side=28, max_distance=8)
    parts = list(compare(probes, max_distance=8, max_bucket_rows=10))
    assert sum(left_out for _, left_out in parts) >= 9 * 90
    pairs = np.concatenate([part for part, _ in parts])
    assert 0 < len(pairs) <= 8 * 45
