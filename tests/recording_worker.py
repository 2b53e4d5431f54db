"""Worker functions for tests of a training: what each rank saw, and a rank that fails.

They are shipped to the executors by value, since an executor cannot import the tests.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any

from dlspark.contracts import Batch, BatchSource, Communicator, WorkerTask


class RecordingSource:
    """A BatchSource that notes the row ids that pass through it, and a hash of their images."""

    def __init__(self, source: BatchSource) -> None:
        self._source = source
        self.num_rows = source.num_rows
        self.num_steps = source.num_steps
        self.seen: dict[int, list[list[int]]] = {}
        self.digests: dict[int, list[str]] = {}

    def batches(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Pass the batches on."""
        for batch in self._source.batches(epoch, start_step):
            self.seen.setdefault(epoch, []).append(batch.row_ids.tolist())
            self.digests.setdefault(epoch, []).append(sha256(batch.images.numpy().tobytes()).hexdigest())
            yield batch


Recorded = tuple[dict[int, list[list[int]]], dict[int, list[str]]]


def train_and_record(task: WorkerTask, communicator: Communicator) -> Recorded:
    """Run a real training and return, by epoch and step, row ids and a hash of the images on this rank."""
    from unittest.mock import patch

    from dlspark import worker

    recorded: list[RecordingSource] = []
    real_fit = worker.fit

    def recording_fit(
        model: Any, optimizer: Any, schedule: Any, train: BatchSource, *rest: Any, **named: Any
    ) -> Any:
        recorded.append(RecordingSource(train))
        return real_fit(model, optimizer, schedule, recorded[0], *rest, **named)

    with patch.object(worker, "fit", recording_fit):
        worker.run_training(task, communicator)
    return recorded[0].seen, recorded[0].digests


def fail_on_rank_one(task: WorkerTask, communicator: Communicator) -> None:
    """Train until rank 1 raises in the middle of the first epoch."""
    from unittest.mock import patch

    from dlspark import worker

    real_open = worker.open_split

    def failing_open(*arguments: Any, **named: Any) -> Any:
        source = real_open(*arguments, **named)
        if named["rank"] == 1 and named["shuffle"]:
            real_batches = source.batches

            def batches(epoch: int, start_step: int = 0) -> Iterator[Batch]:
                for batch in real_batches(epoch, start_step):
                    if batch.step == 3:
                        raise ValueError("boom at step 3")
                    yield batch

            source.batches = batches
        return source

    with patch.object(worker, "open_split", failing_open):
        worker.run_training(task, communicator)


def die_in_the_second_epoch(task: WorkerTask, communicator: Communicator) -> None:
    """Train until the process of the last rank is killed in the middle of the second epoch."""
    _train_until(task, communicator, lambda: os.kill(os.getpid(), signal.SIGKILL))


def be_told_to_stop_in_the_second_epoch(task: WorkerTask, communicator: Communicator) -> Any:
    """Train until the last rank gets SIGTERM in the middle of the second epoch."""
    return _train_until(task, communicator, lambda: os.kill(os.getpid(), signal.SIGTERM))


def _train_until(task: WorkerTask, communicator: Communicator, end: Callable[[], None]) -> Any:
    from unittest.mock import patch

    from dlspark import worker

    real_open = worker.open_split

    def ending_open(*arguments: Any, **named: Any) -> Any:
        source = real_open(*arguments, **named)
        if named["rank"] == communicator.size - 1 and named["shuffle"]:
            real_batches = source.batches

            def batches(epoch: int, start_step: int = 0) -> Iterator[Batch]:
                for batch in real_batches(epoch, start_step):
                    if (epoch, batch.step) == (1, 7):
                        end()
                    yield batch

            source.batches = batches
        return source

    with patch.object(worker, "open_split", ending_open):
        return worker.run_training(task, communicator)


def die_once_in_the_second_epoch(task: WorkerTask, communicator: Communicator) -> Any:
    """Train; in the first attempt the last rank is killed in the middle of the second epoch."""
    if task.attempt == 1:
        return _train_until(task, communicator, lambda: os.kill(os.getpid(), signal.SIGKILL))
    from dlspark import worker

    return worker.run_training(task, communicator)


def stand_still_once_in_the_second_epoch(task: WorkerTask, communicator: Communicator) -> Any:
    """Train; in the first attempt the last rank gets no batch any more in the middle of the second epoch."""
    if task.attempt == 1:
        return _train_until(task, communicator, lambda: time.sleep(600))
    from dlspark import worker

    return worker.run_training(task, communicator)
