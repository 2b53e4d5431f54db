"""The watch over the local backend, whose one rank is this process: a thread of it looks, and interrupts.

It sees what a parent sees of the rank of another backend (see `watch`), but can only end what comes back to
Python: a main thread that waits or computes there is interrupted as by Ctrl-C; one in native code that does
not return is named all the same, with its stack.
"""

from __future__ import annotations

import faulthandler
import logging
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from dlspark import storage
from dlspark.cluster.failures import FailureRecord, write_failure
from dlspark.cluster.stalls import record_stall
from dlspark.cluster.watch import SECONDS_BETWEEN_LOOKS, SLOW_FACTOR
from dlspark.cluster.whereabouts import Place, RankWhereabouts

_SIGNAL = signal.SIGUSR2

_log = logging.getLogger(__name__)


class LocalWatch:
    """The watch over the rank of the local backend."""

    def __init__(
        self, whereabouts: RankWhereabouts, failures: str, *, host: str, timeout_seconds: float
    ) -> None:
        """Describe the rank; the watch begins with `over_this_thread`.

        Args:
            whereabouts: where the rank notes its place; before the first one nothing counts.
            failures: folder for the record of a stall and the stacks; made if there is one.
            host: where it runs.
            timeout_seconds: how long it may stand still; `SLOW_FACTOR` times that until its first step is
                done.
        """
        self._whereabouts, self._failures, self._host = whereabouts, failures, host
        self._timeout_seconds = timeout_seconds
        self._is_over = False
        self._lock = threading.Lock()
        self.record: FailureRecord | None = None
        """That of the stall, once there was one."""

    @contextmanager
    def over_this_thread(self) -> Iterator[None]:
        """Watch this thread during the block; the main thread gets a KeyboardInterrupt of a stall."""
        ended = threading.Event()
        watched = threading.current_thread()
        thread = threading.Thread(
            target=self._run, args=(watched, ended), name="dlspark-local-watch", daemon=True
        )
        with _interruptible():
            thread.start()
            try:
                yield
            finally:
                with self._lock:
                    self._is_over = True
                ended.set()

    def _run(self, watched: threading.Thread, ended: threading.Event) -> None:
        place: Place | None = None
        moved_at = time.monotonic()
        while not ended.wait(min(SECONDS_BETWEEN_LOOKS, self._timeout_seconds / 4)):
            if self._whereabouts.place != place:
                place, moved_at = self._whereabouts.place, time.monotonic()
            seconds = time.monotonic() - moved_at
            if place is not None and seconds >= self._allowed(place):
                self._report(place, seconds)
                self._interrupt(watched)
                return

    def _allowed(self, place: Place) -> float:
        return self._timeout_seconds * (SLOW_FACTOR if place.may_be_slow else 1)

    def _report(self, place: Place, seconds: float) -> None:
        """Write the stacks and the record, and say so."""
        stacks = storage.join(self._failures, "stacks")
        self.record = record_stall(
            seconds,
            rank=0,
            num_ranks=1,
            host=self._host,
            place=place,
            is_secondary=False,
            stacks=stacks,
        )
        try:
            with tempfile.TemporaryFile() as file:
                faulthandler.dump_traceback(file, all_threads=True)
                file.seek(0)
                head = f"{place}, has not moved for {seconds:.0f} s\n\n".encode()
                storage.write_bytes(storage.join(stacks, "rank-00000.txt"), head + file.read())
            write_failure(self._failures, self.record)
        except OSError as error:
            _log.warning("the stacks of the stall cannot be written to %s: %s", self._failures, error)

    def _interrupt(self, watched: threading.Thread) -> None:
        with self._lock:
            if self._is_over or self.record is None:
                return
            _log.error("the training stands still %s: %s", self.record.place, self.record.message)
            if watched is threading.main_thread():
                _log.error("it is interrupted")
                signal.pthread_kill(watched.ident or 0, _SIGNAL)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let the signal raise KeyboardInterrupt in the main thread; SIGINT may be ignored, as under nohup."""
    if threading.current_thread() is not threading.main_thread():
        # Python lets only the main thread set handlers.
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(_SIGNAL, interrupt)
    try:
        yield
    finally:
        signal.signal(_SIGNAL, before or signal.SIG_DFL)
