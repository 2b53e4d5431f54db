"""The doctor finds what is wrong on a real session and says what repairs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dlspark.cluster.versions import driver_versions
from dlspark.config.compose import compose
from pipelines import doctor
from pipelines.doctor import Check, DoctorResult

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [
    pytest.mark.spark,
    # pyspark leaves the socket of a collect to the garbage collector.
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
    ),
]


def _by_name(result: DoctorResult) -> dict[str, Check]:
    return {check.name: check for check in result.checks}


def test_a_sound_machine_has_no_findings(
    spark: SparkSession, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = doctor.run(compose([f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"]), spark)
    checks = _by_name(result)
    assert {check.state for check in result.checks} == {"ok"}, result
    assert result.exit_code == 0
    assert checks["torch"].found == driver_versions()["torch"]
    assert checks["horovod build"].found.startswith("PyTorch, Gloo")
    assert "2 available" in checks["slots for 2"].found
    assert "2 tasks" in checks["executors"].found
    out, err = capfd.readouterr()
    assert out == ""
    assert all(check.name in err for check in result.checks)
    assert not (tmp_path / "mlflow.db").exists(), "looking made a store"


def test_every_finding_comes_with_its_repair(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    here = driver_versions() | {"torch": "1.0.0"}
    monkeypatch.setattr(doctor, "driver_versions", lambda: here)
    words = ["cluster.workers=5", "cluster.slots_timeout_seconds=0.5", "tracking.uri=http://127.0.0.1:9"]
    result = doctor.run(compose(words), spark)
    findings = {name: check for name, check in _by_name(result).items() if check.state == "error"}
    assert result.exit_code == 2
    (mismatch,) = (check for name, check in findings.items() if name.startswith("torch on "))
    assert "driver 1.0.0" in mismatch.found
    assert "5 requested, 2 available" in findings["slots for 5"].found
    assert set(findings) == {mismatch.name, "slots for 5", "tracking"}
    err = capfd.readouterr().err
    for check in findings.values():
        assert check.fix
        assert check.fix.rstrip(".") in err
    assert result.to_json()["errors"] == 3
