"""Which backend is used, with and without Horovod, which a fresh process cannot import here."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dlspark.cluster.backends import choose_backend

_WITHOUT_HOROVOD = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "horovod":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocker())
"""


def _run_without_horovod(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _WITHOUT_HOROVOD + code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_horovod_that_is_missing_is_said_in_seconds_and_before_spark(tmp_path: Path) -> None:
    started = time.monotonic()
    code = "from dlspark.cli import main; sys.exit(main(['train', 'dataset=/nowhere']))"
    finished = _run_without_horovod(code, tmp_path)
    seconds = time.monotonic() - started
    assert finished.returncode == 2, finished.stderr
    (line,) = finished.stderr.splitlines()
    assert "Horovod, which is not installed" in line
    assert "cluster.backend=torch" in line
    assert seconds < 5
    assert list(tmp_path.iterdir()) == []


def test_auto_takes_torch_where_horovod_is_missing_and_says_why(tmp_path: Path) -> None:
    code = """
import logging
logging.basicConfig(level=logging.INFO)
from dlspark.cluster.backends import choose_backend
print(choose_backend("auto"), choose_backend("torch"), "torch" in sys.modules)
"""
    finished = _run_without_horovod(code, tmp_path)
    assert finished.stdout.split() == ["torch", "torch", "False"]
    assert "cluster.backend=torch, chosen because" in finished.stderr
    assert "not installed" in finished.stderr


@pytest.mark.horovod
def test_auto_takes_horovod_where_it_is_built(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="dlspark"):
        assert choose_backend("auto") == "horovod"
    assert "cluster.backend=horovod, chosen because" in caplog.text
    assert choose_backend("local") == "local"
