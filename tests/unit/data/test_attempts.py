from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dlspark.data import marks
from dlspark.data.attempts import live_attempts, running_attempt

HOLD = """
import sys
from dlspark.data.attempts import running_attempt
with running_attempt(sys.argv[1]) as attempt:
    print(attempt, flush=True)
    sys.stdin.read()
"""


def test_an_attempt_is_marked_while_it_runs(tmp_path: Path) -> None:
    with running_attempt(str(tmp_path)) as attempt:
        assert live_attempts(str(tmp_path)) == {attempt}
    assert not tmp_path.exists()


def test_a_process_that_was_killed_is_no_longer_live_and_its_marker_goes(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        attempt = process.stdout.readline().strip()
        assert live_attempts(str(tmp_path)) == {attempt}
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert live_attempts(str(tmp_path)) == set()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("age", "live"), [(30.0, {"0123"}), (500.0, set())])
def test_an_attempt_of_another_host_lives_as_long_as_it_is_refreshed(
    tmp_path: Path, age: float, live: set[str]
) -> None:
    marker = {"host": f"not-{socket.gethostname()}", "refreshed": time.time() - age}
    (tmp_path / "_dlspark_ingest-0123.json").write_text(json.dumps(marker))
    assert live_attempts(str(tmp_path)) == live


def test_the_marker_is_refreshed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "_REFRESH_SECONDS", 0.01)
    with running_attempt(str(tmp_path)) as attempt:
        path = tmp_path / f"_dlspark_ingest-{attempt}.json"
        first = json.loads(path.read_text())["refreshed"]
        deadline = time.monotonic() + 10
        while json.loads(path.read_text())["refreshed"] == first:
            assert time.monotonic() < deadline
