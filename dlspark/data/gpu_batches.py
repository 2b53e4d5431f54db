"""The last part of a batch's way to a GPU: pixels are sent from pinned memory, changed and normalised there.

A thread that makes batches has a stream of its own, so that its copies and kernels run beside the training's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from dlspark.contracts import Batch, Preprocessing
from dlspark.data.normalise import normalise


class GpuBatches:
    """Sends pixels to one GPU; any number of threads may."""

    def __init__(
        self,
        device: torch.device,
        preprocessing: Preprocessing,
        change: Callable[..., torch.Tensor] | None,
    ) -> None:
        """Start nothing yet.

        Args:
            device: a GPU.
            preprocessing: of the dataset.
            change: gives pixels their augmentation (`pixels`, `row_ids`, `epoch`); None changes nothing.
        """
        self._device, self._preprocessing, self._change = device, preprocessing, change
        self._of_thread = threading.local()

    def send(
        self, pixels: NDArray[np.uint8], labels: NDArray[np.int64], row_ids: NDArray[np.int64], epoch: int
    ) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Return normalised images, float32 [b, C, h, w], and labels, int64 [b], on the GPU; and seconds."""
        started = time.perf_counter()
        stream = getattr(self._of_thread, "stream", None)
        if stream is None:
            stream = self._of_thread.stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            sent = torch.from_numpy(pixels).pin_memory().to(self._device, non_blocking=True)
            if self._change is not None:
                sent = self._change(sent, row_ids, epoch=epoch)
            images = normalise(sent, self._preprocessing)
            on_device = torch.from_numpy(labels).pin_memory().to(self._device, non_blocking=True)
        stream.synchronize()
        return images, on_device, time.perf_counter() - started


def hand_over(batch: Batch) -> Batch:
    """Return a batch to the thread that trains: its memory is free only when that one's work is done."""
    for tensor in (batch.images, batch.labels):
        if tensor.is_cuda:
            tensor.record_stream(torch.cuda.current_stream(tensor.device))
    return batch
