"""From the stored rows of a step to its batch: augmentation, normalisation, and the way to a GPU."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dlspark.contracts import Batch, Preprocessing
from dlspark.data.augment import Augmentation, augment
from dlspark.data.device_augment import augment_on_device
from dlspark.data.gpu_batches import GpuBatches
from dlspark.data.normalise import normalise


class StoredRows(NamedTuple):
    """b rows, as they are stored."""

    pixels: NDArray[np.uint8]
    """uint8 [b, H, W, C]."""
    row_ids: NDArray[np.int64]
    """int64 [b]."""
    labels: NDArray[np.int64]
    """int64 [b]."""


class BatchFinisher:
    """Makes batches on one device; any number of threads may."""

    def __init__(
        self, preprocessing: Preprocessing, augmentation: Augmentation, *, seed: int, device: torch.device
    ) -> None:
        """Start nothing yet.

        Args:
            preprocessing: of the dataset, with the crop that the network sees.
            augmentation: random changes to the pixels.
            seed: of the augmentation.
            device: where the batches go; on a GPU they are changed and normalised there.
        """
        self._preprocessing = preprocessing
        self._change, self._gpu = None, None
        if device.type == "cuda":
            send = partial(augment_on_device, augmentation=augmentation, seed=seed)
            self._gpu = GpuBatches(device, preprocessing, None if augmentation.is_identity else send)
        elif not augmentation.is_identity:
            self._change = partial(augment, augmentation=augmentation, seed=seed)

    def finish(self, rows: StoredRows, *, step: int, global_rows: int, epoch: int) -> Batch:
        """Return the batch of a step.

        Args:
            rows: of this rank; b may be 0.
            step: in its epoch, from 0.
            global_rows: of the step, over all ranks.
            epoch: from 0; another one changes the pixels in another way.
        """
        pixels, copy_seconds = rows.pixels, 0.0
        if self._gpu is not None:
            images, labels, copy_seconds = self._gpu.send(pixels, rows.labels, rows.row_ids, epoch)
        else:
            if self._change is not None:
                pixels = self._change(pixels, rows.row_ids, epoch=epoch)
            images = normalise(torch.from_numpy(pixels), self._preprocessing)
            labels = torch.from_numpy(rows.labels)
        return Batch(
            step=step,
            global_rows=global_rows,
            row_ids=rows.row_ids,
            images=images,
            labels=labels,
            copy_seconds=copy_seconds,
        )
