"""The preflight of a stage that launches workers: what would stop them is said before anything is written.

Slots first, since without them there is nothing to look from; then one job looks at every executor's host.
All that is wrong there comes as one error. It takes 30 s at most, and about one on a warm session.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from dlspark import storage
from dlspark.cluster.backends import choose_backend
from dlspark.cluster.finding import Finding, require_sound
from dlspark.cluster.findings import judge
from dlspark.cluster.hosts import Survey, num_survey_tasks, survey_hosts
from dlspark.cluster.preflight import Slots, require_slots
from dlspark.cluster.versions import packages_in_use
from dlspark.config import Config
from dlspark.data.manifest import MANIFEST_NAME
from dlspark.errors import ClusterError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_log = logging.getLogger(__name__)
_LONGEST_SECONDS = 30.0
_LEAST_SURVEY_SECONDS = 10.0


def require_workers(config: Config, spark: SparkSession | None, *, dataset: str, run_dir: str) -> None:
    """Return if the workers that `config.cluster` asks for can start and do their work; log what is doubtful.

    Args:
        config: cluster and data.reader are looked at.
        spark: the session whose executors are to run the workers; None for cluster.backend=local.
        dataset: URL of a published dataset, which every executor must read.
        run_dir: URL of the run directory, which every executor must write into; left as it was.

    Raises:
        ClusterError: Horovod, the Spark session or task slots are missing, or a host is not fit: one error
            with all that is wrong.
    """
    backend = choose_backend(config.cluster.backend)
    if backend == "local":
        return
    if spark is None:
        raise ClusterError(
            f"cluster.backend={backend} needs a Spark session and there is none",
            fix="pass the session, or train in one process with cluster.backend=local",
        )
    started = time.monotonic()
    slots = require_slots(spark, config.cluster.workers, config.cluster.slots_timeout_seconds)
    waited_seconds = time.monotonic() - started
    survey, findings = look_at_hosts(
        config, spark, slots, dataset=dataset, run_dir=run_dir, waited_seconds=waited_seconds
    )
    for finding in findings:
        if finding.severity == "warning":
            _log.warning("%s", finding.as_error())
    require_sound(findings)
    names = sorted({host.host for host in survey.hosts})
    _log.debug("%d tasks on %s were looked at in %.2f s", len(survey.hosts), names, survey.seconds)


def look_at_hosts(
    config: Config,
    spark: SparkSession,
    slots: Slots,
    *,
    dataset: str | None,
    run_dir: str,
    waited_seconds: float = 0.0,
) -> tuple[Survey, tuple[Finding, ...]]:
    """Return what is on the executors' hosts, and what is wrong with it.

    Args:
        config: cluster, whose backend is decided, and data.reader are looked at.
        spark: the session.
        slots: of it, now; at least one is free.
        dataset: URL of a published dataset; None: there is none to read.
        run_dir: URL of the run directory.
        waited_seconds: that the preflight took before, of its 30.

    Raises:
        ClusterError: the tasks that look do not start or end, or Python does not run in them.
    """
    survey = survey_hosts(
        spark,
        num_tasks=num_survey_tasks(spark, slots, config.cluster.workers),
        manifest=None if dataset is None else storage.join(dataset, MANIFEST_NAME),
        run_dir=run_dir,
        timeout_seconds=max(_LEAST_SURVEY_SECONDS, _LONGEST_SECONDS - waited_seconds),
        ports=config.cluster.ports,
        interface=config.cluster.network_interface,
    )
    packages = packages_in_use(backend=config.cluster.backend, reader=config.data.reader)
    return survey, judge(survey, packages=packages)
