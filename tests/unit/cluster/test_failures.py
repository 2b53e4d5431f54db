"""Of the failures of several ranks, the cause is found and named in one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cloudpickle
import pytest

from dlspark.cluster.failures import (
    STALL,
    FailureRecord,
    explain_failure,
    find_cause,
    find_late,
    has_failure,
    lost_error,
    read_failures,
    read_hosts,
    record_end,
    record_failure,
    recorded_error,
    write_failure,
    write_host,
)
from dlspark.cluster.whereabouts import Place

_PLACE = Place(phase="compute", step=37, num_moves=150, num_collectives=40, is_starting=False)


def _record(
    rank: int, unix_seconds: float, *, is_secondary: bool = False, message: str = "boom"
) -> FailureRecord:
    return FailureRecord(
        rank=rank,
        num_ranks=4,
        host=f"host-{rank}",
        type="HorovodInternalError" if is_secondary else "ValueError",
        message=message,
        notes=("step 17",),
        traceback="Traceback ...\n  the line\nValueError: boom\n",
        unix_seconds=unix_seconds,
        is_secondary=is_secondary,
    )


def test_records_survive_the_run_directory_in_order_of_time(tmp_path: Path) -> None:
    late, early = _record(0, 5.0), _record(3, 4.0)
    for record in (late, early):
        write_failure(str(tmp_path / "failures"), record)
    write_host(str(tmp_path / "failures"), 0, "host-0")
    assert read_failures(str(tmp_path / "failures")) == [early, late]
    assert read_failures(str(tmp_path / "nothing")) == []


def test_the_cause_is_the_earliest_failure_of_its_own() -> None:
    records = [_record(0, 1.0, is_secondary=True), _record(2, 2.0), _record(1, 3.0)]
    assert find_cause(records) == records[1]
    assert find_cause(records[:1]) is None


def test_the_first_line_names_rank_host_type_and_message() -> None:
    error = recorded_error(_record(2, 1.0, message="boom.\nmore"), num_others=3, where="/run/failures/a")
    first, *more = str(error).splitlines()
    assert first == (
        "rank 2 of 4 on host host-2 failed: ValueError: boom [step 17]; 3 other ranks ended because of it; "
        "in /run/failures/a."
    )
    assert "  the line" in more
    assert str(cloudpickle.loads(cloudpickle.dumps(error))) == str(error)


def test_an_error_is_recorded_with_its_notes_and_traceback() -> None:
    try:
        raise KeyError("nothing there")
    except KeyError as caught:
        caught.add_note("step 3")
        record = record_failure(caught, rank=1, num_ranks=2, host="a")
    assert (record.type, record.message, record.notes, record.is_secondary) == (
        "KeyError",
        "'nothing there'",
        ("step 3",),
        False,
    )
    assert "raise KeyError" in record.traceback


def _end(exit_code: int) -> FailureRecord:
    return record_end(exit_code, rank=1, num_ranks=2, host="a")


def test_a_rank_that_ends_without_a_word_is_explained_by_its_exit_code() -> None:
    killed = str(recorded_error(_end(137), num_others=1, where=None, output=["last words"]))
    assert killed.startswith(
        "rank 1 of 2 on host a failed: SIGKILL: its process was killed from outside; 1 other"
    )
    assert "memory" in killed.splitlines()[0]
    assert killed.splitlines()[-1] == "last words"
    crashed = str(recorded_error(_end(139), num_others=0, where=None))
    assert "SIGSEGV" in crashed
    assert "memory" not in crashed
    assert "exit code 3" in str(recorded_error(_end(3), num_others=0, where=None))
    lost = lost_error(rank=0, num_ranks=2, host="a", output=["last words"])
    assert str(lost).startswith("rank 0 of 2 on host a failed: its executor was lost")
    assert str(lost).endswith("last words")


def test_the_end_of_a_process_is_a_record_like_others(tmp_path: Path) -> None:
    assert not has_failure(str(tmp_path), 1)
    write_failure(str(tmp_path), _end(137))
    assert has_failure(str(tmp_path), 1)


def test_step_and_phase_are_in_the_record_and_in_the_first_line(tmp_path: Path) -> None:
    records = [
        replace(_end(137), place=_PLACE),
        record_failure(ValueError("boom"), rank=0, num_ranks=2, host="a", place=_PLACE),
    ]
    for record, kind in zip(records, ("SIGKILL", "ValueError: boom"), strict=True):
        write_failure(str(tmp_path / kind), record)
        assert read_failures(str(tmp_path / kind)) == [record]
        told = str(explain_failure(1, str(tmp_path / kind), [], has_lost_rank=False))
        assert told.startswith(f"rank {record.rank} of 2 on host a failed at step 37 (compute): {kind}")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_the_late_rank_is_the_one_that_has_entered_fewest_collectives(order: tuple[int, ...]) -> None:
    waiting = [
        replace(
            _record(rank, float(rank), is_secondary=True),
            type=STALL,
            place=replace(_PLACE, num_collectives=number),
        )
        for rank, number in enumerate((40, 39, 39))
    ]
    lost_its_peer = replace(_record(3, 0.0, is_secondary=True), place=replace(_PLACE, num_collectives=1))
    late = find_late([lost_its_peer, *(waiting[rank] for rank in order)])
    assert late == waiting[1]
    assert find_late([lost_its_peer]) is None


def test_hosts_of_ranks_are_known_once_they_started(tmp_path: Path) -> None:
    write_host(str(tmp_path), 1, "host-b")
    assert read_hosts(str(tmp_path), 2) == ["(not started)", "host-b"]
