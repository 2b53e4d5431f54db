"""From the stored rows of a step to its batch: augmentation, mixing, normalisation, and the way to a GPU.

Rows of features are ready as they are stored.
"""

from __future__ import annotations

import logging
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

_log = logging.getLogger(__name__)


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
            device: where the batches go; on a GPU they are changed (without RandAugment), mixed and
                normalised there.
        """
        self._preprocessing, self._augmentation, self._mixing = preprocessing, augmentation, mixing
        self._seed = seed
        self._gpu = GpuBatches(device, preprocessing) if device.type == "cuda" else None
        self._changes_there = self._gpu is not None and not augmentation.randaugment_ops
        if self._gpu is not None and not self._changes_there:
            _log.info(
                "RandAugment works on the processor: images are changed there, and then sent to the GPU"
            )

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
        if not self._changes_there:
            pixels = augment(pixels, rows.row_ids, self._augmentation, seed=self._seed, epoch=epoch)
        if self._gpu is not None:
            change = partial(self._change_on_device, row_ids=rows.row_ids, mixes=mixes, epoch=epoch)
            images, sent, copy_seconds = self._gpu.send(pixels, targets, change)
        else:
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
        self, pixels: torch.Tensor, *, row_ids: NDArray[np.int64], mixes: Mixes | None, epoch: int
    ) -> torch.Tensor:
        if self._changes_there:
            pixels = augment_on_device(pixels, row_ids, self._augmentation, seed=self._seed, epoch=epoch)
        return _mix_halves(pixels, mixes)


class FeatureFinisher:
    """Makes batches of features on one device; any number of threads may."""

    def __init__(self, device: torch.device) -> None:
        """Start nothing yet."""
        self._device = device

    def partners(self, epoch: int) -> Partners | None:
        """Return None: features are not mixed."""
        return None

    def finish(self, rows: StoredRows, *, step: int, global_rows: int, epoch: int) -> Batch:
        """Return the batch of a step; see `BatchFinisher`.

        Args:
            rows: of this rank, each of the 4 F bytes of its features.
            step: in its epoch, from 0.
            global_rows: of the step, over all ranks.
            epoch: from 0; all have the same features.
        """
        features = rows.pixels.reshape(len(rows.row_ids), rows.pixels.shape[2]).view("<f4")
        return Batch(
            step=step,
            global_rows=global_rows,
            row_ids=rows.row_ids,
            images=torch.from_numpy(features).to(self._device),
            labels=torch.from_numpy(rows.labels).to(self._device),
        )


def _mix_halves(pixels: torch.Tensor, mixes: Mixes | None) -> torch.Tensor:
    """Mix the rows of the first half with those of the second."""
    if mixes is None:
        return pixels
    number = len(mixes.parts)
    return mix_rows(pixels[:number], pixels[number:], mixes)
