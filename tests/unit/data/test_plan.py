from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlspark.data.layout import num_files_of
from dlspark.data.plan import RankPlan, num_steps_of, plan_epoch
from dlspark.errors import DatasetError


def plans(
    file_rows: list[int],
    *,
    num_ranks: int,
    streams: int = 4,
    batch: int = 8,
    epoch: int = 0,
    seed: int = 0,
    fingerprint: str = "f",
    shuffle: bool = True,
) -> list[RankPlan]:
    return [
        plan_epoch(
            file_rows,
            fingerprint=fingerprint,
            seed=seed,
            epoch=epoch,
            num_streams=streams,
            global_batch_size=batch,
            rank=rank,
            num_ranks=num_ranks,
            shuffle=shuffle,
        )
        for rank in range(num_ranks)
    ]


def rows_of_step(plan: RankPlan, step: int) -> list[tuple[int, int]]:
    rows = slice(plan.step_start[step], plan.step_start[step + 1])
    return list(zip(plan.files[plan.row_files[rows]].tolist(), plan.row_indices[rows].tolist(), strict=True))


def steps_of(ranks: list[RankPlan]) -> list[set[tuple[int, int]]]:
    return [{row for plan in ranks for row in rows_of_step(plan, step)} for step in range(ranks[0].num_steps)]


def rows_in_order(ranks: list[RankPlan]) -> list[list[tuple[int, int]]]:
    return [[row for plan in ranks for row in rows_of_step(plan, step)] for step in range(ranks[0].num_steps)]


def cut(rows: int, num_files: int) -> list[int]:
    return [len(part) for part in np.array_split(np.arange(rows), num_files)]


ROWS = (1, 2, 7, 16, 97, 1000)
RANKS = (1, 2, 3, 4, 5, 9, 16)
STREAMS = (1, 3, 16)
BATCHES = (1, 7, 64, 2000)


@pytest.mark.faults(scenario=3)
@pytest.mark.parametrize(("rows", "streams"), list(itertools.product(ROWS, STREAMS)))
def test_every_row_comes_once_and_the_rows_of_a_step_do_not_depend_on_the_ranks(
    rows: int, streams: int
) -> None:
    file_rows = cut(rows, num_files_of(rows, rows_per_file=max(1, rows // 40), num_streams=streams))
    everything = {(file, row) for file, number in enumerate(file_rows) for row in range(number)}
    for batch, shuffle in itertools.product(BATCHES, (True, False)):
        alone = plans(file_rows, num_ranks=1, streams=streams, batch=batch, shuffle=shuffle)
        expected = steps_of(alone)
        assert len(expected) == num_steps_of(rows, batch) == math.ceil(rows / batch)
        assert [len(step) for step in expected] == alone[0].global_rows.tolist()
        assert set().union(*expected) == everything
        assert sum(len(step) for step in expected) == rows
        for num_ranks in RANKS:
            if shuffle and rows < num_ranks:
                continue
            ranks = plans(file_rows, num_ranks=num_ranks, streams=streams, batch=batch, shuffle=shuffle)
            assert {plan.num_steps for plan in ranks} == {len(expected)}
            assert all((plan.global_rows == alone[0].global_rows).all() for plan in ranks)
            assert steps_of(ranks) == expected
            assert sum(len(plan.row_files) for plan in ranks) == rows


@pytest.mark.faults(scenario=3)
@settings(deadline=None, max_examples=60)
@given(
    file_rows=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    num_ranks=st.integers(1, 12),
    streams=st.integers(1, 20),
    batch=st.integers(1, 100),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 1000),
)
def test_any_files_any_ranks_any_streams(
    *, file_rows: list[int], num_ranks: int, streams: int, batch: int, seed: int, epoch: int
) -> None:
    num_ranks = min(num_ranks, sum(file_rows))
    options = {"streams": streams, "batch": batch, "seed": seed, "epoch": epoch}
    expected = steps_of(plans(file_rows, num_ranks=1, **options))  # type: ignore[arg-type]
    ranks = plans(file_rows, num_ranks=num_ranks, **options)  # type: ignore[arg-type]
    assert steps_of(ranks) == expected
    assert sum(len(step) for step in expected) == sum(file_rows)
    assert {file for plan in ranks for file in plan.files.tolist()} == set(range(len(file_rows)))
    for step, together in enumerate(rows_in_order(plans(file_rows, num_ranks=1, **options))):  # type: ignore[arg-type]
        assert rows_in_order(ranks)[step] == together
        shares = [len(rows_of_step(plan, step)) for plan in ranks]
        assert max(shares) - min(shares) <= 1


def test_the_order_of_one_rank_is_the_global_order() -> None:
    # Two files in two streams, unshuffled: rows alternate until the shorter file is over.
    (plan,) = plans([2, 4], num_ranks=1, streams=2, batch=4, shuffle=False)
    assert rows_of_step(plan, 0) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert rows_of_step(plan, 1) == [(1, 2), (1, 3)]


def test_files_are_listed_in_the_order_in_which_they_are_needed() -> None:
    (plan,) = plans([5] * 12, num_ranks=1, streams=3, batch=4)
    first = [int(np.flatnonzero(plan.row_files == position)[0]) for position in range(12)]
    assert first == sorted(first)


def test_seed_epoch_and_fingerprint_each_change_the_steps() -> None:
    rows = [25] * 8
    base = steps_of(plans(rows, num_ranks=1))
    assert base == steps_of(plans(rows, num_ranks=1))
    for change in ({"seed": 1}, {"epoch": 1}, {"fingerprint": "g"}):
        assert steps_of(plans(rows, num_ranks=1, **change)) != base  # type: ignore[arg-type]


def test_the_plan_is_the_same_on_every_machine_and_release() -> None:
    (plan,) = plans([3, 3, 3], num_ranks=1, streams=2, batch=5, seed=7, epoch=2, fingerprint="0123")
    assert [rows_of_step(plan, step) for step in range(2)] == PINNED


PINNED = [[(2, 1), (2, 0), (2, 2), (1, 1), (1, 0)], [(0, 0), (0, 1), (0, 2), (1, 2)]]


@pytest.mark.faults(scenario=3)
def test_a_batch_is_mixed_even_where_the_files_are_sorted_by_label() -> None:
    labels = np.repeat(np.arange(10), 100)
    (plan,) = plans([25] * 40, num_ranks=1, streams=16, batch=64)
    entropies = []
    for step in range(plan.num_steps - 1):
        counts = np.bincount(
            [labels[file * 25 + row] for file, row in rows_of_step(plan, step)], minlength=10
        )
        share = counts[counts > 0] / counts.sum()
        entropies.append(-(share * np.log(share)).sum())
    assert np.mean(entropies) > 0.75 * math.log(10)


def test_a_rank_reads_the_files_of_its_streams_and_of_the_borders() -> None:
    ranks = plans([25] * 64, num_ranks=4, streams=16, batch=64)
    assert [len(plan.files) for plan in ranks] == [16] * 4  # 64 rows of 16 streams: no border inside a stream
    for num_ranks in (3, 5, 16, 40):
        ranks = plans([25] * 64, num_ranks=num_ranks, streams=16, batch=64)
        assert max(len(plan.files) for plan in ranks) <= 4 * (16 // num_ranks + 2)


@pytest.mark.faults(scenario=3)
def test_fewer_files_than_ranks_leave_no_rank_without_work() -> None:
    ranks = plans([400, 300, 300], num_ranks=16, streams=16, batch=64)
    shares = [len(plan.row_files) for plan in ranks]
    assert sum(shares) == 1000
    assert min(shares) >= 62


@pytest.mark.faults(scenario=3)
def test_fewer_rows_than_ranks_is_an_error_in_training_and_none_in_evaluation() -> None:
    with pytest.raises(DatasetError, match="3 rows and 4 ranks"):
        plans([1, 2], num_ranks=4)
    ranks = plans([1, 2], num_ranks=4, shuffle=False)
    assert [len(step) for step in steps_of(ranks)] == [3]
    assert [len(plan.row_files) for plan in ranks] == [0, 1, 1, 1]
