"""Each way in which a rank can end, in each phase of a training, on both backends.

The driver names rank, host, phase and cause within 30 s; the run has failed, and is the only one; nothing is
left of the job. The same command then ends with the weights of a training that nothing disturbed.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from mlflow import MlflowClient

from dlspark.config.compose import compose
from dlspark.errors import WorkerFailedError
from pipelines import train
from tests.faults.conftest import NUM_STEPS, Weights, final_weights, words_of
from tests.rank_processes import assert_nothing_is_left

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [
    pytest.mark.spark,
    pytest.mark.horovod,
    pytest.mark.timeout(300),
    pytest.mark.faults(scenario=1),
]

CAUSES = {
    "ValueError": "ValueError: boom",
    "MemoryError": r"\w*MemoryError: Unable to allocate",
    "SIGSEGV": "SIGSEGV: its process was ended by this signal",
    "SIGKILL": "SIGKILL: its process was killed from outside",
    "SIGSTOP": "SIGSTOP: its process was stopped by SIGSTOP",
}
PLACES: dict[str, tuple[int, int | None, str]] = {
    "start": (1, None, "at its start"),
    "compute": (1, 20, r"at step 20 \(compute\)"),
    "evaluation": (1, None, r"at step \d+ \(evaluation\)"),
    "save": (0, None, r"at step \d+ \(save\)"),
}
"""Phase -> the rank that ends there, at which step (None: the first time), and how that is told."""
IN_CI = {("horovod", "SIGSEGV", "evaluation"), ("torch", "SIGKILL", "save")}


def _cases() -> list[object]:
    every = ((backend, how, phase) for backend in ("horovod", "torch") for how in CAUSES for phase in PLACES)
    return [
        pytest.param(case, id="-".join(case), marks=() if case in IN_CI else pytest.mark.slow)
        for case in every
    ]


@pytest.mark.parametrize("case", _cases())
def test_a_rank_that_ends_is_named_and_nothing_is_lost(
    case: tuple[str, str, str],
    dataset: str,
    spark: SparkSession,
    tmp_path: Path,
    undisturbed: Callable[[str], Weights],
) -> None:
    backend, how, phase = case
    expected = undisturbed(backend)
    rank, step, place = PLACES[phase]
    order = tmp_path / "fault.json"
    order.write_text(json.dumps({"how": how, "rank": rank, "phase": phase, "step": step}))
    config = compose(words_of(dataset, tmp_path, backend))
    with pytest.raises(WorkerFailedError) as caught:
        train.run(config, spark)
    assert time.time() - (tmp_path / "ended").stat().st_mtime < 30
    first = str(caught.value).splitlines()[0]
    who = f"rank {rank} of 2 on host {re.escape(socket.gethostname())} failed {place}: "
    assert re.match(who + CAUSES[how], first), first
    assert_nothing_is_left(spark, "dlspark.cluster.rank_process")
    client = MlflowClient(config.tracking.uri)
    (run,) = client.search_runs([client.get_experiment_by_name("dlspark").experiment_id])
    assert run.info.status == "FAILED"
    assert run.data.tags["dlspark.error"].startswith(f"rank {rank} of 2")

    order.unlink()
    done = train.run(config, spark)
    assert (done.steps, done.run_id) == (NUM_STEPS, run.info.run_id)
    assert client.get_run(run.info.run_id).info.status == "FINISHED"
    for name, tensor in final_weights(tmp_path).items():
        assert torch.equal(tensor, expected[name]), name
