"""An executor whose JVM is killed in mid-epoch: the training goes on by itself, as if nothing had been.

The worker of Spark starts another executor in its place, and the restart waits for that one's slot.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import Weights, assert_same, final_weights, words_of
from tests.faults.running import (
    NUM_EPOCHS,
    SLOW_WORDS,
    assert_nothing_is_left_of,
    executor_of,
    only_run,
    rank_process,
    start_training,
    wait_for_step,
    wait_until,
)

pytestmark = [
    pytest.mark.spark,
    pytest.mark.horovod,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.faults(scenario=2),
]


@pytest.mark.parametrize(
    "case",
    [
        ("local-cluster", "horovod", 1),
        ("local-cluster", "torch", 0),
        ("standalone", "horovod", 0),
        ("standalone", "torch", 1),
    ],
    ids=lambda case: "-".join(case[:2]),
)
def test_a_training_goes_on_without_a_killed_executor(
    case: tuple[str, str, int],
    dataset: str,
    tmp_path: Path,
    master_of: Callable[[str], str],
    undisturbed: Callable[..., Weights],
) -> None:
    cluster, backend, rank = case
    expected = undisturbed(backend, *SLOW_WORDS)
    words = [*words_of(dataset, tmp_path, backend), *SLOW_WORDS, "cluster.max_restarts=1"]
    with start_training([*words, f"cluster.master={master_of(cluster)}"], tmp_path) as driver:
        wait_for_step(f"{tmp_path}/run", 20, driver)
        executor_of(rank_process(f"{tmp_path}/run", rank)).kill()
        said = tmp_path / "stderr"
        wait_until(lambda: "; restart 1 of 1" in said.read_text(), "the restart", seconds=30)
        assert driver.wait(timeout=300) == 0, said.read_text()
        assert_nothing_is_left_of(driver)

    lost = rf"warning: rank {rank} of 2 on host \S+ failed: its executor was lost; restart 1 of 1"
    assert re.search(lost, said.read_text()), said.read_text()
    (line,) = (tmp_path / "stdout").read_text().splitlines()
    assert json.loads(line)["steps"] == 15 * NUM_EPOCHS
    run = only_run(tmp_path)
    assert run.info.status == "FINISHED"
    assert (run.data.tags["dlspark.restarts"], run.data.tags["dlspark.attempt"]) == ("1", "2")
    assert f"rank {rank} of 2" in run.data.tags["dlspark.last_restart"]
    assert_same(final_weights(tmp_path), expected)
