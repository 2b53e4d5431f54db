"""Random numbers of a row that are a hash of (seed, epoch, row id, operation), not a draw from a stream.

So they do not depend on the number of ranks, the batch size, the thread or what was drawn before.
"""

from __future__ import annotations

import functools
import hashlib
import math

import numpy as np
from numpy.typing import NDArray

_PAIR = 2


class Draws:
    """The random numbers of b rows in one epoch."""

    def __init__(self, row_ids: NDArray[np.int64], *, seed: int, epoch: int) -> None:
        """Draw nothing yet.

        Args:
            row_ids: int64 [b], >= 0.
            seed: of the run, >= 0.
            epoch: from 0; copies that ingest makes count as epochs -1, -2, ...
        """
        self._mixed, self._seed, self._epoch = splitmix64(row_ids.astype(np.uint64)), seed, epoch

    def bits(self, operation: str) -> NDArray[np.uint64]:
        """Return a number of 64 random bits for each row, uint64 [b]."""
        return splitmix64(self._mixed ^ _key(self._seed, self._epoch, operation))

    def uniform(self, operation: str) -> NDArray[np.float64]:
        """Return float64 [b] in [0, 1)."""
        return (self.bits(operation) >> np.uint64(11)) * 2.0**-53

    def mirrored(self) -> NDArray[np.bool_]:
        """Return which rows are mirrored: bool [b], each with probability 1/2."""
        return np.asarray(self.bits("mirror") % _PAIR != 0)

    def crop_places(self, num_rows: int, num_columns: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the top, in [0, num_rows), and the left, in [0, num_columns), of a crop: int64 [b] each."""
        shifts = self.bits("crop")
        top = (shifts % np.uint64(num_rows)).astype(np.int64)
        return top, ((shifts >> np.uint64(32)) % np.uint64(num_columns)).astype(np.int64)

    def degrees(self, most: float) -> NDArray[np.float64]:
        """Return angles in [-most, most): float64 [b]."""
        return (2 * self.uniform("rotate") - 1) * most

    def colour_factors(self, most: float) -> NDArray[np.float32]:
        """Return factors in [1 - most, 1 + most) for brightness, contrast and saturation: float32 [3, b]."""
        names = ("brightness", "contrast", "saturation")
        factors = [1 + (2 * self.uniform(name) - 1) * most for name in names]
        return np.asarray(np.stack(factors), dtype=np.float32)

    def erased_boxes(self, height: int, width: int, probability: float) -> NDArray[np.int64]:
        """Return top, left, height and width of one rectangle of 2 to 20% of each image: int64 [b, 4].

        Its sides are in a ratio of 3/10 to 10/3; images that are left alone have one of height 0.
        """
        area, aspect, top, left = (
            self.uniform(f"erase/{name}") for name in ("area", "aspect", "top", "left")
        )
        num_pixels = height * width * (0.02 + 0.18 * area)
        ratio = np.exp((2 * aspect - 1) * math.log(10 / 3))
        tall = np.clip(np.rint(np.sqrt(num_pixels * ratio)), 1, height).astype(np.int64)
        wide = np.clip(np.rint(np.sqrt(num_pixels / ratio)), 1, width).astype(np.int64)
        y = (top * (height - tall + 1)).astype(np.int64)
        x = (left * (width - wide + 1)).astype(np.int64)
        chosen = self.uniform("erase/chosen") < probability
        return np.stack([y, x, np.where(chosen, tall, 0), wide], axis=1)


@functools.lru_cache(maxsize=64)
def _key(seed: int, epoch: int, operation: str) -> NDArray[np.uint64]:
    """Return a hash, uint64 [1]."""
    text = f"{seed}/{epoch}/{operation}"
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=b"dlspark-augment").digest()
    return np.frombuffer(digest, dtype="<u8")


def splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return splitmix64's finaliser (Steele et al. 2014) of each value: uint64, any shape."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))
