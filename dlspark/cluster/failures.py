"""Failure records: how an error of a rank reaches the driver whole, and which one of several is the cause.

A rank writes its own error to the run directory before it ends, since Spark and Horovod only report that a
process ended. When one rank fails the others fail too, in their next collective: those errors are counted,
not shown. Of the rest the earliest is the cause (clocks of hosts differ little against a rank's life).
"""

from __future__ import annotations

import dataclasses
import os
import signal
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from dlspark import storage
from dlspark.errors import WorkerFailedError

_SIGNAL_BASE = 128
"""A shell reports a process that signal n ended as 128 + n."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FailureRecord:
    """The error that ended one rank."""

    rank: int
    num_ranks: int
    host: str
    type: str
    """Name of the exception's class."""
    message: str
    notes: tuple[str, ...]
    """What was added on the way up with `add_note`: the phase, the step."""
    traceback: str
    unix_seconds: float
    is_secondary: bool
    """It only says that another rank has left the job."""


def record_failure(error: BaseException, *, rank: int, num_ranks: int, host: str) -> FailureRecord:
    """Describe an error as plain values, on the rank where it was raised."""
    return FailureRecord(
        rank=rank,
        num_ranks=num_ranks,
        host=host,
        type=type(error).__name__,
        message=str(error),
        notes=tuple(getattr(error, "__notes__", ())),
        traceback="".join(traceback.format_exception(error)),
        unix_seconds=time.time(),
        is_secondary=type(error).__name__ == "HorovodInternalError",
    )


def write_failure(folder: str, record: FailureRecord) -> None:
    """Write a record as `<folder>/rank-00001.json`."""
    storage.write_json(storage.join(folder, f"rank-{record.rank:05d}.json"), dataclasses.asdict(record))


def write_host(folder: str, rank: int, host: str) -> None:
    """Note where a rank runs, so that its host can be named if it ends without a word."""
    storage.write_json(storage.join(folder, f"host-{rank:05d}.json"), {"host": host, "pid": os.getpid()})


def read_hosts(folder: str, num_ranks: int) -> list[str]:
    """Return the host of each rank, `(not started)` for a rank that never ran."""
    names = set(storage.list_names(folder))
    files = [f"host-{rank:05d}.json" for rank in range(num_ranks)]
    return [
        str(storage.read_json(storage.join(folder, file))["host"]) if file in names else "(not started)"
        for file in files
    ]


def read_failures(folder: str) -> list[FailureRecord]:
    """Return the records of a launch, earliest first; none if the folder is not there."""
    names = [name for name in storage.list_names(folder) if name.startswith("rank-")]
    values = [storage.read_json(storage.join(folder, name)) for name in names]
    records = [FailureRecord(**{**value, "notes": tuple(value["notes"])}) for value in values]
    return sorted(records, key=lambda record: record.unix_seconds)


def find_cause(records: Sequence[FailureRecord]) -> FailureRecord | None:
    """Return the earliest failure that no other rank's failure explains, if one was recorded."""
    return next((record for record in records if not record.is_secondary), None)


def recorded_error(cause: FailureRecord, *, num_others: int, where: str | None) -> WorkerFailedError:
    """Return the driver's error for a recorded failure: one line, then the rank's traceback.

    Args:
        cause: the failure that came first.
        num_others: ranks that failed because of it.
        where: folder of the records, if they were written.
    """
    lines = cause.message.strip().splitlines() or ["(no message)"]
    notes = "".join(f" [{note}]" for note in cause.notes)
    more = "" if not num_others else f"; {num_others} other rank{'s' * (num_others > 1)} ended because of it"
    who = f"rank {cause.rank} of {cause.num_ranks} on host {cause.host}"
    error = WorkerFailedError(f"{who} failed: {cause.type}: {lines[0].rstrip('.')}{notes}{more}", where=where)
    return _with_details(error, f"Traceback of {who}:\n{cause.traceback}")


def silent_error(
    *, rank: int, num_ranks: int, host: str, exit_code: int | None, output: Sequence[str]
) -> WorkerFailedError:
    """Return the driver's error for a rank that ended without a record, as after a kill or a crash in C code.

    Args:
        rank: the rank that ended first.
        num_ranks: ranks of the job.
        host: where it ran.
        exit_code: of its process as a shell reports it; None if its executor went away with it.
        output: the last lines that the ranks wrote.
    """
    fix = None
    if exit_code is None:
        reason = "its executor was lost"
        fix = "look into the log of the executor"
    elif exit_code > _SIGNAL_BASE:
        name = signal.Signals(exit_code - _SIGNAL_BASE).name
        reason = f"its process was ended by {name}"
        fix = "give the executors more memory, or use fewer workers a host" if name == "SIGKILL" else None
    else:
        reason = f"its process ended with exit code {exit_code} and left no record"
    error = WorkerFailedError(f"rank {rank} of {num_ranks} on host {host} failed: {reason}", fix=fix)
    return _with_details(error, "\n".join(("Last lines of the ranks:", *output))) if output else error


def _with_details(error: WorkerFailedError, details: str) -> WorkerFailedError:
    error.args = (f"{error}\n\n{details.rstrip()}",)
    return error
