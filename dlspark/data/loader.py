"""One split as batches in memory: the plan says which rows, the readers bring files, threads work ahead.

A file is held from its first row in an epoch to its last, and from epoch to epoch while there is room. One
thread reads them, others gather, decode, augment and normalise whole batches, so that training waits for data
only if they are slower than the network. The first batches of the next epoch are made while this one's last
is trained on and while the network is evaluated.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray

from dlspark import storage
from dlspark.contracts import Batch, Split
from dlspark.data.augment import NO_AUGMENTATION, Augmentation
from dlspark.data.feature_files import FeatureManifest, content_column
from dlspark.data.finish_batch import BatchFinisher, FeatureFinisher
from dlspark.data.gather import StoredRows, gather_from_files, places_with_partners
from dlspark.data.gpu_batches import hand_over
from dlspark.data.held_rows import HeldRows, hold_rows
from dlspark.data.kept_files import KeptFiles, WholeSplit
from dlspark.data.loader_memory import share_memory
from dlspark.data.manifest import FileEntry, Manifest
from dlspark.data.mix import NO_MIXING, Mixing
from dlspark.data.plan import RankPlan, plan_epoch
from dlspark.data.prefetch import Prefetcher
from dlspark.data.readers import Reader, read_files
from dlspark.errors import DatasetError

_CPU = torch.device("cpu")

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
    mixing: Mixing = NO_MIXING,
    reader: Reader = "petastorm",
    prefetch_batches: int = 4,
    num_threads: int | None = None,
    memory_bytes: int = 2 * 1024**3,
    num_epochs: int = 1,
    device: torch.device = _CPU,
) -> Loader:
    """Return the part of a split that one rank reads, as a `BatchSource` and context manager.

    Args:
        dataset: URL of the dataset.
        manifest: of that dataset; of one of features, batches have these in place of images, unchanged.
        split: which rows.
        global_batch_size: rows of a step over all ranks; the last step of an epoch may be smaller.
        seed: of the shuffle and the augmentation.
        rank: in [0, num_ranks).
        num_ranks: the ranks that share the split.
        shuffle: another order in each epoch, for training; False for evaluation.
        augmentation: random changes to the pixels, another draw in each epoch.
        mixing: of rows with others, another draw in each epoch.
        reader: who reads the Parquet files; both give the same batches.
        prefetch_batches: batches that are prepared ahead, > 0; fewer if memory_bytes asks for it.
        num_threads: that make batches, > 0; None: as many as torch computes with.
        memory_bytes: what files and batches may take together; files stay from one epoch to the next as far
            as there is room.
        num_epochs: that will be read, one after the other: at the end of each but the last, the next begins
            to be prepared.
        device: where the batches go; on a GPU they are changed and normalised there.

    Raises:
        DatasetError: the split has no rows, or with `shuffle` fewer rows than ranks, or memory_bytes is not
            enough.
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
    num_threads = num_threads or torch.get_num_threads()
    first = plan(epoch=0)
    shares = share_memory(
        first,
        entry.files,
        manifest.preprocessing.image,
        wanted=prefetch_batches,
        num_threads=num_threads,
        memory_bytes=memory_bytes,
        mixes=not mixing.is_off,
    )
    finisher = (
        FeatureFinisher(device)
        if isinstance(manifest, FeatureManifest)
        else BatchFinisher(manifest.preprocessing, augmentation, mixing=mixing, seed=seed, device=device)
    )
    return Loader(
        dataset=dataset,
        manifest=manifest,
        files=entry.files,
        plan=plan,
        num_steps=first.num_steps,
        finisher=finisher,
        reader=reader,
        num_threads=num_threads,
        num_ahead=shares.num_ahead,
        kept=KeptFiles(entry.files, manifest.preprocessing.image, room_bytes=shares.room_bytes),
        num_epochs=num_epochs,
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
        num_steps: int,
        finisher: BatchFinisher | FeatureFinisher,
        reader: Reader,
        num_threads: int,
        num_ahead: int,
        kept: KeptFiles,
        num_epochs: int,
    ) -> None:
        """Start nothing yet.

        Args:
            dataset: URL.
            manifest: of the dataset.
            files: of the split.
            plan: gives the plan of an epoch (`epoch`) for this rank.
            num_steps: of an epoch.
            finisher: makes batches of stored rows.
            reader: see `read_files`.
            num_threads: see `open_split`.
            num_ahead: batches that are prepared ahead, > 0.
            kept: the files that stay in memory.
            num_epochs: see `open_split`.
        """
        self._dataset, self._manifest, self._files = dataset, manifest, files
        self._plan, self._finisher, self._reader = plan, finisher, reader
        self._num_threads, self._num_ahead, self._num_epochs = num_threads, num_ahead, num_epochs
        self._kept = kept
        self._running: set[Prefetcher[Batch]] = set()
        self._begun: dict[int, Prefetcher[Batch]] = {}
        self.num_rows = sum(file.rows for file in files)
        self.num_steps = num_steps

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
        self._begun.clear()
        while self._running:
            self._running.pop().close()

    def batches(self, epoch: int, start_step: int = 0) -> Generator[Batch, None, None]:
        """Yield one batch for each global step of an epoch, also where this rank has no row in it.

        Args:
            epoch: from 0.
            start_step: the first step that is wanted, in [0, num_steps]; files that only earlier steps need
                are not read.

        Raises:
            DatasetError: a file is not what the manifest says.
        """
        begun = self._begun.pop(epoch, None) if start_step == 0 else None
        prefetcher = begun or self._begin(epoch, start_step)
        try:
            for batch in prefetcher:
                if batch.step == self.num_steps - 1 and epoch + 1 < self._num_epochs:
                    self._begun[epoch + 1] = self._begin(epoch + 1)
                yield hand_over(batch)
        finally:
            prefetcher.close()
            self._running.discard(prefetcher)

    def _begin(self, epoch: int, start_step: int = 0) -> Prefetcher[Batch]:
        prefetcher = Prefetcher(
            partial(self._make_calls, epoch, start_step),
            num_ahead=self._num_ahead,
            num_threads=self._num_threads,
            name=f"dlspark-loader-{epoch}",
        )
        self._running.add(prefetcher)
        return prefetcher

    def _make_calls(self, epoch: int, start_step: int) -> Generator[Callable[[], Batch], None, None]:
        """Yield for each step a call that makes its batch."""
        plan = self._plan(epoch=epoch)
        if (whole := self._kept.whole()) is not None:
            places = self._kept.starts[plan.files[plan.row_files]] + plan.row_indices
            for step in range(start_step, plan.num_steps):
                yield partial(self._take, plan, step, epoch, whole, places)
            return
        rows_left = np.bincount(plan.row_files[plan.step_start[start_step] :], minlength=len(plan.files))
        with closing(self._read(plan, rows_left)) as arriving:
            held: dict[int, HeldRows] = {}
            for step in range(start_step, plan.num_steps):
                rows = slice(plan.step_start[step], plan.step_start[step + 1])
                files, starts = _runs(plan.row_files[rows])
                while not held.keys() >= set(files):
                    position, file = next(arriving)
                    held[position] = file
                yield partial(self._make, plan, step, epoch, [held[position] for position in files], starts)
                rows_left[files] -= np.diff(starts)
                for position in files:
                    if not rows_left[position]:
                        del held[position]

    def _read(
        self, plan: RankPlan, rows_left: NDArray[np.int64]
    ) -> Generator[tuple[int, HeldRows], None, None]:
        """Yield the files that have rows left, with their position in the plan, in its order."""
        wanted = np.flatnonzero(rows_left).tolist()
        kept = {position: self._kept.get(plan.files[position]) for position in wanted}
        entries = [self._files[plan.files[position]] for position in wanted if kept[position] is None]
        content = content_column(self._manifest)
        with closing(read_files(self._dataset, entries, reader=self._reader, content=content)) as arriving:
            for position in wanted:
                rows = kept.pop(position)
                if rows is None:
                    file = int(plan.files[position])
                    entry = self._files[file]
                    rows = hold_rows(next(arriving), self._manifest, entry, dataset=self._dataset)
                    self._kept.offer(file, rows)
                yield position, rows

    def _make(
        self, plan: RankPlan, step: int, epoch: int, files: Sequence[HeldRows], starts: Sequence[int]
    ) -> Batch:
        """Make the batch of a step, whose rows [starts[i], starts[i + 1]) are in files[i]."""
        indices = plan.row_indices[plan.step_start[step] : plan.step_start[step + 1]]
        image, partners = self._manifest.preprocessing.image, self._finisher.partners(epoch)
        return self._finish(gather_from_files(files, starts, indices, image, partners), plan, step, epoch)

    def _take(
        self, plan: RankPlan, step: int, epoch: int, whole: WholeSplit, places: NDArray[np.int64]
    ) -> Batch:
        """Make the batch of a step from a split that is in memory."""
        of_step = slice(plan.step_start[step], plan.step_start[step + 1])
        rows = places[of_step]
        if (partners := self._finisher.partners(epoch)) is not None:
            files = plan.files[plan.row_files[of_step]]
            starts, num_rows = self._kept.starts[files], self._kept.num_rows[files]
            rows = places_with_partners(rows, whole.row_ids[rows], starts, num_rows, partners)
        return self._finish(whole.take(rows), plan, step, epoch)

    def _finish(self, rows: StoredRows, plan: RankPlan, step: int, epoch: int) -> Batch:
        return self._finisher.finish(rows, step=step, global_rows=int(plan.global_rows[step]), epoch=epoch)


def _runs(row_files: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """Return the files of the rows of a step, and where each one's rows begin, with their end at last."""
    if not len(row_files):
        return [], [0]
    starts = np.flatnonzero(np.diff(row_files, prepend=row_files[0] - 1)).tolist()
    return row_files[starts].tolist(), [*starts, len(row_files)]
