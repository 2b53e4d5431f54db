"""Random changes to whole batches of training pixels, the same for a row wherever and whenever it is read.

Each parameter is a hash of (seed, epoch, row id, operation), not a draw from a stream of random numbers: it
does not depend on the number of ranks, the batch size, the thread or what was drawn before.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_PAIR = 2


def augment(
    pixels: NDArray[np.uint8],
    row_ids: NDArray[np.int64],
    *,
    seed: int,
    epoch: int,
    mirror: bool,
    crop_padding: int,
) -> NDArray[np.uint8]:
    """Return the batch after random crops, then mirroring.

    Args:
        pixels: uint8 [b, H, W, C]; never changed.
        row_ids: int64 [b], >= 0.
        seed: of the run, >= 0.
        epoch: from 0.
        mirror: mirror left to right with probability 1/2.
        crop_padding: pad by so many black pixels on each side and crop back at a random place; 0: neither.
    """
    if crop_padding:
        side = np.uint64(2 * crop_padding + 1)
        draw = hash_rows(row_ids, seed=seed, epoch=epoch, operation="crop")
        pixels = _crop(pixels, draw % side, (draw >> np.uint64(32)) % side, crop_padding)
    if mirror:
        chosen = (hash_rows(row_ids, seed=seed, epoch=epoch, operation="mirror") % _PAIR).astype(bool)
        pixels = np.where(chosen[:, np.newaxis, np.newaxis, np.newaxis], pixels[:, :, ::-1], pixels)
    return pixels


def hash_rows(row_ids: NDArray[np.int64], *, seed: int, epoch: int, operation: str) -> NDArray[np.uint64]:
    """Return a uniform uint64 [b] for each row: splitmix64 (Steele et al. 2014) of row id and hashed key."""
    text = f"{seed}/{epoch}/{operation}"
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=b"dlspark-augment").digest()
    key = np.frombuffer(digest, dtype="<u8")
    return _splitmix64(_splitmix64(row_ids.astype(np.uint64)) ^ key)


def _splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))


def _crop(
    pixels: NDArray[np.uint8], top: NDArray[np.uint64], left: NDArray[np.uint64], padding: int
) -> NDArray[np.uint8]:
    height, width = pixels.shape[1:3]
    padded = np.pad(pixels, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    cropped = np.empty_like(pixels)
    # A loop of slices is faster than one gather by index arrays: it copies lines, not pixels.
    for row, (y, x) in enumerate(zip(top.tolist(), left.tolist(), strict=True)):
        cropped[row] = padded[row, y : y + height, x : x + width]
    return cropped
