"""What a launch of two ranks costs beside their work: dlspark on both backends, and stock horovod.spark.run.

    python -m benchmarks.launch

Each runs a function that returns its rank, on one warm Spark session of two executors, in turn after one
warm-up each; ratios are taken turn by turn. `start` is what any rank pays: a Python that imports torch.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import cloudpickle

from benchmarks.runs import say
from dlspark.cluster.launch import launch
from dlspark.cluster.session import spark_session
from dlspark.contracts import Communicator, WorkerTask

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_NUM_RANKS = 2


def return_rank(task: WorkerTask, communicator: Communicator) -> int:
    """Do nothing."""
    return communicator.rank


def main() -> None:
    """Run all in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with tempfile.TemporaryDirectory() as folder, spark_session("local-cluster[2,1,2048]", "launch") as spark:
        task = WorkerTask(dataset="", fingerprint="", run_dir=folder, config={})
        runs: dict[str, Callable[[], object]] = {
            "start": partial(subprocess.run, [sys.executable, "-c", "import torch"], check=True),
            "stock horovod.spark.run": partial(run_stock, spark),
            "dlspark horovod": partial(run_dlspark, spark, task, "horovod"),
            "dlspark torch": partial(run_dlspark, spark, task, "torch"),
        }
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(options.repeats + 1):
            for name, run in runs.items():
                started = time.perf_counter()
                run()
                if turn:
                    seconds[name].append(time.perf_counter() - started)
    for name, values in seconds.items():
        say(f"  {name:<24} {statistics.median(values):6.2f} s  [{min(values):.2f} - {max(values):.2f}]")
    stock = seconds["stock horovod.spark.run"]
    for name in ("dlspark horovod", "dlspark torch"):
        ratios = [own / other for own, other in zip(seconds[name], stock, strict=True)]
        say(f"  {name} / stock: {statistics.median(ratios):.2f} [{min(ratios):.2f} - {max(ratios):.2f}]")


def run_dlspark(spark: SparkSession, task: WorkerTask, backend: str) -> None:
    """Launch through dlspark."""
    found = launch(
        return_rank,
        task,
        backend=backend,  # type: ignore[arg-type]
        num_workers=_NUM_RANKS,
        spark=spark,
        start_timeout_seconds=60,
        threads_per_worker=1,
    )
    if found != list(range(_NUM_RANKS)):
        raise AssertionError(found)


def run_stock(spark: SparkSession) -> None:
    """Launch as Horovod documents it; the function joins the job, as every other one does."""
    import horovod.spark

    def work() -> int:
        import horovod.torch as hvd

        hvd.init()
        return int(hvd.rank())

    found = horovod.spark.run(work, num_proc=_NUM_RANKS, use_gloo=True, verbose=0)
    if found != list(range(_NUM_RANKS)):
        raise AssertionError(found)


if __name__ == "__main__":
    main()
