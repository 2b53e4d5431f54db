"""A session of dlspark's own leaves nothing behind, says nothing on stdout, and another one can follow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.spark]

_SCRIPT = """
import sys
import tempfile
from pathlib import Path

import psutil

import dlspark
from dlspark.cluster.preflight import require_slots
from dlspark.cluster.session import spark_session

tempfile.tempdir = sys.argv[1]
for master in sys.argv[2:]:
    with spark_session(master, "test") as spark:
        assert spark.sparkContext.master == master
        assert require_slots(spark, 1, 20).available == 1
        origins = spark.sparkContext.range(1).map(lambda _: (__import__("dlspark").__file__, sys.executable))
        (seen,) = origins.collect()
        assert seen == (dlspark.__file__, sys.executable), seen
        assert list(Path(sys.argv[1]).iterdir()), "its files are not where they are removed"
    assert psutil.Process().children(recursive=True) == [], "a process is left"
    assert list(Path(sys.argv[1]).iterdir()) == [], "a file is left"
"""


def test_two_sessions_one_after_the_other_leave_nothing(tmp_path: Path) -> None:
    for name in ("work", "temporary"):
        (tmp_path / name).mkdir()
    finished = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(tmp_path / "temporary"), "local-cluster[1,1,1024]", "local[1]"],
        cwd=tmp_path / "work",
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == ""
    assert list((tmp_path / "work").iterdir()) == [], "Spark wrote into the working directory"
    assert "WARN " not in finished.stderr


def test_a_master_that_cannot_be_is_one_error() -> None:
    code = 'from dlspark.cluster.session import spark_session\nwith spark_session("nonsense:1", "test"): pass'
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert finished.returncode == 1
    last = finished.stderr.strip().splitlines()[-1]
    assert last.startswith("dlspark.errors.ClusterError: Spark does not start")
    assert "cluster.master=nonsense:1" in last


_MAPPED = """
import psutil

from dlspark.cluster.class_archive import archive_file
from dlspark.cluster.preflight import require_java
from dlspark.cluster.session import spark_session

archive = archive_file(require_java())
with spark_session("local-cluster[1,1,1024]", "test"):
    jvms = [child for child in psutil.Process().children(recursive=True) if child.name() == "java"]
    mapped = [any(area.path == str(archive) for area in jvm.memory_maps()) for jvm in jvms]
    assert len(mapped) == 2 and all(mapped), mapped
"""


def test_the_jvms_of_a_local_session_use_the_class_archive_that_setup_made() -> None:
    finished = subprocess.run(
        [sys.executable, "-c", _MAPPED], capture_output=True, text=True, check=False, timeout=120
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == ""
