"""Sends a run's journal to MLflow from a thread on the driver: all of it arrives, once, whatever happens.

Segments go in order, in batches; after each batch the cursor notes what the server has. Whenever that may be
untrue (at the start, and after a failed request: a reply may be lost though the server did the work) the
server itself is asked before the next batch. An outage is logged once and retried; the training never sees
it. What is left at the end stays in the journal, and `dlspark sync` sends it.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag

from dlspark import storage
from dlspark.errors import TrackingError
from dlspark.tracking.cursor import Cursor
from dlspark.tracking.events import (
    ArtifactEvent,
    Event,
    MetricsEvent,
    ProgressEvent,
    StatusEvent,
    TagsEvent,
)
from dlspark.tracking.journal import Segment, read_segments
from dlspark.tracking.server import first_line, is_refusal, request_limits

logger = logging.getLogger(__name__)

_MAX_METRICS = 1000
_MAX_SEGMENTS = 200
_SYNC_REQUEST_SECONDS = 120
_MAX_BACKOFF_SECONDS = 10.0
_LISTING_SHARE = 20.0


class Shipper:
    """Ships one run directory to one MLflow run: a context manager around a training, or `ship_all` later."""

    def __init__(
        self,
        run_dir: str,
        *,
        tracking_uri: str,
        run_id: str,
        poll_seconds: float = 0.5,
        close_seconds: float = 15.0,
    ) -> None:
        """Prepare; nothing is read or sent yet.

        Args:
            run_dir: URL of the run directory.
            tracking_uri: of the MLflow server.
            run_id: the MLflow run.
            poll_seconds: time between two looks for new segments.
            close_seconds: how long leaving the block may take until what is left is left to `dlspark sync`.
        """
        self.run_dir, self.tracking_uri, self.run_id = run_dir, tracking_uri, run_id
        self._poll_seconds, self._close_seconds = poll_seconds, close_seconds
        self._client = MlflowClient(tracking_uri)
        self._cursor = Cursor(run_dir, run_id)
        self._refused: set[str] = set()
        self._uncertain = True
        self._batch: list[Segment] = []
        self._failing_since: float | None = None
        self._deadline = float("inf")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ship_until_stopped, name="dlspark-shipper", daemon=True)

    def __enter__(self) -> Self:
        """Start shipping."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, as `close`."""
        self.close()

    def close(self) -> int:
        """Ship what the journal holds by now, for `close_seconds` at most.

        Returns:
            The number of events that MLflow does not have; if any, a warning says how to send them.
        """
        if self._stop.is_set():
            return self.count_left()
        self._deadline = time.monotonic() + self._close_seconds
        self._stop.set()
        self._thread.join(self._close_seconds)
        # A thread that is still in a request begins no other one: from here on the journal is `sync`'s.
        self._deadline = float("-inf")
        left = self.count_left()
        if left:
            logger.warning(
                "%d events of the run are not in MLflow yet; nothing is lost, send them with: "
                "dlspark sync run_dir=%s",
                left,
                self.run_dir,
            )
        return left

    def ship_all(self) -> int:
        """Ship all that the journal holds, in this thread, without retries.

        Returns:
            The number of events that were shipped by this call.

        Raises:
            TrackingError: the server does not take them; what was sent before stays sent.
        """
        before = self.count_left()
        try:
            with request_limits(timeout_seconds=_SYNC_REQUEST_SECONDS, num_retries=2):
                while self._ship_batch():
                    pass
        except Exception as error:
            raise TrackingError(
                "MLflow does not take the run's journal",
                got=first_line(error)[:500],
                where=f"run {self.run_id} at {self.tracking_uri}",
                fix=f"repeat when the server answers: dlspark sync run_dir={self.run_dir}",
            ) from error
        return before - self.count_left()

    def count_left(self) -> int:
        """Return the number of journaled events that MLflow is not known to have."""
        segments = read_segments(self.run_dir, dict(self._cursor.segments))
        return sum(not isinstance(event, ProgressEvent) for segment in segments for event in segment.events)

    def _ship_until_stopped(self) -> None:
        backoff = self._poll_seconds
        while True:
            # Read before the journal, so that all that was flushed before `close` is seen in this round.
            stopping = self._stop.is_set()
            started = time.monotonic()
            if started >= self._deadline:
                return
            try:
                more = self._ship_batch()
            except Exception as error:  # noqa: BLE001 - nothing may reach the training; logged, retried
                self._note_failure(error)
                more, wait = True, backoff
                backoff = min(2 * backoff, _MAX_BACKOFF_SECONDS)
            else:
                self._note_success()
                backoff = self._poll_seconds
                wait = 0.0 if more else max(backoff, _LISTING_SHARE * (time.monotonic() - started))
            if stopping and not more:
                return
            if stopping:
                time.sleep(min(wait, self._poll_seconds))
            else:
                self._stop.wait(wait)

    def _note_failure(self, error: Exception) -> None:
        self._uncertain = True
        if self._failing_since is None:
            self._failing_since = time.monotonic()
            logger.warning(
                "MLflow at %s does not take the run's data (%s); the run goes on, its journal keeps all of "
                "it, and it is sent as soon as the server answers",
                self.tracking_uri,
                first_line(error)[:300],
            )

    def _note_success(self) -> None:
        if self._failing_since is not None:
            logger.info("MLflow answers again after %.0f s", time.monotonic() - self._failing_since)
            self._failing_since = None

    def _ship_batch(self) -> bool:
        """Ship the next segments and move the cursor; False when there was nothing left to ship."""
        if not self._batch:
            self._batch = read_segments(self.run_dir, self._cursor.segments, limit=_MAX_SEGMENTS)
        if not self._batch:
            return False
        self._send([event for segment in self._batch for event in segment.events])
        for segment in self._batch:
            self._cursor.segments[segment.attempt] = segment.sequence
        self._batch = []
        self._cursor.save()
        return True

    def _send(self, events: Sequence[Event]) -> None:
        metrics = [
            Metric(name, value, event.time_ms, event.step)
            for event in events
            if isinstance(event, MetricsEvent)
            for name, value in event.values.items()
        ]
        self._send_metrics(metrics)
        for event in events:
            try:
                self._send_other(event)
            except FileNotFoundError as error:
                logger.error("an artifact is gone from %s and is left out: %s", self.run_dir, error)
            except Exception as error:
                if not is_refusal(error):
                    raise
                logger.error("MLflow refuses %s: %s", event, first_line(error))

    def _send_metrics(self, metrics: Sequence[Metric]) -> None:
        if self._uncertain and metrics:
            # Whole batches may have arrived unknown to us, so one that is new throughout ends the doubt.
            self._uncertain = self._learn_from_server(metrics)
        for chunk in _chunks(self._unsent(metrics), _MAX_METRICS):
            self._log_batch(chunk)
            for metric in chunk:
                self._cursor.add(metric.key, metric.step)

    def _unsent(self, metrics: Sequence[Metric]) -> list[Metric]:
        first: dict[tuple[str, int], Metric] = {}
        for metric in metrics:
            if not self._cursor.has(metric.key, metric.step):
                first.setdefault((metric.key, metric.step), metric)
        return list(first.values())

    def _learn_from_server(self, metrics: Sequence[Metric]) -> bool:
        """Note which of these metrics the server has; True if it has one that we did not know of."""
        unsent = self._unsent(metrics)
        first_steps: dict[str, int] = {}
        for metric in unsent:
            first_steps[metric.key] = min(metric.step, first_steps.get(metric.key, metric.step))
        run = self._client.get_run(self.run_id)
        for latest in run.data.to_proto().metrics:
            # A metric whose latest step lies before ours saves reading its whole history.
            if latest.key in first_steps and latest.step >= first_steps[latest.key]:
                for metric in self._client.get_metric_history(self.run_id, latest.key):
                    self._cursor.add(metric.key, metric.step)
        return len(self._unsent(unsent)) < len(unsent)

    def _log_batch(self, metrics: Sequence[Metric]) -> None:
        try:
            self._client.log_batch(self.run_id, metrics=metrics)
        except Exception as error:
            if not is_refusal(error):
                raise
            if self._client.get_run(self.run_id).info.lifecycle_stage != "active":
                # A deleted run can be restored, and then takes what it refuses now.
                raise
            if len(metrics) == 1:
                if metrics[0].key not in self._refused:
                    logger.error("MLflow refuses the metric %s: %s", metrics[0].key, first_line(error))
                self._refused.add(metrics[0].key)
                return
            middle = len(metrics) // 2
            self._log_batch(metrics[:middle])
            self._log_batch(metrics[middle:])

    def _send_other(self, event: Event) -> None:
        if isinstance(event, TagsEvent):
            tags = [RunTag(name, value) for name, value in event.values.items()]
            self._client.log_batch(self.run_id, tags=tags)
        elif isinstance(event, ArtifactEvent):
            self._send_artifact(event)
        elif isinstance(event, StatusEvent):
            if event.status == "RUNNING":
                self._client.update_run(self.run_id, status=event.status)
            else:
                self._client.set_terminated(self.run_id, event.status, end_time=event.time_ms)

    def _send_artifact(self, event: ArtifactEvent) -> None:
        data = storage.read_bytes(storage.join(self.run_dir, event.file))
        with tempfile.TemporaryDirectory(prefix="dlspark-artifact-") as folder:
            file = Path(folder) / Path(event.file).name
            file.write_bytes(data)
            self._client.log_artifact(self.run_id, str(file), event.folder or None)


def _chunks(metrics: Sequence[Metric], size: int) -> Iterator[Sequence[Metric]]:
    for start in range(0, len(metrics), size):
        yield metrics[start : start + size]
