"""A process that asked for it never outlives the parent that started it, and its end reads as in a shell."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable

import psutil
import pytest

from dlspark.cluster.supervise import as_shell_code

_CHILD = """
import os, time
from dlspark.cluster.supervise import end_with_parent

end_with_parent({parent})
print(os.getpid(), flush=True)
time.sleep(600)
"""
_PARENT = """
import os, subprocess, sys

code = sys.stdin.read().replace("{parent}", str(os.getpid()))
subprocess.run([sys.executable, "-c", code], check=False)
"""


def _send_kill(parent: psutil.Process) -> None:
    parent.kill()


def _stop_child_and_kill(parent: psutil.Process) -> None:
    (child,) = parent.children()
    child.send_signal(signal.SIGSTOP)
    parent.kill()


@pytest.mark.parametrize("end", [_send_kill, _stop_child_and_kill])
def test_the_process_does_not_outlive_a_killed_parent(end: Callable[[psutil.Process], None]) -> None:
    command = [sys.executable, "-c", _PARENT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdin.write(_CHILD)
        parent.stdin.close()
        child = psutil.Process(int(parent.stdout.readline()))
        end(psutil.Process(parent.pid))
        parent.wait(timeout=10)
        psutil.wait_procs([child], timeout=10)
        assert not child.is_running()


def test_a_process_whose_parent_is_gone_already_ends_at_once() -> None:
    code = _CHILD.replace("{parent}", "1")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, b"")


def test_an_end_by_a_signal_reads_as_in_a_shell() -> None:
    assert [as_shell_code(code) for code in (0, 7, -9)] == [0, 7, 137]
