"""The last part of a batch's way to a GPU: pixels are sent from pinned memory, changed and normalised there.

A thread that makes batches has a stream of its own, so that its copies and kernels run beside the training's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dlspark.contracts import Batch, Preprocessing
from dlspark.data.normalise import normalise


class GpuBatches:
    """Sends pixels to one GPU; any number of threads may."""

    def __init__(self, device: torch.device, preprocessing: Preprocessing) -> None:
        """Start nothing yet.

        Args:
            device: a GPU.
            preprocessing: of the dataset.
        """
        self._device, self._preprocessing = device, preprocessing
        self._of_thread = threading.local()

    def send(
        self,
        pixels: NDArray[np.uint8],
        targets: Sequence[NDArray[np.generic]],
        change: Callable[[torch.Tensor], torch.Tensor],
    ) -> tuple[torch.Tensor, list[torch.Tensor], float]:
        """Send a batch, and change and normalise its pixels there.

        Args:
            pixels: uint8 [n, H, W, C].
            targets: what goes along as it is.
            change: makes of all pixels those of the b rows of the batch, uint8 [b, h, w, C].

        Returns:
            Normalised images, float32 [b, C, h, w], and the targets, on the GPU; and seconds.
        """
        started = time.perf_counter()
        stream = getattr(self._of_thread, "stream", None)
        if stream is None:
            stream = self._of_thread.stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            sent = torch.from_numpy(pixels).pin_memory().to(self._device, non_blocking=True)
            images = normalise(change(sent), self._preprocessing)
            on_device = [
                torch.from_numpy(values).pin_memory().to(self._device, non_blocking=True)
                for values in targets
            ]
        stream.synchronize()
        return images, on_device, time.perf_counter() - started


def hand_over(batch: Batch) -> Batch:
    """Return a batch to the thread that trains: its memory is free only when that one's work is done."""
    for tensor in (batch.images, batch.labels, batch.other_labels, batch.label_share):
        if tensor is not None and tensor.is_cuda:
            tensor.record_stream(torch.cuda.current_stream(tensor.device))
    return batch
