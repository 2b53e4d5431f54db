"""The local backend: one process, the same form of failure."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from dlspark.cluster.communicator import LocalCommunicator
from dlspark.cluster.launch import launch
from dlspark.cluster.rank import share_of_cores
from dlspark.contracts import WorkerFunction, WorkerTask
from dlspark.errors import ClusterError, LostWorkerError, WorkerFailedError
from tests import workers

if TYPE_CHECKING:
    from dlspark.contracts import Communicator

_TASK = WorkerTask(dataset="/data", fingerprint="0", run_dir="/nowhere", config={}, split="val")


def test_a_rank_alone_sums_and_copies_nothing_but_its_own() -> None:
    communicator = LocalCommunicator()
    tensor = torch.tensor([1.0, 2.0])
    assert communicator.all_reduce_sum(tensor) is tensor
    assert communicator.broadcast(tensor) is tensor
    assert tensor.tolist() == [1.0, 2.0]
    assert (communicator.rank, communicator.size, communicator.local_rank, communicator.local_size) == (
        0,
        1,
        0,
        1,
    )
    assert communicator.host == socket.gethostname()


def test_the_function_runs_here_with_its_threads() -> None:
    before = torch.get_num_threads()
    (result,) = launch(
        workers.add_and_copy,
        _TASK,
        backend="local",
        num_workers=1,
        spark=None,
        start_timeout_seconds=1,
        threads_per_worker=before + 1,
    )
    assert (result["size"], result["split"], result["threads"]) == (1, "val", before + 1)
    assert torch.get_num_threads() == before


def test_a_failure_has_the_form_of_a_rank_and_its_cause(tmp_path: Path) -> None:
    with pytest.raises(WorkerFailedError) as caught:
        launch(
            workers.raise_here,
            _TASK,
            backend="local",
            num_workers=1,
            spark=None,
            start_timeout_seconds=1,
            threads_per_worker=None,
        )
    first = str(caught.value).splitlines()[0]
    who = f"rank 0 of 1 on host {socket.gethostname()}"
    assert first.startswith(f"{who} failed at its start: ValueError: boom on rank 0")
    assert "raise_here" in str(caught.value)
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.faults(scenario=2)
def test_ctrl_c_is_not_a_failure() -> None:
    def interrupt(task: WorkerTask, communicator: Communicator) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(
            interrupt,
            _TASK,
            backend="local",
            num_workers=1,
            spark=None,
            start_timeout_seconds=1,
            threads_per_worker=None,
        )


def launch_watched(function: WorkerFunction, run_dir: Path) -> list[Any]:
    return launch(
        function,
        replace(_TASK, run_dir=str(run_dir)),
        backend="local",
        num_workers=1,
        spark=None,
        start_timeout_seconds=1,
        threads_per_worker=None,
        stall_timeout_seconds=0.5,
    )


@pytest.mark.faults(scenario=1)
def test_a_step_that_does_not_end_is_interrupted_and_named_with_its_stack(tmp_path: Path) -> None:
    def hang_in_step_seven(task: WorkerTask, communicator: Communicator) -> None:
        communicator.whereabouts.note("data", step=6)
        communicator.whereabouts.note("data", step=7)
        communicator.whereabouts.note("compute")
        threading.Event().wait(60)

    with pytest.raises(LostWorkerError) as caught:
        launch_watched(hang_in_step_seven, tmp_path)
    (folder,) = tmp_path.glob("failures/*/stacks")
    first = str(caught.value).splitlines()[0]
    who = f"rank 0 of 1 on host {socket.gethostname()}"
    assert first.startswith(f"{who} failed at step 7 (compute): Stall: it has not moved for ")
    assert str(folder) in first
    stacks = (folder / "rank-00000.txt").read_text()
    assert stacks.startswith("at step 7 (compute), has not moved for ")
    assert "hang_in_step_seven" in stacks


@pytest.mark.faults(scenario=1)
def test_a_rank_that_moves_is_not_interrupted(tmp_path: Path) -> None:
    def move(task: WorkerTask, communicator: Communicator) -> int:
        for step in range(1, 16):
            communicator.whereabouts.note("data", step=step)
            time.sleep(0.05)
        return step

    assert launch_watched(move, tmp_path) == [15]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("backend", "num_workers"), [("local", 2), ("horovod", 2)])
def test_what_cannot_be_launched_is_refused(backend: str, num_workers: int) -> None:
    with pytest.raises(ClusterError):
        launch(
            workers.raise_here,
            _TASK,
            backend=backend,  # type: ignore[arg-type]
            num_workers=num_workers,
            spark=None,
            start_timeout_seconds=1,
            threads_per_worker=None,
        )


def test_cores_are_shared_and_never_none() -> None:
    assert share_of_cores(1) >= share_of_cores(2) >= share_of_cores(1000) == 1
