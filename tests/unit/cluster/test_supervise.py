"""The end of a rank's process is seen by its parent, with its exit code; it never outlives its parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable

import psutil
import pytest

from dlspark.cluster.supervise import run_supervised

_CODE = """
import os, signal, sys, time
from dlspark.cluster.supervise import run_supervised

def run():
    print(os.getpid(), flush=True)
    {body}

run_supervised(run, lambda code, told: print([code, int(told)], flush=True))
"""


def _start(body: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _CODE.format(body=body)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_the_result_of_another_process_comes_back() -> None:
    def ended(exit_code: int, told_to_end: bool) -> None:
        raise AssertionError

    large = run_supervised(lambda: str(os.getpid()).encode() + b" " * 1_000_000, ended)
    assert len(large) > 1_000_000
    assert int(large) != os.getpid()


@pytest.mark.parametrize(
    ("body", "exit_code"),
    [
        ("raise KeyError('x')", 1),
        ("sys.exit(7)", 7),
        ("os._exit(3)", 3),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 139),
    ],
)
def test_an_end_without_a_result_is_told_and_taken_over(body: str, exit_code: int) -> None:
    process = _start(body)
    out, _ = process.communicate(timeout=60)
    assert json.loads(out.splitlines()[1]) == [exit_code, 0]
    assert process.returncode == exit_code


def _child_of(process: subprocess.Popen[str]) -> psutil.Process:
    assert process.stdout is not None
    return psutil.Process(int(process.stdout.readline()))


def _send_kill(process: subprocess.Popen[str]) -> None:
    process.kill()


def _stop_child_and_kill(process: subprocess.Popen[str]) -> None:
    (child,) = psutil.Process(process.pid).children()
    child.send_signal(signal.SIGSTOP)
    process.kill()


@pytest.mark.parametrize("end", [_send_kill, _stop_child_and_kill])
def test_the_process_does_not_outlive_a_killed_parent(end: Callable[[subprocess.Popen[str]], None]) -> None:
    with _start("time.sleep(600)") as process:
        child = _child_of(process)
        end(process)
        process.wait(timeout=10)
        psutil.wait_procs([child], timeout=10)
        assert not child.is_running()


def test_being_told_to_end_is_passed_on() -> None:
    process = _start("time.sleep(600)")
    child = _child_of(process)
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert json.loads(out) == [128 + signal.SIGTERM, 1]
    assert not child.is_running()
