from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from functools import partial

import pytest

from dlspark.data.prefetch import Prefetcher

Calls = Generator[Callable[[], int], None, None]


def prefetch(produce: Callable[[], Calls], num_ahead: int = 2, num_threads: int = 1) -> Prefetcher[int]:
    return Prefetcher(produce, num_ahead=num_ahead, num_threads=num_threads, name="prefetch-test")


def count(number: int) -> Calls:
    return (partial(int, index) for index in range(number))


def running() -> bool:
    return any(thread.name.startswith("prefetch-test") for thread in threading.enumerate())


@pytest.mark.parametrize("num_threads", [1, 4])
def test_all_results_come_in_their_order(num_threads: int) -> None:
    with prefetch(lambda: count(100), num_threads=num_threads) as results:
        assert list(results) == list(range(100))
    assert not running()


def test_a_result_that_is_ready_early_waits_for_those_before_it() -> None:
    second_is_made = threading.Event()

    def first() -> int:
        assert second_is_made.wait(10)  # so the calls run side by side
        return 1

    def second() -> int:
        second_is_made.set()
        return 2

    def calls() -> Calls:
        yield first
        yield second

    with prefetch(calls, num_threads=2) as results:
        assert list(results) == [1, 2]


def test_it_works_ahead_and_no_further_than_allowed() -> None:
    made: list[int] = []
    ahead = threading.Event()

    def endless() -> Calls:
        for number in range(100):
            made.append(number)
            if number == 3:  # one was taken, two wait, and this one finds no room
                ahead.set()
            yield partial(int, number)

    with prefetch(endless) as results:
        assert next(iter(results)) == 0
        assert ahead.wait(10)
    assert len(made) == 4


def test_an_error_of_the_generator_comes_after_the_results_before_it() -> None:
    def fail() -> Calls:
        yield partial(int, 1)
        raise ValueError("broken file")

    with prefetch(fail) as source:
        results = iter(source)
        assert next(results) == 1
        with pytest.raises(ValueError, match="broken file"):
            next(results)
    assert not running()


def test_an_error_of_a_call_comes_in_its_place() -> None:
    def calls() -> Calls:
        yield partial(int, 1)
        yield partial(int, "broken image")
        yield partial(int, 3)

    with prefetch(calls, num_threads=2) as source:
        results = iter(source)
        assert next(results) == 1
        with pytest.raises(ValueError, match="broken image"):
            next(results)
    assert not running()


def test_closing_closes_the_generator_in_its_thread_and_ends_the_iterator() -> None:
    closed: list[str] = []

    def endless() -> Calls:
        try:
            while True:
                yield partial(int, 0)
        finally:
            closed.append(threading.current_thread().name)

    source = prefetch(endless)
    results = iter(source)
    assert next(results) == 0
    source.close()
    source.close()
    assert closed == ["prefetch-test"]
    assert list(results) == []
    assert not running()


def test_closing_from_elsewhere_ends_a_consumer_that_waits() -> None:
    is_made, may_end, is_stopped = threading.Event(), threading.Event(), threading.Event()

    def slow() -> int:
        is_made.set()
        assert may_end.wait(10)
        return 0

    def calls() -> Calls:
        try:
            yield slow
            while True:
                yield partial(int, 1)
        finally:
            is_stopped.set()

    source = prefetch(calls, num_ahead=3)
    got: list[int] = []
    consumer = threading.Thread(target=lambda: got.extend(source))
    consumer.start()
    assert is_made.wait(10)
    closer = threading.Thread(target=source.close)
    closer.start()
    assert is_stopped.wait(10)
    may_end.set()
    for thread in (consumer, closer):
        thread.join(10)
        assert not thread.is_alive()
    assert got in ([], [0])
    assert not running()
