"""The versions that decide whether driver and executors understand each other; none of them is imported."""

from __future__ import annotations

from dlspark.cluster.host_checks import MISSING, installed_versions

__all__ = ["MISSING", "PACKAGES", "driver_versions", "packages_in_use"]

PACKAGES = ("dlspark", "torch", "horovod", "pyspark", "petastorm", "pyarrow", "numpy", "mlflow")
_OF_EVERY_RUN = ("python", "dlspark", "torch", "pyspark", "pyarrow", "numpy")


def driver_versions() -> dict[str, str]:
    """Return the version of Python and of each package, `missing` where there is none."""
    return installed_versions(PACKAGES)


def packages_in_use(*, backend: str, reader: str) -> tuple[str, ...]:
    """Return whose versions must be the same on the executors; workers never speak to MLflow.

    Args:
        backend: that joins the workers; horovod needs Horovod.
        reader: of the data; petastorm needs Petastorm.
    """
    more = {"horovod": backend == "horovod", "petastorm": reader == "petastorm"}
    return (*_OF_EVERY_RUN, *(name for name, is_used in more.items() if is_used))
