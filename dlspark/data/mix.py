"""Two rows become one: MixUp and CutMix, the same for a row whatever the ranks, threads and readers.

A rank has no rows but its own, and which of a step they are depends on the number of ranks. So the partner of
a row is not drawn from the step: it is another row of its file, drawn by (seed, epoch, row id). A rank that
reads a row holds all of its file, and a file is a random sample of its split. The price is that two rows are
decoded and changed for each one that is trained on, and that a row meets its file only. Pixels are mixed as
integers, so that every device gives the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlspark.data.draws import Draws

if TYPE_CHECKING:
    import torch

_WHOLE = 2**16
"""Shares are counted in parts of it: sums with uint8 pixels fit into int32, and shares into float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixing:
    """How rows are mixed; the default mixes none. With both, each row draws one of the two at even odds."""

    mixup_alpha: float = 0.0
    """Above 0: share * own + (1 - share) * partner, share from Beta(alpha, alpha) (Zhang et al. 2018,
    arXiv:1710.09412)."""
    cutmix_alpha: float = 0.0
    """Above 0: a rectangle of the partner is put over the row; its area is 1 - share of the image, cut off at
    the border, with share from Beta(alpha, alpha) (Yun et al. 2019, arXiv:1905.04899)."""

    @property
    def is_off(self) -> bool:
        """Whether no row is ever mixed."""
        return self == NO_MIXING


NO_MIXING = Mixing()


class Mixes(NamedTuple):
    """How b rows are mixed with their partners."""

    parts: NDArray[np.int32]
    """int32 [b]: 65,536ths of each pixel that are the row's own, before the rectangle."""
    boxes: NDArray[np.int64]
    """int64 [b, 4]: top, left, height and width of the partner's rectangle; height 0: none."""
    label_share: NDArray[np.float32]
    """float32 [b], in [0, 1]: of the row's own label."""


def draw_partners(
    row_ids: NDArray[np.int64],
    places: NDArray[np.int64],
    num_rows: NDArray[np.int64] | int,
    *,
    seed: int,
    epoch: int,
) -> NDArray[np.int64]:
    """Return the place of each row's partner in the same file: any other row, all with the same odds.

    Args:
        row_ids: int64 [b].
        places: int64 [b], of the rows in their files.
        num_rows: of the file, or int64 [b] of each row's file; the only row of a file is its own partner.
        seed: of the run, >= 0.
        epoch: from 0.
    """
    uniform = Draws(row_ids, seed=seed, epoch=epoch).uniform("mix/partner")
    steps = 1 + (uniform * (num_rows - 1)).astype(np.int64)
    return np.asarray((places + steps) % num_rows, dtype=np.int64)


def draw_mixes(
    row_ids: NDArray[np.int64], mixing: Mixing, height: int, width: int, *, seed: int, epoch: int
) -> Mixes:
    """Draw how rows are mixed; it depends on (seed, epoch, row id) only.

    Args:
        row_ids: int64 [b].
        mixing: not off.
        height: of the images, in pixels.
        width: of the images, in pixels.
        seed: of the run, >= 0.
        epoch: from 0.
    """
    draws = Draws(row_ids, seed=seed, epoch=epoch)
    cuts = np.full(len(row_ids), mixing.cutmix_alpha > 0.0)
    if mixing.cutmix_alpha and mixing.mixup_alpha:
        cuts = draws.bits("mix/which") % 2 == 0
    parts = np.full(len(row_ids), _WHOLE, dtype=np.int32)
    boxes = np.zeros((len(row_ids), 4), dtype=np.int64)
    if mixing.mixup_alpha:
        share = beta_shares(draws.uniform("mixup/share"), mixing.mixup_alpha)
        parts = np.where(cuts, parts, np.rint(share * _WHOLE).astype(np.int32))
    if mixing.cutmix_alpha:
        share = beta_shares(draws.uniform("cutmix/share"), mixing.cutmix_alpha)
        drawn = _draw_boxes(draws, share, height, width)
        boxes = np.where(cuts[:, np.newaxis], drawn, boxes)
    covered = boxes[:, 2] * boxes[:, 3] / (height * width)
    label_share = np.where(cuts, 1.0 - covered, parts / _WHOLE).astype(np.float32)
    return Mixes(parts, boxes, label_share)


def beta_shares(uniform: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    """Return draws from Beta(alpha, alpha), float64 [b], by its inverse distribution function.

    One uniform number gives one draw, where the usual samplers reject some and so need an unknown number.

    Args:
        uniform: float64 [b], in [0, 1).
        alpha: > 0.
    """
    # Imported here: only a training that mixes needs it.
    from scipy.special import betaincinv

    return np.asarray(betaincinv(alpha, alpha, uniform), dtype=np.float64)


def mix_rows(own: torch.Tensor, partners: torch.Tensor, mixes: Mixes) -> torch.Tensor:
    """Mix rows with their partners.

    Args:
        own: uint8 [b, h, w, C] on any device; never changed.
        partners: uint8 [b, h, w, C] on the same device; never changed.
        mixes: of these rows and this size.

    Returns:
        uint8 [b, h, w, C].
    """
    import torch

    def along_batch(values: NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(values.copy()).to(own.device, non_blocking=True).view(-1, 1, 1, 1)

    mixed = own
    if (mixes.parts != _WHOLE).any():
        parts = along_batch(mixes.parts)
        sums = own.int().mul_(parts).add_(partners.int().mul_(_WHOLE - parts)).add_(_WHOLE // 2)
        mixed = sums.bitwise_right_shift_(16).to(torch.uint8)
    if mixes.boxes[:, 2].any():
        top, left, tall, wide = (along_batch(side) for side in mixes.boxes.T)
        rows = torch.arange(own.shape[1], device=own.device).view(1, -1, 1, 1)
        columns = torch.arange(own.shape[2], device=own.device).view(1, 1, -1, 1)
        inside = (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)
        mixed = torch.where(inside, partners, mixed)
    return mixed


def _draw_boxes(draws: Draws, share: NDArray[np.float64], height: int, width: int) -> NDArray[np.int64]:
    """Return top, left, height and width, int64 [b, 4]: centred anywhere, and cut off at the border."""
    side = np.sqrt(1.0 - share)
    tall, wide = (height * side).astype(np.int64), (width * side).astype(np.int64)
    top = (draws.uniform("cutmix/top") * height).astype(np.int64) - tall // 2
    left = (draws.uniform("cutmix/left") * width).astype(np.int64) - wide // 2
    bottom, right = np.minimum(top + tall, height), np.minimum(left + wide, width)
    top, left = np.maximum(top, 0), np.maximum(left, 0)
    return np.stack([top, left, bottom - top, right - left], axis=1)
