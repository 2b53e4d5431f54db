"""Which steps of a metric are known to be in MLflow: exact, and small because steps come in long runs.

A plain set of the steps of a million-step run takes tens of megabytes for each metric; sorted closed ranges
take a few bytes, survive JSON, and still answer exactly, also when a resumed attempt repeats steps.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Self


class StepRanges:
    """A set of integers as sorted, disjoint, non-adjacent closed ranges."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        """Start from (first, last) ranges that are sorted and disjoint, as `to_json` gives them."""
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in ranges:
            self._starts.append(int(start))
            self._ends.append(int(end))

    def __contains__(self, step: int) -> bool:
        """Tell whether `step` is in the set."""
        index = bisect_right(self._starts, step) - 1
        return index >= 0 and step <= self._ends[index]

    def add(self, step: int) -> None:
        """Put `step` into the set."""
        if step in self:
            return
        index = bisect_right(self._starts, step)
        joins_left = index > 0 and self._ends[index - 1] == step - 1
        joins_right = index < len(self._starts) and self._starts[index] == step + 1
        if joins_left and joins_right:
            self._ends[index - 1] = self._ends.pop(index)
            self._starts.pop(index)
        elif joins_left:
            self._ends[index - 1] = step
        elif joins_right:
            self._starts[index] = step
        else:
            self._starts.insert(index, step)
            self._ends.insert(index, step)

    def to_json(self) -> list[list[int]]:
        """Return [[first, last], ...]."""
        return [[start, end] for start, end in zip(self._starts, self._ends, strict=True)]

    @classmethod
    def from_json(cls, ranges: Iterable[Iterable[int]]) -> Self:
        """Rebuild from `to_json`."""
        return cls((start, end) for start, end in ranges)
