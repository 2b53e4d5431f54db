"""What every Python task of an ingest does first.

Before each task, Spark's Python worker calls importlib.invalidate_caches(), which in Python 3.11 reads the
directory of every archive on its path again: 0.15 s for pyspark.zip, ten times what the rest of a small task
costs. Archives do not change while a worker lives, so their importers are dropped from the cache; an import
that needs one makes it again from zipimport's own table, for nothing.
"""

from __future__ import annotations

import sys
from zipimport import zipimporter


def begin_task() -> None:
    """Spare the tasks to come in this worker the reading of archives."""
    for path, finder in list(sys.path_importer_cache.items()):
        if isinstance(finder, zipimporter):
            del sys.path_importer_cache[path]
