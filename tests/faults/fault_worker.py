"""A training in which one rank ends in a chosen way, or waits for its end, in a chosen phase.

It is shipped to the executors by value, since an executor cannot import the tests. What it is to do stands in
fault.json beside the run directory; without that file it is the real training.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from dlspark.contracts import Communicator, WorkerTask


def train_with_fault(task: WorkerTask, communicator: Communicator) -> Any:
    """Train until the rank, phase and step of the fault have come."""
    from dlspark import worker

    order = Path(task.run_dir).with_name("fault.json")
    fault = json.loads(order.read_text()) if order.exists() else {"rank": None, "phase": None}
    whereabouts = communicator.whereabouts
    real_note = whereabouts.note

    def note(phase: Any, *, step: int | None = None) -> None:
        real_note(phase, step=step)
        place = whereabouts.place
        if place is not None and fault["phase"] == phase and fault["step"] in (None, place.step):
            end()

    def end() -> None:
        order.with_name("ended").touch()
        _end(fault["how"])

    if communicator.rank == fault["rank"]:
        if fault["phase"] == "start":
            end()
        whereabouts.note = note  # type: ignore[method-assign]
    return worker.run_training(task, communicator)


def _end(how: str) -> None:
    if how == "ValueError":
        raise ValueError("boom")
    if how == "MemoryError":
        import resource

        import numpy as np

        resource.setrlimit(resource.RLIMIT_AS, (2**30, resource.RLIM_INFINITY))
        np.ones(2**31)
    if how == "wait":
        time.sleep(120)
    os.kill(os.getpid(), getattr(signal, how))
