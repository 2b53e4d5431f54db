"""What every Python task of an ingest does first: three costs of a worker that it need not pay.

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
import sys
from zipimport import zipimporter

from dlspark.heap import keep_freed_memory

_MOST_KEPT = 192 * 1024**2
"""Free bytes at the end of the heap."""


def begin_task() -> None:
    """Spare the tasks to come in this worker what is described above."""
    for path, finder in list(sys.path_importer_cache.items()):
        if isinstance(finder, zipimporter):
            del sys.path_importer_cache[path]
    gc.freeze()
    keep_freed_memory(_MOST_KEPT)
