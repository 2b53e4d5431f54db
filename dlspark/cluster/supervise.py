"""A rank in a process of its own, under a parent that sees how it ends.

A process that the kernel kills, or that crashes in native code, cannot write its own record. Horovod reports
how processes ended, but only one of them and in the order in which it happened to look: the rank that was
killed and those that failed because of it look alike. The parent knows at once, and with the signal.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from multiprocessing.connection import Connection

_PR_SET_PDEATHSIG = 1
"""`man 2 prctl`: the signal that the kernel sends to this process when its parent ends (Linux only)."""


def run_supervised(
    function: Callable[[], bytes],
    ended: Callable[[int, bool], None],
    watch: Callable[[int], AbstractContextManager[None]] = lambda pid: nullcontext(),
) -> bytes:
    """Return what `function` returns in a forked process; end this process as that one ended.

    SIGTERM is passed on to the process. It never outlives this one.

    Args:
        function: what to run; an exception of it is printed there and makes exit code 1.
        ended: called with the exit code as a shell reports it (128 + n for signal n), and whether this
            process was told to end, if the process ends without a result.
        watch: gives what is open while the process of this id runs.

    Raises:
        SystemExit: the process ended without a result; with its exit code.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_result, args=(function, sender, os.getpid()), name="rank")
    told_to_end = False

    def pass_on(number: int, frame: object) -> None:
        nonlocal told_to_end
        told_to_end = True
        process.terminate()

    # A signal that comes before there is somebody to pass it on to waits until there is.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        process.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        sender.close()
        with watch(process.pid or 0):
            result = _receive(receiver)
            process.join()
    finally:
        signal.signal(signal.SIGTERM, before)
    if result is not None and process.exitcode == 0:
        return result
    code = as_shell_code(process.exitcode or 0)
    ended(code, told_to_end)
    sys.exit(code or 1)


def as_shell_code(code: int) -> int:
    """Return an exit code as a shell reports it: 128 + n where Python says -n, ended by signal n."""
    return code if code >= 0 else 128 - code


def _receive(receiver: Connection) -> bytes | None:
    try:
        return receiver.recv_bytes()
    except EOFError:
        return None


def _send_result(function: Callable[[], bytes], sender: Connection, parent: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    end_with_parent(parent)
    sender.send_bytes(function())


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when `parent`, the process that started it, ends."""
    if sys.platform != "linux":
        # There a rank that hangs outlives a parent that was killed; the driver still ends the job.
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # It ended before it was asked for.
        os._exit(1)
