"""A peer of a benchmark: a process of its own, with what its users would have there already.

Spark allows one session in a process, and peers are not to be measured under each other's settings.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from pathlib import Path
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


def foreign_command(python: Path, kind: str, folder: Path, setting: str) -> dict[str, Any]:
    """Return the command of a foreign peer and its variables, as subprocess takes them; see `ForeignPeer`."""
    return {
        "args": [str(python), "-m", "benchmarks.foreign_peers", kind, str(folder), setting],
        "env": os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONWARNINGS": "ignore"},
    }


class ForeignPeer:
    """A loader of benchmarks/foreign_peers.py in the peers' environment; a context manager that ends it."""

    def __init__(self, python: Path, kind: str, folder: Path, setting: str) -> None:
        """Start the process.

        Args:
            python: of the environment.
            kind: see there, as are the others.
            folder: what it reads.
            setting: what it does with the images.
        """
        self._kind = kind
        command = foreign_command(python, kind, folder, setting)
        self._process = subprocess.Popen(**command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, num_images: int) -> None:
        """Read an epoch.

        Raises:
            AssertionError: it failed (why is on stderr), or lost images.
        """
        print(file=self._process.stdin, flush=True)
        answer = next(iter(self._process.stdout or ()), "")
        if not answer or json.loads(answer) != num_images:
            raise AssertionError(f"{self._kind}: {answer.strip() or 'nothing'} of {num_images} images came")

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self._process.communicate()
