"""A driver that is killed: its ranks end with it, and the same command goes on with the same run."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dlspark.tracking.journal import metric_history, read_events
from pipelines.run_directory import read_run_description
from tests.e2e.commands import result_of, run_command
from tests.faults.conftest import words_of
from tests.rank_processes import rank_processes

pytestmark = [pytest.mark.spark, pytest.mark.horovod, pytest.mark.slow, pytest.mark.timeout(300)]

_EPOCHS = 30


@pytest.mark.parametrize("backend", ["horovod", "torch"])
def test_a_killed_driver_leaves_no_rank_and_the_same_command_goes_on(
    backend: str, dataset: str, tmp_path: Path
) -> None:
    words = [*words_of(dataset, tmp_path, backend), "cluster.master=local[2]", f"train.epochs={_EPOCHS}"]
    command = [sys.executable, "-m", "dlspark", "train", *words]
    run_dir = f"{tmp_path}/run"
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as driver:
        _wait_for_step(run_dir, 20, driver)
        below = psutil.Process(driver.pid).children(recursive=True)
        assert len(rank_processes("dlspark.cluster.rank_process")) == 2
        driver.kill()
    _, alive = psutil.wait_procs(below, timeout=30)
    assert alive == []
    run_id = read_run_description(run_dir).run_id

    done = result_of(run_command(command, folder=tmp_path, timeout=240))
    assert (done["steps"], done["run_id"]) == (15 * _EPOCHS, run_id)


def _wait_for_step(run_dir: str, step: int, driver: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert driver.poll() is None, "the driver ended by itself"
        curve = metric_history(read_events(run_dir)).get("step/loss", [])
        if curve and curve[-1][0] >= step:
            return
        time.sleep(0.2)
    raise AssertionError("the training does not begin")
