"""Which rows form each global step of an epoch, and which of them a rank holds: integers, no I/O.

An epoch permutes the files of a split and deals them to C canonical streams; a stream is its files one after
the other, the rows of each permuted. The global order takes row r = 0, 1, 2 ... of every stream that has so
many, and step s is its positions [s B, (s + 1) B), put in the order of the streams. Rank k of N takes the
k-th of N near-equal parts of that: the batches of the ranks, one after the other, are the batch of a single
rank. So the rows of a step depend on (fingerprint, seed, epoch, s) only, each row comes once, no rank holds
more than one row more than another, and a rank reads the files of about C / N streams; a stream at the border
of two ranks is read by both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dlspark.errors import DatasetError


@dataclass(frozen=True, kw_only=True, slots=True)
class RankPlan:
    """What one rank reads in one epoch. Legend: S steps, F files and R rows of this rank.

    The rows of step s are [step_start[s], step_start[s + 1]) of `row_files` and `row_indices`, in the order
    of the streams.
    """

    num_steps: int
    """Of the epoch, the same on every rank."""
    global_rows: NDArray[np.int64]
    """int64 [S]: rows of each step over all ranks, each > 0."""
    files: NDArray[np.int64]
    """int64 [F]: indices of the files, in the order in which they are first needed."""
    step_start: NDArray[np.int64]
    """int64 [S + 1]."""
    row_files: NDArray[np.int64]
    """int64 [R]: position in `files`, in [0, F)."""
    row_indices: NDArray[np.int64]
    """int64 [R]: row in its file."""


def num_steps_of(rows: int, global_batch_size: int) -> int:
    """Return the global steps of an epoch; the last one may be smaller, none is dropped."""
    return -(-rows // global_batch_size)


def plan_epoch(
    file_rows: Sequence[int],
    *,
    fingerprint: str,
    seed: int,
    epoch: int,
    num_streams: int,
    global_batch_size: int,
    rank: int,
    num_ranks: int,
    shuffle: bool,
) -> RankPlan:
    """Return what one rank reads in one epoch.

    Args:
        file_rows: rows of each file of the split, each > 0, in the manifest's order.
        fingerprint: of the dataset.
        seed: of the run, >= 0.
        epoch: from 0.
        num_streams: C, of the manifest; streams beyond the number of files are empty.
        global_batch_size: B, rows of a step over all ranks.
        rank: in [0, num_ranks).
        num_ranks: N.
        shuffle: False keeps files and rows as they are in the manifest, for evaluation.

    Raises:
        DatasetError: fewer rows than ranks, with `shuffle` (in evaluation some ranks then hold nothing).
    """
    total = int(sum(file_rows))
    if shuffle and total < num_ranks:
        raise DatasetError(
            "fewer training rows than ranks",
            got=f"{total} rows and {num_ranks} ranks",
            allowed=f"at most {total} ranks",
            fix="lower cluster.workers or ingest more images",
        )
    num_files = len(file_rows)
    order = _permutation(num_files, fingerprint, seed, epoch, "files") if shuffle else np.arange(num_files)
    streams = [order[stream::num_streams] for stream in range(num_streams)]
    rows = np.asarray(file_rows, dtype=np.int64)
    num_steps = num_steps_of(total, global_batch_size)
    borders = np.minimum(np.arange(num_steps + 1, dtype=np.int64) * global_batch_size, total)

    def permute(file: int) -> NDArray[np.int64]:
        number = int(rows[file])
        return (
            _permutation(number, fingerprint, seed, epoch, f"rows/{file}") if shuffle else np.arange(number)
        )

    begins, ends = _shares([rows[stream] for stream in streams], borders, rank=rank, num_ranks=num_ranks)
    parts = [
        _rows_of_stream(stream, rows[stream], begins[number], ends[number], permute)
        for number, stream in enumerate(streams)
        if (ends[number] > begins[number]).any()
    ]
    steps, row_files, row_indices = (np.concatenate(part) for part in zip(_NO_ROWS, *parts, strict=True))
    order = np.argsort(steps, kind="stable")
    files, first_use, positions = np.unique(row_files[order], return_index=True, return_inverse=True)
    by_first_use = np.argsort(first_use)
    return RankPlan(
        num_steps=num_steps,
        global_rows=np.diff(borders),
        files=files[by_first_use],
        step_start=np.searchsorted(steps[order], np.arange(num_steps + 1)).astype(np.int64),
        row_files=np.argsort(by_first_use)[positions],
        row_indices=row_indices[order],
    )


_NO_ROWS = (np.empty(0, dtype=np.int64),) * 3


def _shares(
    streams: Sequence[NDArray[np.int64]], borders: NDArray[np.int64], *, rank: int, num_ranks: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which rows of each stream a rank holds in each step.

    Args:
        streams: rows of the files of each of the C streams.
        borders: int64 [S + 1], of the steps in the global order.
        rank: in [0, num_ranks).
        num_ranks: N.

    Returns:
        First row and row after the last, counted along the stream: two of int64 [C, S].
    """
    lengths = np.array([files.sum() for files in streams], dtype=np.int64)
    passed = np.stack(
        [np.searchsorted(_positions(lengths, stream), borders) for stream in range(len(streams))]
    )
    counts = np.diff(passed, axis=1)
    offsets = np.cumsum(counts, axis=0) - counts
    step_rows = np.diff(borders)
    begin, end = step_rows * rank // num_ranks, step_rows * (rank + 1) // num_ranks
    first = passed[:, :-1]
    return first + np.clip(begin - offsets, 0, counts), first + np.clip(end - offsets, 0, counts)


def _rows_of_stream(
    files: NDArray[np.int64],
    file_rows: NDArray[np.int64],
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    permute: Callable[[int], NDArray[np.int64]],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return step, file and row in the file of the rows [begins[s], ends[s]) of a stream: int64 [n] each."""
    numbers = ends - begins
    steps = np.repeat(np.arange(len(numbers)), numbers)
    along = np.arange(numbers.sum()) + np.repeat(begins - (np.cumsum(numbers) - numbers), numbers)
    starts = np.cumsum(file_rows) - file_rows
    positions = np.searchsorted(starts, along, side="right") - 1
    indices = along - starts[positions]
    for position in np.unique(positions).tolist():
        here = positions == position
        indices[here] = permute(int(files[position]))[indices[here]]
    return steps, files[positions], indices


def _positions(lengths: NDArray[np.int64], stream: int) -> NDArray[np.int64]:
    """Return the positions of the rows of a stream in the global order, int64 [lengths[stream]].

    Row r comes after the first r rows of every stream, sum of min(length, r), and after the rows r of the
    streams before it that have so many.
    """
    r = np.arange(lengths[stream], dtype=np.int64)
    by_length = np.sort(lengths)
    shorter = np.searchsorted(by_length, r, side="right")
    sum_of_shorter = np.concatenate([[0], np.cumsum(by_length)])[shorter]
    earlier_rows = sum_of_shorter + r * (len(lengths) - shorter)
    earlier_streams = stream - np.searchsorted(np.sort(lengths[:stream]), r, side="right")
    return np.asarray(earlier_rows + earlier_streams, dtype=np.int64)


def _permutation(number: int, fingerprint: str, seed: int, epoch: int, what: str) -> NDArray[np.int64]:
    """Return a permutation of range(number) that depends on the arguments only.

    Philox (Salmon et al. 2011) is keyed by a hash of them; its raw output is sorted, since numpy promises the
    same raw numbers for ever, but not the same `permutation`.
    """
    text = f"{fingerprint}/{seed}/{epoch}/{what}"
    digest = hashlib.blake2b(text.encode(), digest_size=16, person=b"dlspark-plan").digest()
    numbers = np.random.Philox(key=np.frombuffer(digest, dtype="<u8")).random_raw(number)
    return np.argsort(numbers, kind="stable")
