"""Which split an image belongs to, and its row id: pure functions of its key, so that nothing ever moves.

Files that are added, partitions, machines and the order of the listing change neither. The price of a hash
is that the shares are met on average only, with a spread of sqrt(n p (1 - p)) images; stratified splits meet
them in each class, and pay with borders that move when images are added.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dlspark.contracts import SPLITS, Split

UNDECLARED = -1
_TRAIN, _VAL, _TEST = (SPLITS.index(split) for split in ("train", "val", "test"))


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitRule:
    """How the images without a split of their own are dealt out."""

    val_share: float
    """Share of the images for validation, in [0, 1)."""
    test_share: float
    """Share of the images for the test, in [0, 1); val_share + test_share < 1."""
    draw_val: bool = False
    """The source names train and test images but none for validation: val_share is drawn from its train."""
    borders: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Stratified: by class, the positions below which an image is of the test, and of test or validation."""
    moved: frozenset[int] = frozenset()
    """Row ids that are in train whatever else is said of them: an audit found their twins there."""

    def codes(
        self,
        positions: NDArray[np.float64],
        declared: NDArray[np.int8],
        labels: list[str | None],
        row_ids: NDArray[np.int64],
    ) -> NDArray[np.int8]:
        """Return the splits of n images.

        Args:
            positions: float64 [n], from `position_of`.
            declared: int8 [n], what the source says: an index into SPLITS, or UNDECLARED.
            labels: n class names; looked at for stratified splits only.
            row_ids: int64 [n].

        Returns:
            int8 [n], indices into SPLITS.
        """
        test: float | NDArray[np.float64] = self.test_share
        held_out: float | NDArray[np.float64] = self.test_share + self.val_share
        if self.borders:
            pairs = [self.borders.get(label or "", (0.0, 0.0)) for label in labels]
            test, held_out = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
        hashed = np.where(positions < test, _TEST, np.where(positions < held_out, _VAL, _TRAIN))
        codes = np.where(declared == UNDECLARED, hashed, declared)
        if self.draw_val:
            codes = np.where((declared == _TRAIN) & (positions < self.val_share), _VAL, codes)
        if self.moved:
            codes = np.where(np.isin(row_ids, list(self.moved)), _TRAIN, codes)
        return codes.astype(np.int8)


def position_of(name: str, *, seed: int) -> float:
    """Return the place of an image between 0 and 1 that decides its split.

    Args:
        name: its group, or its key where it has none: images of one group share a place, hence a split.
        seed: another seed draws other splits, >= 0.
    """
    return _hash64(f"{seed}/{name}", b"dlspark-split") / 2**64


def split_of(key: str, *, seed: int, val_share: float, test_share: float) -> Split:
    """Return the split of one image that has neither a group nor a split of its own."""
    rule = SplitRule(val_share=val_share, test_share=test_share)
    positions, declared = np.array([position_of(key, seed=seed)]), np.array([UNDECLARED], dtype=np.int8)
    return SPLITS[int(rule.codes(positions, declared, [None], np.array([row_id_of(key)]))[0])]


def stratified_borders(
    positions: NDArray[np.float64], *, val_share: float, test_share: float
) -> tuple[float, float]:
    """Return the borders of one class that meet the shares as near as whole images can.

    Args:
        positions: float64 [n], of the images of the class, n > 0.
        val_share: see SplitRule.
        test_share: see SplitRule.

    Returns:
        As SplitRule.borders has them: round(n test_share) images lie below the first one, and
        round(n (test_share + val_share)) below the second. A class of two or more keeps one for training.
    """
    ordered = np.append(np.sort(positions), 1.0)
    most = max(len(positions) - 1, 0)
    num_test = min(round(len(positions) * test_share), most)
    num_held_out = min(round(len(positions) * (test_share + val_share)), most)
    return float(ordered[num_test]), float(ordered[num_held_out])


def row_id_of(key: str) -> int:
    """Return the row id of an image, in [0, 2^63); ingest refuses two images of one split with the same."""
    return _hash64(key, b"dlspark-row") >> 1


def copy_id_of(key: str, copy: int) -> int:
    """Return the row id of an augmented copy, in [0, 2^63); copies count from 1."""
    return _hash64(f"{copy}/{key}", b"dlspark-copy") >> 1


def _hash64(text: str, purpose: bytes) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=purpose).digest()
    return int.from_bytes(digest, "big")
