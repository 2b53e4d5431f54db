"""The processes of ranks below this one, and that a launch leaves none of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def rank_processes(mark: str) -> list[psutil.Process]:
    """Return the processes whose command line holds `mark`."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if mark in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def assert_nothing_is_left(spark: SparkSession, mark: str) -> None:
    """Within 10 s no Spark job is active and no process of a rank is there."""
    tracker = spark.sparkContext.statusTracker()
    deadline = time.monotonic() + 10
    # Spark's tracker hears of the end of a job some time after the driver has its result.
    while (jobs := list(tracker.getActiveJobsIds())) or rank_processes(mark):
        assert time.monotonic() < deadline, f"Spark jobs {jobs}, processes {rank_processes(mark)}"
        time.sleep(0.1)
