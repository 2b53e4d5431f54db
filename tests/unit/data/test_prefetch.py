from __future__ import annotations

import threading
from collections.abc import Generator

import pytest

from dlspark.data.prefetch import Prefetcher


def prefetch(produce: object, num_ahead: int = 2) -> Prefetcher[int]:
    return Prefetcher(produce, num_ahead=num_ahead, name="prefetch-test")  # type: ignore[arg-type]


def running() -> bool:
    return any(thread.name == "prefetch-test" for thread in threading.enumerate())


def test_all_items_come_in_their_order() -> None:
    with prefetch(lambda: (number for number in range(100))) as items:
        assert list(items) == list(range(100))
    assert not running()


def test_it_works_ahead_and_no_further_than_allowed() -> None:
    made: list[int] = []
    ahead = threading.Event()

    def count() -> Generator[int, None, None]:
        for number in range(100):
            made.append(number)
            if number == 3:  # one was taken, two wait, and this one finds no room
                ahead.set()
            yield number

    with prefetch(count) as items:
        assert next(iter(items)) == 0
        assert ahead.wait(10)
    assert len(made) == 4


def test_an_error_comes_after_the_items_before_it() -> None:
    def fail() -> Generator[int, None, None]:
        yield 1
        raise ValueError("broken file")

    with prefetch(fail) as source:
        items = iter(source)
        assert next(items) == 1
        with pytest.raises(ValueError, match="broken file"):
            next(items)
    assert not running()


def test_closing_closes_the_generator_in_its_thread_and_ends_the_iterator() -> None:
    closed: list[str] = []

    def endless() -> Generator[int, None, None]:
        try:
            while True:
                yield 0
        finally:
            closed.append(threading.current_thread().name)

    source = prefetch(endless)
    items = iter(source)
    assert next(items) == 0
    source.close()
    source.close()
    assert closed == ["prefetch-test"]
    assert list(items) == []
    assert not running()
