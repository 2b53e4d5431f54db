"""What a task asks of its host, asked here: storage and packages."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dlspark import storage
from dlspark.cluster import host_checks
from dlspark.cluster.host_checks import free_bytes, installed_versions
from dlspark.cluster.hosts import PROBE_PREFIX, scratch_folder

pytestmark = pytest.mark.faults(scenario=8)


def test_storage_that_hangs_is_told_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_checks, "STORAGE_SECONDS", 0.05)
    release = threading.Event()
    asked = host_checks._Asked(release.wait)
    assert asked.answer("nothing") == ("nothing", "no answer within 0.05 s")
    release.set()


def test_the_probe_is_written_read_and_removed(tmp_path: Path) -> None:
    storage.write_bytes(str(tmp_path / "probe" / host_checks.DRIVER_FILE), b"token")
    assert host_checks._use_probe(str(tmp_path / "probe"), 3) is True
    assert [path.name for path in (tmp_path / "probe").iterdir()] == [host_checks.DRIVER_FILE]


def test_a_folder_that_the_driver_has_not_made_here_is_not_made(tmp_path: Path) -> None:
    assert host_checks._use_probe(str(tmp_path / "probe"), 0) is False
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_is_an_error_with_its_reason(tmp_path: Path) -> None:
    storage.write_bytes(str(tmp_path / host_checks.DRIVER_FILE), b"token")
    (tmp_path / "task-00000").mkdir()
    asked = host_checks._Asked(lambda: host_checks._use_probe(str(tmp_path), 0))
    assert str(asked.answer(True)[1]).startswith("IsADirectoryError: ")


def test_versions_are_those_of_the_installed_packages() -> None:
    versions = installed_versions(("numpy", "no-such-package"))
    assert versions["numpy"].startswith("1.26")
    assert versions["no-such-package"] == host_checks.MISSING
    assert host_checks.has_horovod_torch() == (installed_versions(("horovod",))["horovod"] != "missing")


def test_free_bytes_are_those_of_the_disk_that_a_folder_would_be_on(tmp_path: Path) -> None:
    assert free_bytes(str(tmp_path / "not" / "yet" / "there")) == pytest.approx(free_bytes("/tmp"), rel=0.2)  # noqa: S108
    assert free_bytes("s3://bucket/run") is None


def test_a_scratch_folder_leaves_a_run_directory_as_it_was(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with scratch_folder(str(run_dir)) as folder:
        storage.write_bytes(storage.join(folder, "file"), b"x")
    assert not run_dir.exists()
    run_dir.mkdir()
    with scratch_folder(str(run_dir)) as folder:
        storage.write_bytes(storage.join(folder, "file"), b"x")
        assert Path(folder).name.startswith(PROBE_PREFIX)
    assert list(run_dir.iterdir()) == []
