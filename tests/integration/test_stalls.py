"""A rank that hangs or is stopped, on real Spark tasks: it is named, with stacks; nothing is left."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest
from mlflow import MlflowClient

from dlspark.cluster.launch import launch
from dlspark.config.compose import compose
from dlspark.contracts import WorkerTask
from dlspark.errors import LostWorkerError
from pipelines import ingest, train
from tests import recording_worker, workers
from tests.rank_processes import assert_nothing_is_left

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import SparkSession

    from dlspark.cluster.backends import Backend

pytestmark = [
    pytest.mark.spark,
    pytest.mark.horovod,
    pytest.mark.timeout(300),
    pytest.mark.faults(scenario=1),
]

_MARK = "dlspark.cluster.rank_process"
"""In the command line of a rank."""
_TIMEOUT = 2.0


@pytest.fixture(autouse=True, scope="module")
def _ship_by_value() -> None:
    for module in (workers, recording_worker):
        cloudpickle.register_pickle_by_value(module)


def _fail(function: Callable[..., Any], run_dir: Path, spark: SparkSession, backend: Backend) -> str:
    """Launch what fails; return the first line of the error, once it came in time and left nothing."""
    run_dir.mkdir()
    with pytest.raises(LostWorkerError) as caught:
        launch(
            function,
            WorkerTask(dataset="/data", fingerprint="0", run_dir=str(run_dir), config={}),
            backend=backend,
            num_workers=2,
            spark=spark,
            start_timeout_seconds=60,
            threads_per_worker=None,
            stall_timeout_seconds=_TIMEOUT,
        )
    assert time.time() - (run_dir / "last-move").stat().st_mtime < 30 + _TIMEOUT
    assert_nothing_is_left(spark, _MARK)
    return str(caught.value).splitlines()[0]


@pytest.mark.parametrize("backend", ["torch", "horovod"])
def test_a_rank_that_hangs_is_named_and_all_leave_their_stacks(
    spark: SparkSession, tmp_path: Path, backend: Backend
) -> None:
    first = _fail(workers.hang_in_step_seven, tmp_path / "run", spark, backend)
    who = f"rank 1 of 2 on host {socket.gethostname()} failed at step 7 (compute): "
    assert first.startswith(who + "Stall: it has not moved for ")
    (folder,) = (tmp_path / "run" / "failures").glob("*/stacks")
    assert str(folder) in first
    late, waiting = (folder / "rank-00001.txt").read_text(), (folder / "rank-00000.txt").read_text()
    assert "at step 7 (compute)" in late
    assert "hang_in_step_seven" in late
    assert "at step 7 (communication)" in waiting
    assert "in all_reduce_sum" in waiting


@pytest.mark.parametrize("backend", ["torch", "horovod"])
def test_a_rank_that_is_stopped_is_named_with_its_signal(
    spark: SparkSession, tmp_path: Path, backend: Backend
) -> None:
    first = _fail(workers.stop_in_step_seven, tmp_path / "run", spark, backend)
    who = f"rank 1 of 2 on host {socket.gethostname()} failed at step 7 (compute): "
    assert first.startswith(who + "SIGSTOP: its process was stopped by SIGSTOP")


@pytest.mark.parametrize(("backend", "num_workers"), [("torch", 2), ("horovod", 2), ("local", 1)])
def test_a_training_that_stands_still_starts_again(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: Backend, num_workers: int
) -> None:
    dataset, uri = f"{tmp_path}/dataset", f"sqlite:///{tmp_path}/mlflow.db"
    ingest.run(compose(["source=builtin:digits", f"dataset={dataset}"]), spark)
    monkeypatch.setattr(train, "run_training", recording_worker.stand_still_once_in_the_second_epoch)
    words = (f"dataset={dataset}", f"run_dir={tmp_path}/run", f"tracking.uri={uri}", "train.epochs=2")
    cluster = (f"cluster.backend={backend}", f"cluster.workers={num_workers}", "cluster.threads_per_worker=1")
    limit = "cluster.stall_timeout_seconds=8"
    done = train.run(compose([*words, *cluster, limit, "train.global_batch_size=100"]), spark)
    assert done.steps == 30
    (run,) = MlflowClient(uri).search_runs(["1"])
    assert run.info.status == "FINISHED"
    assert f"rank {num_workers - 1} of {num_workers}" in run.data.tags["dlspark.last_restart"]
    assert "at step 23 (data): Stall" in run.data.tags["dlspark.last_restart"]
    assert_nothing_is_left(spark, _MARK)
