"""A Spark job that somebody else cancels, in Spark's UI or from a program: one line, and no restart."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient

from dlspark.config.compose import compose
from dlspark.errors import ClusterError
from pipelines import train
from tests.faults.conftest import NUM_STEPS, Weights, assert_same, final_weights, words_of
from tests.faults.running import only_run, wait_until
from tests.rank_processes import assert_nothing_is_left

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [
    pytest.mark.spark,
    pytest.mark.horovod,
    pytest.mark.timeout(600),
    pytest.mark.faults(scenario=2),
]


@pytest.mark.parametrize("backend", ["torch", pytest.param("horovod", marks=pytest.mark.slow)])
def test_a_cancelled_job_ends_the_run_and_the_same_command_goes_on(
    backend: str,
    dataset: str,
    spark: SparkSession,
    tmp_path: Path,
    undisturbed: Callable[..., Weights],
) -> None:
    expected = undisturbed(backend)
    order = tmp_path / "fault.json"
    order.write_text(json.dumps({"how": "wait", "rank": 1, "phase": "compute", "step": 20}))
    config = compose([*words_of(dataset, tmp_path, backend), "cluster.max_restarts=2"])

    def cancel() -> None:
        wait_until((tmp_path / "ended").exists, "step 20")
        spark.sparkContext.cancelAllJobs()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises(ClusterError, match="the Spark job of the training was cancelled") as caught:
        train.run(config, spark)
    assert time.time() - (tmp_path / "ended").stat().st_mtime < 30
    canceller.join()
    assert len(str(caught.value).splitlines()) == 1
    assert_nothing_is_left(spark, "dlspark.cluster.rank_process")
    stopped = only_run(tmp_path)
    assert stopped.info.status == "FAILED"
    assert stopped.data.tags["dlspark.error"].startswith("the Spark job of the training was cancelled")
    assert "dlspark.restarts" not in stopped.data.tags

    order.unlink()
    done = train.run(config, spark)
    assert (done.steps, done.run_id) == (NUM_STEPS, stopped.info.run_id)
    assert MlflowClient(config.tracking.uri).get_run(done.run_id).info.status == "FINISHED"
    assert_same(final_weights(tmp_path), expected)
