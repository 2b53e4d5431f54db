"""The place of a rank reaches another process, and so do its stacks, whatever it is stuck in."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dlspark.cluster.watch import dump_stacks
from dlspark.cluster.whereabouts import Board, Place, RankWhereabouts


def test_what_is_noted_stands_on_the_board_for_another_process() -> None:
    code = """
import sys
from dlspark.cluster.whereabouts import Board, RankWhereabouts
whereabouts = RankWhereabouts(Board(int(sys.argv[1])))
whereabouts.note("start")
whereabouts.note("data", step=2**40)
with whereabouts.communicating():
    whereabouts.note("save")
"""
    with Board() as board:
        assert board.read() is None
        subprocess.run([sys.executable, "-c", code, str(board.file)], pass_fds=[board.file], check=True)
        assert board.read() == Place(
            phase="data", step=2**40, num_moves=5, num_collectives=1, is_starting=True
        )


def test_each_move_is_another_place_and_a_step_is_kept_until_the_next() -> None:
    whereabouts = RankWhereabouts()
    places = []
    for phase, step in (("start", None), ("data", 7), ("compute", None), ("compute", None), ("data", 8)):
        whereabouts.note(phase, step=step)  # type: ignore[arg-type]
        places.append(whereabouts.place)
    assert len(set(places)) == len(places)
    assert [place.step for place in places if place] == [None, 7, 7, 7, 8]
    assert [place.is_starting for place in places if place] == [True, True, True, True, False]


def test_a_collective_is_a_phase_which_an_error_does_not_end() -> None:
    whereabouts = RankWhereabouts()
    whereabouts.note("compute", step=1)
    with whereabouts.communicating():
        assert whereabouts.place is not None
        assert (whereabouts.place.phase, whereabouts.place.num_collectives) == ("communication", 1)
        assert whereabouts.place.is_waiting
    assert (whereabouts.place.phase, whereabouts.place.is_waiting) == ("compute", False)
    with pytest.raises(RuntimeError), whereabouts.communicating():
        raise RuntimeError
    assert str(whereabouts.place) == "at step 1 (communication)"


def test_a_place_without_a_step_is_told_too() -> None:
    whereabouts = RankWhereabouts()
    whereabouts.note("start")
    assert str(whereabouts.place) == "at its start"
    whereabouts.note("evaluation")
    assert str(whereabouts.place) == "in evaluation"


def test_being_asked_for_stacks_does_not_end_a_process_that_comes_to_its_end() -> None:
    code = """
import faulthandler, os, signal, sys
from dlspark.cluster.whereabouts import Board
Board(int(sys.argv[1])).take_stacks()
faulthandler.unregister(signal.SIGUSR1)  # as the interpreter does at its end
os.kill(os.getpid(), signal.SIGUSR1)
"""
    with Board() as board:
        command = [sys.executable, "-c", code, str(board.file)]
        ended = subprocess.run(command, pass_fds=[board.file], check=False)
    assert ended.returncode == 0


@pytest.mark.parametrize("library", ["PyDLL", "CDLL"], ids=["holds the lock", "does not hold it"])
def test_stacks_come_from_a_process_that_is_stuck_in_native_code(library: str) -> None:
    code = f"""
import ctypes, sys
from dlspark.cluster.whereabouts import Board
def be_stuck():
    print("ready", flush=True)
    mutex, library = ctypes.create_string_buffer(64), ctypes.{library}(None)
    for _ in range(2):  # the second time it waits for itself, and no signal interrupts that
        library.pthread_mutex_lock(mutex)
Board(int(sys.argv[1])).take_stacks()
be_stuck()
"""
    command = [sys.executable, "-c", code]
    with Board() as board:
        command.append(str(board.file))
        with subprocess.Popen(command, pass_fds=[board.file], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            try:
                stacks = [dump_stacks(process.pid, board).decode() for _ in range(2)]
            finally:
                process.kill()
    assert [one.count("in be_stuck") for one in stacks] == [1, 1]
