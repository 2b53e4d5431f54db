"""The journal of a run: events in small files beside the checkpoints, so that training needs no server.

Rank 0 (and the driver, as an attempt of its own) records events in memory; a thread writes them every half
second as one new file `<run_dir>/journal/<attempt>-<sequence>.jsonl`. A file is written once and never
touched again: no append, no seek, no rename onto another, so object stores serve as well as disks. A kill -9
loses at most what was recorded after the last `flush`. No MLflow is imported here: workers do not need it.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from dlspark import storage
from dlspark.errors import TrackingError
from dlspark.tracking.events import (
    Event,
    MetricsEvent,
    ProgressEvent,
    TagsEvent,
    decode_events,
    encode_events,
)

logger = logging.getLogger(__name__)

_FOLDER = "journal"
_NAME = re.compile(r"(?P<attempt>[A-Za-z0-9._-]+)-(?P<sequence>\d+)\.jsonl")
_MAX_FLUSH_SECONDS = 5.0
_FLUSH_SHARE_OF_AGE = 0.001


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """One file of a journal."""

    attempt: str
    """Who wrote it: one training attempt of rank 0, or `driver`."""
    sequence: int
    """Number of the file within its attempt, from 1."""
    events: tuple[Event, ...]


def list_segments(run_dir: str, after: Mapping[str, int] | None = None) -> list[tuple[str, int]]:
    """Return (attempt, sequence) of the segments in order, of each attempt those beyond `after`."""
    seen = after or {}
    matches = (_NAME.fullmatch(name) for name in storage.list_names(storage.join(run_dir, _FOLDER)))
    found = [(match["attempt"], int(match["sequence"])) for match in matches if match]
    return sorted((attempt, sequence) for attempt, sequence in found if sequence > seen.get(attempt, 0))


def read_segments(
    run_dir: str, after: Mapping[str, int] | None = None, *, limit: int | None = None
) -> list[Segment]:
    """Read the segments beyond `after`.

    Args:
        run_dir: URL of the run directory.
        after: the last sequence that is known of each attempt.
        limit: at most so many segments; None for all.

    Returns:
        The segments, ordered by attempt and sequence.
    """
    return [
        Segment(
            attempt=attempt,
            sequence=sequence,
            events=tuple(decode_events(storage.read_bytes(_segment_url(run_dir, attempt, sequence)))),
        )
        for attempt, sequence in list_segments(run_dir, after)[:limit]
    ]


def read_events(run_dir: str) -> list[Event]:
    """Return all events of a run in the order in which they were recorded, attempt after attempt."""
    return [event for segment in read_segments(run_dir) for event in segment.events]


def metric_history(events: Iterable[Event]) -> dict[str, list[tuple[int, float]]]:
    """Return each metric's curve as (step, value) by rising step; of two values for a step the first."""
    curves: dict[str, dict[int, float]] = {}
    for event in events:
        if isinstance(event, MetricsEvent):
            for name, value in event.values.items():
                curves.setdefault(name, {}).setdefault(event.step, value)
    return {name: sorted(curve.items()) for name, curve in curves.items()}


def _segment_url(run_dir: str, attempt: str, sequence: int) -> str:
    return storage.join(run_dir, _FOLDER, f"{attempt}-{sequence:08d}.jsonl")


def _note(name: str, sentence: str, step: int) -> TagsEvent:
    return TagsEvent(time_ms=_now_ms(), values={f"dlspark.note.{name}": f"step {step}: {sentence}"})


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class SilentTracker:
    """The tracker of the ranks that report nothing."""

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Do nothing."""

    def log_progress(self, *, step: int, num_steps: int, fields: Mapping[str, float]) -> None:
        """Do nothing."""

    def log_note(self, name: str, sentence: str, *, step: int) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""


class MemoryTracker:
    """A tracker that keeps what it is told in a list: for notebooks and tests."""

    def __init__(self) -> None:
        """Start empty."""
        self.events: list[Event] = []

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Keep values at `step`."""
        self.events.append(MetricsEvent(time_ms=_now_ms(), step=step, values=dict(metrics)))

    def log_progress(self, *, step: int, num_steps: int, fields: Mapping[str, float]) -> None:
        """Keep how far the run is."""
        self.events.append(
            ProgressEvent(time_ms=_now_ms(), step=step, num_steps=num_steps, fields=dict(fields))
        )

    def log_note(self, name: str, sentence: str, *, step: int) -> None:
        """Keep a sentence about the run."""
        self.events.append(_note(name, sentence, step))

    def flush(self) -> None:
        """Do nothing: all is visible already."""

    def history(self) -> dict[str, list[tuple[int, float]]]:
        """Return the curve of each metric; see `metric_history`."""
        return metric_history(self.events)


class JournalTracker:
    """The tracker of rank 0, and of the driver: records in memory, written by a thread of its own.

    Recording costs a list append; no call waits for storage except `flush` and `close`. Storage that fails is
    logged once and tried again: the events stay in memory meanwhile, and the training goes on.
    """

    def __init__(self, run_dir: str, attempt: str, *, flush_seconds: float = 0.5) -> None:
        """Open the journal for writing; segments of the same attempt that are there already are continued.

        Args:
            run_dir: URL of the run directory.
            attempt: names the writer, in letters, digits, `.`, `_` and `-`; one process at a time has it.
            flush_seconds: longest time for which an event stays in memory only. It grows with the age of the
                run by a thousandth (to 5 s at most), so that a long run does not end in 100,000s of files.

        Raises:
            TrackingError: the name is unusable or the folder cannot be made.
        """
        if not _NAME.fullmatch(f"{attempt}-1.jsonl"):
            raise TrackingError(
                "the name of a journal's attempt is unusable",
                got=repr(attempt),
                allowed="letters, digits, '.', '_', '-'",
            )
        try:
            storage.make_folder(storage.join(run_dir, _FOLDER))
            written = [sequence for name, sequence in list_segments(run_dir) if name == attempt]
        except OSError as error:
            raise TrackingError(
                "the journal of the run cannot be written",
                got=error,
                where=run_dir,
                fix="give a run_dir that every worker can write",
            ) from error
        self._run_dir = run_dir
        self._attempt = attempt
        self._flush_seconds = flush_seconds
        self._sequence = max(written, default=0) + 1
        self._events: list[Event] = []
        self._events_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._storage_failing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write_until_stopped, name="dlspark-journal", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        """Return the tracker."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is left and stop."""
        self.close()

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record values at `step`, the number of optimizer steps done since the start of the run."""
        values = {name: float(value) for name, value in metrics.items()}
        self.record(MetricsEvent(time_ms=_now_ms(), step=int(step), values=values))

    def log_progress(self, *, step: int, num_steps: int, fields: Mapping[str, float]) -> None:
        """Record how far the run is."""
        values = {name: float(value) for name, value in fields.items()}
        self.record(ProgressEvent(time_ms=_now_ms(), step=int(step), num_steps=int(num_steps), fields=values))

    def log_note(self, name: str, sentence: str, *, step: int) -> None:
        """Record a sentence about the run as its tag `dlspark.note.<name>`, and warn of it."""
        logger.warning("step %d: %s", step, sentence)
        self.record(_note(name, sentence, step))

    def record(self, event: Event) -> None:
        """Record any event."""
        with self._events_lock:
            self._events.append(event)

    def flush(self) -> None:
        """Write what was recorded; returns when it is on storage, or when storage has failed (logged)."""
        with self._write_lock:
            with self._events_lock:
                events, self._events = self._events, []
            if not events:
                return
            url = _segment_url(self._run_dir, self._attempt, self._sequence)
            try:
                storage.write_bytes(url, encode_events(events))
            except Exception as error:  # noqa: BLE001 - any storage; logged, retried
                with self._events_lock:
                    self._events = events + self._events
                if not self._storage_failing:
                    logger.warning("the journal cannot be written to %s, will be tried again: %s", url, error)
                self._storage_failing = True
                return
            self._sequence += 1
            self._storage_failing = False

    def close(self) -> None:
        """Write what is left and stop the thread; a second call does nothing."""
        self._stop.set()
        self._thread.join()
        self.flush()
        if self._events:
            logger.error("%d events are lost: %s is not writable", len(self._events), self._run_dir)
            self._events = []

    def _write_until_stopped(self) -> None:
        started = time.monotonic()
        seconds = self._flush_seconds
        while not self._stop.wait(seconds):
            self.flush()
            grown = min(_MAX_FLUSH_SECONDS, _FLUSH_SHARE_OF_AGE * (time.monotonic() - started))
            seconds = max(self._flush_seconds, grown)
