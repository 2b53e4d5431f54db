"""Progress on stderr: a live bar on a terminal, now and then a line in a log; stdout stays for results."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from dlspark.contracts import Progress

_SECONDS_BETWEEN_LINES = 5.0


class _Bar:
    def __init__(self, bar: RichProgress, description: str) -> None:
        self._bar = bar
        self._task = bar.add_task(description, total=None, detail="")

    def update(self, completed: int, total: int, fields: Mapping[str, float] | None = None) -> None:
        self._bar.update(self._task, completed=completed, total=total, detail=_format(fields))


class _Lines:
    """One line now and then, for a log file: the first, the last, and one every few seconds."""

    def __init__(self, description: str) -> None:
        self._description = description
        self._started = time.monotonic()
        self._last_line = float("-inf")
        self._last_completed = -1

    def update(self, completed: int, total: int, fields: Mapping[str, float] | None = None) -> None:
        now = time.monotonic()
        finished = completed >= total and completed != self._last_completed
        if not finished and now - self._last_line < _SECONDS_BETWEEN_LINES:
            return
        self._last_line, self._last_completed = now, completed
        elapsed = now - self._started
        remaining = f", {elapsed / completed * (total - completed):.0f} s left" if completed else ""
        detail = _format(fields)
        line = f"{self._description}: {completed}/{total} {detail}".rstrip()
        print(f"{line} ({elapsed:.0f} s{remaining})", file=sys.stderr, flush=True)  # noqa: T201 - the one place that writes to the terminal


def _format(fields: Mapping[str, float] | None) -> str:
    return " ".join(f"{name} {value:,.4g}" for name, value in (fields or {}).items())


@contextmanager
def show_progress(description: str, unit: str) -> Iterator[Progress]:
    """Show a progress display for the length of the block.

    Args:
        description: what is being done, e.g. "ingest".
        unit: what is counted, e.g. "files".
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(f"{description} {unit}")
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=console, refresh_per_second=4) as bar:
        yield _Bar(bar, description)
