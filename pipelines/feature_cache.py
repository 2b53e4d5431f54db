"""The features that a head is trained on: computed once, and used by each training that they fit.

They lie beside the run directory, in dlspark-features/<digest>/, so that runs that are neighbours share them:
with another learning rate, another seed, another head. The digest is of the dataset, the preprocessing, and
the frozen layers with their weights. A training holds its folder, so that `dlspark cache gc` leaves it alone.
"""

from __future__ import annotations

import logging
import posixpath
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from dlspark import storage
from dlspark.contracts import SPLITS, WorkerTask
from dlspark.data.feature_files import FeatureIndex, Place, read_index, whole_files, write_index
from dlspark.data.feature_use import features_in_use
from dlspark.data.manifest import FileEntry
from dlspark.errors import DatasetError
from dlspark.predict.features import Body, FeatureJob, compute_here, compute_on_spark, load_body
from dlspark.progress import show_progress

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FEATURES_FOLDER = "dlspark-features"
_DIGITS = 32
"""Of the digest, in the name of a folder."""

_log = logging.getLogger(__name__)


@contextmanager
def with_features(task: WorkerTask, spark: SparkSession | None) -> Iterator[WorkerTask]:
    """Give a run with the URL of its features, each byte proven; what is missing is computed first.

    Args:
        task: the run, whose directory holds its first weights.
        spark: the session whose executors compute; None: this process does.

    Raises:
        DlsparkError: a file of the dataset is damaged, or a task failed; what is there already stays.
    """
    body = load_body(task)
    folder = features_folder(task.run_dir, body.key)
    with features_in_use(folder):
        _complete(task, body, folder, spark)
        yield replace(task, features=folder)


def _complete(task: WorkerTask, body: Body, folder: str, spark: SparkSession | None) -> None:
    """Compute the files that are missing or damaged."""
    index = read_index(folder)
    there: dict[Place, FileEntry] = {}
    if index is not None:
        with show_progress("features", "files proven") as progress:
            there = whole_files(folder, index, progress)
    places = [
        (split, number) for split in SPLITS for number, _ in enumerate(body.manifest.splits[split].files)
    ]
    missing = [place for place in places if place not in there]
    if missing:
        there |= _compute(task, body, folder, missing, spark)
    write_index(folder, FeatureIndex(num_features=body.head.num_features, files=there, used=time.time()))
    if not missing:
        _log.info("the features are there already, in %s: the frozen layers are not needed", folder)
        return
    _log.info(
        "%d features of each row, %.1f MB, are in %s, for this and later trainings; dlspark cache gc removes "
        "them when they are old",
        *(body.head.num_features, sum(entry.num_bytes for entry in there.values()) / 1e6, folder),
    )


def features_folder(run_dir: str, key: str) -> str:
    """Return the URL of the folder of features with a digest, beside a run directory."""
    return storage.join(posixpath.dirname(run_dir.rstrip("/")), FEATURES_FOLDER, key[:_DIGITS])


def _compute(
    task: WorkerTask, body: Body, folder: str, places: list[Place], spark: SparkSession | None
) -> dict[Place, FileEntry]:
    num_rows = sum(body.manifest.splits[split].files[number].rows for split, number in places)
    _log.info("what the frozen layers make of %d images in %d files is computed", num_rows, len(places))
    with show_progress("features", "files") as progress:
        if spark is None:
            entries = compute_here(body, folder, places, progress)
        else:
            job = FeatureJob(task=task.to_json(), key=body.key, folder=folder)
            entries = compute_on_spark(spark, job, places, progress)
    _require_seen(folder, entries)
    return dict(zip(places, entries, strict=True))


def _require_seen(folder: str, entries: list[FileEntry]) -> None:
    """Return if the driver sees the files that were written; an executor's own disk is not shared."""
    folders = {posixpath.dirname(entry.path) for entry in entries}
    seen = {
        storage.join(inner, name)
        for inner in folders
        for name in storage.list_names(storage.join(folder, inner))
    }
    lost = [entry.path for entry in entries if entry.path not in seen]
    if lost:
        raise DatasetError(
            "features that were written cannot be seen from the driver",
            got=f"{len(lost)} of {len(entries)} files missing, such as {lost[0]}",
            where=folder,
            fix="choose a run_dir that lies in a folder which all hosts share",
        )
