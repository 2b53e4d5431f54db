"""The driver's hand on a run: tags, metrics and artifacts, by way of the journal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from dlspark import storage
from dlspark.tracking.create import MAX_TAG_LENGTH
from dlspark.tracking.events import ArtifactEvent, TagsEvent
from dlspark.tracking.facts import shorten
from dlspark.tracking.journal import JournalTracker


class TrackedRun:
    """The driver's hand on a run: what it is told goes into the journal, so no call waits for the server."""

    def __init__(
        self, *, run_dir: str, tracking_uri: str, experiment_id: str, run_id: str, tracker: JournalTracker
    ) -> None:
        """Bind to an MLflow run that exists."""
        self.run_dir, self.tracking_uri = run_dir, tracking_uri
        self.experiment_id, self.run_id = experiment_id, run_id
        self._tracker = tracker

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record values at an optimizer step."""
        self._tracker.log_metrics(metrics, step=step)

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags of the run; values become text of 5,000 characters at most."""
        values = {name: shorten(str(value), MAX_TAG_LENGTH) for name, value in tags.items()}
        self._tracker.record(TagsEvent(time_ms=_now_ms(), values=values))

    def log_artifact(self, path: str, folder: str = "") -> None:
        """Put a file among the run's artifacts.

        A file outside the run directory is copied to `<run_dir>/artifacts/` first, so that it is still there
        when the server answers again.

        Args:
            path: URL of the file.
            folder: folder among the artifacts; empty for their root.

        Raises:
            OSError: the file cannot be read or copied.
        """
        root = storage.absolute(self.run_dir).rstrip("/") + "/"
        url = storage.absolute(path)
        if url.startswith(root):
            file = url.removeprefix(root)
        else:
            file = storage.join("artifacts", folder, Path(url).name)
            storage.write_bytes(storage.join(self.run_dir, file), storage.read_bytes(url))
        self._tracker.record(ArtifactEvent(time_ms=_now_ms(), file=file, folder=folder))

    def log_text(self, text: str, name: str, folder: str = "") -> None:
        """Put a text file among the run's artifacts, by way of `<run_dir>/artifacts/`."""
        url = storage.join(self.run_dir, "artifacts", folder, name)
        storage.write_bytes(url, text.encode())
        self.log_artifact(url, folder)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
