"""What a task asks of its host, asked here: sockets, storage, packages."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dlspark import storage
from dlspark.cluster import host_checks
from dlspark.cluster.host_checks import connect_to_others, free_bytes, installed_versions, meet_others
from dlspark.cluster.hosts import PROBE_PREFIX, scratch_folder
from dlspark.cluster.meeting import open_meeting


def test_a_port_that_nobody_listens_on_is_told_with_both_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as closed:
        closed.bind(("127.0.0.2", 0))
        ports = {0: 1, 1: listener.getsockname()[1], 2: closed.getsockname()[1]}
        addresses = ["127.0.0.3", "127.0.0.1", "127.0.0.2"]
        (failed,) = connect_to_others(0, addresses, ports)
    assert (failed["to_task"], failed["port"]) == (2, ports[2])
    assert failed["source"].startswith("127.0.0.")
    assert "refused" in failed["error"]


def test_tasks_connect_to_one_task_of_each_address_and_never_to_themselves() -> None:
    # Nobody listens on port 1: what is tried fails, and is listed.
    addresses = ["127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.2"]
    tried = {task: connect_to_others(task, addresses, dict.fromkeys(range(4), 1)) for task in range(4)}
    targets = {task: [failed["to_task"] for failed in failures] for task, failures in tried.items()}
    assert targets == {0: [2], 1: [0, 2], 2: [0], 3: [0, 2]}
    assert connect_to_others(0, ["127.0.0.1"], {0: 1}) == []


def test_a_name_that_does_not_resolve_is_an_answer_too() -> None:
    (failed,) = connect_to_others(0, ["127.0.0.1", "no-such-host.invalid"], {0: 1, 1: 1})
    assert (failed["to_task"], failed["source"]) == (1, "no route")


def test_tasks_meet_through_the_driver_and_stay_until_the_last_has_connected() -> None:
    with open_meeting("127.0.0.1", 3) as meeting, ThreadPoolExecutor(3) as pool:
        listeners = [socket.create_server((f"127.0.0.{task + 1}", 0)) for task in range(3)]
        addresses = [listener.getsockname()[0] for listener in listeners]
        # What the last one listens on is not what it says.
        ports = [listeners[0].getsockname()[1], listeners[1].getsockname()[1], 1]
        answers = list(pool.map(lambda task: meet_others(meeting, task, addresses, ports[task]), range(3)))
        for listener in listeners:
            listener.close()
    assert [answer["driver_error"] for answer in answers] == [None] * 3
    assert [[each["to_task"] for each in answer["unreachable"]] for answer in answers] == [[2], [2], []]
    for low, high in (answer["clock_seconds"] for answer in answers):
        assert -5 < low <= 0 <= high < 5, "it is the same clock"


def test_a_driver_that_is_not_reached_or_does_not_know_the_word_is_told() -> None:
    with open_meeting("127.0.0.1", 1) as (addresses, port, _):
        refused = meet_others((("127.0.0.1",), port, "another"), 0, ["127.0.0.1"], 1)
    closed = meet_others((("127.0.0.1",), 1, "word"), 0, ["127.0.0.1"], 1)
    assert addresses[0] == "127.0.0.1"
    for answer in (refused, closed):
        assert (answer["unreachable"], answer["clock_seconds"]) == ([], None)
        assert answer["driver_error"].startswith("127.0.0.1 -> 127.0.0.1:")


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
