"""The launch on real Spark executors: results by rank, and failures that name rank, host and cause."""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dlspark.cluster.launch import launch
from dlspark.cluster.preflight import count_slots, require_horovod, require_slots
from dlspark.cluster.session import spark_session
from dlspark.contracts import WorkerTask
from dlspark.errors import ClusterError, WorkerFailedError
from tests import workers
from tests.free_ports import free_range
from tests.rank_processes import assert_nothing_is_left

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [
    pytest.mark.spark,
    pytest.mark.horovod,
]


_MARK = "dlspark.cluster.rank_process"
"""In the command line of a rank."""


@pytest.fixture(scope="module")
def session(spark: SparkSession) -> SparkSession:
    """The tests' session, with the functions of the ranks shipped to its executors."""
    spark.sparkContext.addPyFile(workers.__file__)
    return spark


@pytest.fixture
def task(tmp_path: Path) -> WorkerTask:
    return WorkerTask(dataset="/data", fingerprint="0", run_dir=str(tmp_path / "run"), config={})


def _launch(name: str, task: WorkerTask, session: SparkSession, **options: Any) -> list[Any]:
    import importlib

    # By the name that the shipped file has on the executors.
    shipped = importlib.import_module("workers")
    common: dict[str, Any] = {"num_workers": 2, "start_timeout_seconds": 120, "threads_per_worker": None}
    return launch(getattr(shipped, name), task, backend="horovod", spark=session, **(common | options))


def test_results_come_by_rank_and_the_collectives_are_right(
    session: SparkSession, task: WorkerTask, capfd: pytest.CaptureFixture[str]
) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    first, second = _launch("add_and_copy", task, session, threads_per_worker=1)
    assert [(result["rank"], result["size"]) for result in (first, second)] == [(0, 2), (1, 2)]
    assert first["pid"] != second["pid"]
    expected = [[float(3 + 2 * turn)] * 4 for turn in range(3)] * 4
    assert first["sums"] == second["sums"] == expected
    assert first["copied"] == second["copied"] == [[7.0, 7.0], [7.0, 7.0]]
    assert (first["threads"], first["local_size"], first["split"]) == (1, 2, "test")
    assert capfd.readouterr().out == "", "something of the job reached stdout"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert_nothing_is_left(session, _MARK)


def test_the_ranks_meet_on_the_ports_and_talk_over_the_network_that_are_named(
    session: SparkSession, task: WorkerTask
) -> None:
    ports = free_range(1)
    first, second = _launch("tell_network", task, session, ports=ports, interface="lo")
    assert ports[0] in first["listens"]
    assert ports[0] not in second["listens"]
    # Left alone, Gloo takes the interface that the name of the host leads to.
    assert first["talks"] == second["talks"] == ["127.0.0.1"]


@pytest.mark.parametrize("named", ["ports", "interface"])
def test_a_host_that_cannot_listen_as_asked_is_one_error_before_any_rank_runs(
    session: SparkSession, task: WorkerTask, named: str
) -> None:
    first, last = ports = free_range(2)
    options: dict[str, Any] = {"ports": {"ports": ports}, "interface": {"interface": "ib7"}}[named]
    said = {"ports": f"cluster.port_range is free; got {first}-{last}, ", "interface": "got ib7, of "}[named]
    with (
        socket.create_server(("", first)),
        socket.create_server(("", last)),
        pytest.raises(ClusterError, match=re.escape(said)) as caught,
    ):
        _launch("tell_network", task, session, **options)
    assert socket.gethostname() in str(caught.value)
    assert " Fix: " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path(task.run_dir).exists(), "a rank was started"
    assert_nothing_is_left(session, _MARK)


@pytest.mark.faults(scenario=1)
def test_a_raising_rank_is_named_with_its_host_and_error(session: SparkSession, task: WorkerTask) -> None:
    with pytest.raises(WorkerFailedError) as caught:
        _launch("raise_on_rank_one", task, session)
    first, *more = str(caught.value).splitlines()
    for part in (
        "rank 1 of 2",
        socket.gethostname(),
        "ValueError",
        "boom in /data",
        "step 17",
        "1 other rank",
    ):
        assert part in first
    assert any(line.strip() == "ValueError: boom in /data" for line in more), (
        "the rank's own traceback is missing"
    )
    assert any("raise_on_rank_one" in line for line in more)
    (attempt,) = (Path(task.run_dir) / "failures").iterdir()
    assert json.loads((attempt / "rank-00001.json").read_text())["type"] == "ValueError"
    assert json.loads((attempt / "rank-00000.json").read_text())["is_secondary"] is True
    assert_nothing_is_left(session, _MARK)


@pytest.mark.faults(scenario=1)
def test_a_failure_ends_ranks_that_are_not_in_a_collective(session: SparkSession, task: WorkerTask) -> None:
    started = time.monotonic()
    with pytest.raises(
        WorkerFailedError, match=r"rank 0 of 2 on host .* failed at its start: ValueError: boom"
    ):
        _launch("raise_while_other_sleeps", task, session)
    assert time.monotonic() - started < 120
    assert_nothing_is_left(session, _MARK)


@pytest.mark.faults(scenario=1)
def test_a_killed_rank_is_named_with_its_signal(session: SparkSession, task: WorkerTask) -> None:
    with pytest.raises(WorkerFailedError) as caught:
        _launch("die_on_rank_one", task, session)
    first = str(caught.value).splitlines()[0]
    for part in ("rank 1 of 2", socket.gethostname(), "SIGKILL", "memory"):
        assert part in first
    assert_nothing_is_left(session, _MARK)


def _wait_until_idle(session: SparkSession) -> None:
    """Return once Spark has noticed that the tasks of a cancelled job are gone."""
    deadline = time.monotonic() + 30
    while count_slots(session).in_use:
        assert time.monotonic() < deadline, "tasks of an earlier job still run"
        time.sleep(0.1)


@pytest.mark.faults(scenario=8)
def test_too_few_slots_are_an_error_with_the_numbers_in_time(session: SparkSession, task: WorkerTask) -> None:
    _wait_until_idle(session)
    started = time.monotonic()
    with pytest.raises(ClusterError) as caught:
        _launch("add_and_copy", task, session, num_workers=3, slots_timeout_seconds=2)
    assert time.monotonic() - started < 30
    for part in ("3 requested, 2 available, 0 in use", "cluster.workers=2", "cluster.master=local[3]"):
        assert part in str(caught.value)


@pytest.mark.faults(scenario=8)
def test_slots_that_run_a_task_are_not_free(session: SparkSession) -> None:
    context = session.sparkContext
    context.setJobGroup("sleepers", "two tasks that sleep", interruptOnCancel=True)
    job = context._jsc.sc().statusTracker()
    import threading

    def sleep() -> None:
        from py4j.protocol import Py4JJavaError

        try:
            context.range(0, 1, numSlices=1).foreach(lambda _: time.sleep(60))
        except Py4JJavaError as error:
            logging.getLogger(__name__).debug("cancelled: %s", error)

    thread = threading.Thread(target=sleep)
    thread.start()
    try:
        while not any(executor.numRunningTasks() for executor in job.getExecutorInfos()):
            time.sleep(0.05)
        assert (count_slots(session).available, count_slots(session).in_use) == (2, 1)
        with pytest.raises(ClusterError, match="2 requested, 2 available, 1 in use"):
            require_slots(session, 2, timeout_seconds=0.5)
        assert require_slots(session, 1, timeout_seconds=0.5).in_use == 1
    finally:
        context.cancelAllJobs()
        thread.join()


def test_horovod_tells_what_it_was_built_with() -> None:
    assert require_horovod().startswith("PyTorch, Gloo")


def test_a_session_that_is_there_is_used_and_not_stopped(session: SparkSession) -> None:
    for master in ("local[7]", "existing"):
        with spark_session(master, "another") as found:
            assert found.sparkContext.applicationId == session.sparkContext.applicationId
    assert session.range(3).count() == 3
