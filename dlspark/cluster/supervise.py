"""The process of a rank and the parent that started it: it never outlives the parent, which tells its end."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""`man 2 prctl`: the signal that the kernel sends to this process when its parent ends (Linux only)."""


def as_shell_code(code: int) -> int:
    """Return an exit code as a shell reports it: 128 + n where Python says -n, ended by signal n."""
    return code if code >= 0 else 128 - code


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when `parent`, the process that started it, ends."""
    if sys.platform != "linux":
        # There a rank that hangs outlives a parent that was killed; the driver still ends the job.
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # It ended before it was asked for.
        os._exit(1)
