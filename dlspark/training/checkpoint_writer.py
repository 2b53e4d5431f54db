"""When a training saves, and what is kept: the last few snapshots, and the best by a metric.

Rank 0 is handed a `CheckpointWriter`, the others `SilentCheckpoints`. The state is copied to host memory
between two steps; a thread writes it while the training goes on. A write that fails is raised at the next
save, or at the end: a training that cannot save should not run on for days.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import MappingProxyType, TracebackType
from typing import Protocol, Self

import torch

from dlspark.training.checkpoint import CheckpointDescription
from dlspark.training.snapshots import (
    StoredSnapshot,
    clear_after,
    list_snapshots,
    remove_snapshot,
    write_snapshot,
)
from dlspark.training.stopping import SAVE, STOP
from dlspark.training.training_state import Snapshot

_log = logging.getLogger(__name__)


class Checkpoints(Protocol):
    """What the train loop sees of checkpoints, on each rank."""

    def ask(self, step: int, *, ends_epoch: bool) -> int:
        """Return what this rank asks for after `step`: 0, SAVE or STOP; a save follows each epoch anyway."""
        ...

    def save(self, take: Callable[[], Snapshot]) -> None:
        """Take a snapshot and write it, or do neither on ranks that write nothing."""
        ...


class SilentCheckpoints:
    """Of the ranks that write nothing; they may still be told to stop."""

    def __init__(self, told_to_stop: Callable[[], bool]) -> None:
        """Ask for a stop when `told_to_stop` says so."""
        self._told_to_stop = told_to_stop

    def ask(self, step: int, *, ends_epoch: bool) -> int:
        """Return STOP once this rank was told to stop."""
        return STOP if self._told_to_stop() else 0

    def save(self, take: Callable[[], Snapshot]) -> None:
        """Do nothing."""


class CheckpointWriter:
    """Of the rank that writes."""

    def __init__(
        self,
        folder: str,
        *,
        describe: Callable[..., CheckpointDescription],
        told_to_stop: Callable[[], bool],
        every_steps: int | None,
        every_minutes: float | None,
        keep: int,
        best_metric: str,
        resumed_from: str | None = None,
        beside: Mapping[str, torch.Tensor] = MappingProxyType({}),
    ) -> None:
        """Open the folder; what lies after the snapshot that the training goes on from is removed.

        Args:
            folder: URL of the folder of all checkpoints of the run.
            describe: gives what is written beside the tensors, from `epoch`, `step` and `metrics`.
            told_to_stop: tells whether this rank is to end.
            every_steps: optimizer steps between two saves within an epoch; None for none.
            every_minutes: likewise in minutes.
            keep: how many of the last are kept, >= 1.
            best_metric: of the epochs; the snapshot with its best value is kept too: the largest of an
                accuracy, the smallest of a loss.
            resumed_from: URL of the snapshot that the training goes on from; None: it begins anew.
            beside: tensors of the network that the training does not know, written with those of each
                snapshot; in host memory.
        """
        self._folder, self._describe, self._told_to_stop = folder, describe, told_to_stop
        self._every_steps, self._every_minutes = every_steps, every_minutes
        self._keep, self._best_metric, self._beside = keep, best_metric, dict(beside)
        clear_after(folder, resumed_from)
        self._stored = list_snapshots(folder)
        self._saved_at = time.monotonic()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="dlspark-checkpoint")
        self._writing: Future[None] | None = None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what is being written; raise its error unless another one is on its way."""
        self._pool.shutdown(wait=True)
        if kind is None:
            self._wait()

    def ask(self, step: int, *, ends_epoch: bool) -> int:
        """Return STOP if told to, SAVE if it is time to, 0 else."""
        if self._told_to_stop():
            return STOP
        if ends_epoch:
            return 0
        by_steps = self._every_steps is not None and step % self._every_steps == 0
        minutes = (time.monotonic() - self._saved_at) / 60
        by_time = self._every_minutes is not None and minutes >= self._every_minutes
        return SAVE if by_steps or by_time else 0

    def save(self, take: Callable[[], Snapshot]) -> None:
        """Take a snapshot and begin to write it; waits first for one that is still being written.

        Raises:
            OSError: the last snapshot could not be written; or whatever else its storage raised.
        """
        self._wait()
        snapshot = take()
        self._saved_at = time.monotonic()
        self._writing = self._pool.submit(self._write, snapshot)

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, snapshot: Snapshot) -> None:
        started = time.monotonic()
        try:
            description = self._describe(epoch=snapshot.epoch, step=snapshot.step, metrics=snapshot.metrics)
            whole = replace(snapshot, model=self._beside | dict(snapshot.model))
            stored = write_snapshot(self._folder, whole, description)
        except Exception as error:
            _log.error("step %d could not be saved in %s: %s", snapshot.step, self._folder, error)
            raise
        self._stored.append(stored)
        kept = kept_snapshots(self._stored, keep=self._keep, best_metric=self._best_metric)
        for old in self._stored:
            if old not in kept:
                remove_snapshot(old.url)
        self._stored = kept
        _log.debug("step %d is saved in %s, %.3f s", snapshot.step, stored.url, time.monotonic() - started)


def kept_snapshots(stored: list[StoredSnapshot], *, keep: int, best_metric: str) -> list[StoredSnapshot]:
    """Return those that stay, by rising step: the last `keep`, and the best of `best_metric`.

    Args:
        stored: by rising step.
        keep: >= 1.
        best_metric: a loss or an accuracy; snapshots without it are never the best.
    """
    best = best_snapshot(stored, best_metric)
    return [one for index, one in enumerate(stored) if index >= len(stored) - keep or one is best]


def best_snapshot(stored: list[StoredSnapshot], best_metric: str) -> StoredSnapshot | None:
    """Return the one with the best value of a metric, the first of equals; None where none has it."""
    scored = [one for one in stored if best_metric in one.description.metrics]
    sign = -1.0 if best_metric.endswith("accuracy") else 1.0
    return min(scored, key=lambda one: sign * one.description.metrics[best_metric], default=None)
