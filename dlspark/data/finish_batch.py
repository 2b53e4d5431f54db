"""From the stored rows of a step to its batch: augmentation, mixing, normalisation, and the way to a GPU."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from dlspark.contracts import Batch, Preprocessing
from dlspark.data.augment import Augmentation, augment
from dlspark.data.device_augment import augment_on_device
from dlspark.data.gather import Partners, StoredRows
from dlspark.data.gpu_batches import GpuBatches
from dlspark.data.mix import NO_MIXING, Mixes, Mixing, draw_mixes, draw_partners, mix_rows
from dlspark.data.normalise import normalise


class BatchFinisher:
    """Makes batches on one device; any number of threads may."""

    def __init__(
        self,
        preprocessing: Preprocessing,
        augmentation: Augmentation,
        *,
        mixing: Mixing = NO_MIXING,
        seed: int,
        device: torch.device,
    ) -> None:
        """Start nothing yet.

        Args:
            preprocessing: of the dataset, with the crop that the network sees.
            augmentation: random changes to the pixels.
            mixing: of the rows, after their changes.
            seed: of the augmentation and the mixing.
            device: where the batches go; on a GPU they are changed, mixed and normalised there.
        """
        self._preprocessing, self._augmentation, self._mixing = preprocessing, augmentation, mixing
        self._seed = seed
        self._gpu = GpuBatches(device, preprocessing) if device.type == "cuda" else None

    def partners(self, epoch: int) -> Partners | None:
        """Return what draws the partner of each row in an epoch; None: rows are not mixed."""
        return None if self._mixing.is_off else partial(draw_partners, seed=self._seed, epoch=epoch)

    def finish(self, rows: StoredRows, *, step: int, global_rows: int, epoch: int) -> Batch:
        """Return the batch of a step.

        Args:
            rows: of this rank, and their partners behind them where rows are mixed; there may be none.
            step: in its epoch, from 0.
            global_rows: of the step, over all ranks.
            epoch: from 0; another one changes and mixes the pixels in another way.
        """
        mixes = self._draw_mixes(rows, epoch)
        number = len(rows.row_ids) if mixes is None else len(rows.row_ids) // 2
        targets: list[NDArray[np.generic]] = [rows.labels[:number]]
        if mixes is not None:
            targets += [rows.labels[number:], mixes.label_share]
        pixels, copy_seconds = rows.pixels, 0.0
        if self._gpu is not None:
            change = partial(self._change_on_device, rows=rows, mixes=mixes, epoch=epoch)
            images, sent, copy_seconds = self._gpu.send(pixels, targets, change)
        else:
            pixels = augment(pixels, rows.row_ids, self._augmentation, seed=self._seed, epoch=epoch)
            images = normalise(_mix_halves(torch.from_numpy(pixels), mixes), self._preprocessing)
            sent = [torch.from_numpy(values) for values in targets]
        return Batch(
            step=step,
            global_rows=global_rows,
            row_ids=rows.row_ids[:number],
            images=images,
            labels=sent[0],
            other_labels=None if mixes is None else sent[1],
            label_share=None if mixes is None else sent[2],
            copy_seconds=copy_seconds,
        )

    def _draw_mixes(self, rows: StoredRows, epoch: int) -> Mixes | None:
        if self._mixing.is_off:
            return None
        height, width = self._preprocessing.input_size
        own = rows.row_ids[: len(rows.row_ids) // 2]
        return draw_mixes(own, self._mixing, height, width, seed=self._seed, epoch=epoch)

    def _change_on_device(
        self, pixels: torch.Tensor, *, rows: StoredRows, mixes: Mixes | None, epoch: int
    ) -> torch.Tensor:
        changed = augment_on_device(pixels, rows.row_ids, self._augmentation, seed=self._seed, epoch=epoch)
        return _mix_halves(changed, mixes)


def _mix_halves(pixels: torch.Tensor, mixes: Mixes | None) -> torch.Tensor:
    """Mix the rows of the first half with those of the second."""
    if mixes is None:
        return pixels
    number = len(mixes.parts)
    return mix_rows(pixels[:number], pixels[number:], mixes)
