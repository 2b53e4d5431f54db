"""Failure records: how an error of a rank reaches the driver whole, and which one of several is the cause.

A rank writes its own error to the run directory before it ends, since Spark and Horovod only report that a
process ended; for a rank that was killed or that crashed its parent writes. When one rank fails the others
fail too, in their next collective: those errors are counted, not shown. Of the rest the earliest is the cause
(clocks of hosts differ little against a rank's life).
"""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dlspark import storage
from dlspark.cluster.whereabouts import Place
from dlspark.errors import ClusterError, LostWorkerError, WorkerFailedError

_SIGNAL_BASE = 128
"""A shell reports a process that signal n ended as 128 + n."""
_LOST_PEER = ("HorovodInternalError", "PeerLostError")
"""What a collective raises, on the two backends, when another rank has left the job."""
STALL = "Stall"
"""The type of a record that says that a rank does not move; secondary where it waits for another one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FailureRecord:
    """The error that ended one rank."""

    rank: int
    num_ranks: int
    host: str
    type: str
    """Name of the exception's class, or of the signal that ended the process, or `exit code n`."""
    message: str
    notes: tuple[str, ...] = ()
    """What was added on the way up with `add_note`: the phase, the step."""
    traceback: str = ""
    """Empty if the process ended without one."""
    unix_seconds: float = dataclasses.field(default_factory=time.time)
    is_secondary: bool = False
    """It only says that another rank has left the job."""
    fix: str | None = None
    """What to do about it, where that is known."""
    output: tuple[str, ...] = ()
    """The last lines that the rank wrote, where its end is all that is known."""
    place: Place | None = None
    """Step and phase; None: not known, or the rank had not joined the job."""


def record_failure(
    error: BaseException, *, rank: int, num_ranks: int, host: str, place: Place | None = None
) -> FailureRecord:
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
        is_secondary=type(error).__name__ in _LOST_PEER,
        place=place,
    )


def record_end(
    exit_code: int,
    *,
    rank: int,
    num_ranks: int,
    host: str,
    output: Sequence[str] = (),
    place: Place | None = None,
) -> FailureRecord:
    """Describe the end of a rank's process that raised nothing, on the rank's host.

    Args:
        exit_code: as a shell reports it, 128 + n for signal n.
        rank: the rank.
        num_ranks: ranks of the job.
        host: where it ran.
        output: the last lines that it wrote.
        place: where it was.
    """
    kind, message, fix = _describe_end(exit_code)
    return FailureRecord(
        rank=rank,
        num_ranks=num_ranks,
        host=host,
        type=kind,
        message=message,
        fix=fix,
        output=tuple(output),
        place=place,
    )


def _describe_end(exit_code: int) -> tuple[str, str, str | None]:
    """Return the kind of an end, what it means, and what to do."""
    if exit_code <= _SIGNAL_BASE:
        return f"exit code {exit_code}", "its process ended without an error or a result", None
    name = signal.Signals(exit_code - _SIGNAL_BASE).name
    if name == "SIGKILL":
        fix = "if the host ran out of memory (`dmesg` says so), give the executors more, or use fewer workers"
        return name, "its process was killed from outside", fix
    return name, "its process was ended by this signal", "the last lines of the ranks may hold its stacks"


def has_failure(folder: str, rank: int) -> bool:
    """Tell whether a rank has left a record."""
    return _file_name(rank) in storage.list_names(folder)


def _file_name(rank: int) -> str:
    return f"rank-{rank:05d}.json"


def write_failure(folder: str, record: FailureRecord) -> None:
    """Write a record as `<folder>/rank-00001.json`."""
    storage.write_json(storage.join(folder, _file_name(record.rank)), dataclasses.asdict(record))


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
    records = [_from_json(value) for value in values]
    return sorted(records, key=lambda record: record.unix_seconds)


def _from_json(value: dict[str, Any]) -> FailureRecord:
    place = None if value["place"] is None else Place(**value["place"])
    lines = {"notes": tuple(value["notes"]), "output": tuple(value["output"])}
    return FailureRecord(**{**value, **lines, "place": place})


def find_cause(records: Sequence[FailureRecord]) -> FailureRecord | None:
    """Return the earliest failure that no other rank's failure explains, if one was recorded."""
    return next((record for record in records if not record.is_secondary), None)


def find_late(records: Sequence[FailureRecord]) -> FailureRecord | None:
    """Return the one that has entered fewest collectives, of ranks that stand still; None if none does."""

    def entered(record: FailureRecord) -> tuple[int, int]:
        return (record.place.num_collectives if record.place else 0, record.rank)

    return min((record for record in records if record.type == STALL), key=entered, default=None)


def recorded_error(
    cause: FailureRecord, *, num_others: int, where: str | None, output: Sequence[str] = ()
) -> WorkerFailedError:
    """Return the driver's error for a recorded failure: one line, then the rank's traceback.

    Args:
        cause: the failure that came first.
        num_others: ranks that failed because of it.
        where: folder of the records, if they were written.
        output: the last lines that the ranks wrote, shown if there is no traceback.
    """
    lines = cause.message.strip().splitlines() or ["(no message)"]
    notes = "".join(f" [{note}]" for note in cause.notes)
    more = "" if not num_others else f"; {num_others} other rank{'s' * (num_others > 1)} ended because of it"
    who = f"rank {cause.rank} of {cause.num_ranks} on host {cause.host}"
    where_it_was = "" if cause.place is None else f" {cause.place}"
    what = f"{who} failed{where_it_was}: {cause.type}: {lines[0].rstrip('.')}{notes}{more}"
    # A rank that left no error of its own was killed, or crashed, or lost its connection.
    is_lost = not cause.traceback or cause.is_secondary
    error = (LostWorkerError if is_lost else WorkerFailedError)(what, where=where, fix=cause.fix)
    if cause.traceback:
        return _with_details(error, f"Traceback of {who}:", cause.traceback)
    return _with_details(error, "Last lines of the ranks:", *(cause.output or output))


def explain_failure(
    num_ranks: int, folder: str, output: Sequence[str], *, has_lost_rank: bool
) -> WorkerFailedError | None:
    """Return the error of a launch that failed, from the records of its ranks; None if they say nothing.

    Args:
        num_ranks: ranks of the job.
        folder: of the records.
        output: the last lines that the ranks wrote.
        has_lost_rank: a rank is known to have gone; it is the first that left no record.
    """
    records = read_failures(folder)
    # If every rank says only that it lost another, the first of them is told.
    late = find_late(records)
    cause = find_cause(records) or ((late or records[0]) if len(records) == num_ranks else None)
    if cause is not None:
        return recorded_error(cause, num_others=len(records) - 1, where=folder, output=output)
    if late is None and not has_lost_rank:
        return None
    left_a_record = {record.rank for record in records}
    rank, *others = (rank for rank in range(num_ranks) if rank not in left_a_record)
    host = read_hosts(folder, num_ranks)[rank]
    how = "its executor was lost" if late is None else f"no word from it while the others wait {late.place}"
    return lost_error(rank=rank, num_ranks=num_ranks, host=host, output=output, others=others, how=how)


def lost_error(
    *,
    rank: int,
    num_ranks: int,
    host: str,
    output: Sequence[str],
    others: Sequence[int] = (),
    how: str = "its executor was lost",
) -> WorkerFailedError:
    """Return the driver's error for a rank that went away with the process that watched it.

    Args:
        rank: the rank.
        num_ranks: ranks of the job.
        host: where it ran.
        output: the last lines that the ranks wrote.
        others: ranks that left no word either, as when a host went with several.
        how: it went.
    """
    more = f"; no word either from rank {', '.join(map(str, others))}" if others else ""
    error = LostWorkerError(
        f"rank {rank} of {num_ranks} on host {host} failed: {how}{more}",
        fix="look into the log of the executor, which may have passed its memory limit",
    )
    return _with_details(error, "Last lines of the ranks:", *output)


def _with_details(error: WorkerFailedError, title: str, *details: str) -> WorkerFailedError:
    if details:
        text = "\n".join(details).rstrip()
        error.args = (f"{error}\n\n{title}\n{text}",)
    return error


def spark_job_error(reason: str) -> ClusterError:
    """Return the error for a Spark job that failed before its ranks ran; Spark's report is its note."""
    failed = ClusterError(
        "the Spark job of the training failed",
        got=last_python_line(reason),
        fix="`dlspark doctor` compares the driver and the executors",
    )
    failed.add_note(reason)
    return failed


def last_python_line(text: str) -> str:
    """Return the error itself out of Spark's report of a failed Python task."""
    lines = [line for line in text.splitlines() if re.match(r"(\w+\.)*\w*(Error|Exception|Exit)\b.*: ", line)]
    return lines[-1] if lines else next(iter(text.splitlines()), "no reason")
