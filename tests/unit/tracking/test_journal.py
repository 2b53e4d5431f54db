"""The journal: what is recorded is read back exactly, in files that never change."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from dlspark import storage
from dlspark.errors import TrackingError
from dlspark.tracking.events import ArtifactEvent, MetricsEvent, StatusEvent, TagsEvent
from dlspark.tracking.journal import (
    JournalTracker,
    MemoryTracker,
    list_segments,
    metric_history,
    read_events,
    read_segments,
)


def test_recorded_events_are_read_back_in_order_with_values_that_json_lacks(tmp_path: Path) -> None:
    values = {"a": 0.1 + 0.2, "nan": math.nan, "up": math.inf, "down": -math.inf, "tiny": 5e-324}
    events = [
        TagsEvent(time_ms=1, values={"precision": "fp32", "text": "line\nbreak é"}),
        ArtifactEvent(time_ms=2, file="pictures/a.png", folder="pictures"),
        StatusEvent(time_ms=3, status="FINISHED"),
    ]
    with JournalTracker(str(tmp_path), "train-0") as tracker:
        tracker.log_metrics(values, step=7)
        tracker.flush()
        tracker.log_progress(step=7, num_steps=10, fields={"loss": math.nan})
        for event in events:
            tracker.record(event)

    metrics, progress, *others = read_events(str(tmp_path))

    assert isinstance(metrics, MetricsEvent)
    assert metrics.step == 7
    assert repr(metrics.values) == repr(values)
    assert "nan" in repr(progress)
    assert others == events


def test_a_segment_once_written_never_changes_and_a_restart_continues_behind_it(tmp_path: Path) -> None:
    first = JournalTracker(str(tmp_path), "driver")
    first.log_metrics({"a": 1.0}, step=1)
    first.flush()
    folder = tmp_path / "journal"
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}
    first.log_metrics({"a": 2.0}, step=2)
    first.close()
    with JournalTracker(str(tmp_path), "driver") as second:
        second.log_metrics({"a": 3.0}, step=3)

    assert list(before) == ["driver-00000001.jsonl"]
    after = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}
    assert sorted(after) == [f"driver-0000000{number}.jsonl" for number in (1, 2, 3)]
    assert before.items() <= after.items()
    assert metric_history(read_events(str(tmp_path))) == {"a": [(1, 1.0), (2, 2.0), (3, 3.0)]}


def test_events_reach_storage_by_themselves_within_the_flush_interval(tmp_path: Path) -> None:
    with JournalTracker(str(tmp_path), "a", flush_seconds=0.05) as tracker:
        tracker.log_metrics({"a": 1.0}, step=1)
        journal = tmp_path / "journal"
        for _ in range(200):
            if list_segments(str(tmp_path)):
                break
            tracker._stop.wait(0.05)
        assert [file.name for file in journal.iterdir()] == ["a-00000001.jsonl"]


def test_only_segments_beyond_the_cursor_are_read_attempt_by_attempt(tmp_path: Path) -> None:
    for attempt in ("train-0", "train-0-1"):
        with JournalTracker(str(tmp_path), attempt) as tracker:
            for step in (1, 2, 3):
                tracker.log_metrics({"a": float(step)}, step=step)
                tracker.flush()

    found = read_segments(str(tmp_path), {"train-0": 2}, limit=2)

    assert [(segment.attempt, segment.sequence) for segment in found] == [("train-0", 3), ("train-0-1", 1)]


@pytest.mark.faults(scenario=6)
def test_a_journal_works_where_files_can_only_be_put_whole() -> None:
    with JournalTracker("memory://journal-test", "a") as tracker:
        tracker.log_metrics({"a": 1.0}, step=1)

    assert metric_history(read_events("memory://journal-test")) == {"a": [(1, 1.0)]}
    storage.remove_tree("memory://journal-test")


@pytest.mark.faults(scenario=6)
def test_failing_storage_loses_nothing_when_it_recovers_and_never_raises(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = JournalTracker(str(tmp_path), "a", flush_seconds=60)
    (tmp_path / "journal").rmdir()
    (tmp_path / "journal").write_text("a file in the place of the folder")
    tracker.log_metrics({"a": 1.0}, step=1)
    tracker.flush()
    tracker.log_metrics({"a": 2.0}, step=2)
    tracker.flush()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    (tmp_path / "journal").unlink()
    tracker.close()

    assert metric_history(read_events(str(tmp_path))) == {"a": [(1, 1.0), (2, 2.0)]}


def test_an_attempt_name_that_would_break_the_file_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="allowed: letters"):
        JournalTracker(str(tmp_path), "a/b")


def test_of_two_values_for_a_step_the_first_counts() -> None:
    tracker = MemoryTracker()
    for step, value in ((2, 0.5), (1, 1.0), (2, 9.0)):
        tracker.log_metrics({"loss": value}, step=step)

    assert tracker.history() == {"loss": [(1, 1.0), (2, 0.5)]}


def test_the_journal_imports_no_mlflow_and_no_torch() -> None:
    code = "import sys, dlspark.tracking.journal; print([m for m in ('mlflow', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_note_is_a_tag_and_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with JournalTracker(str(tmp_path), "rank0-001") as tracker:
        tracker.log_note("plateau", "The loss stays.", step=7)
    [event] = read_events(str(tmp_path))
    assert isinstance(event, TagsEvent)
    assert event.values == {"dlspark.note.plateau": "step 7: The loss stays."}
    assert [record.getMessage() for record in caplog.records] == ["step 7: The loss stays."]
    memory = MemoryTracker()
    memory.log_note("plateau", "The loss stays.", step=7)
    assert [kept.values for kept in memory.events if isinstance(kept, TagsEvent)] == [event.values]
