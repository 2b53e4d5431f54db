"""Ctrl-C: the command ends with 130 and leaves nothing, and the same command goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

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
    [
        # A terminal tells every process of the command, another program the driver alone.
        ("local-cluster", "horovod", os.killpg),
        ("local-cluster", "torch", os.killpg),
        ("standalone", "horovod", os.kill),
    ],
    ids=lambda case: "-".join(case[:2]),
)
def test_an_interrupted_training_ends_at_once_and_goes_on(
    case: tuple[str, str, Callable[[int, int], None]],
    dataset: str,
    tmp_path: Path,
    master_of: Callable[[str], str],
    undisturbed: Callable[..., Weights],
) -> None:
    cluster, backend, strike = case
    expected = undisturbed(backend, *SLOW_WORDS)
    words = [*words_of(dataset, tmp_path, backend), f"cluster.master={master_of(cluster)}", *SLOW_WORDS]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with start_training(words, tmp_path, {"TMPDIR": str(scratch)}) as driver:
        wait_for_step(f"{tmp_path}/run", 20, driver)
        strike(driver.pid, signal.SIGINT)
        started = time.monotonic()
        assert driver.wait(timeout=60) == 130
        assert time.monotonic() - started < 30
        assert_nothing_is_left_of(driver)
    said = (tmp_path / "stderr").read_text()
    assert said.splitlines()[-1] == "interrupted", said
    assert "Traceback" not in said
    assert (tmp_path / "stdout").read_text() == ""
    assert list(scratch.iterdir()) == []
    stopped = only_run(tmp_path)
    assert stopped.info.status == "KILLED"

    done = result_of(run_command([*DLSPARK, "train", *words], folder=tmp_path, timeout=300))
    assert (done["steps"], done["run_id"]) == (15 * NUM_EPOCHS, stopped.info.run_id)
    assert only_run(tmp_path).info.status == "FINISHED"
    assert_same(final_weights(tmp_path), expected)
