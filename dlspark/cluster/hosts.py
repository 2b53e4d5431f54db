"""The hosts of a Spark application as they are now: one barrier job, in which every executor has a task.

A barrier, because the tasks connect to each other; and because it is what a launch needs: where it does not
start, no training would. It has a time limit, which a barrier of Spark's own does not have.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from dlspark import storage
from dlspark.cluster import connections, host_checks
from dlspark.cluster.connections import Ports
from dlspark.cluster.failures import last_python_line
from dlspark.cluster.meeting import open_meeting
from dlspark.cluster.preflight import Slots
from dlspark.cluster.versions import PACKAGES, driver_versions
from dlspark.errors import ClusterError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_log = logging.getLogger(__name__)

PROBE_PREFIX = ".dlspark-probe-"
"""With what the name of a folder begins that is in a run directory for some seconds only."""
_SECONDS_FOR_JOB_TO_END = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Unreachable:
    """A connection that one task tried to make to another, in vain."""

    to_task: int
    port: int
    source: str
    """The own address from which it was tried."""
    error: str


@dataclass(frozen=True, kw_only=True, slots=True)
class HostRecord:
    """What one task found out about the host it ran on."""

    task: int
    host: str
    address: str
    """That other ranks would connect to: of the interface that was named, or as Spark knows the executor."""
    cannot_listen: tuple[str, str] | None
    """Key of `connections.REFUSALS`, and its value with what is wrong with it there; None: it can."""
    versions: dict[str, str]
    """Of Python and of each package, `missing` where there is none."""
    has_horovod_torch: bool
    """Horovod's library for PyTorch is there."""
    clock_seconds: tuple[float, float] | None
    """Between which its clock is ahead of the driver's, as far apart as a message takes there and back; None
    where it does not connect to the driver."""
    temporary_folder: str
    temporary_free_bytes: int
    run_dir_free_bytes: int | None
    """None where the run directory is no local path."""
    shared_free_bytes: int | None
    """Of /dev/shm; None where there is none."""
    has_gpu: bool
    dataset_digest: str | None
    """SHA-256 of the manifest as it is read there."""
    dataset_error: str | None
    sees_driver_file: bool
    """The run directory is the one that the driver sees."""
    run_dir_error: str | None
    unreachable: tuple[Unreachable, ...]
    driver_error: str | None
    """Why it does not connect to the driver; then it tried no other host either."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DriverRecord:
    """The same of the driver, with which the hosts are compared."""

    host: str
    versions: dict[str, str]
    dataset: str | None
    """URL of the dataset's manifest; None: none was looked at."""
    dataset_digest: str | None
    run_dir: str | None
    """None: none was looked at."""
    run_dir_error: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """All that was found."""

    driver: DriverRecord
    hosts: tuple[HostRecord, ...]
    """One for each task, in their order."""
    seconds: float
    """That it took."""


def survey_hosts(
    spark: SparkSession,
    *,
    num_tasks: int,
    manifest: str | None,
    run_dir: str | None,
    timeout_seconds: float,
    ports: Ports | None = None,
    interface: str | None = None,
) -> Survey:
    """Look at the executors' hosts from tasks that run at one time.

    Args:
        spark: the session whose executors are looked at.
        num_tasks: that run at one time; so many slots must be free. See `num_survey_tasks`.
        manifest: URL of the manifest of the dataset that the driver has read; None: no dataset.
        run_dir: URL of the run directory, in which files are made for a moment; None: none.
        timeout_seconds: how long it may take.
        ports: of which driver and hosts listen on one; None: any.
        interface: over which the hosts connect to each other; None: that of the address Spark knows.

    Raises:
        ClusterError: the tasks do not start, do not end in time, or Python does not run in them; or no port
            of the range is free on the driver.
        OSError: the driver cannot read the manifest.
    """
    started = time.monotonic()
    digest = None if manifest is None else hashlib.sha256(storage.read_bytes(manifest)).hexdigest()
    driver_host = spark.sparkContext.getConf().get("spark.driver.host") or socket.gethostname()
    with (
        _probe(run_dir) as (probe, run_dir_error),
        open_meeting(driver_host, num_tasks, ports) as meeting,
    ):
        look = partial(
            host_checks.look_at_host,
            packages=PACKAGES,
            meeting=meeting,
            ports=ports,
            interface=interface,
            manifest=manifest,
            run_dir=run_dir,
            probe=probe,
        )
        answers = _collect(spark, look, num_tasks, timeout_seconds)
    driver = DriverRecord(
        host=socket.gethostname(),
        versions=driver_versions(),
        dataset=manifest,
        dataset_digest=digest,
        run_dir=run_dir,
        run_dir_error=run_dir_error,
    )
    hosts = tuple(_as_record(answer) for answer in sorted(answers, key=lambda a: a["task"]))
    return Survey(driver=driver, hosts=hosts, seconds=time.monotonic() - started)


def num_survey_tasks(spark: SparkSession, slots: Slots, num_workers: int) -> int:
    """Return how many tasks reach every executor: Spark deals tasks of one stage out one by one.

    Args:
        spark: the session.
        slots: of it, now.
        num_workers: that the run asks for; there are at least so many tasks if the slots are free.
    """
    # One of those that Spark lists is the driver.
    num_executors = len(spark.sparkContext._jsc.sc().statusTracker().getExecutorInfos()) - 1
    return min(slots.available - slots.in_use, max(num_workers, num_executors))


@contextlib.contextmanager
def scratch_folder(run_dir: str) -> Iterator[str]:
    """Give the URL of a folder in a run directory that is gone after the block, and what it made too."""
    was_there = storage.exists(run_dir)
    folder = storage.join(run_dir, f"{PROBE_PREFIX}{uuid.uuid4().hex[:12]}")
    try:
        yield folder
    finally:
        try:
            storage.remove_tree(folder)
            if not was_there and not storage.list_names(run_dir):
                storage.remove_tree(run_dir)
        except OSError as error:
            _log.debug("%s could not be removed: %s", folder, error)


@contextlib.contextmanager
def _probe(run_dir: str | None) -> Iterator[tuple[str | None, str | None]]:
    """Put the driver's file into a folder of the run directory; give its URL, or the error."""
    if run_dir is None:
        yield None, None
        return
    with scratch_folder(run_dir) as folder:
        error = None
        try:
            storage.write_bytes(storage.join(folder, host_checks.DRIVER_FILE), uuid.uuid4().bytes)
        except Exception as caught:  # noqa: BLE001 - each storage has its own; it becomes a finding
            error = f"{type(caught).__name__}: {(str(caught).splitlines() or [''])[0]}"
        yield (folder if error is None else None), error


def _as_record(answer: dict[str, Any]) -> HostRecord:
    unreachable = tuple(Unreachable(**failed) for failed in answer["unreachable"])
    return HostRecord(**{**answer, "unreachable": unreachable})


def _collect(spark: SparkSession, look: Any, num_tasks: int, timeout_seconds: float) -> list[dict[str, Any]]:
    from py4j.protocol import Py4JError  # type: ignore[import-untyped]
    from pyspark import InheritableThread
    from pyspark.errors import PySparkException

    context = spark.sparkContext
    group = f"dlspark.hosts.{uuid.uuid4().hex}"
    answers: list[dict[str, Any]] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            context.setJobGroup(group, f"a look at the hosts, from {num_tasks} tasks", interruptOnCancel=True)
            rows = context.parallelize(range(num_tasks), num_tasks)
            with _shipped_by_value():
                answers.extend(rows.barrier().mapPartitions(look).collect())
        except (Py4JError, PySparkException) as error:
            errors.append(error)

    thread = InheritableThread(target=work, name="dlspark-hosts", daemon=True)
    thread.start()
    try:
        thread.join(timeout_seconds)
        in_time = not thread.is_alive()
    finally:
        if thread.is_alive():
            context.cancelJobGroup(group)
            thread.join(_SECONDS_FOR_JOB_TO_END)
    if not in_time:
        raise ClusterError(
            f"the executors did not answer within {timeout_seconds:.0f} s",
            got=f"{num_tasks} tasks that are to run at one time",
            where=f"the Spark application on {context.master}",
            fix="check that nothing else takes the slots, and look into the logs of the executors",
        )
    if errors:
        raise ClusterError(
            "Python does not run on the executors as it does on the driver",
            got=last_python_line(str(errors[0])),
            where=f"the Spark application on {context.master}",
            fix="set PYSPARK_PYTHON to a Python of the same version on every executor",
        ) from errors[0]
    return answers


@contextlib.contextmanager
def _shipped_by_value() -> Iterator[None]:
    """Let Spark ship the code of these modules in place of their names."""
    from pyspark import cloudpickle

    shipped = (host_checks, connections)
    for module in shipped:
        cloudpickle.register_pickle_by_value(module)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for module in shipped:
            cloudpickle.unregister_pickle_by_value(module)  # type: ignore[no-untyped-call]
