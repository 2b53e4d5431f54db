"""Augmented copies that ingest writes beside the training images, each a function of its parent and number.

They are made after the split and of training images only, and carry their parent's row id, so that no copy
can leak into validation or test.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dlspark.data.augment import Augmentation, augment


@dataclass(frozen=True, kw_only=True, slots=True)
class CopyRecipe:
    """How many copies of each training image there are, and how they are changed."""

    copies: int
    augmentation: Augmentation
    seed: int


def augmented_copy(
    pixels: NDArray[np.uint8], parent_id: int, copy: int, recipe: CopyRecipe
) -> NDArray[np.uint8]:
    """Return a copy of an image, uint8 [H, W, C]: the same for any partitioning.

    Args:
        pixels: uint8 [H, W, C] of the original.
        parent_id: its row id.
        copy: number of the copy, from 1 to recipe.copies.
        recipe: see there.
    """
    row_ids = np.array([parent_id], dtype=np.int64)
    # Training counts its epochs from 0 up: a copy never repeats what on-the-fly augmentation does.
    batch = augment(pixels[np.newaxis], row_ids, recipe.augmentation, seed=recipe.seed, epoch=-copy)
    changed: NDArray[np.uint8] = batch[0]
    return changed
