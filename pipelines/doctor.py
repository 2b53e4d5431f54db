"""The stage `doctor`: look at everything a run needs and say, for each thing that is wrong, what repairs it.

It goes on after a finding as far as it can, so that one call shows all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.table import Table

from dlspark.cluster.preflight import count_slots, require_horovod, require_java, require_slots
from dlspark.cluster.session import spark_session
from dlspark.cluster.versions import MISSING, driver_versions, executor_versions
from dlspark.config import Config
from dlspark.errors import DlsparkError
from dlspark.tracking.run import require_reachable

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_log = logging.getLogger(__name__)
_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}
_EXIT_ERRORS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: Literal["ok", "warning", "error"]
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
        return _EXIT_ERRORS if any(check.state == "error" for check in self.checks) else 0

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        errors = sum(check.state == "error" for check in self.checks)
        return {"errors": errors, "checks": [asdict(check) for check in self.checks]}


def run(config: Config, spark: SparkSession | None) -> DoctorResult:
    """Look at Java, packages, Horovod, Spark, its executors and the tracking store; show a table on stderr.

    Args:
        config: cluster and tracking are looked at.
        spark: the session to look at; None finds or opens the one that `cluster.master` names.
    """
    checks = [_try("java", require_java), *_check_packages(), _check_horovod(config)]
    with ExitStack() as stack:
        if spark is None:
            try:
                spark = stack.enter_context(spark_session(config.cluster.master, "dlspark doctor"))
            except DlsparkError as error:
                checks.append(_finding("spark", error))
        if spark is not None:
            checks.extend(_check_spark(config, spark))
    checks.append(_try("tracking", lambda: _reach(config.tracking.uri)))
    result = DoctorResult(checks=tuple(checks))
    _show(result)
    return result


def _try(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name=name, state="ok", found=look())
    except DlsparkError as error:
        return _finding(name, error)


def _reach(tracking_uri: str) -> str:
    require_reachable(tracking_uri)
    return tracking_uri


def _finding(name: str, error: DlsparkError, state: Literal["warning", "error"] = "error") -> Check:
    found = error.what if error.got is None else f"{error.what}: {error.got}"
    return Check(name=name, state=state, found=found, fix=error.fix)


def _check_packages() -> Iterator[Check]:
    for name, version in driver_versions().items():
        if version != MISSING or name == "horovod":
            yield Check(name=name, state="ok", found=version)
        else:
            fix = "run `make setup`, or install the package dlspark with its dependencies"
            yield Check(name=name, state="error", found="missing on the driver", fix=fix)


def _check_horovod(config: Config) -> Check:
    try:
        return Check(name="horovod build", state="ok", found=require_horovod())
    except DlsparkError as error:
        return _finding("horovod build", error, "error" if config.cluster.backend == "horovod" else "warning")


def _check_spark(config: Config, spark: SparkSession) -> Iterator[Check]:
    context = spark.sparkContext
    yield Check(name="spark", state="ok", found=f"{context.version} on {context.master}")
    num_workers = 1 if config.cluster.backend == "local" else config.cluster.workers
    slots = _try(
        f"slots for {num_workers}",
        lambda: str(require_slots(spark, num_workers, config.cluster.slots_timeout_seconds)),
    )
    yield slots
    num_slots = count_slots(spark).available
    if num_slots > 0:
        yield from _check_executors(spark, num_slots)


def _check_executors(spark: SparkSession, num_slots: int) -> Iterator[Check]:
    from py4j.protocol import Py4JError  # type: ignore[import-untyped]
    from pyspark.errors import PySparkException

    try:
        found = executor_versions(spark, num_slots)
    except (Py4JError, PySparkException) as error:
        reason = next(
            (line for line in str(error).splitlines() if "Error" in line or "Exception" in line), "?"
        )
        fix = "set PYSPARK_PYTHON to a Python of the same version on every executor"
        yield Check(
            name="executors", state="error", found=f"Python does not run there: {reason.strip()}", fix=fix
        )
        return
    here = driver_versions()
    yield Check(name="executors", state="ok", found=f"{num_slots} tasks on {', '.join(sorted(found))}")
    for host, versions in sorted(found.items()):
        for name, version in versions.items():
            # Workers never speak to MLflow.
            if version != here[name] and name != "mlflow":
                yield Check(
                    name=f"{name} on {host}",
                    state="error",
                    found=f"{version}, driver {here[name]}",
                    fix=f"install {name} {here[name]} for the Python of the executors on {host}",
                )


def _show(result: DoctorResult) -> None:
    console = Console(stderr=True)
    table = Table("check", "state", "found", box=None, pad_edge=False)
    for check in result.checks:
        table.add_row(check.name, f"[{_COLOURS[check.state]}]{check.state}", check.found)
    console.print(table)
    for check in result.checks:
        if check.fix is not None:
            console.print(
                f"{check.state}: {check.name}: {check.found}. Fix: {check.fix}.", soft_wrap=True, markup=False
            )
