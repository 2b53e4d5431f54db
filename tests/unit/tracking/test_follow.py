"""The progress bar sees where rank 0 is, in the end its last report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dlspark.tracking.follow import follow_progress
from dlspark.tracking.journal import JournalTracker


class _Seen:
    def __init__(self) -> None:
        self.updates: list[tuple[int, int, dict[str, float]]] = []

    def update(self, completed: int, total: int, fields: Mapping[str, float] | None = None) -> None:
        self.updates.append((completed, total, dict(fields or {})))


def test_the_last_report_is_shown_and_those_of_an_earlier_attempt_are_not(tmp_path: Path) -> None:
    with JournalTracker(str(tmp_path), "train-0") as tracker:
        tracker.log_progress(step=99, num_steps=100, fields={})
    seen = _Seen()
    with follow_progress(str(tmp_path), seen), JournalTracker(str(tmp_path), "train-1") as tracker:
        for step in range(1, 6):
            tracker.log_progress(step=step, num_steps=5, fields={"loss": 1.0 / step})
            tracker.flush()

    assert seen.updates[-1] == (5, 5, {"loss": 0.2})
    assert 99 not in {completed for completed, _, _ in seen.updates}
