"""The output folder of an ingest: what may be replaced, what a failure leaves, how it is published.

Every file has a name that nothing else has and lies beside those of a dataset that is replaced. The manifest,
written whole or not at all, is the commit: before it the old dataset stands (or none), after it the new one.
What is then left to do (Petastorm's metadata, removing what the manifest no longer names) may be cut off at
any point and is completed by the next ingest.
"""

from __future__ import annotations

import logging

from dlspark import storage
from dlspark.contracts import SPLITS
from dlspark.data.accept import ACCEPTED_NAME
from dlspark.data.attempts import live_attempts
from dlspark.data.manifest import MANIFEST_NAME, MARKER_PREFIX, Manifest, read_manifest, write_manifest
from dlspark.data.moved import MOVED_NAME
from dlspark.data.petastorm_schema import SCHEMA_NAME, add_schema, dataset_schema
from dlspark.data.quarantine import QUARANTINE_NAME
from dlspark.errors import DatasetError, OutputExistsError

_OURS = (
    MANIFEST_NAME,
    MARKER_PREFIX,
    SCHEMA_NAME,
    QUARANTINE_NAME,
    "split=",
    "_audit",
    ACCEPTED_NAME,
    MOVED_NAME,
)

_log = logging.getLogger(__name__)


def find_published(dataset: str) -> Manifest | None:
    """Return the manifest of a dataset that is in the output folder, or None; nothing is changed.

    Raises:
        OutputExistsError: the folder is a file, or holds something that is not dlspark's.
    """
    where = storage.absolute(dataset)
    names = storage.list_names(where)
    if not names:
        if storage.exists(where) and not storage.is_folder(where):
            raise OutputExistsError(
                "the dataset would replace a file", where=where, fix="set dataset to another folder"
            )
        return None
    foreign = [name for name in names if not name.startswith(_OURS)]
    if MANIFEST_NAME in names:
        try:
            return read_manifest(where)
        except DatasetError as error:
            _log.warning("the dataset that is there cannot be used: %s", error)
            return None
    if foreign or not any(name.startswith((MARKER_PREFIX, "split=")) for name in names):
        raise OutputExistsError(
            "the folder is not empty and no dataset of dlspark, so it is never overwritten",
            got=", ".join((foreign or names)[:5]),
            where=where,
            fix="set dataset to another folder",
        )
    return None


def lost_files(dataset: str, manifest: Manifest) -> list[str]:
    """Return the files of a published dataset that are not there any more, relative to it."""
    there = {f"{folder}/{name}" for folder, name in _files(dataset)}
    return [path for path in (*manifest.file_paths, *manifest.quarantine_files) if path not in there]


def require_replaceable(dataset: str, *, overwrite: bool, why: str) -> None:
    """Refuse to replace a dataset without the user's word.

    Args:
        dataset: URL.
        overwrite: the user's word.
        why: what is different from the dataset that is there.

    Raises:
        OutputExistsError: there is a dataset and `overwrite` is false.
    """
    where = storage.absolute(dataset)
    if not overwrite and storage.exists(storage.join(where, MANIFEST_NAME)):
        raise OutputExistsError(
            f"the dataset exists, and {why}",
            where=where,
            fix="set overwrite=true, or dataset to another folder",
        )


def publish(dataset: str, manifest: Manifest) -> None:
    """Commit a dataset whose files are complete, then tidy up."""
    write_manifest(dataset, manifest)
    complete(dataset, manifest)


def complete(dataset: str, manifest: Manifest) -> None:
    """Do what follows the commit: Petastorm's metadata, and nothing in the folder that does not count.

    Files of ingests that are running stay. Calling this again changes nothing.
    """
    schema = dataset_schema(manifest.preprocessing.image, manifest.storage)
    add_schema(dataset, schema, manifest.file_paths)
    remove_leftovers(dataset, manifest)


def discard(dataset: str, attempt: str) -> None:
    """Remove what one ingest wrote; what a published dataset has, and what other ingests write, stays."""
    for folder, name in _files(dataset):
        if f"-{attempt}-" in name:
            storage.remove_tree(storage.join(dataset, folder, name))
    _remove_empty(dataset)


def remove_leftovers(dataset: str, manifest: Manifest | None) -> None:
    """Remove data and quarantine files that neither the manifest names nor a running ingest writes."""
    kept = {*manifest.file_paths, *manifest.quarantine_files} if manifest else set()
    live = live_attempts(dataset)
    if manifest:
        live.discard(manifest.attempt)
    removed = 0
    for folder, name in _files(dataset):
        if f"{folder}/{name}" not in kept and not any(f"-{attempt}-" in name for attempt in live):
            storage.remove_tree(storage.join(dataset, folder, name))
            removed += 1
    if removed:
        _log.info("removed %d files of an older dataset or of lost attempts from %s", removed, dataset)
    _remove_empty(dataset)


def _files(dataset: str) -> list[tuple[str, str]]:
    folders = (*(f"split={split}" for split in SPLITS), QUARANTINE_NAME)
    return [
        (folder, name) for folder in folders for name in storage.list_names(storage.join(dataset, folder))
    ]


def _remove_empty(dataset: str) -> None:
    for folder in (*(f"split={split}" for split in SPLITS), QUARANTINE_NAME):
        url = storage.join(dataset, folder)
        if storage.exists(url) and not storage.list_names(url):
            storage.remove_tree(url)
