"""The marks of running ingests in a dataset's folder, so that two at once, or a dead one, do no harm.

Each ingest has an id, which is part of the name of every file that it writes, and a mark while it runs. Files
of an id without a live mark, which the manifest does not name either, are leftovers of an ingest that was
killed; the next one removes them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from dlspark import storage
from dlspark.data.manifest import MARKER_PREFIX
from dlspark.data.marks import live_marks, mark


@contextlib.contextmanager
def running_attempt(dataset: str) -> Iterator[str]:
    """Mark the folder while an ingest writes to it, and give the ingest an id of 12 hexadecimal digits.

    A folder that is empty when the ingest ends is removed.
    """
    try:
        with mark(dataset, MARKER_PREFIX) as attempt:
            yield attempt
    finally:
        if not storage.list_names(dataset):
            storage.remove_tree(dataset)


def live_attempts(dataset: str) -> set[str]:
    """Return the ids of the ingests that are writing to the folder now; marks of dead ones are removed."""
    return live_marks(dataset, MARKER_PREFIX)
