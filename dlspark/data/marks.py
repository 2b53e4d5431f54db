"""Marks of live processes in a folder, so that two of them, or a dead one, do no harm.

A mark is a small file with an id in its name, which says whose it is and is refreshed while its owner lives.
That of a process of this host is dead when the process is; that of another host when it was not refreshed
for two minutes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator

import psutil

from dlspark import storage

_REFRESH_SECONDS = 10.0
_DEAD_AFTER_SECONDS = 120.0

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def mark(folder: str, prefix: str) -> Iterator[str]:
    """Hold a mark in a folder, which is made if need be, and give its id of 12 hexadecimal digits.

    Args:
        folder: URL.
        prefix: of the mark's name, which says what it stands for.
    """
    identity = uuid.uuid4().hex[:12]
    url = storage.join(folder, f"{prefix}{identity}.json")
    started = time.time()
    stop = threading.Event()

    def refresh() -> None:
        while not stop.wait(_REFRESH_SECONDS):
            try:
                storage.write_json(url, _values(started))
            except OSError as error:
                _log.warning("the mark of this process cannot be refreshed (%s): %s", error, url)

    storage.write_json(url, _values(started))
    thread = threading.Thread(target=refresh, name="dlspark-mark", daemon=True)
    thread.start()
    try:
        yield identity
    finally:
        stop.set()
        thread.join()
        storage.remove_tree(url)


def live_marks(folder: str, prefix: str) -> set[str]:
    """Return the ids of the marks whose owners live; those of dead ones are removed."""
    live = set()
    for name in storage.list_names(folder):
        if not name.startswith(prefix):
            continue
        url = storage.join(folder, name)
        try:
            values = storage.read_json(url)
        except FileNotFoundError:
            continue
        if _is_alive(values):
            live.add(name.removeprefix(prefix).removesuffix(".json"))
        else:
            _log.info("a process of %s was killed: its mark is removed", values["host"])
            storage.remove_tree(url)
    return live


def _values(started: float) -> dict[str, object]:
    process = psutil.Process()
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "process_started": process.create_time(),
        "started": started,
        "refreshed": time.time(),
    }


def _is_alive(values: dict[str, object]) -> bool:
    if values["host"] != socket.gethostname():
        return time.time() - float(str(values["refreshed"])) < _DEAD_AFTER_SECONDS
    try:
        started: float = psutil.Process(int(str(values["process"]))).create_time()
        return started == values["process_started"]
    except psutil.NoSuchProcess:
        return False
