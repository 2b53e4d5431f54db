"""The parent of a rank sees that it stands still, or was stopped, records it, and ends it.

What counts is that the rank's place moves (see `whereabouts`). A rank that waits in a collective is never
itself late: it stands still because another one does, whose own parent says so. Only when all ranks wait, as
when the network between them is gone, or one is silent for very long, is a wait recorded as the failure.
Nothing is written or read in the run directory as long as the rank moves.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from dlspark import storage
from dlspark.cluster.failures import STALL, FailureRecord, read_failures, write_failure
from dlspark.cluster.stalls import count_waits, record_stall, record_stop, remove_wait, write_wait
from dlspark.cluster.whereabouts import Board, Place

_log = logging.getLogger(__name__)

SLOW_FACTOR = 4
"""So many times longer a rank may stand still until its first step is done, and when it leaves the job."""
_OVERDUE_FACTOR = 3
"""After so many timeouts in a collective a rank no longer believes that one that says nothing still moves."""
SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_STOPPED = 5.0
"""A shorter stop may be that of a tool which looks into the process."""
_SECONDS_FOR_OTHERS = 5.0
"""In which the parents of the other ranks see the record, and write down the stacks of theirs."""
_SECONDS_FOR_STACKS = 5.0
_SECONDS_OF_SILENCE = 0.3
"""After which stacks that began to come are taken to be whole."""


class RankWatch:
    """The watch over one rank, by its parent."""

    def __init__(
        self, board: Board, failures: str, *, rank: int, num_ranks: int, host: str, timeout_seconds: float
    ) -> None:
        """Describe the rank; the watch begins with `over`.

        Args:
            board: on which the rank writes its place.
            failures: folder for the records of failures.
            rank: the rank.
            num_ranks: ranks of the job.
            host: where it runs.
            timeout_seconds: how long it may stand still; `SLOW_FACTOR` times that until its first step is
                done, and when it leaves the job. Before it has joined the job nothing counts.
        """
        self._board, self._failures = board, failures
        self._rank, self._num_ranks, self._host = rank, num_ranks, host
        self._timeout_seconds = timeout_seconds
        self._has_said_wait = False

    @contextmanager
    def over(self, pid: int) -> Iterator[None]:
        """Watch a child of this process during the block, from a thread."""
        ended = threading.Event()
        thread = threading.Thread(target=self._run, args=(pid, ended), name="dlspark-watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _run(self, pid: int, ended: threading.Event) -> None:
        record = self._wait_for_record(pid, ended)
        # A stopped process has no stack to show, and no other rank moves: nothing is left to wait for.
        if record is None or (record.type == STALL and ended.wait(_SECONDS_FOR_OTHERS)):
            return
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def _wait_for_record(self, pid: int, ended: threading.Event) -> FailureRecord | None:
        """Return the record that this watch has written; None if the watch is over."""
        interval = min(SECONDS_BETWEEN_LOOKS, self._timeout_seconds / 4)
        place: Place | None = None
        moved_at = ran_at = time.monotonic()
        while True:
            slept_at = time.monotonic()
            if ended.wait(interval):
                return None
            now = time.monotonic()
            if now - slept_at > interval + SECONDS_BETWEEN_LOOKS:
                # This process did not run either, as in a frozen container: that time does not count.
                moved_at, ran_at = moved_at + now - slept_at, ran_at + now - slept_at
            seen, stopped_by = self._board.read(), find_stop(pid)
            if seen != place or seen is None:
                place, moved_at = seen, now
            if stopped_by is None:
                ran_at = now
            try:
                if stopped_by is not None:
                    record = self._stop(stopped_by, place, now - ran_at)
                else:
                    record = None if place is None else self._stall(pid, place, now - moved_at)
                if record is not None:
                    write_failure(self._failures, record)
                    return record
            except OSError as error:
                _log.warning("the watch over rank %d cannot use %s: %s", self._rank, self._failures, error)

    def _stop(self, stopped_by: str, place: Place | None, seconds: float) -> FailureRecord | None:
        """Return the record of a rank that has been stopped for some seconds, if they are many."""
        if seconds < _SECONDS_STOPPED:
            return None
        return record_stop(
            stopped_by, rank=self._rank, num_ranks=self._num_ranks, host=self._host, place=place
        )

    def _stall(self, pid: int, place: Place, seconds: float) -> FailureRecord | None:
        """Return the record of a rank that has not moved for some seconds, once its job is to end."""
        allowed = self._timeout_seconds * (SLOW_FACTOR if place.may_be_slow else 1)
        if seconds < allowed / 2:
            self._take_back_wait()
            return None
        has_failed = bool(read_failures(self._failures))
        if seconds < allowed and not has_failed:
            return None
        is_to_end = has_failed or not place.is_waiting or seconds >= _OVERDUE_FACTOR * allowed
        if is_to_end or not self._has_said_wait:
            self._write_stacks(pid, place, seconds)
        if self._board.read() != place:
            return None
        if not is_to_end:
            if not self._has_said_wait:
                write_wait(self._failures, self._rank, place)
                self._has_said_wait = True
            if count_waits(self._failures) < self._num_ranks:
                return None
        return record_stall(
            seconds,
            rank=self._rank,
            num_ranks=self._num_ranks,
            host=self._host,
            place=place,
            is_secondary=place.is_waiting or seconds < allowed,
            stacks=storage.join(self._failures, "stacks"),
        )

    def _take_back_wait(self) -> None:
        if self._has_said_wait:
            remove_wait(self._failures, self._rank)
            self._has_said_wait = False

    def _write_stacks(self, pid: int, place: Place, seconds: float) -> None:
        """Write the stacks of the rank as `<failures>/stacks/rank-00001.txt`."""
        who = f"rank {self._rank} of {self._num_ranks} on host {self._host}, process {pid}"
        head = f"{who}: {place}, has not moved for {seconds:.0f} s\n\n"
        stacks = dump_stacks(pid, self._board) or b"(it does not answer SIGUSR1)\n"
        url = storage.join(self._failures, "stacks", f"rank-{self._rank:05d}.txt")
        storage.write_bytes(url, head.encode() + stacks)


def find_stop(pid: int) -> str | None:
    """Return the name of the signal that has stopped a child of this process; None if it is not stopped."""
    try:
        state = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if state is None else signal.Signals(state.si_status).name


def dump_stacks(pid: int, board: Board) -> bytes:
    """Return the Python stacks of all threads of a rank; empty if it does not write them within 5 s."""
    start = size = board.size_bytes()
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGUSR1)
    deadline = time.monotonic() + _SECONDS_FOR_STACKS
    while time.monotonic() < deadline:
        time.sleep(_SECONDS_OF_SILENCE)
        before, size = size, board.size_bytes()
        if start < before == size:
            break
    return board.read_from(start)
