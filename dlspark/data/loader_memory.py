"""What a rank does with its memory: batches that are prepared ahead, and what is left for files that stay."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlspark.contracts import ImageFormat
from dlspark.data.manifest import FileEntry
from dlspark.data.plan import RankPlan
from dlspark.errors import DatasetError

_READING_COPIES = 4
"""Of a file while it is read: its bytes, Arrow's columns, Petastorm's objects, and the column of those."""
_MAKING_BYTES = 8
"""For each pixel value of a batch that is made: as read, padded and changed in uint8, and normalised."""
_MIXING_BYTES = 12
"""For each such value more where rows are mixed: those of the partners in uint8, and both as int32."""
_READY_BYTES = 4
"""For each pixel value of a batch that is ready: float32."""

_log = logging.getLogger(__name__)


class MemoryShares(NamedTuple):
    """How the memory of a rank is shared out."""

    num_ahead: int
    """Batches that are prepared ahead, > 0."""
    room_bytes: int
    """What is left beside them and the files that they are made of, >= 0."""


def share_memory(
    plan: RankPlan,
    files: Sequence[FileEntry],
    image: ImageFormat,
    *,
    wanted: int,
    num_threads: int,
    memory_bytes: int,
    mixes: bool = False,
) -> MemoryShares:
    """Return the batches that may be prepared ahead, at most `wanted` (fewer are logged), and what is left.

    Args:
        plan: of the rank.
        files: of the split.
        image: of the dataset.
        wanted: batches ahead, if there is memory for them.
        num_threads: that make batches.
        memory_bytes: what files and batches may take together.
        mixes: whether rows are mixed with others.

    Raises:
        DatasetError: there is not even memory for one.
    """
    if not len(plan.files):
        return MemoryShares(wanted, memory_bytes)
    values = int(np.diff(plan.step_start).max()) * image.height * image.width * image.channels
    sizes = np.array([files[file].num_bytes for file in plan.files], dtype=np.int64)
    making_bytes = _MAKING_BYTES + (_MIXING_BYTES if mixes else 0)
    for ahead in range(wanted, 0, -1):
        held = _most_held(plan, sizes, ahead) + _READING_COPIES * int(sizes.max())
        needed = held + values * (min(num_threads, ahead) * making_bytes + ahead * _READY_BYTES)
        if needed <= memory_bytes:
            if ahead < wanted:
                _log.warning(
                    "%d batches are prepared ahead instead of %d, for data.memory_bytes=%d",
                    *(ahead, wanted, memory_bytes),
                )
            return MemoryShares(ahead, memory_bytes - needed)
    raise DatasetError(
        "the files and batches that a rank holds at once need more memory than it may take",
        got=f"data.memory_bytes={memory_bytes}",
        allowed=f"at least {needed}: files {held}, a batch {needed - held}",
        fix=f"set data.memory_bytes={needed}, use more workers or a smaller train.global_batch_size, "
        "or ingest with a smaller data.file_bytes",
    )


def _most_held(plan: RankPlan, sizes: NDArray[np.int64], ahead: int) -> int:
    """Return the most bytes of files that are held at once.

    A file comes with the first call that needs it and goes with the last, which may wait for `ahead` others.
    """
    steps = np.repeat(np.arange(plan.num_steps), np.diff(plan.step_start))
    first = np.full(len(sizes), plan.num_steps, dtype=np.int64)
    last = np.zeros(len(sizes), dtype=np.int64)
    np.minimum.at(first, plan.row_files, steps)
    np.maximum.at(last, plan.row_files, steps)
    changes = np.zeros(plan.num_steps + ahead + 2, dtype=np.int64)
    np.add.at(changes, first, sizes)
    np.add.at(changes, last + ahead + 1, -sizes)
    return int(np.cumsum(changes).max())
