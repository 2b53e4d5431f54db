"""The records of ranks that stand still, which their parents write: stopped, stalled, or waiting for others.

A wait is no failure, so it has a file of its own, which is removed when the rank moves again.
"""

from __future__ import annotations

from dlspark import storage
from dlspark.cluster.failures import STALL, FailureRecord
from dlspark.cluster.whereabouts import Place


def record_stop(
    stopped_by: str, *, rank: int, num_ranks: int, host: str, place: Place | None
) -> FailureRecord:
    """Describe a rank whose process was stopped (not ended) by a signal.

    Args:
        stopped_by: name of the signal.
        rank: the rank.
        num_ranks: ranks of the job.
        host: where it runs.
        place: where it is; None before it has joined the job.
    """
    return FailureRecord(
        rank=rank,
        num_ranks=num_ranks,
        host=host,
        type=stopped_by,
        message=f"its process was stopped by {stopped_by}, and all others with it",
        fix="look for what pauses processes on this host; SIGTERM ends a training with its state saved",
        place=place,
    )


def record_stall(
    seconds: float,
    *,
    rank: int,
    num_ranks: int,
    host: str,
    place: Place,
    is_secondary: bool,
    stacks: str,
) -> FailureRecord:
    """Describe a rank that does not move.

    Args:
        seconds: since it last moved.
        rank: the rank.
        num_ranks: ranks of the job.
        host: where it runs.
        place: where it is.
        is_secondary: it waits for another rank, or is ended because another one failed.
        stacks: URL of the folder with the Python stacks of all ranks.
    """
    what = "has waited for the other ranks" if place.is_waiting else "has not moved"
    return FailureRecord(
        rank=rank,
        num_ranks=num_ranks,
        host=host,
        type=STALL,
        message=f"it {what} for {seconds:.0f} s; the stacks of the ranks are in {stacks}",
        is_secondary=is_secondary,
        fix="read its stack; if a step may take so long, raise cluster.stall_timeout_seconds",
        place=place,
    )


def write_wait(folder: str, rank: int, place: Place) -> None:
    """Note that a rank has waited in a collective for longer than a rank may stand still."""
    storage.write_json(_file_of(folder, rank), {"place": str(place)})


def remove_wait(folder: str, rank: int) -> None:
    """Take the note back: the rank moves again."""
    storage.remove_tree(_file_of(folder, rank))


def count_waits(folder: str) -> int:
    """Return how many ranks have such a note."""
    return sum(name.startswith("waits-") for name in storage.list_names(folder))


def _file_of(folder: str, rank: int) -> str:
    return storage.join(folder, f"waits-{rank:05d}.json")
