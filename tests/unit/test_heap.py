"""Freed memory stays with the process: buffers of the next step come without page faults."""

from __future__ import annotations

import subprocess
import sys

import pytest

_FAULTS_OF_STEPS = """
import resource
import torch
from dlspark.heap import keep_freed_memory
if {keeps}:
    keep_freed_memory()
torch.set_num_threads(1)

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():
    return [torch.zeros(2**20) for _ in range(8)]

step()
before = faults()
for _ in range(20):
    step()
print(faults() - before)
"""


def page_faults(*, keeps: bool, environment: dict[str, str] | None = None) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _FAULTS_OF_STEPS.format(keeps=keeps)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's way")
def test_buffers_that_are_freed_are_there_for_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)
    # 20 times 32 MiB are 160,000 pages of 4 KiB.
    assert page_faults(keeps=True) < page_faults(keeps=False) / 20
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    assert page_faults(keeps=True) > 1000, "the person who set glibc's own variable knows better"
