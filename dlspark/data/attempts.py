"""The marks of running ingests in a dataset's folder, so that two at once, or a dead one, do no harm.

Each ingest has an id, which is part of the name of every file that it writes, and a small marker file that
names its process and is refreshed while it runs. Files of an id without a live marker, which the manifest
does not name either, are leftovers of an ingest that was killed; the next one removes them.
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
from dlspark.data.manifest import MARKER_PREFIX

_REFRESH_SECONDS = 10.0
_DEAD_AFTER_SECONDS = 120.0

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def running_attempt(dataset: str) -> Iterator[str]:
    """Mark the folder while an ingest writes to it, and give the ingest an id of 12 hexadecimal digits.

    A folder that is empty when the ingest ends is removed.
    """
    attempt = uuid.uuid4().hex[:12]
    url = storage.join(dataset, f"{MARKER_PREFIX}{attempt}.json")
    started = time.time()
    stop = threading.Event()

    def refresh() -> None:
        while not stop.wait(_REFRESH_SECONDS):
            try:
                storage.write_json(url, _marker(started))
            except OSError as error:
                _log.warning("the marker of this ingest cannot be refreshed (%s): %s", error, url)

    storage.write_json(url, _marker(started))
    thread = threading.Thread(target=refresh, name="dlspark-ingest-marker", daemon=True)
    thread.start()
    try:
        yield attempt
    finally:
        stop.set()
        thread.join()
        storage.remove_tree(url)
        if not storage.list_names(dataset):
            storage.remove_tree(dataset)


def live_attempts(dataset: str) -> set[str]:
    """Return the ids of the ingests that are writing to the folder now; markers of dead ones are removed."""
    live = set()
    for name in storage.list_names(dataset):
        if not name.startswith(MARKER_PREFIX):
            continue
        url = storage.join(dataset, name)
        attempt = name.removeprefix(MARKER_PREFIX).removesuffix(".json")
        try:
            marker = storage.read_json(url)
        except FileNotFoundError:
            continue
        if _is_alive(marker):
            live.add(attempt)
        else:
            _log.info("an ingest of %s was killed: its leftovers are removed", marker["host"])
            storage.remove_tree(url)
    return live


def _marker(started: float) -> dict[str, object]:
    process = psutil.Process()
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "process_started": process.create_time(),
        "started": started,
        "refreshed": time.time(),
    }


def _is_alive(marker: dict[str, object]) -> bool:
    if marker["host"] != socket.gethostname():
        return time.time() - float(str(marker["refreshed"])) < _DEAD_AFTER_SECONDS
    try:
        started: float = psutil.Process(int(str(marker["process"]))).create_time()
        return started == marker["process_started"]
    except psutil.NoSuchProcess:
        return False
