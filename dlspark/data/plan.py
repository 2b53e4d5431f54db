"""Which rows form each global step of an epoch, and which of them a rank holds: integers, no I/O.

An epoch permutes the files of a split and deals them to C canonical streams; a stream is its files one after
the other, the rows of each permuted. The global order takes row r = 0, 1, 2 ... of every stream that has so
many, and step s is its positions [s B, (s + 1) B). Rank k of N owns the streams c with c mod N = k. So the
rows of a step depend on (fingerprint, seed, epoch, s) only, each row comes once, and a rank reads only its
own files; the price is that ranks hold unequal shares of a step where N does not divide C, and none where N
exceeds it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dlspark.errors import DatasetError


@dataclass(frozen=True, kw_only=True, slots=True)
class RankPlan:
    """What one rank reads in one epoch. Legend: S steps, F files and R rows of this rank.

    The rows of step s are [step_start[s], step_start[s + 1]) of `row_files` and `row_indices`, in the global
    order.
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
    lengths = np.array([rows[stream].sum() for stream in streams], dtype=np.int64)

    files: list[int] = []
    positions, row_files, row_indices = [], [], []
    for stream in range(rank, num_streams, num_ranks):
        positions.append(_positions(lengths, stream))
        for file in streams[stream]:
            number = int(rows[file])
            within = (
                _permutation(number, fingerprint, seed, epoch, f"rows/{file}")
                if shuffle
                else np.arange(number)
            )
            row_files.append(np.full(number, len(files), dtype=np.int64))
            row_indices.append(within)
            files.append(int(file))
    return _in_global_order(
        np.array(files, dtype=np.int64),
        _concatenate(positions),
        _concatenate(row_files),
        _concatenate(row_indices),
        total=total,
        global_batch_size=global_batch_size,
    )


def _in_global_order(
    files: NDArray[np.int64],
    positions: NDArray[np.int64],
    row_files: NDArray[np.int64],
    row_indices: NDArray[np.int64],
    *,
    total: int,
    global_batch_size: int,
) -> RankPlan:
    order = np.argsort(positions)
    positions, row_files, row_indices = positions[order], row_files[order], row_indices[order]
    num_steps = num_steps_of(total, global_batch_size)
    starts = np.arange(num_steps + 1, dtype=np.int64) * global_batch_size
    first_use = np.unique(row_files, return_index=True)[1]
    by_first_use = np.argsort(first_use)
    return RankPlan(
        num_steps=num_steps,
        global_rows=np.diff(np.minimum(starts, total)),
        files=files[by_first_use],
        step_start=np.searchsorted(positions, starts).astype(np.int64),
        row_files=np.argsort(by_first_use)[row_files],
        row_indices=row_indices,
    )


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


def _concatenate(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])
