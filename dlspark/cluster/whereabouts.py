"""Where a rank is: what it does now and in which step, in memory that it shares with its parent.

A rank that stands still cannot say so, and its parent cannot ask it. So the rank writes its place down each
time it moves, for about 20 us a step, and the parent looks. The same file takes the stacks that the
rank writes on SIGUSR1: faulthandler does so in the signal's handler, in C, also while the main thread is in
native code that does not come back, with or without the interpreter's lock.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self, get_args

from dlspark.contracts import Phase

_PHASES: tuple[Phase, ...] = get_args(Phase)
_LAYOUT = struct.Struct("<5q")
"""Moves (0: none yet), phase, step (-1: none), collectives, whether it is starting; native alignment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a rank is; two places that were read are equal only if it has not moved in between."""

    phase: Phase
    step: int | None
    """The optimizer step under way, from 1; in evaluation and save the last one done. None: none yet."""
    num_moves: int
    num_collectives: int
    """Collectives that it has entered; all ranks enter the same ones, in the same order."""
    is_starting: bool
    """Its first step, or in an evaluation its first batch, is not done."""

    @property
    def may_be_slow(self) -> bool:
        """Whether files are opened and code compiled here, or the process comes to its end."""
        return self.is_starting or self.phase == "end"

    @property
    def is_waiting(self) -> bool:
        """Whether it can only go on when other ranks do."""
        return self.phase in ("communication", "end")

    def __str__(self) -> str:
        """Return it as it stands in a message, e.g. `at step 37 (data)`."""
        if self.step is not None:
            return f"at step {self.step} ({self.phase})"
        return "at its start" if self.phase == "start" else f"in {self.phase}"


class Board:
    """A file in memory with the place of one rank, and behind it the stacks that it wrote."""

    def __init__(self, file: int | None = None) -> None:
        """Make a board, or open the one that this process was handed.

        Args:
            file: the descriptor of a board; None makes one. It is closed with the board.
        """
        if file is None:
            file = os.memfd_create("dlspark-rank")
            os.ftruncate(file, _LAYOUT.size)
        self.file = file
        self._memory = mmap.mmap(file, _LAYOUT.size)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file; what another process has open of it stays."""
        self._memory.close()
        os.close(self.file)

    def write(self, place: Place) -> None:
        """Replace the place."""
        _LAYOUT.pack_into(
            self._memory,
            0,
            place.num_moves,
            _PHASES.index(place.phase),
            -1 if place.step is None else place.step,
            place.num_collectives,
            place.is_starting,
        )

    def read(self) -> Place | None:
        """Return the place; None before the first."""
        num_moves, phase, step, num_collectives, is_starting = _LAYOUT.unpack_from(self._memory)
        if num_moves == 0:
            return None
        return Place(
            phase=_PHASES[phase],
            step=None if step < 0 else step,
            num_moves=num_moves,
            num_collectives=num_collectives,
            is_starting=bool(is_starting),
        )

    def take_stacks(self) -> None:
        """Let SIGUSR1 append the Python stacks of all threads of this process."""
        os.lseek(self.file, 0, os.SEEK_END)
        # What faulthandler puts back when the interpreter ends: the signal's default would end the process.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        faulthandler.register(signal.SIGUSR1, file=self.file, all_threads=True, chain=False)

    def size_bytes(self) -> int:
        """Return the length of the file, which grows with each of the stacks."""
        return os.fstat(self.file).st_size

    def read_from(self, start: int) -> bytes:
        """Return what stands in the file from a byte on."""
        return os.pread(self.file, self.size_bytes() - start, start)


class RankWhereabouts:
    """The place of this rank, kept here, and on a board if somebody watches it."""

    def __init__(self, board: Board | None = None) -> None:
        """Begin without a place.

        Args:
            board: where each move is written; None: nobody watches.
        """
        self._board = board
        self._num_begun = 0
        self.place: Place | None = None
        """The last one that was noted."""

    def note(self, phase: Phase, *, step: int | None = None) -> None:
        """Say that a phase begins.

        Args:
            phase: what is done from now on.
            step: the optimizer step that it belongs to, from 1; None: that of the phase before.
        """
        # What a step, and a batch of an evaluation, begins with.
        self._num_begun += phase in ("data", "evaluation")
        self._move(phase, step, num_collectives=0)

    @contextmanager
    def communicating(self) -> Iterator[None]:
        """Note that the block is a collective; an error of it leaves this rank there."""
        before = "start" if self.place is None else self.place.phase
        self._move("communication", None, num_collectives=1)
        yield
        self._move(before, None, num_collectives=0)

    def _move(self, phase: Phase, step: int | None, *, num_collectives: int) -> None:
        last = self.place
        self.place = Place(
            phase=phase,
            step=last.step if step is None and last is not None else step,
            num_moves=1 if last is None else last.num_moves + 1,
            num_collectives=num_collectives + (0 if last is None else last.num_collectives),
            is_starting=self._num_begun <= 1,
        )
        if self._board is not None:
            self._board.write(self.place)
