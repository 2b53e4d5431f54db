"""`python -m dlspark.cluster.make_class_archive`, run by `make setup`: the archive of local sessions."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from dlspark.cluster.class_archive import archive_file, recording_options
from dlspark.cluster.preflight import require_java
from dlspark.cluster.session import open_own_session

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def make_class_archive() -> Path:
    """Return the archive for the Java that is there; if there is none yet, a session is opened to make it.

    Raises:
        ClusterError: there is no Java, or Spark does not start.
    """
    archive = archive_file(require_java())
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
            made = Path(folder, archive.name)
            with open_own_session("local[2]", "dlspark", local_options=recording_options(made)) as spark:
                _use_what_stages_use(spark)
            made.replace(archive)
    return archive


def _use_what_stages_use(spark: SparkSession) -> None:
    """Make Spark load what an ingest and a launch need; its SQL would double the time that this takes."""
    context = spark.sparkContext
    context.parallelize(range(8), 4).map(lambda row: (row % 3, row)).groupByKey(2).persist().collect()
    context.parallelize(range(2), 2).barrier().mapPartitions(list).collect()


if __name__ == "__main__":
    make_class_archive()
