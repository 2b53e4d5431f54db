"""What must be true before ranks are launched, checked in seconds: Java, Horovod, and free task slots.

Spark and Horovod answer each of these with a wait of minutes or a long Java trace. Slots are Spark's own
figure (`maxNumConcurrentTasks` of the default resource profile, which knows cores and CPUs per task).
"""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dlspark.errors import ClusterError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_log = logging.getLogger(__name__)
_SECONDS_BETWEEN_LOOKS = 0.25
_SECONDS_BETWEEN_LINES = 5.0
_LONGEST_WAIT_SECONDS = 25.0
_OLDEST_JAVA = 17
_JAVA_FIX = "install Java 17 (Debian: apt-get install openjdk-17-jre-headless), or set JAVA_HOME to one"
_HOROVOD_FIX = "run `make setup`, which builds it for this torch, or set cluster.backend=torch"


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpus:
    """GPUs that Spark assigns to the tasks of an application."""

    available: int
    """Those of all executors."""
    in_use: int
    """Those of the tasks that run now."""
    per_task: float
    """Above 0; below 1, tasks share a GPU."""

    def __str__(self) -> str:
        return f"{self.available} available, {self.in_use} in use"


@dataclass(frozen=True, kw_only=True, slots=True)
class Slots:
    """Task slots of a Spark application: how many tasks can run at one time."""

    available: int
    """All that there are now; where tasks take GPUs, no more than there are GPUs for."""
    in_use: int
    """Those that run a task now."""
    gpus: Gpus | None = None
    """None where Spark is not configured to assign GPUs."""

    def __str__(self) -> str:
        gpus = "" if self.gpus is None else f"; GPUs: {self.gpus}"
        return f"{self.available} available, {self.in_use} in use{gpus}"


def require_java() -> str:
    """Return the version of the Java that Spark will start.

    Raises:
        ClusterError: there is none, or it is older than Spark 4 needs.
    """
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else shutil.which("java")
    where = f"JAVA_HOME={home}" if home else "the PATH"
    if java is None or not Path(java).exists():
        raise ClusterError("Spark needs Java and there is none", where=where, fix=_JAVA_FIX)
    answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False)
    match = re.search(r'version "([^"]+)"', answer.stderr + answer.stdout)
    version = match.group(1) if match else "unknown"
    major = int(version.split(".")[0]) if version.split(".")[0].isdigit() else 0
    if major < _OLDEST_JAVA:
        raise ClusterError(
            "this Java does not run Spark 4", got=version, allowed="17 or 21", where=where, fix=_JAVA_FIX
        )
    return version


def require_horovod() -> str:
    """Return what Horovod was built with; dlspark uses PyTorch, and Gloo for the ranks to talk.

    Raises:
        ClusterError: Horovod is missing, was built without PyTorch or Gloo, or for another torch.
    """
    try:
        spec = find_spec("horovod")
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise ClusterError("cluster.backend=horovod needs Horovod, which is not installed", fix=_HOROVOD_FIX)
    if not list(Path(spec.origin).parent.glob("torch/mpi_lib_v2*")):
        raise ClusterError("Horovod was built without PyTorch", where=spec.origin, fix=_HOROVOD_FIX)
    try:
        import horovod.torch as hvd
    except (ImportError, OSError) as error:
        raise ClusterError(
            "Horovod cannot be loaded: it was built for another torch", got=error, fix=_HOROVOD_FIX
        ) from error
    parts = {"Gloo": hvd.gloo_built(), "MPI": hvd.mpi_built(), "NCCL": hvd.nccl_built()}
    if not parts["Gloo"]:
        raise ClusterError("Horovod was built without Gloo", where=spec.origin, fix=_HOROVOD_FIX)
    return ", ".join(["PyTorch", *(name for name, is_built in parts.items() if is_built)])


def count_slots(spark: SparkSession) -> Slots:
    """Return the task slots of the application now."""
    context = spark.sparkContext._jsc.sc()
    profile = context.resourceProfileManager().defaultResourceProfile()
    executors = context.statusTracker().getExecutorInfos()
    in_use = int(sum(executor.numRunningTasks() for executor in executors))
    available = int(context.maxNumConcurrentTasks(profile))
    return Slots(available=available, in_use=in_use, gpus=_count_gpus(spark, in_use))


def _count_gpus(spark: SparkSession, num_tasks: int) -> Gpus | None:
    conf = spark.sparkContext.getConf()
    per_executor = conf.get("spark.executor.resource.gpu.amount")
    per_task = float(conf.get("spark.task.resource.gpu.amount") or 0)
    if not per_executor or not per_task:
        return None
    # Of the scheduler, as the slots are: the status tracker hears of a new executor some time after it.
    num_executors = spark.sparkContext._jsc.sc().getExecutorIds().size()
    return Gpus(
        available=int(num_executors) * int(per_executor),
        in_use=math.ceil(num_tasks * per_task),
        per_task=per_task,
    )


def require_slots(spark: SparkSession, num_workers: int, timeout_seconds: float) -> Slots:
    """Wait until so many task slots are free; executors register some time after a session is made.

    Args:
        spark: the session whose executors are to run the workers.
        num_workers: processes that must run at one time, each in one task.
        timeout_seconds: how long to wait at most; more than 25 s counts as 25 s.

    Raises:
        ClusterError: too few slots in that time, or dynamic allocation, under which executors come and go.
    """
    if has_dynamic_allocation(spark):
        raise _dynamic_allocation(num_workers)
    waited_from = next_line = time.monotonic()
    deadline = waited_from + min(timeout_seconds, _LONGEST_WAIT_SECONDS)
    while (slots := count_slots(spark)).available - slots.in_use < num_workers:
        now = time.monotonic()
        if now >= deadline:
            raise _too_few(spark, slots, num_workers, now - waited_from)
        if now >= next_line:
            _log.info("waiting for %d free slots, now: %s", num_workers, slots)
            next_line = now + _SECONDS_BETWEEN_LINES
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    return slots


def has_dynamic_allocation(spark: SparkSession) -> bool:
    """Tell whether Spark may take executors away, and therefore starts no barrier stage."""
    return bool(spark.sparkContext.getConf().get("spark.dynamicAllocation.enabled", "false") == "true")


def _dynamic_allocation(num_workers: int) -> ClusterError:
    return ClusterError(
        "a training needs its executors to stay, and Spark may take them away",
        got="spark.dynamicAllocation.enabled=true",
        allowed="false",
        where="the Spark configuration",
        fix="submit with --conf spark.dynamicAllocation.enabled=false "
        f"--conf spark.executor.instances={num_workers}",
    )


def _too_few(spark: SparkSession, slots: Slots, num_workers: int, waited_seconds: float) -> ClusterError:
    master = str(spark.sparkContext.master)
    free = slots.available - slots.in_use
    more = "give the application more cores (spark-submit --num-executors and --executor-cores)"
    if master.startswith("local-cluster"):
        more = f"cluster.master=local-cluster[{num_workers},1,2048]"
    elif master.startswith("local"):
        more = f"cluster.master=local[{num_workers}]"
    fewer = f"cluster.workers={free}, or " if free > 0 else ""
    got = f"{num_workers} requested, {slots.available} available, {slots.in_use} in use"
    if slots.gpus is not None:
        num_gpus = math.ceil(num_workers * slots.gpus.per_task)
        got += f"; GPUs: {num_gpus} requested, {slots.gpus}"
        if slots.gpus.available < num_gpus:
            more = (
                "give the application more executors, or more GPUs each (spark.executor.resource.gpu.amount)"
            )
    return ClusterError(
        f"too few Spark task slots after {waited_seconds:.0f} s",
        got=got,
        where=f"the Spark application on {master}",
        fix=f"{fewer}{more}",
    )
