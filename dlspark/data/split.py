"""Which split an image belongs to, and its row id: pure functions of its key, so that nothing ever moves.

Files that are added, partitions, machines and the order of the listing change neither. The price of a hash
is that the shares are met on average only, with a spread of sqrt(n p (1 - p)) images.
"""

from __future__ import annotations

import hashlib

from dlspark.contracts import Split


def split_of(key: str, *, seed: int, val_share: float, test_share: float) -> Split:
    """Return the split of an image.

    Args:
        key: stable name of the image; for class folders its path relative to the source.
        seed: another seed draws other splits, >= 0.
        val_share: share of the images for validation, in [0, 1).
        test_share: share of the images for the test, in [0, 1); val_share + test_share < 1.
    """
    position = _hash64(f"{seed}/{key}", b"dlspark-split") / 2**64
    if position < test_share:
        return "test"
    if position < test_share + val_share:
        return "val"
    return "train"


def row_id_of(key: str) -> int:
    """Return the row id of an image, in [0, 2^63); ingest refuses two images of one split with the same."""
    return _hash64(key, b"dlspark-row") >> 1


def _hash64(text: str, purpose: bytes) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=purpose).digest()
    return int.from_bytes(digest, "big")
