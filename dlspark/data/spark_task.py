"""What every Python task of an ingest does first: three costs of a worker that it need not pay.

Before each task, Spark's Python worker calls importlib.invalidate_caches(), which in Python 3.11 reads the
directory of every archive on its path again: 0.15 s for pyspark.zip, ten times what the rest of a small task
costs. Archives do not change while a worker lives, so their importers are dropped from the cache; an import
that needs one makes it again from zipimport's own table, for nothing.

After each task, Spark collects garbage among all objects of the worker: 0.1 s for the modules that dlspark
needs. What is there when a task begins has survived that, and is taken out of it.

A file of a dataset is some buffers of many megabytes, which the C library gives back to the kernel when they
are freed, and gets again, page by page and zeroed, for the next file. It is told to keep them.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import sys
from zipimport import zipimporter

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""`man 3 mallopt`, glibc."""
_LARGEST_KEPT_BUFFER = 32 * 1024**2
"""In bytes; glibc takes no more."""
_MOST_KEPT = 192 * 1024**2
"""Free bytes at the end of the heap."""


def begin_task() -> None:
    """Spare the tasks to come in this worker what is described above."""
    for path, finder in list(sys.path_importer_cache.items()):
        if isinstance(finder, zipimporter):
            del sys.path_importer_cache[path]
    gc.freeze()
    _keep_memory()


@functools.cache
def _keep_memory() -> None:
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # not on macOS and musl, whose ways are their own
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BUFFER)
        library.mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT)
