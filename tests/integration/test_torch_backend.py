"""The torch backend on real Spark tasks: the same curves as the others, and failures that name their rank."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest
import torch

from dlspark.cluster.launch import launch
from dlspark.cluster.preflight import require_slots
from dlspark.config.compose import compose
from dlspark.contracts import WorkerTask
from dlspark.errors import ClusterError, LostWorkerError, WorkerFailedError
from dlspark.tracking.journal import metric_history, read_events
from dlspark.training.checkpoint import load_checkpoint
from pipelines import evaluate, ingest, train
from tests import workers
from tests.free_ports import free_range, other_interface
from tests.rank_processes import assert_nothing_is_left

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import SparkSession

pytestmark = [
    pytest.mark.spark,
    pytest.mark.timeout(300),
]


_MARK = "dlspark.cluster.rank_process"
"""In the command line of a rank."""


@pytest.fixture(autouse=True, scope="module")
def _ship_by_value() -> None:
    cloudpickle.register_pickle_by_value(workers)


@pytest.fixture
def task(tmp_path: Path) -> WorkerTask:
    return WorkerTask(dataset="/data", fingerprint="0", run_dir=str(tmp_path / "run"), config={})


def _launch(function: Callable[..., Any], task: WorkerTask, spark: SparkSession, **options: Any) -> list[Any]:
    common: dict[str, Any] = {"num_workers": 2, "start_timeout_seconds": 60, "threads_per_worker": None}
    return launch(function, task, backend="torch", spark=spark, **(common | options))


def test_results_come_by_rank_and_the_collectives_are_right(
    spark: SparkSession, task: WorkerTask, capfd: pytest.CaptureFixture[str]
) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    first, second = _launch(workers.add_and_copy, task, spark, threads_per_worker=1)
    assert [(result["rank"], result["size"]) for result in (first, second)] == [(0, 2), (1, 2)]
    assert first["pid"] != second["pid"]
    expected = [[float(3 + 2 * turn)] * 4 for turn in range(3)] * 4
    assert first["sums"] == second["sums"] == expected
    assert first["copied"] == second["copied"] == [[7.0, 7.0], [7.0, 7.0]]
    assert (first["threads"], first["local_size"], first["split"]) == (1, 2, "test")
    assert capfd.readouterr().out == "", "something of the job reached stdout"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert_nothing_is_left(spark, _MARK)


@pytest.mark.parametrize(("interface", "address"), sorted({("lo", "127.0.0.1"), other_interface()}))
def test_the_ranks_meet_on_the_ports_and_talk_over_the_network_that_are_named(
    spark: SparkSession, task: WorkerTask, interface: str, address: str
) -> None:
    ports = free_range(1)
    first, second = _launch(workers.tell_network, task, spark, ports=ports, interface=interface)
    assert ports[0] in first["listens"]
    assert ports[0] not in second["listens"]
    assert first["talks"] == second["talks"] == [address]


@pytest.mark.parametrize("named", ["ports", "interface"])
def test_a_host_that_cannot_listen_as_asked_is_one_error_before_any_rank_runs(
    spark: SparkSession, task: WorkerTask, named: str
) -> None:
    first, last = ports = free_range(2)
    options: dict[str, Any] = {"ports": {"ports": ports}, "interface": {"interface": "ib7"}}[named]
    said = {"ports": f"cluster.port_range is free; got {first}-{last}, ", "interface": "got ib7, of "}[named]
    with (
        socket.create_server(("", first)),
        socket.create_server(("", last)),
        pytest.raises(ClusterError, match=re.escape(said)) as caught,
    ):
        _launch(workers.tell_network, task, spark, **options)
    assert socket.gethostname() in str(caught.value)
    assert " Fix: " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path(task.run_dir).exists(), "a rank was started"
    assert_nothing_is_left(spark, _MARK)


@pytest.mark.faults(scenario=1)
def test_a_raising_rank_is_named_with_its_host_and_error(spark: SparkSession, task: WorkerTask) -> None:
    with pytest.raises(WorkerFailedError) as caught:
        _launch(workers.raise_on_rank_one, task, spark)
    first, *more = str(caught.value).splitlines()
    for part in ("rank 1 of 2", socket.gethostname(), "ValueError", "boom in /data", "step 17", "1 other"):
        assert part in first
    assert any("raise_on_rank_one" in line for line in more), "the rank's own traceback is missing"
    assert not isinstance(caught.value, LostWorkerError)
    (attempt,) = (Path(task.run_dir) / "failures").iterdir()
    other = json.loads((attempt / "rank-00000.json").read_text())
    assert (other["type"], other["is_secondary"]) == ("PeerLostError", True)
    assert_nothing_is_left(spark, _MARK)


@pytest.mark.faults(scenario=1)
def test_a_failure_ends_ranks_that_are_not_in_a_collective(spark: SparkSession, task: WorkerTask) -> None:
    started = time.monotonic()
    with pytest.raises(
        WorkerFailedError, match=r"rank 0 of 2 on host .* failed at its start: ValueError: boom"
    ):
        _launch(workers.raise_while_other_sleeps, task, spark)
    assert time.monotonic() - started < 30
    assert_nothing_is_left(spark, _MARK)


@pytest.mark.faults(scenario=1)
def test_a_killed_rank_is_named_with_its_signal(spark: SparkSession, task: WorkerTask) -> None:
    with pytest.raises(LostWorkerError) as caught:
        _launch(workers.die_on_rank_one, task, spark)
    first = str(caught.value).splitlines()[0]
    for part in ("rank 1 of 2", socket.gethostname(), "SIGKILL", "memory"):
        assert part in first
    assert_nothing_is_left(spark, _MARK)


@pytest.mark.faults(scenario=2)
def test_a_task_that_goes_away_is_a_lost_rank_and_the_stage_does_not_run_again(
    spark: SparkSession, task: WorkerTask
) -> None:
    require_slots(spark, 2, 20)
    with pytest.raises(LostWorkerError, match=r"rank 1 of 2 on host .* failed: its executor was lost"):
        _launch(workers.kill_the_parent_on_rank_one, task, spark)
    assert_nothing_is_left(spark, _MARK)
    assert len(list(Path(task.run_dir).glob("started-*"))) == 2


def test_two_torch_ranks_give_the_curve_of_one_process_and_of_horovod(
    spark: SparkSession, tmp_path: Path
) -> None:
    dataset = str(tmp_path / "dataset")
    ingest.run(compose(["source=builtin:digits", f"dataset={dataset}"]), spark)
    common = (
        *(f"dataset={dataset}", "train.epochs=8", "train.global_batch_size=100", "optimizer.lr=0.05"),
        *(f"tracking.uri=sqlite:///{tmp_path}/mlflow.db", "augment.crop_padding=1", "optimizer=sgd"),
        *("model.dropout_features=0", "model.dropout_dense=0", "train.precision=fp32"),
        "loss.label_smoothing=0.05",
    )
    curves: dict[str, list[float]] = {}
    weights: dict[str, dict[str, torch.Tensor]] = {}
    for backend, num in (("local", 1), ("torch", 2), ("horovod", 2)):
        run_dir = tmp_path / backend
        words = (f"cluster.backend={backend}", f"cluster.workers={num}", f"run_dir={run_dir}")
        done = train.run(compose([*common, *words]), None if backend == "local" else spark)
        assert (done.backend, done.workers) == (backend, num)
        curves[backend] = [value for _, value in metric_history(read_events(str(run_dir)))["step/loss"]]
        weights[backend] = load_checkpoint(str(run_dir / "checkpoints" / "final"))[0].state_dict()
    assert len(curves["local"]) >= 100
    assert curves["local"][-1] < 0.5 * curves["local"][0], "nothing was learned"
    for backend in ("torch", "horovod"):
        assert curves[backend] == pytest.approx(curves["local"], rel=1e-5)
        for name, tensor in weights[backend].items():
            assert torch.allclose(tensor, weights["local"][name], rtol=1e-5, atol=1e-6), name
    words = (f"run_dir={tmp_path}/torch", "cluster.backend=torch", "cluster.workers=2", "split=val")
    found = evaluate.run(compose([*words, f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"]), spark)
    history = metric_history(read_events(str(tmp_path / "torch")))
    assert (found.loss, found.accuracy) == pytest.approx(
        tuple(history[name][-1][1] for name in ("val_loss", "val_accuracy")), rel=1e-6
    )
