"""The doctor finds what is wrong on a real session and says what repairs it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dlspark.cluster import hosts
from dlspark.cluster.versions import driver_versions
from dlspark.config.compose import compose
from pipelines import doctor, ingest
from pipelines.doctor import Check, DoctorResult

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [
    pytest.mark.spark,
    pytest.mark.horovod,
    pytest.mark.faults(scenario=8),
]


def _by_name(result: DoctorResult) -> dict[str, Check]:
    return {check.name: check for check in result.checks}


def test_a_sound_machine_has_no_findings(
    spark: SparkSession, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset, run_dir = f"{tmp_path}/dataset", tmp_path / "run"
    ingest.run(compose(["source=builtin:digits", f"dataset={dataset}"]), spark)
    words = [f"tracking.uri=sqlite:///{tmp_path}/mlflow.db", f"dataset={dataset}", f"run_dir={run_dir}"]
    capfd.readouterr()
    result = doctor.run(compose(words), spark)
    checks = _by_name(result)
    assert {check.state for check in result.checks} == {"ok"}, result
    assert result.exit_code == 0
    assert checks["torch"].found == driver_versions()["torch"]
    assert checks["horovod build"].found.startswith("PyTorch, Gloo")
    assert "2 available" in checks["slots for 2"].found
    assert f"2 tasks on {socket.gethostname()}" in checks["executors"].found
    assert checks["dataset"].found.startswith(dataset)
    assert checks["run directory"].found.startswith(str(run_dir))
    assert {"connections", "clocks", "disk", "shared memory"} <= checks.keys()
    assert "ms for 4 MiB over horovod, 2 ranks" in checks["all-reduce"].found
    assert "nobody but the driver" in checks["tracking"].found
    out, err = capfd.readouterr()
    assert out == ""
    assert all(check.name in err for check in result.checks)
    assert not (tmp_path / "mlflow.db").exists(), "looking made a store"
    assert not run_dir.exists(), "looking made a run"


def test_every_finding_comes_with_its_repair(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    here = driver_versions() | {"torch": "1.0.0"}
    monkeypatch.setattr(hosts, "driver_versions", lambda: here)
    words = ["cluster.workers=5", "cluster.slots_timeout_seconds=0.5", "tracking.uri=http://127.0.0.1:9"]
    (tmp_path / "file").touch()
    words += [f"dataset={tmp_path}/nothing", f"run_dir={tmp_path}/file/run"]
    result = doctor.run(compose(words), spark)
    findings = {name: check for name, check in _by_name(result).items() if check.state == "error"}
    assert result.exit_code == 2
    assert findings.keys() == {"torch", "slots for 5", "tracking", "dataset", "run directory"}
    assert socket.gethostname() in findings["torch"].found
    assert "5 requested, 2 available" in findings["slots for 5"].found
    assert "there is no dataset" in findings["dataset"].found
    assert "NotADirectoryError" in findings["run directory"].found
    assert _by_name(result)["all-reduce"].state == "skipped"
    err = capfd.readouterr().err
    for check in findings.values():
        assert check.fix
        assert check.fix.rstrip(".") in err
    assert result.to_json()["errors"] == 5


def test_the_backend_that_is_asked_for_is_the_one_that_is_tried(spark: SparkSession, tmp_path: Path) -> None:
    common = [f"tracking.uri=sqlite:///{tmp_path}/mlflow.db", f"run_dir={tmp_path}/run"]
    over_torch = _by_name(doctor.run(compose([*common, "cluster.backend=torch"]), spark))
    assert "over torch, 2 ranks" in over_torch["all-reduce"].found
    local = _by_name(doctor.run(compose([*common, "cluster=single_process"]), spark))
    assert "over local, 1 ranks" in local["all-reduce"].found
