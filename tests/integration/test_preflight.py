"""Before a launch every executor is looked at, in one job, and all that is wrong is one error."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import stat
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from dlspark import storage
from dlspark.cluster.finding import Finding
from dlspark.cluster.hosts import PROBE_PREFIX, Survey, survey_hosts
from dlspark.cluster.preflight import count_slots, require_slots
from dlspark.cluster.versions import driver_versions
from dlspark.config import Config
from dlspark.config.compose import compose
from dlspark.data.manifest import MANIFEST_NAME
from dlspark.errors import ClusterError
from pipelines import ingest, train
from pipelines.preflight import look_at_hosts, require_workers
from pipelines.run_directory import find_run
from tests.free_ports import free_range, other_interface

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [
    pytest.mark.spark,
    pytest.mark.faults(scenario=8),
]

_REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def dataset(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digits, published."""
    url = str(tmp_path_factory.mktemp("digits") / "dataset")
    ingest.run(compose(["source=builtin:digits", f"dataset={url}"]), spark)
    return url


def _survey(spark: SparkSession, dataset: str, run_dir: Path, *, timeout_seconds: float = 30) -> Survey:
    require_slots(spark, 2, 20)
    manifest = storage.join(dataset, MANIFEST_NAME)
    return survey_hosts(
        spark, num_tasks=2, manifest=manifest, run_dir=str(run_dir), timeout_seconds=timeout_seconds
    )


def test_one_job_tells_all_of_each_host(spark: SparkSession, dataset: str, tmp_path: Path) -> None:
    survey = _survey(spark, dataset, tmp_path / "run")
    assert [host.task for host in survey.hosts] == [0, 1]
    for host in survey.hosts:
        assert host.versions == driver_versions()
        assert host.has_horovod_torch
        assert host.dataset_digest == hashlib.sha256(Path(dataset, MANIFEST_NAME).read_bytes()).hexdigest()
        assert (host.dataset_error, host.run_dir_error, host.sees_driver_file) == (None, None, True)
        assert (host.unreachable, host.driver_error) == ((), None)
        low, high = host.clock_seconds or (1, 1)
        assert -survey.seconds < low <= 0 <= high < survey.seconds, "it is the clock of the driver itself"
        assert host.temporary_free_bytes > 0
    assert not (tmp_path / "run").exists(), "looking made a run directory"


def test_hosts_try_each_other_on_the_ports_and_the_network_that_are_named(
    spark: SparkSession, tmp_path: Path
) -> None:
    ports = free_range(2)
    interface, address = other_interface()
    config = compose(
        [
            *("cluster.backend=torch", f"cluster.port_range={ports[0]}-{ports[1]}"),
            f"cluster.network_interface={interface}",
        ]
    )

    def look(config: Config) -> tuple[Survey, list[Finding]]:
        slots = require_slots(spark, 2, 20)
        survey, findings = look_at_hosts(config, spark, slots, dataset=None, run_dir=str(tmp_path / "run"))
        return survey, [finding for finding in findings if finding.severity == "error"]

    survey, errors = look(config)
    assert errors == []
    assert {host.address for host in survey.hosts} == {address}
    # The driver listens on the other one, so that none is left for the task on its host.
    with socket.create_server(("", ports[1])):
        _, (error,) = look(config)
    told = str(error.as_error())
    assert told.startswith("no port of cluster.port_range is free; got ")
    for part in (f"{ports[0]}-{ports[1]}", socket.gethostname(), "Fix: name a larger or another range"):
        assert part in told
    nowhere = config.cluster.model_copy(update={"network_interface": "ib7"})
    _, (error,) = look(config.model_copy(update={"cluster": nowhere}))
    assert f"ib7, of {', '.join(psutil.net_if_addrs())} on {socket.gethostname()}" in error.got


def test_a_look_takes_little_more_than_a_job_that_does_nothing(
    spark: SparkSession, dataset: str, tmp_path: Path
) -> None:
    looks, jobs = [], []
    for _ in range(4):
        looks.append(_survey(spark, dataset, tmp_path / "run").seconds)
        started = time.monotonic()
        spark.sparkContext.parallelize(range(2), 2).barrier().mapPartitions(list).collect()
        jobs.append(time.monotonic() - started)
    assert min(looks) < min(jobs) + 0.5, (looks, jobs)


def test_a_run_that_is_there_is_left_as_it_was(spark: SparkSession, dataset: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    _survey(spark, dataset, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_what_a_killed_preflight_leaves_is_no_run(tmp_path: Path) -> None:
    (tmp_path / f"{PROBE_PREFIX}0").mkdir()
    assert find_run(str(tmp_path), overwrite=False, resume="never") is None


def _copy_to_memory(dataset: str, url: str) -> None:
    for path in Path(dataset).rglob("*"):
        if path.is_file():
            storage.write_bytes(storage.join(url, str(path.relative_to(dataset))), path.read_bytes())


@pytest.mark.faults(scenario=6)
def test_storage_of_the_driver_alone_stops_a_training_with_all_reasons_before_anything_is_written(
    spark: SparkSession, dataset: str, tmp_path: Path
) -> None:
    # Each process has a memory of its own, as each host has a disk of its own.
    _copy_to_memory(dataset, "memory://preflight/dataset")
    words = ["dataset=memory://preflight/dataset", "run_dir=memory://preflight/run"]
    config = compose([*words, "cluster.backend=torch", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"])
    try:
        with pytest.raises(ClusterError, match="for 2 reasons") as caught:
            train.run(config, spark)
        assert not storage.exists("memory://preflight/run")
    finally:
        storage.remove_tree("memory://preflight")
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "executors cannot read the dataset" in lines[1]
    assert "FileNotFoundError" in lines[1]
    assert "a disk of their own" in lines[2]
    assert all(" Fix: " in line for line in lines[1:])
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.faults(scenario=6)
def test_a_run_directory_that_cannot_be_written_is_one_error(
    spark: SparkSession, dataset: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    config = compose([f"dataset={dataset}", "cluster.backend=torch"])
    with pytest.raises(ClusterError, match="cannot write into the run directory") as caught:
        require_workers(config, spark, dataset=dataset, run_dir=f"{tmp_path}/file/run")
    assert "NotADirectoryError" in str(caught.value)


@contextmanager
def _one_slot_taken(spark: SparkSession) -> Iterator[None]:
    context = spark.sparkContext

    def sleep() -> None:
        from py4j.protocol import Py4JJavaError

        context.setJobGroup("sleeper", "a task that sleeps", interruptOnCancel=True)
        try:
            context.range(0, 1, numSlices=1).foreach(lambda _: time.sleep(60))
        except Py4JJavaError as error:
            logging.getLogger(__name__).debug("cancelled: %s", error)

    thread = threading.Thread(target=sleep)
    thread.start()
    try:
        while count_slots(spark).in_use == 0:
            time.sleep(0.05)
        yield
    finally:
        context.cancelJobGroup("sleeper")
        thread.join()


def test_tasks_that_do_not_start_are_an_error_in_time(
    spark: SparkSession, dataset: str, tmp_path: Path
) -> None:
    require_slots(spark, 2, 20)
    with _one_slot_taken(spark):
        started = time.monotonic()
        with pytest.raises(ClusterError, match="did not answer within 1 s"):
            survey_hosts(spark, num_tasks=2, manifest=None, run_dir=str(tmp_path / "run"), timeout_seconds=1)
        assert time.monotonic() - started < 10
    assert not (tmp_path / "run").exists()
    assert _survey(spark, dataset, tmp_path / "run").hosts, "the job that was given up still holds its slots"


_WITHOUT_DLSPARK = """
import sys
from pyspark.sql import SparkSession
from dlspark.cluster.finding import require_sound
from dlspark.cluster.findings import judge
from dlspark.cluster.hosts import survey_hosts
from dlspark.cluster.versions import packages_in_use
from dlspark.errors import ClusterError

builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
session = builder.config("spark.driver.host", "127.0.0.1").getOrCreate()
survey = survey_hosts(session, num_tasks=1, manifest=None, run_dir=sys.argv[1], timeout_seconds=30)
try:
    require_sound(judge(survey, packages=packages_in_use(backend="torch", reader="arrow")))
except ClusterError as error:
    print(error)
session.stop()
"""


def test_executors_without_dlspark_are_told_so(tmp_path: Path) -> None:
    python = tmp_path / "python"
    # An own path entry runs no .pth file, so that no editable installation of dlspark is in sight.
    site = sysconfig.get_paths()["purelib"]
    python.write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{site}" exec {sys.executable} -S -P "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    script = f"import sys; sys.path.insert(0, {str(_REPOSITORY)!r})\n{_WITHOUT_DLSPARK}"
    finished = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run")],
        env=environment
        | {
            "PYSPARK_PYTHON": str(python),
            "PYSPARK_DRIVER_PYTHON": sys.executable,
            "SPARK_LOCAL_IP": "127.0.0.1",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith(
        "dlspark is another one on executors than on the driver; got missing on "
    )
    assert "install dlspark" in finished.stdout


_WITH_GPUS = """
from dlspark.cluster.preflight import require_slots
from dlspark.cluster.session import open_own_session
from dlspark.errors import ClusterError

with open_own_session("local-cluster[1,2,1024]", "gpus") as session:
    print(require_slots(session, 1, 20))
    try:
        require_slots(session, 2, 0.5)
    except ClusterError as error:
        print(error)
"""


def _run_configured(script: str, folder: Path, settings: dict[str, object], *words: str) -> list[str]:
    """Return the lines that a script prints whose Spark is configured as a cluster's administrator would."""
    lines = [f"spark.{name} {value}\n" for name, value in settings.items()]
    (folder / "spark-defaults.conf").write_text("".join(lines))
    finished = subprocess.run(
        [sys.executable, "-c", script, *words],
        env=os.environ | {"SPARK_CONF_DIR": str(folder)},
        cwd=_REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip().splitlines()


def test_slots_of_gpus_are_counted_beside_those_of_cores(tmp_path: Path) -> None:
    discover = tmp_path / "discover"
    discover.write_text('#!/bin/sh\necho \'{"name": "gpu", "addresses": ["0"]}\'\n')
    discover.chmod(discover.stat().st_mode | stat.S_IXUSR)
    amounts = dict.fromkeys((f"{who}.resource.gpu.amount" for who in ("worker", "executor", "task")), 1)
    settings = {"worker.resource.gpu.discoveryScript": discover, **amounts}
    found, refused = _run_configured(_WITH_GPUS, tmp_path, settings)
    assert found == "1 available, 0 in use; GPUs: 1 available, 0 in use"
    assert "2 requested, 1 available, 0 in use; GPUs: 2 requested, 1 available, 0 in use" in refused
    assert "spark.executor.resource.gpu.amount" in refused


_WITH_DYNAMIC_ALLOCATION = """
import sys
from dlspark.cluster.session import open_own_session
from dlspark.config.compose import compose
from pipelines import doctor

with open_own_session("local[1]", "dynamic") as session:
    for check in doctor.run(compose(sys.argv[1:]), session).checks:
        print(check.name, check.state, check.fix)
"""


def test_dynamic_allocation_is_a_finding_with_the_line_that_turns_it_off(tmp_path: Path) -> None:
    lines = _run_configured(
        _WITH_DYNAMIC_ALLOCATION,
        tmp_path,
        {"dynamicAllocation.enabled": "true"},
        *("cluster.backend=torch", "cluster.workers=1", f"run_dir={tmp_path}/run"),
    )
    (slots,) = (line for line in lines if line.startswith("slots for 1 error "))
    assert "--conf spark.dynamicAllocation.enabled=false --conf spark.executor.instances=1" in slots
    assert {"executors skipped None", "all-reduce skipped None"} <= set(lines)
