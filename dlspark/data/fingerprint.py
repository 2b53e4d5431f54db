"""The fingerprint of a dataset: what it holds, in whatever order, partitioning or storage form.

Each row is hashed to 128 bits over its id, label, shape and pixels; the hashes are added modulo 2^128 by
split and class, which no order changes and which workers compute while they write. Sums of hashes stand
against accidents, not against someone who constructs images to collide.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dlspark.contracts import SPLITS, Split

_MODULUS = 2**128

ClassSums = Mapping[int, int]
"""Sum of the row hashes by label, each in [0, 2^128)."""


def hash_row(row_id: int, label: int, pixels: NDArray[np.uint8]) -> int:
    """Return the 128-bit hash of a row with uint8 [H, W, C] pixels."""
    digest = hashlib.blake2b(digest_size=16, person=b"dlspark-pixels")
    digest.update(np.array([row_id, label, *pixels.shape], dtype="<i8").tobytes())
    digest.update(np.ascontiguousarray(pixels).data)
    return int.from_bytes(digest.digest(), "big")


def add_sums(parts: Iterable[ClassSums]) -> dict[int, int]:
    """Return the sums of several parts of a split."""
    total: dict[int, int] = {}
    for part in parts:
        for label, value in part.items():
            total[label] = (total.get(label, 0) + value) % _MODULUS
    return total


def dataset_fingerprint(classes: Sequence[str], sums: Mapping[Split, ClassSums]) -> str:
    """Return the fingerprint of a dataset, 32 hexadecimal digits.

    Args:
        classes: class names by label.
        sums: for each split the sums of its row hashes; a split or class without rows may be absent.
    """
    content = {
        "classes": list(classes),
        "splits": {
            split: {str(label): f"{value:032x}" for label, value in sorted(sums.get(split, {}).items())}
            for split in SPLITS
        },
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
