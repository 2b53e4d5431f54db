"""Each finding fires where it should, names the hosts and the repair, and is silent on sound hosts."""

from __future__ import annotations

from typing import Any

import pytest

from dlspark.cluster.finding import Finding, require_sound
from dlspark.cluster.findings import judge
from dlspark.cluster.hosts import DriverRecord, HostRecord, Unreachable
from dlspark.cluster.versions import MISSING, packages_in_use
from dlspark.errors import ClusterError
from pipelines.doctor_words import describe_hosts
from tests.unit.cluster.host_records import VERSIONS, driver_record, host_record, survey_of

pytestmark = pytest.mark.faults(scenario=8)

_PACKAGES = packages_in_use(backend="horovod", reader="petastorm")


def _judge(*hosts: HostRecord, driver: DriverRecord | None = None) -> list[Finding]:
    survey = survey_of(*hosts, driver=driver)
    findings = judge(survey, packages=_PACKAGES)
    assert {finding.subject for finding in findings} <= describe_hosts(survey).keys(), "the doctor hides one"
    return list(findings)


def _only(finding: list[Finding]) -> Finding:
    (only,) = finding
    return only


def test_sound_hosts_have_no_findings() -> None:
    assert _judge(host_record(0), host_record(1)) == []
    require_sound([])


_DOUBTFUL: list[tuple[dict[str, Any], str, str, str]] = [
    ({"versions": VERSIONS | {"torch": "1.0.0"}}, "error", "torch", "1.0.0 on host-1"),
    ({"versions": VERSIONS | {"dlspark": MISSING}}, "error", "dlspark", "missing on host-1"),
    ({"versions": VERSIONS | {"python": "3.11.2"}}, "warning", "python", "3.11.2 on host-1"),
    ({"versions": VERSIONS | {"python": "3.10.9"}}, "error", "python", "3.10.9 on host-1"),
    ({"has_horovod_torch": False}, "error", "horovod", "no library for PyTorch"),
    ({"clock_seconds": (2.1, 2.5)}, "warning", "clocks", "2.1 s ahead on host-1"),
    ({"clock_seconds": (-9.0, -8.5)}, "warning", "clocks", "8.5 s behind on host-1"),
    ({"temporary_free_bytes": 2**29}, "warning", "disk", "0.5 GiB free for /tmp on host-1"),
    ({"run_dir_free_bytes": 0}, "warning", "disk", "0 GiB free for the run directory's disk on host-1"),
    ({"shared_free_bytes": 2**26}, "warning", "shared memory", "0.062 GiB free on host-1"),
    ({"dataset_error": "PermissionError: no", "dataset_digest": None}, "error", "dataset", "PermissionError"),
    ({"driver_error": "10.0.0.1 -> d:1: timed out"}, "warning", "connections", "host-1: 10.0.0.1 -> d:1"),
    ({"dataset_digest": "other"}, "error", "dataset", "another manifest"),
    ({"run_dir_error": "OSError: read-only"}, "error", "run directory", "OSError: read-only"),
    ({"sees_driver_file": False}, "error", "run directory", "is not there"),
    (
        {"cannot_listen": ("cluster.port_range", "7000-7001, x")},
        "error",
        "connections",
        "7000-7001, x on host-1",
    ),
    (
        {"cannot_listen": ("cluster.network_interface", "ib0, of lo")},
        "error",
        "connections",
        "ib0, of lo on h",
    ),
]


@pytest.mark.parametrize(("changes", "severity", "subject", "got"), _DOUBTFUL)
def test_one_spoiled_host_is_one_finding_that_names_it(
    changes: dict[str, Any], severity: str, subject: str, got: str
) -> None:
    finding = _only(_judge(host_record(0), host_record(1, **changes)))
    assert (finding.severity, finding.subject) == (severity, subject)
    assert got in finding.got
    assert "host-1" in str(finding.as_error())
    assert "host-0" not in str(finding.as_error())
    assert finding.fix


@pytest.mark.parametrize(
    "changes",
    [
        {"clock_seconds": (-3.0, 3.0)},
        {"clock_seconds": None},
        {"clock_seconds": (1.9, 2.5)},
        {"shared_free_bytes": 2**26, "has_gpu": False},
        {"shared_free_bytes": None},
        {"run_dir_free_bytes": None},
        {"versions": VERSIONS | {"mlflow": MISSING}},
    ],
)
def test_what_is_not_certain_or_not_used_is_no_finding(changes: dict[str, Any]) -> None:
    assert _judge(host_record(0), host_record(1, **changes)) == []


def test_packages_that_a_run_does_not_use_may_differ() -> None:
    other = host_record(0, versions=VERSIONS | {"horovod": MISSING, "petastorm": "0.1"})
    packages = packages_in_use(backend="torch", reader="arrow")
    assert judge(survey_of(other), packages=packages) == ()
    assert {finding.subject for finding in _judge(other)} == {"horovod", "petastorm"}
    assert "missing on executors" in describe_hosts(survey_of(other))["horovod"]


def test_a_fault_that_hosts_share_is_one_finding_that_names_them() -> None:
    hosts = [host_record(task, dataset_error="FileNotFoundError: x") for task in range(7)]
    finding = _only(_judge(*hosts))
    assert "host-0, host-1, host-2, host-3, host-4, and 2 more" in finding.what
    assert "/data/ds/manifest.json" in str(finding.as_error())


def test_an_unreachable_pair_is_named_at_both_ends_with_addresses() -> None:
    failed = Unreachable(to_task=1, port=4711, source="10.0.0.9", error="timed out")
    finding = _only(_judge(host_record(0, unreachable=(failed,)), host_record(1)))
    assert finding.severity == "error"
    assert finding.got == "host-0 (10.0.0.9) -> host-1 at 10.0.0.1:4711: timed out"


def test_a_run_directory_that_the_driver_cannot_write_is_the_only_finding_of_it() -> None:
    driver = driver_record(run_dir_error="PermissionError: denied")
    finding = _only(_judge(host_record(0), driver=driver))
    assert "the driver on driver cannot write" in finding.what
    assert "run_dir=/data/run" in str(finding.as_error())


def test_a_host_without_dlspark_is_not_blamed_for_what_follows_from_it() -> None:
    error = "ModuleNotFoundError: No module named 'dlspark'"
    versions = VERSIONS | {"dlspark": MISSING}
    host = host_record(0, versions=versions, dataset_error=error, run_dir_error=error)
    assert _only(_judge(host)).subject == "dlspark"


def test_one_error_is_raised_as_it_is_and_several_as_one_with_all_their_repairs() -> None:
    torn = host_record(0, sees_driver_file=False, dataset_error="OSError: gone", clock_seconds=(5, 6))
    findings = _judge(torn)
    assert [finding.severity for finding in findings] == ["error", "error", "warning"]
    with pytest.raises(ClusterError, match="for 2 reasons") as caught:
        require_sound(findings)
    text = str(caught.value)
    assert all(finding.fix in text for finding in findings[:2])
    assert "clocks" not in text
    with pytest.raises(ClusterError, match=r"^executors cannot read the dataset: host-0; got OSError: gone"):
        require_sound(findings[:1])
    require_sound(findings[2:])
