"""The stage `doctor`: look at everything a run needs and say, for each thing that is wrong, what repairs it.

It goes on after a finding as far as it can, so that one call shows all of them. At the end the workers are
launched as for a training, to sum one tensor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dlspark import storage
from dlspark.cluster.all_reduce import NUM_BYTES, all_reduce_once
from dlspark.cluster.backends import choose_backend
from dlspark.cluster.hosts import scratch_folder
from dlspark.cluster.launch import launch
from dlspark.cluster.preflight import (
    count_slots,
    has_dynamic_allocation,
    require_horovod,
    require_java,
    require_slots,
)
from dlspark.cluster.session import spark_session
from dlspark.cluster.versions import MISSING, driver_versions
from dlspark.config import Config
from dlspark.contracts import WorkerTask
from dlspark.data.manifest import read_manifest
from dlspark.errors import DlsparkError
from dlspark.tracking.run import require_reachable
from pipelines.doctor_words import describe_hosts
from pipelines.preflight import look_at_hosts
from pipelines.stage import with_backend

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_COLOURS = {"ok": "green", "warning": "yellow", "error": "red", "skipped": "dim"}
_EXIT_ERRORS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: Literal["ok", "warning", "error", "skipped"]
    found: str
    fix: str | None = None
    """What repairs it; None where nothing has to be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorResult:
    """All that was looked at."""

    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> int:
        """0, or 2 if something stops a run."""
        return _EXIT_ERRORS if _has_errors(self.checks) else 0

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        errors = sum(check.state == "error" for check in self.checks)
        return {"errors": errors, "checks": [asdict(check) for check in self.checks]}


def run(config: Config, spark: SparkSession | None) -> DoctorResult:
    """Look at Java, packages, Horovod, Spark, its hosts and the tracking store; show a table on stderr.

    Args:
        config: cluster, data.reader and tracking are looked at; so is dataset if there is one, and run_dir,
            by default ./runs. Both are left as they were.
        spark: the session to look at; None finds or opens the one that `cluster.master` names.
    """
    horovod = _check_horovod(config)
    if horovod.state != "error":
        config = with_backend(config)
    checks = [_try("java", require_java), horovod]
    run_dir = storage.absolute(config.run_dir or "runs")
    with ExitStack() as stack:
        if spark is None:
            try:
                spark = stack.enter_context(spark_session(config.cluster.master, "dlspark doctor"))
            except DlsparkError as error:
                checks.append(_finding("spark", error))
        if spark is None:
            checks.extend(_check_packages())
        else:
            checks.extend(_check_spark(config, spark, run_dir))
        if _has_errors(checks):
            checks.append(Check(name="all-reduce", state="skipped", found="the errors come first"))
        else:
            checks.extend(_check_all_reduce(config, spark, run_dir))
    checks.append(_try("tracking", lambda: _reach(config.tracking.uri)))
    result = DoctorResult(checks=tuple(checks))
    _show(result)
    return result


def _has_errors(checks: list[Check] | tuple[Check, ...]) -> bool:
    return any(check.state == "error" for check in checks)


def _try(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name=name, state="ok", found=look())
    except DlsparkError as error:
        return _finding(name, error)


def _reach(tracking_uri: str) -> str:
    require_reachable(tracking_uri)
    # On whatever host the workers are: they write to the journal in the run directory.
    only_here = ", which nobody but the driver writes to" if tracking_uri.startswith("sqlite:") else ""
    return f"{tracking_uri}{only_here}"


def _finding(name: str, error: DlsparkError, state: Literal["warning", "error"] = "error") -> Check:
    found = error.what if error.got is None else f"{error.what}: {error.got}"
    return Check(name=name, state=state, found=found, fix=error.fix)


def _check_packages() -> Iterator[Check]:
    for name, version in driver_versions().items():
        yield _check_package(name, version)


def _check_package(name: str, version: str) -> Check:
    if version != MISSING or name == "horovod":
        return Check(name=name, state="ok", found=version)
    fix = "run `make setup`, or install the package dlspark with its dependencies"
    return Check(name=name, state="error", found="missing on the driver", fix=fix)


def _check_horovod(config: Config) -> Check:
    try:
        return Check(name="horovod build", state="ok", found=require_horovod())
    except DlsparkError as error:
        return _finding("horovod build", error, "error" if config.cluster.backend == "horovod" else "warning")


def _check_spark(config: Config, spark: SparkSession, run_dir: str) -> Iterator[Check]:
    context = spark.sparkContext
    yield Check(name="spark", state="ok", found=f"{context.version} on {context.master}")
    num_workers = 1 if config.cluster.backend == "local" else config.cluster.workers
    yield _try(
        f"slots for {num_workers}",
        lambda: str(require_slots(spark, num_workers, config.cluster.slots_timeout_seconds)),
    )
    dataset = None
    if config.dataset is not None:
        try:
            read_manifest(config.dataset)
            dataset = storage.absolute(config.dataset)
        except DlsparkError as error:
            yield _finding("dataset", error)
    slots = count_slots(spark)
    if slots.available - slots.in_use < 1 or has_dynamic_allocation(spark):
        yield Check(name="executors", state="skipped", found="no task can look from there: see the slots")
        yield from _check_packages()
        return
    try:
        survey, findings = look_at_hosts(config, spark, slots, dataset=dataset, run_dir=run_dir)
    except DlsparkError as error:
        yield _finding("executors", error)
        yield from _check_packages()
        return
    for name, found in describe_hosts(survey).items():
        wrong = [finding for finding in findings if finding.subject == name]
        for finding in wrong:
            yield _finding(name, finding.as_error(), finding.severity)
        if not wrong:
            is_missing = survey.driver.versions.get(name) == MISSING
            yield _check_package(name, MISSING if is_missing else found)


def _check_all_reduce(config: Config, spark: SparkSession | None, run_dir: str) -> Iterator[Check]:
    cluster, backend = config.cluster, choose_backend(config.cluster.backend)
    started = time.monotonic()
    with scratch_folder(run_dir) as folder:
        try:
            ranks = launch(
                all_reduce_once,
                WorkerTask(dataset="", fingerprint="", run_dir=folder, config={}),
                backend=backend,
                num_workers=cluster.workers,
                spark=spark,
                start_timeout_seconds=cluster.start_timeout_seconds,
                threads_per_worker=cluster.threads_per_worker,
                slots_timeout_seconds=cluster.slots_timeout_seconds,
                ports=cluster.ports,
                interface=cluster.network_interface,
            )
        except DlsparkError as error:
            yield _finding("all-reduce", error)
            return
    launch_seconds = time.monotonic() - started
    milliseconds = 1000 * max(rank.seconds for rank in ranks)
    devices = ", ".join(sorted({f"{rank.host} ({rank.device})" for rank in ranks}))
    yield Check(
        name="all-reduce",
        state="ok",
        found=f"{milliseconds:.1f} ms for {NUM_BYTES // 2**20} MiB over {backend}, {len(ranks)} ranks on "
        f"{devices}; launched and ended in {launch_seconds:.1f} s",
    )
    here = require_horovod() if backend == "horovod" else None
    for host, parts in sorted({(rank.host, rank.horovod) for rank in ranks}):
        if parts != here:
            yield Check(
                name="horovod build",
                state="warning",
                found=f"{parts} on {host}; {here} on the driver",
                fix=f"build Horovod on {host} with what it has on the driver: `make setup`",
            )


def _show(result: DoctorResult) -> None:
    console = Console(stderr=True)
    table = Table("check", "state", "found", box=None, pad_edge=False)
    for check in result.checks:
        table.add_row(escape(check.name), f"[{_COLOURS[check.state]}]{check.state}", escape(check.found))
    console.print(table)
    for check in result.checks:
        if check.fix is not None:
            console.print(
                f"{check.state}: {check.name}: {check.found}. Fix: {check.fix}.", soft_wrap=True, markup=False
            )
