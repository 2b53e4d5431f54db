"""The Spark session of a stage: the one that is there, or one that dlspark opens and closes itself.

A session of a notebook or of spark-submit belongs to whoever made it: it is used and never stopped. An own
one keeps to itself: no web UI, log lines of Spark only from ERROR on, and all its files (also the executors'
work folders, which Spark would put beside its own jars) in one temporary folder. Its JVM ends with it: it
cannot write to the terminal afterwards, and the next session finds no stale folders in it.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dlspark
from dlspark.cluster.class_archive import archive_options
from dlspark.cluster.preflight import require_java
from dlspark.errors import ClusterError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_log = logging.getLogger(__name__)

EXISTING = "existing"
"""The `cluster.master` that opens no session."""

_SECONDS_FOR_JVM_TO_END = 60
# The JVMs of a local session live for a stage and only hand paths to Python: compiling their code as far as a
# server would takes cores from the training that runs beside them.
_SHORT_LIVED_JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
# The named logger is the one whose level Spark gives to a Python shell; without it the level falls to WARN.
_LOG4J = """\
status = off
rootLogger.level = error
rootLogger.appenderRef.stderr.ref = stderr
logger.gateway.name = org.apache.spark.api.python.PythonGatewayServer
logger.gateway.level = error
appender.console.type = Console
appender.console.name = stderr
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = spark: %p %c{1}: %m%n%ex{0}
"""


@contextmanager
def spark_session(master: str, app_name: str) -> Iterator[SparkSession]:
    """Give the Spark session that is there, else a new one that ends with the block.

    Args:
        master: Spark master of a new session; `existing` opens none.
        app_name: name of a new session's application.

    Raises:
        ClusterError: Java is missing, Spark does not start with this master, or `existing` and there is none.
    """
    session = _find_session()
    if session is not None:
        _log.info("using the Spark session that is there, on %s", session.conf.get("spark.master", "?"))
        yield session
        return
    if master == EXISTING:
        raise ClusterError(
            "there is no Spark session",
            got=f"cluster.master={EXISTING}",
            fix="run in a notebook with a session, through spark-submit, or set cluster.master to open one",
        )
    with open_own_session(master, app_name) as session:
        yield session


@contextmanager
def open_own_session(
    master: str, app_name: str, *, local_options: str | None = None
) -> Iterator[SparkSession]:
    """Give a new Spark session that ends with the block, and its JVM too.

    Args:
        master: Spark master.
        app_name: name of the application.
        local_options: further options of the JVMs of a local master; None: those for the class archive.

    Raises:
        ClusterError: Java is missing, or Spark does not start with this master.
    """
    java_version = require_java()
    from pyspark import SparkContext

    ends_jvm = SparkContext._gateway is None
    options = archive_options(java_version) if local_options is None else local_options
    with tempfile.TemporaryDirectory(prefix="dlspark-spark-", ignore_cleanup_errors=True) as folder:
        session = _open_session(master, app_name, Path(folder), options)
        try:
            yield session
        finally:
            session.stop()
            if ends_jvm:
                _end_jvm()


def _find_session() -> SparkSession | None:
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    # spark-submit has started the JVM and told its port; master and settings are those of its command.
    if SparkContext._active_spark_context is not None or "PYSPARK_GATEWAY_PORT" in os.environ:
        session = SparkSession.builder.getOrCreate()
        _put_wheels_on_path(session)
        return session
    return None


def _put_wheels_on_path(session: SparkSession) -> None:
    """Let executors import from wheels of `spark-submit --py-files`, which Spark ships and leaves unused."""
    context = session.sparkContext
    includes = context._python_includes
    for path in context.getConf().get("spark.submit.pyFiles", "").split(","):
        name = Path(path).name
        if name.endswith(".whl") and includes is not None and name not in includes:
            includes.append(name)


def _open_session(master: str, app_name: str, folder: Path, local_options: str) -> SparkSession:
    from py4j.protocol import Py4JError  # type: ignore[import-untyped]
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    is_local = re.fullmatch(r"local(-cluster)?(\[.*\])?", master) is not None
    log4j = folder / "log4j2.properties"
    log4j.write_text(_LOG4J)
    java_options = f"{_SHORT_LIVED_JVM} {local_options}".rstrip() if is_local else ""
    settings = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
        "spark.local.dir": str(folder),
        # Arrow's own allocators give the buffers of a Parquet file back to the kernel, and fetch them again.
        "spark.executorEnv.ARROW_DEFAULT_MEMORY_POOL": "system",
        "spark.driver.extraJavaOptions": " ".join(
            (f"-Dlog4j2.configurationFile={log4j.as_uri()}", f"-Djava.io.tmpdir={folder}", java_options)
        ),
    }
    environment = {"PYSPARK_PYTHON": sys.executable}
    if is_local:
        settings |= {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"}
        settings["spark.executor.extraJavaOptions"] = java_options
        # Executors import dlspark from where the driver does, also if it runs from its sources.
        settings["spark.executorEnv.PYTHONPATH"] = str(Path(dlspark.__file__).parent.parent)
        environment["SPARK_LOCAL_IP"] = "127.0.0.1"
    if match := re.fullmatch(r"local-cluster\[\d+,\d+,(\d+)\]", master.replace(" ", "")):
        settings["spark.executor.memory"] = f"{match.group(1)}m"
        environment["SPARK_HOME"] = str(_make_spark_home(folder))
    builder = SparkSession.builder.master(master).appName(app_name)
    for key, value in settings.items():
        builder = builder.config(key, value)
    with _environment(environment):
        try:
            return builder.getOrCreate()
        except (Py4JError, PySparkException) as error:
            reason = str(getattr(error, "java_exception", error)).splitlines()[0]
            _end_jvm()
            raise ClusterError(
                "Spark does not start",
                got=reason,
                where=f"cluster.master={master}",
                fix="check cluster.master, e.g. local-cluster[2,1,2048], local[2] or spark://host:7077",
            ) from error


def _make_spark_home(folder: Path) -> Path:
    """Make a Spark home of links: a local cluster writes `work` below its home, which may be read-only."""
    import pyspark

    home = folder / "home"
    home.mkdir()
    for entry in Path(os.environ.get("SPARK_HOME") or Path(pyspark.__file__).parent).iterdir():
        if entry.name != "work":
            (home / entry.name).symlink_to(entry)
    return home


def _end_jvm() -> None:
    """End the JVM that pyspark started, and forget it, so that the next session starts a fresh one."""
    from pyspark import SparkContext

    gateway: Any = SparkContext._gateway
    if gateway is None:
        return
    gateway.shutdown()
    SparkContext._gateway = SparkContext._jvm = None
    # The JVM of pyspark ends when its standard input does.
    gateway.proc.stdin.close()
    try:
        gateway.proc.wait(timeout=_SECONDS_FOR_JVM_TO_END)
    except subprocess.TimeoutExpired:
        gateway.proc.kill()
        gateway.proc.wait()


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that are started in the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
