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
    """No Spark job is active, and within 10 s no process of a rank is there."""
    assert list(spark.sparkContext.statusTracker().getActiveJobsIds()) == []
    deadline = time.monotonic() + 10
    while rank_processes(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert rank_processes(mark) == []
