"""Calls that threads make ahead of the consumer, who gets their results in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import closing
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Prefetcher(Generic[Item]):
    """Makes the calls that a generator yields, at most `num_ahead` of them ahead of the consumer.

    The generator runs in a thread of its own, its calls in `num_threads` others; results come in the order of
    the calls. A context manager: leaving it stops the threads after what they are at, and waits for them.
    What a call raises is raised in its place; what the generator raises, after the results that came before.
    """

    def __init__(
        self,
        produce: Callable[[], Generator[Callable[[], Item], None, None]],
        *,
        num_ahead: int,
        num_threads: int,
        name: str,
    ) -> None:
        """Start the threads.

        Args:
            produce: makes the generator, in its thread; it is closed there too.
            num_ahead: results and calls that may wait, > 0.
            num_threads: that make the calls, > 0.
            name: of the threads.
        """
        self._produce, self._num_ahead = produce, num_ahead
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix=f"{name}-call")
        self._futures: deque[Future[Item]] = deque()
        self._changed = threading.Condition()
        self._stopped = self._finished = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        """Yield the results in their order."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._futures or self._finished or self._stopped)
                if not self._futures:
                    if self._error is not None:
                        raise self._error
                    return
                future = self._futures.popleft()
                self._changed.notify_all()
            try:
                item = future.result()
            except CancelledError:
                return
            yield item
            del future, item  # the consumer may be done with it long before the next one is asked for

    def __enter__(self) -> Prefetcher[Item]:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the threads."""
        self.close()

    def close(self) -> None:
        """Stop the threads and forget the results that wait; a second call does nothing."""
        with self._changed:
            self._stopped = True
            self._futures.clear()
            self._changed.notify_all()
        self._thread.join()
        self._pool.shutdown(cancel_futures=True)

    def _run(self) -> None:
        try:
            with closing(self._produce()) as calls:
                for call in calls:
                    if not self._put(call):
                        return
        except BaseException as error:  # noqa: BLE001 - handed over to the consumer
            self._error = error
        finally:
            with self._changed:
                self._finished = True
                self._changed.notify_all()

    def _put(self, call: Callable[[], Item]) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._futures) < self._num_ahead)
            if self._stopped:
                return False
            self._futures.append(self._pool.submit(call))
            self._changed.notify_all()
            return True
