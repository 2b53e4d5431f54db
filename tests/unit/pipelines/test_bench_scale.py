"""Tests of pipelines.bench_scale: the verdict, and which cases are measured."""

from __future__ import annotations

import pytest

from pipelines.bench_scale import ScaleCase, _numbers, judge


def case(backend: str, workers: int, rate: float, alone: float) -> ScaleCase:
    return ScaleCase(
        backend=backend,  # type: ignore[arg-type]
        workers=workers,
        images_per_second=rate,
        efficiency=rate / (workers * alone),
        communication_share=0.4,
    )


def test_all_workers_are_worth_it_on_the_faster_backend() -> None:
    cases = [case("horovod", 1, 100, 100), case("horovod", 2, 180, 100), case("torch", 2, 190, 100)]
    assert judge(cases) == "cluster.backend=torch cluster.workers=2: each worker adds 95% of its own rate"


def test_workers_that_mostly_wait_are_left_out() -> None:
    cases = [case("torch", 1, 100, 100), case("torch", 2, 160, 100), case("torch", 4, 200, 100)]
    said = judge(cases)
    assert said.startswith("cluster.backend=torch cluster.workers=2: on 4 workers each adds 50%")
    assert "40% of the time" in said
    assert "train.global_batch_size" in said


@pytest.mark.parametrize(
    ("workers", "numbers"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (6, [1, 2, 4, 6])]
)
def test_powers_of_two_and_the_whole_cluster_are_measured(workers: int, numbers: list[int]) -> None:
    assert _numbers(workers) == numbers
