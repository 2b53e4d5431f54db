"""Step ranges: exactly a set of integers, in little space."""

from __future__ import annotations

import itertools
import json

from hypothesis import given
from hypothesis import strategies as st

from dlspark.tracking.steps import StepRanges

_STEPS = st.lists(st.integers(min_value=0, max_value=40))


@given(_STEPS)
def test_it_is_a_set_and_survives_json(steps: list[int]) -> None:
    ranges = StepRanges()
    for step in steps:
        ranges.add(step)
    again = StepRanges.from_json(json.loads(json.dumps(ranges.to_json())))

    for candidate in (ranges, again):
        assert {step for step in range(-1, 42) if step in candidate} == set(steps)
    pairs = ranges.to_json()
    assert all(low[1] + 1 < high[0] for low, high in itertools.pairwise(pairs))


def test_a_long_run_takes_one_range() -> None:
    ranges = StepRanges()
    for step in range(1, 10_001):
        ranges.add(step)
    assert ranges.to_json() == [[1, 10_000]]
