"""How far a run's journal is in MLflow: `<run_dir>/journal-shipped.json`.

It says which segments are through and which steps of each metric the server has. It is written after each
batch, so after a crash it may lag behind the server by one batch, and never runs ahead of it.
"""

from __future__ import annotations

from typing import Any

from dlspark import storage
from dlspark.tracking.steps import StepRanges

_FILE = "journal-shipped.json"


class Cursor:
    """What MLflow is known to have of one run directory.

    Args:
        run_dir: URL of the run directory; its cursor is read if it is one of the same run.
        run_id: the MLflow run.

    Attributes:
        segments: the last sequence that is through, of each attempt.
    """

    def __init__(self, run_dir: str, run_id: str) -> None:
        self.segments: dict[str, int] = {}
        self._url = storage.join(run_dir, _FILE)
        self._run_id = run_id
        self._steps: dict[str, StepRanges] = {}
        try:
            saved: dict[str, Any] = storage.read_json(self._url)
        except FileNotFoundError:
            return
        if saved["run_id"] == run_id:
            self.segments = {name: int(sequence) for name, sequence in saved["segments"].items()}
            self._steps = {key: StepRanges.from_json(ranges) for key, ranges in saved["steps"].items()}

    def has(self, key: str, step: int) -> bool:
        """Tell whether the server is known to have a metric at a step."""
        return step in self._steps.get(key, ())

    def add(self, key: str, step: int) -> None:
        """Note that the server has a metric at a step."""
        self._steps.setdefault(key, StepRanges()).add(step)

    def save(self) -> None:
        """Write the cursor."""
        steps = {key: ranges.to_json() for key, ranges in self._steps.items()}
        storage.write_json(self._url, {"run_id": self._run_id, "segments": self.segments, "steps": steps})
