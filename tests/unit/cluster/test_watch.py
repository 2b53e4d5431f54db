"""The parent of a rank sees that it was stopped or stands still; a rank that waits is no failure."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dlspark.cluster import watch
from dlspark.cluster.failures import STALL, FailureRecord, explain_failure, read_failures
from dlspark.cluster.stalls import count_waits
from dlspark.cluster.watch import SLOW_FACTOR, RankWatch
from dlspark.cluster.whereabouts import Board

_TIMEOUT = 0.5
_CODE = """
import ctypes, os, signal, sys
from dlspark.cluster.whereabouts import Board, RankWhereabouts
board = Board(int(sys.argv[1]))
board.take_stacks()
whereabouts = RankWhereabouts(board)
whereabouts.note("start")
whereabouts.note("data", step=36)
def be_stuck():
    mutex = ctypes.create_string_buffer(64)
    for _ in range(2):  # the second time it waits for itself, and no signal interrupts that
        ctypes.PyDLL(None).pthread_mutex_lock(mutex)
{body}
"""


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_SECONDS_STOPPED", 0.5)
    monkeypatch.setattr(watch, "_SECONDS_FOR_OTHERS", 0.2)


@contextmanager
def _rank(folder: Path, rank: int, body: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a rank of two, and watch it during the block."""
    with Board() as board:
        watched = RankWatch(board, str(folder), rank=rank, num_ranks=2, host="a", timeout_seconds=_TIMEOUT)
        command = [sys.executable, "-c", _CODE.format(body=body), str(board.file)]
        process = subprocess.Popen(command, pass_fds=[board.file], stdin=subprocess.PIPE)
        try:
            with process, watched.over(process.pid):
                yield process
                process.wait(timeout=60)
        finally:
            process.kill()


def _only_record(folder: Path) -> FailureRecord:
    [record] = read_failures(str(folder))
    return record


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_stopped_rank_is_named_with_signal_step_and_phase_and_ended(tmp_path: Path) -> None:
    body = 'whereabouts.note("compute", step=37); os.kill(os.getpid(), signal.SIGSTOP)'
    with _rank(tmp_path, 1, body) as process:
        pass
    assert process.returncode == -9
    told = str(explain_failure(2, str(tmp_path), [], has_lost_rank=False))
    assert told.startswith(
        "rank 1 of 2 on host a failed at step 37 (compute): SIGSTOP: its process was stopped by SIGSTOP"
    )


@pytest.mark.parametrize(
    ("body", "where", "factor"),
    [
        ('whereabouts.note("data", step=37); be_stuck()', "at step 37 (data)", 1),
        ("be_stuck()", "at step 36 (data)", SLOW_FACTOR),
    ],
    ids=["in a later step", "in the first one"],
)
def test_a_rank_that_stands_still_is_named_leaves_its_stacks_and_is_ended(
    tmp_path: Path, body: str, where: str, factor: int
) -> None:
    started = time.time()
    with _rank(tmp_path, 1, body) as process:
        pass
    assert process.returncode == -9
    record = _only_record(tmp_path)
    assert (record.type, record.is_secondary, str(record.place)) == (STALL, False, where)
    assert record.unix_seconds - started >= _TIMEOUT * factor
    told = str(explain_failure(2, str(tmp_path), [], has_lost_rank=False))
    assert told.startswith(f"rank 1 of 2 on host a failed {where}: Stall: it has not moved for ")
    assert "cluster.stall_timeout_seconds" in told.splitlines()[0]
    stacks = (tmp_path / "stacks" / "rank-00001.txt").read_text()
    assert stacks.startswith("rank 1 of 2 on host a, process ")
    assert "in be_stuck" in stacks


_WAIT = 'whereabouts.note("data", step=37)\nwith whereabouts.communicating():\n    sys.stdin.read(1)\n'


def test_a_rank_that_waits_for_a_moving_one_is_left_alone(tmp_path: Path) -> None:
    on = _WAIT + "import select\nwhile not select.select([sys.stdin], [], [], 0.01)[0]:\n    "
    with _rank(tmp_path, 0, on + 'whereabouts.note("compute")') as process:
        assert process.stdin is not None
        _wait_for(lambda: count_waits(str(tmp_path)) == 1)
        process.stdin.write(b"x")
        process.stdin.flush()
        _wait_for(lambda: count_waits(str(tmp_path)) == 0)
        process.stdin.close()
    assert process.returncode == 0
    assert read_failures(str(tmp_path)) == []


def test_if_all_ranks_wait_the_one_with_fewest_collectives_is_late(tmp_path: Path) -> None:
    one_more = "with whereabouts.communicating():\n    pass\n"
    with _rank(tmp_path, 0, one_more + _WAIT) as first, _rank(tmp_path, 1, _WAIT) as second:
        pass
    assert (first.returncode, second.returncode) == (-9, -9)
    assert [record.is_secondary for record in read_failures(str(tmp_path))] == [True, True]
    told = str(explain_failure(2, str(tmp_path), [], has_lost_rank=False))
    assert told.startswith("rank 1 of 2 on host a failed at step 37 (communication): Stall: it has waited")


def test_a_rank_of_which_nothing_is_heard_is_named_by_those_that_wait(tmp_path: Path) -> None:
    with _rank(tmp_path, 0, _WAIT) as process:
        pass
    assert process.returncode == -9
    told = str(explain_failure(2, str(tmp_path), [], has_lost_rank=False))
    assert told.startswith("rank 1 of 2 on host (not started) failed: no word from it while the others wait")


def test_a_waiting_rank_leaves_its_stacks_once_another_one_failed(tmp_path: Path) -> None:
    late = 'whereabouts.note("data", step=37); be_stuck()'
    with _rank(tmp_path, 0, _WAIT), _rank(tmp_path, 1, late):
        pass
    records = {record.rank: record for record in read_failures(str(tmp_path))}
    assert (records[0].is_secondary, records[1].is_secondary) == (True, False)
    assert "1 other rank ended because of it" in str(
        explain_failure(2, str(tmp_path), [], has_lost_rank=False)
    )
    assert len(list((tmp_path / "stacks").iterdir())) == 2
