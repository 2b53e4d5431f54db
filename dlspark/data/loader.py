"""One split as batches in memory: the plan says which rows, the readers bring files, a thread works ahead.

A rank holds the files that its rows are in and no others; a file is dropped with its last row. Batches are
gathered, augmented and normalised whole, in the thread, so that training waits for data only if that thread
is slower than the network.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray

from dlspark import storage
from dlspark.contracts import Batch, Split
from dlspark.data.augment import NO_AUGMENTATION, Augmentation, augment
from dlspark.data.columns import pixels_of
from dlspark.data.manifest import FileEntry, Manifest
from dlspark.data.normalise import normalise
from dlspark.data.plan import RankPlan, plan_epoch
from dlspark.data.prefetch import Prefetcher
from dlspark.data.readers import Reader, read_files
from dlspark.errors import DatasetError

_log = logging.getLogger(__name__)


def open_split(
    dataset: str,
    manifest: Manifest,
    split: Split,
    *,
    global_batch_size: int,
    seed: int,
    rank: int,
    num_ranks: int,
    shuffle: bool,
    augmentation: Augmentation = NO_AUGMENTATION,
    reader: Reader = "petastorm",
    prefetch_batches: int,
) -> Loader:
    """Return the part of a split that one rank reads, as a `BatchSource` and context manager.

    Args:
        dataset: URL of the dataset.
        manifest: of that dataset.
        split: which rows.
        global_batch_size: rows of a step over all ranks; the last step of an epoch may be smaller.
        seed: of the shuffle and the augmentation.
        rank: in [0, num_ranks).
        num_ranks: the ranks that share the split.
        shuffle: another order in each epoch, for training; False for evaluation.
        augmentation: random changes to the pixels, another draw in each epoch.
        reader: who reads the Parquet files; both give the same batches.
        prefetch_batches: batches that are prepared ahead, > 0.

    Raises:
        DatasetError: the split has no rows, or with `shuffle` fewer rows than ranks.
    """
    entry = manifest.splits[split]
    if not entry.rows:
        raise DatasetError(
            f"the {split} split has no rows",
            where=storage.absolute(dataset),
            fix=f"ingest more images, or raise data.{split}_share" if split != "train" else None,
        )
    if rank == 0 and global_batch_size < num_ranks:
        _log.warning("a step of %d rows gives some of %d ranks none", global_batch_size, num_ranks)
    plan = partial(
        plan_epoch,
        [file.rows for file in entry.files],
        fingerprint=manifest.fingerprint,
        seed=seed,
        num_streams=manifest.num_streams,
        global_batch_size=global_batch_size,
        rank=rank,
        num_ranks=num_ranks,
        shuffle=shuffle,
    )
    change = partial(augment, augmentation=augmentation, seed=seed)
    return Loader(
        dataset=dataset,
        manifest=manifest,
        files=entry.files,
        plan=plan,
        change=None if augmentation.is_identity else change,
        reader=reader,
        prefetch_batches=prefetch_batches,
    )


class Loader:
    """A `BatchSource` over the rows of one rank; `open_split` makes it."""

    def __init__(
        self,
        *,
        dataset: str,
        manifest: Manifest,
        files: Sequence[FileEntry],
        plan: Callable[..., RankPlan],
        change: Callable[..., NDArray[np.uint8]] | None,
        reader: Reader,
        prefetch_batches: int,
    ) -> None:
        """Plan the first epoch, so that what cannot work fails here.

        Args:
            dataset: URL.
            manifest: of the dataset.
            files: of the split.
            plan: gives the plan of an epoch (`epoch`) for this rank.
            change: gives pixels their augmentation (`pixels`, `row_ids`, `epoch`); None changes nothing.
            reader: see `read_files`.
            prefetch_batches: see `open_split`.
        """
        self._dataset, self._manifest, self._files = dataset, manifest, files
        self._plan, self._change = plan, change
        self._reader, self._prefetch_batches = reader, prefetch_batches
        self._running: set[Prefetcher[Batch]] = set()
        self.num_rows = sum(file.rows for file in files)
        self.num_steps = plan(epoch=0).num_steps

    def __enter__(self) -> Loader:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop all that runs."""
        self.close()

    def close(self) -> None:
        """Stop the threads of epochs that were not read to their end; their iterators end."""
        for prefetcher in list(self._running):
            prefetcher.close()

    def batches(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield one batch for each global step of an epoch, also where this rank has no row in it.

        Args:
            epoch: from 0.
            start_step: the first step that is wanted, in [0, num_steps]; files that only earlier steps need
                are not read.

        Raises:
            DatasetError: a file is not what the manifest says.
        """
        produce = partial(self._make_batches, epoch, start_step)
        with Prefetcher(
            produce, num_ahead=self._prefetch_batches, name=f"dlspark-loader-{epoch}"
        ) as prefetcher:
            self._running.add(prefetcher)
            try:
                yield from prefetcher
            finally:
                self._running.discard(prefetcher)

    def _make_batches(self, epoch: int, start_step: int) -> Generator[Batch, None, None]:
        plan = self._plan(epoch=epoch)
        rows_left = np.bincount(plan.row_files[plan.step_start[start_step] :], minlength=len(plan.files))
        with closing(self._read(plan, rows_left)) as arriving:
            held: dict[int, _HeldFile] = {}
            for step in range(start_step, plan.num_steps):
                rows = slice(plan.step_start[step], plan.step_start[step + 1])
                files, starts = _runs(plan.row_files[rows])
                while not held.keys() >= set(files):
                    position, file = next(arriving)
                    held[position] = file
                yield self._gather(plan, step, epoch, [held[position] for position in files], starts)
                rows_left[files] -= np.diff(starts)
                for position in files:
                    if not rows_left[position]:
                        del held[position]

    def _read(
        self, plan: RankPlan, rows_left: NDArray[np.int64]
    ) -> Generator[tuple[int, _HeldFile], None, None]:
        """Yield the files that have rows left, with their position in the plan, in its order."""
        positions = np.flatnonzero(rows_left).tolist()
        entries = [self._files[plan.files[position]] for position in positions]
        with closing(read_files(self._dataset, entries, reader=self._reader)) as arriving:
            for position, entry, columns in zip(positions, entries, arriving, strict=True):
                pixels = pixels_of(
                    columns,
                    self._manifest.preprocessing.image,
                    self._manifest.storage,
                    where=storage.join(self._dataset, entry.path),
                )
                yield position, _HeldFile(row_ids=columns.row_ids, labels=columns.labels, pixels=pixels)

    def _gather(
        self, plan: RankPlan, step: int, epoch: int, files: Sequence[_HeldFile], starts: Sequence[int]
    ) -> Batch:
        """Make the batch of a step, whose rows [starts[i], starts[i + 1]) are in files[i]."""
        indices = plan.row_indices[plan.step_start[step] : plan.step_start[step + 1]]
        image = self._manifest.preprocessing.image
        pixels = np.empty((len(indices), image.height, image.width, image.channels), dtype=np.uint8)
        row_ids, labels = np.empty((2, len(indices)), dtype=np.int64)
        for file, start, end in zip(files, starts[:-1], starts[1:], strict=True):
            wanted = indices[start:end]
            pixels[start:end], row_ids[start:end], labels[start:end] = (
                file.pixels[wanted],
                file.row_ids[wanted],
                file.labels[wanted],
            )
        if self._change is not None:
            pixels = self._change(pixels, row_ids, epoch=epoch)
        return Batch(
            step=step,
            global_rows=int(plan.global_rows[step]),
            row_ids=row_ids,
            images=normalise(torch.from_numpy(pixels), self._manifest.preprocessing),
            labels=torch.from_numpy(labels),
        )


def _runs(row_files: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """Return the files of the rows of a step, and where each one's rows begin, with their end at last."""
    if not len(row_files):
        return [], [0]
    starts = np.flatnonzero(np.diff(row_files, prepend=row_files[0] - 1)).tolist()
    return row_files[starts].tolist(), [*starts, len(row_files)]


@dataclass(frozen=True, kw_only=True, slots=True)
class _HeldFile:
    row_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    """uint8 [n, H, W, C]."""
