"""A driver that is killed: its ranks end with it, and the same command goes on with the same run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.run_directory import read_run_description
from tests.e2e.commands import DLSPARK, result_of, run_command
from tests.faults.conftest import Weights, assert_same, final_weights, words_of
from tests.faults.running import (
    NUM_EPOCHS,
    SLOW_WORDS,
    assert_nothing_is_left_of,
    only_run,
    start_training,
    wait_for_step,
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
    [("local", "horovod"), ("local-cluster", "torch"), ("standalone", "horovod")],
    ids="-".join,
)
def test_a_killed_driver_leaves_no_rank_and_the_same_command_goes_on(
    case: tuple[str, str],
    dataset: str,
    tmp_path: Path,
    master_of: Callable[[str], str],
    undisturbed: Callable[..., Weights],
) -> None:
    cluster, backend = case
    expected = undisturbed(backend, *SLOW_WORDS)
    words = [*words_of(dataset, tmp_path, backend), f"cluster.master={master_of(cluster)}", *SLOW_WORDS]
    run_dir = f"{tmp_path}/run"
    with start_training(words, tmp_path) as driver:
        wait_for_step(run_dir, 20, driver)
        driver.kill()
        driver.wait()
        assert_nothing_is_left_of(driver, seconds=30)
    run_id = read_run_description(run_dir).run_id

    done = result_of(run_command([*DLSPARK, "train", *words], folder=tmp_path, timeout=300))
    assert (done["steps"], done["run_id"]) == (15 * NUM_EPOCHS, run_id)
    run = only_run(tmp_path)
    assert (run.info.run_id, run.info.status) == (run_id, "FINISHED")
    assert_same(final_weights(tmp_path), expected)
