"""A bounded buffer that a background thread fills while the consumer works."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Prefetcher(Generic[Item]):
    """Runs a generator in a thread of its own, at most `num_ahead` items ahead of the consumer.

    A context manager: leaving it stops the thread after the item that it is making, and waits for it. What
    the generator raises is raised in the consumer, after the items that came before.
    """

    def __init__(
        self, produce: Callable[[], Generator[Item, None, None]], *, num_ahead: int, name: str
    ) -> None:
        """Start the thread.

        Args:
            produce: makes the generator, in the thread; it is closed there too.
            num_ahead: items that may wait, > 0.
            name: of the thread.
        """
        self._produce, self._num_ahead = produce, num_ahead
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._stopped = self._finished = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        """Yield the items in their order."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._finished or self._stopped)
                if not self._items:
                    if self._error is not None:
                        raise self._error
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item

    def __enter__(self) -> Prefetcher[Item]:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the thread."""
        self.close()

    def close(self) -> None:
        """Stop the thread and forget the items that wait; a second call does nothing."""
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        try:
            with closing(self._produce()) as items:
                for item in items:
                    if not self._put(item):
                        return
        except BaseException as error:  # noqa: BLE001 - handed over to the consumer
            self._error = error
        finally:
            with self._changed:
                self._finished = True
                self._changed.notify_all()

    def _put(self, item: Item) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._items) < self._num_ahead)
            if self._stopped:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True
