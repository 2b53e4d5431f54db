"""The output folder of an ingest: what may be replaced, what a failure leaves, how it is published.

New files get names that nothing else has and lie beside those of a dataset that is replaced, so that a failed
ingest leaves the old dataset as it was. Publishing takes the old manifest away first and writes the new one
last; in between the folder says that it is half-written.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable
from datetime import UTC, datetime

from dlspark import storage
from dlspark.contracts import SPLITS
from dlspark.data.manifest import (
    MANIFEST_NAME,
    MARKER_NAME,
    QUARANTINE_NAME,
    Manifest,
    read_manifest,
    write_manifest,
)
from dlspark.errors import DatasetError, OutputExistsError

_PETASTORM_NAMES = ("_common_metadata", "_metadata")

_log = logging.getLogger(__name__)


def require_free(dataset: str, *, overwrite: bool) -> None:
    """Refuse an output folder that an ingest must not write to; nothing is changed.

    Raises:
        OutputExistsError: the folder is a dataset and `overwrite` is false, or it holds something else.
    """
    where = storage.absolute(dataset)
    names = storage.list_names(where)
    if not names and not storage.exists(where):
        return
    if not storage.is_folder(where):
        raise OutputExistsError(
            "the dataset would replace a file", where=where, fix="set dataset to another folder"
        )
    if not names:
        return
    if MANIFEST_NAME not in names and MARKER_NAME not in names:
        raise OutputExistsError(
            "the folder is not empty and no dataset of dlspark, so it is never overwritten",
            got=", ".join(names[:5]),
            where=where,
            fix="set dataset to another folder",
        )
    if not overwrite:
        what = (
            "the dataset exists"
            if MANIFEST_NAME in names
            else "an unfinished ingest is here, or one that is running"
        )
        raise OutputExistsError(what, where=where, fix="set overwrite=true, or dataset to another folder")


def begin(dataset: str) -> None:
    """Mark the folder as being written."""
    marker = {"started": datetime.now(UTC).isoformat(timespec="seconds"), "host": socket.gethostname()}
    storage.write_json(storage.join(dataset, MARKER_NAME), marker)


def discard(dataset: str) -> None:
    """Undo an ingest that failed: what a published dataset has stays, all else of ours goes."""
    try:
        old = read_manifest(dataset)
    except DatasetError:
        _remove_files(dataset, keep=())
        storage.remove_tree(storage.join(dataset, QUARANTINE_NAME))
        for name in _PETASTORM_NAMES:
            storage.remove_tree(storage.join(dataset, name))
    else:
        _remove_files(dataset, keep=old.file_paths)
    storage.remove_tree(storage.join(dataset, MARKER_NAME))
    if not storage.list_names(dataset):
        storage.remove_tree(dataset)


def withdraw(dataset: str, manifest: Manifest) -> None:
    """Take away all of ours that is not a file of `manifest`: an older dataset, lost attempts."""
    for name in (MANIFEST_NAME, *_PETASTORM_NAMES, QUARANTINE_NAME):
        storage.remove_tree(storage.join(dataset, name))
    _remove_files(dataset, keep=manifest.file_paths)


def publish(dataset: str, manifest: Manifest) -> None:
    """Write the manifest, which makes the folder a dataset, and take the mark away."""
    write_manifest(dataset, manifest)
    storage.remove_tree(storage.join(dataset, MARKER_NAME))


def _remove_files(dataset: str, keep: Iterable[str]) -> None:
    kept = frozenset(keep)
    removed = 0
    for split in SPLITS:
        folder = storage.join(dataset, f"split={split}")
        names = storage.list_names(folder)
        for name in names:
            if f"split={split}/{name}" not in kept:
                storage.remove_tree(storage.join(folder, name))
                removed += 1
        if names and not storage.list_names(folder):
            storage.remove_tree(folder)
    if removed:
        _log.info("removed %d files of an older dataset or of lost attempts from %s", removed, dataset)
