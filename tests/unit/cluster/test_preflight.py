"""Java is looked for before Spark is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dlspark.cluster.preflight import Gpus, Slots, require_java
from dlspark.errors import ClusterError


def _fake_java(home: Path, version: str) -> None:
    (home / "bin").mkdir(parents=True)
    java = home / "bin" / "java"
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-04-15' >&2\n")
    java.chmod(0o755)


def test_the_version_of_java_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_java(tmp_path / "jdk", "21.0.3")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    assert require_java() == "21.0.3"


@pytest.mark.parametrize("version", ["11.0.2", "1.8.0_392"])
def test_an_old_java_is_refused(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_java(tmp_path / "jdk", version)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    with pytest.raises(ClusterError, match="17 or 21") as caught:
        require_java()
    assert version in str(caught.value)


def _open_session(master: str, **environment: str) -> str:
    """Return what a fresh process says that opens a session; in this one another test's would be found."""
    code = f"""
from dlspark.cluster.session import spark_session
from dlspark.errors import ClusterError
try:
    with spark_session({master!r}, "never"):
        print("opened")
except ClusterError as error:
    print(error)
"""
    finished = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert finished.stderr == ""
    return finished.stdout


def test_no_java_names_the_package_before_spark_starts(tmp_path: Path) -> None:
    assert "openjdk-17-jre-headless" in _open_session("local[1]", PATH=str(tmp_path))


def test_existing_opens_no_session() -> None:
    assert "no Spark session" in _open_session("existing", **os.environ)


def test_slots_name_the_gpus_where_spark_assigns_them() -> None:
    assert str(Slots(available=4, in_use=1)) == "4 available, 1 in use"
    gpus = Gpus(available=2, in_use=1, per_task=0.5)
    assert str(Slots(available=4, in_use=1, gpus=gpus)).endswith("GPUs: 2 available, 1 in use")
