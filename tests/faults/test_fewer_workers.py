"""A worker of the cluster that is lost for good: the training goes on with the one that is left.

The loss curve is that of a training that nothing disturbed: the rows of a step do not depend on how many
workers share them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dlspark.config.compose import compose
from dlspark.tracking.journal import metric_history, read_events
from pipelines import train
from tests.e2e.standalone_cluster import standalone_cluster
from tests.faults.conftest import words_of
from tests.faults.running import (
    NUM_EPOCHS,
    SLOW_WORDS,
    assert_nothing_is_left_of,
    kill_with_children,
    only_run,
    rank_process,
    start_training,
    wait_for_step,
    wait_until,
    worker_of,
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [
    pytest.mark.spark,
    pytest.mark.horovod,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.faults(scenario=2),
]

# Without dropout, whose draws are each rank's own, and without momentum, which blows up a rounding that flips
# one ReLU.
_COMPARABLE = (
    *("model.dropout_features=0", "model.dropout_dense=0", "train.precision=fp32"),
    *("optimizer=sgd", "optimizer.lr=0.02", "optimizer.momentum=0"),
)


def _losses(folder: Path) -> list[tuple[int, float]]:
    return metric_history(read_events(str(folder / "run")))["step/loss"]


@pytest.mark.parametrize(("backend", "rank"), [("horovod", 1), ("torch", 0)])
def test_a_training_goes_on_with_the_worker_that_is_left(
    backend: str, rank: int, dataset: str, spark: SparkSession, tmp_path: Path
) -> None:
    words = (*SLOW_WORDS, *_COMPARABLE)
    straight = tmp_path / "straight"
    straight.mkdir()
    train.run(compose([*words_of(dataset, straight, backend), *words]), spark)
    expected = _losses(straight)

    limits = ("cluster.min_workers=1", "cluster.max_restarts=1")
    cluster = tmp_path / "cluster"
    cluster.mkdir()
    with standalone_cluster(cluster, num_workers=2) as master:
        words = (*words_of(dataset, tmp_path, backend), *words, *limits, f"cluster.master={master}")
        with start_training(words, tmp_path) as driver:
            wait_for_step(f"{tmp_path}/run", 20, driver)
            kill_with_children(worker_of(rank_process(f"{tmp_path}/run", rank)))
            said = tmp_path / "stderr"
            # It first waits cluster.slots_timeout_seconds, 25 s, for the lost slot.
            wait_until(lambda: "going on with 1 of 2 workers" in said.read_text(), "the restart", seconds=60)
            assert driver.wait(timeout=300) == 0, said.read_text()
            assert_nothing_is_left_of(driver)

    assert "; restart 1 of 1" in said.read_text()
    (line,) = (tmp_path / "stdout").read_text().splitlines()
    assert json.loads(line)["steps"] == 15 * NUM_EPOCHS
    run = only_run(tmp_path)
    assert (run.info.status, run.data.tags["dlspark.restarts"]) == ("FINISHED", "1")
    losses = _losses(tmp_path)
    assert [step for step, _ in losses] == [step for step, _ in expected]
    assert [value for _, value in losses] == pytest.approx([value for _, value in expected], rel=1e-5)
