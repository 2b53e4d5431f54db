"""A training as a user runs it, `dlspark train` in a process of its own: watched, struck, looked after."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from mlflow import MlflowClient
from mlflow.entities import Run

from dlspark.tracking.journal import metric_history, read_events
from tests.e2e.commands import DLSPARK
from tests.rank_processes import rank_processes

NUM_EPOCHS = 5
SLOW_WORDS = (
    *(f"train.epochs={NUM_EPOCHS}", "train.accumulate_steps=50", "checkpoint.every_steps=4"),
    "cluster.slots_timeout_seconds=25",
)
"""A rank takes its rows of a step one at a time, so that the training lasts long enough to be struck."""
_OF_EXECUTOR, _OF_WORKER = "CoarseGrainedExecutorBackend", "deploy.worker.Worker"
_MARKS = ("dlspark.cluster.rank_process", _OF_EXECUTOR)


@contextmanager
def start_training(
    words: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `dlspark train` in a session of its own; its stdout and stderr go to files in `folder`."""
    with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
        driver = subprocess.Popen(
            [*DLSPARK, "train", *words],
            stdout=stdout,
            stderr=stderr,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    try:
        yield driver
    finally:
        for process in _of_session(driver.pid):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        driver.wait()


def wait_until(condition: Callable[[], bool], what: str, *, seconds: float = 240.0) -> None:
    """Return once a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)


def wait_for_step(run_dir: str, step: int, driver: subprocess.Popen[bytes] | None = None) -> None:
    """Return once a training has journaled a step."""

    def is_there() -> bool:
        assert driver is None or driver.poll() is None, "the driver ended by itself"
        curve = metric_history(read_events(run_dir)).get("step/loss", [])
        return bool(curve) and curve[-1][0] >= step

    wait_until(is_there, f"step {step} of the training")


def rank_process(run_dir: str, rank: int) -> psutil.Process:
    """Return the process of a rank in the attempt that runs now."""
    (*_, newest) = sorted(Path(run_dir, "failures").glob(f"*/host-{rank:05d}.json"))
    return psutil.Process(json.loads(newest.read_text())["pid"])


def executor_of(process: psutil.Process) -> psutil.Process:
    """Return the JVM of the executor below which a rank runs."""
    return _ancestor(process, _OF_EXECUTOR)


def worker_of(process: psutil.Process) -> psutil.Process:
    """Return the JVM of the standalone worker below which a rank runs."""
    return _ancestor(process, _OF_WORKER)


def kill_with_children(process: psutil.Process) -> None:
    """Kill a process and all below it at once, as when their host is lost."""
    for each in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            each.kill()


def assert_nothing_is_left_of(driver: subprocess.Popen[bytes], *, seconds: float = 10.0) -> None:
    """Within seconds no process of the command is there, nor a rank or an executor below this one."""
    deadline = time.monotonic() + seconds
    while left := [*_of_session(driver.pid), *(one for mark in _MARKS for one in rank_processes(mark))]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def only_run(folder: Path) -> Run:
    """Return the one MLflow run of the store in a folder, in which each step has each metric once."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("dlspark").experiment_id])
    for name in run.data.metrics:
        steps = Counter(metric.step for metric in client.get_metric_history(run.info.run_id, name))
        assert max(steps.values()) == 1, name
    journal = metric_history(read_events(str(folder / "run")))
    assert set(journal) <= set(run.data.metrics)
    return run


def _ancestor(process: psutil.Process, mark: str) -> psutil.Process:
    return next(parent for parent in process.parents() if mark in " ".join(parent.cmdline()))


def _of_session(session: int) -> list[psutil.Process]:
    """Return the processes of a session, also those whose parent has gone."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
