"""What every Python task of dlspark does first: four costs of a worker that it need not pay.

Spark sends a task to its Python worker in two small pieces over TCP: first the functions, then the data. By
Nagle's algorithm the second one waits until the first is acknowledged, and Linux puts that off for 40 ms, in
case there is an answer to send it with; the end of a long answer waits for the JVM in the same way. So the
worker acknowledges at once what it has got, and sends without Nagle's algorithm. (Spark 4.1 can use Unix
domain sockets, which know neither.)

Before each task, Spark's Python worker calls importlib.invalidate_caches(), which in Python 3.11 reads the
directory of every archive on its path again: 0.15 s for pyspark.zip, ten times what the rest of a small task
costs. Archives do not change while a worker lives, so their importers are dropped from the cache; an import
that needs one makes it again from zipimport's own table, for nothing.

After each task, Spark collects garbage among all objects of the worker: 0.1 s for the modules that dlspark
needs. What is there when a task begins has survived that, and is taken out of it.

The buffers of a file of a dataset are kept for the next one, see `dlspark.heap`.
"""

from __future__ import annotations

import gc
import os
import socket
import stat
import sys
from zipimport import zipimporter

from dlspark.heap import keep_freed_memory

_MOST_KEPT = 192 * 1024**2
"""Free bytes at the end of the heap."""


def begin_task() -> None:
    """Spare this task and those to come in this worker what is described above; call it before reading."""
    _answer_at_once()
    for path, finder in list(sys.path_importer_cache.items()):
        if isinstance(finder, zipimporter):
            del sys.path_importer_cache[path]
    gc.freeze()
    keep_freed_memory(_MOST_KEPT)


def _answer_at_once() -> None:
    """Let no TCP connection of this process wait for an acknowledgement, or with one; of Linux alone."""
    if not hasattr(socket, "TCP_QUICKACK"):
        return
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - a Path for each has nothing to give
        descriptor = int(name)
        try:
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
        except OSError:  # that of the listing itself, which is closed by now
            continue
        connection = socket.socket(fileno=descriptor)
        try:
            if (
                connection.family in (socket.AF_INET, socket.AF_INET6)
                and connection.type == socket.SOCK_STREAM
            ):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        finally:
            connection.detach()
