"""Who uses a folder of features now, and how it is removed where nobody does.

A training holds a mark in the folder from before it looks for features until its end; who removes a folder
holds another one, and then looks for the marks of trainings. Of two that come at the same time at least one
sees the other: a training waits until the removal is over, a removal gives way to a training.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from dlspark import storage
from dlspark.data.marks import live_marks, mark

_USE_PREFIX = "_dlspark_use-"
_REMOVAL_PREFIX = "_dlspark_removal-"
_WAIT_SECONDS = 0.2


@contextlib.contextmanager
def features_in_use(folder: str) -> Iterator[None]:
    """Hold a folder of features, which may not be there yet: nobody removes it meanwhile.

    Args:
        folder: URL.
    """
    while True:
        with mark(folder, _USE_PREFIX):
            if not live_marks(folder, _REMOVAL_PREFIX):
                yield
                return
        time.sleep(_WAIT_SECONDS)


def is_in_use(folder: str) -> bool:
    """Tell whether a training holds a folder of features."""
    return bool(live_marks(folder, _USE_PREFIX))


def remove_features(folder: str) -> bool:
    """Remove a folder of features; return False, with all of it left, if a training uses it.

    Args:
        folder: URL.
    """
    with mark(folder, _REMOVAL_PREFIX) as own:
        if is_in_use(folder):
            return False
        for name in storage.list_names(folder):
            if name != f"{_REMOVAL_PREFIX}{own}.json" and not name.startswith(_USE_PREFIX):
                storage.remove_tree(storage.join(folder, name))
    storage.remove_empty_folder(folder)
    return True
