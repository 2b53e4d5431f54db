"""How fast a loader gives batches when nothing is done with them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from dlspark.data.loader import Loader


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderSpeed:
    """What a loader gave."""

    images_per_second: float
    """From the first batch on."""
    first_batch_seconds: float
    """From opening the split to the first batch."""


def measure_loader(opened: Callable[[], Loader], *, seconds: float) -> LoaderSpeed:
    """Read batches, epoch after epoch, for so long.

    Args:
        opened: opens a split.
        seconds: at least; an epoch that takes longer is left.
    """
    started = time.perf_counter()
    first_batch_seconds, num_rows, epoch = 0.0, 0, 0
    with opened() as loader:
        while True:
            for batch in loader.batches(epoch):
                now = time.perf_counter()
                if not first_batch_seconds:
                    first_batch_seconds, first = now - started, now
                    continue
                num_rows += len(batch.row_ids)
                if num_rows and now - first >= seconds:
                    return LoaderSpeed(
                        images_per_second=num_rows / (now - first), first_batch_seconds=first_batch_seconds
                    )
            epoch += 1
