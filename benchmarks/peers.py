"""A peer of a benchmark: a process of its own, with what its users would have there already.

Spark allows one session in a process, and peers are not to be measured under each other's settings.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self


class Peer:
    """Runs jobs in its process, one at a time; a context manager that ends it."""

    def __init__(self, opened: Callable[[], AbstractContextManager[Any]], job: Callable[..., object]) -> None:
        """Start the process and enter what it works with.

        Args:
            opened: gives a session; a top-level function, since the process is spawned.
            job: called with the session and the arguments of `run`; a top-level function too.
        """
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, opened, job))
        self._process.start()
        theirs.close()

    def run(self, *arguments: Any) -> None:
        """Do the job once.

        Raises:
            EOFError: it failed; its traceback is on stderr.
        """
        self._connection.send(arguments)
        self._connection.recv()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        if self._process.is_alive():
            self._connection.send(None)
        self._process.join()


def _serve(
    connection: Connection, opened: Callable[[], AbstractContextManager[Any]], job: Callable[..., object]
) -> None:
    with opened() as session:
        while (arguments := connection.recv()) is not None:
            job(session, *arguments)
            connection.send(True)
