"""Freed memory stays with the process: buffers of the next step come without page faults."""

from __future__ import annotations

import subprocess
import sys

import pytest

# By malloc itself: where torch's own objects come to lie on the heap changes from run to run.
_FAULTS_OF_STEPS = """
import ctypes
import resource
from dlspark.heap import keep_freed_memory

if {keeps}:
    keep_freed_memory()
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
library.malloc.argtypes = [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
library.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
SIZE = 24 * 2**20

def step():
    buffers = [library.malloc(SIZE) for _ in range(6)]
    for buffer in buffers:
        library.memset(buffer, 1, SIZE)
    for buffer in buffers:
        library.free(buffer)

def faults_of(num_steps):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(num_steps):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first, _ = faults_of(1), faults_of(2)
print(faults_of(10) / first)
"""


def page_faults(*, keeps: bool) -> float:
    """Return the page faults of ten steps by those of the first, in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-c", _FAULTS_OF_STEPS.format(keeps=keeps)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


@pytest.fixture(autouse=True)
def glibc_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's way")
def test_buffers_that_are_freed_are_there_for_the_next_step() -> None:
    assert page_faults(keeps=False) > 5
    assert page_faults(keeps=True) < 0.5


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's way")
def test_the_person_who_set_glibcs_own_variable_knows_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    assert page_faults(keeps=True) > 5
