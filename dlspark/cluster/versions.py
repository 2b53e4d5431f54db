"""The versions that decide whether driver and executors understand each other; none of them is imported."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PACKAGES = ("dlspark", "torch", "horovod", "pyspark", "petastorm", "pyarrow", "numpy", "mlflow")
MISSING = "missing"


def driver_versions() -> dict[str, str]:
    """Return the version of Python and of each package, `missing` where there is none."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = MISSING
    return versions


def executor_versions(spark: SparkSession, num_tasks: int) -> dict[str, dict[str, str]]:
    """Return host -> the versions that Python workers see there, from so many tasks that run at one time."""
    packages, missing = PACKAGES, MISSING

    # Pickled by value and of the standard library only: it must run where dlspark is missing.
    def look(_: Iterable[int]) -> Iterator[tuple[str, dict[str, str]]]:
        import platform
        import socket
        from importlib import metadata

        versions = {"python": platform.python_version()}
        for package in packages:
            try:
                versions[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                versions[package] = missing
        yield socket.gethostname(), versions

    return dict(spark.sparkContext.range(0, num_tasks, numSlices=num_tasks).mapPartitions(look).collect())
