"""Classifies a folder of images with Spark into Parquet.

The driver lists the files and ships their paths; each task reads, decodes and classifies its own, in bounded
batches. The checkpoint travels as a broadcast of its bytes, so executors need neither a shared disk nor
MLflow, and is built once in each Python worker process. An image that cannot be read or decoded is a row with
a reason.
"""

from __future__ import annotations

import hashlib
import logging
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import torch
from pyspark import Accumulator, Broadcast, TaskContext
from pyspark.sql import SparkSession

from dlspark import storage
from dlspark.data.images import IMAGE_EXTENSIONS
from dlspark.errors import OutputExistsError, SourceError
from dlspark.predict.classifier import Classifier

logger = logging.getLogger(__name__)

COMMIT_FILE = "_dlspark_predictions.json"
_SCHEMA = "path string, label string, probability double, probabilities array<double>, error string"
_FILES_PER_TASK = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreResult:
    """What a scoring has written."""

    output: str
    num_images: int
    num_failed: int
    """Images without a label; their rows say why."""
    predicted: Mapping[str, int]
    """Images of each predicted class, in the order of the classes."""
    num_loads: int
    """How often the network was loaded: once for each Python worker process, if nothing was retried."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Score:
    """What a task does with its files; travels to the executors by value."""

    checkpoint: Broadcast[dict[str, bytes]]
    digest: str
    views: tuple[tuple[str, Any], ...]
    batch_size: int
    max_image_bytes: int
    max_image_pixels: int
    loads: Accumulator[int]

    def __call__(self, frames: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        context = TaskContext.get()
        if context is not None:
            # One task has these cores; torch would take all of the host for each of the tasks on it.
            torch.set_num_threads(max(1, context.cpus()))
        misses = _load_classifier.cache_info().misses
        classifier = _load_classifier(self.digest, _Files(self.checkpoint), self.views)
        self.loads.add(_load_classifier.cache_info().misses - misses)
        for frame in frames:
            for start in range(0, len(frame), self.batch_size):
                yield self._score(classifier, frame.iloc[start : start + self.batch_size])

    def _score(self, classifier: Classifier, files: pd.DataFrame) -> pd.DataFrame:
        paths = files["path"].tolist()
        read = [
            _read(path, size, self.max_image_bytes)
            for path, size in zip(paths, files["num_bytes"], strict=True)
        ]
        labels, probabilities, errors = classifier.predict(
            [data for data, _ in read], batch_size=self.batch_size, max_pixels=self.max_image_pixels
        )
        rows = [
            None if label is None else row.tolist() for label, row in zip(labels, probabilities, strict=True)
        ]
        return pd.DataFrame(
            {
                "path": paths,
                "label": labels,
                "probability": [None if row is None else max(row) for row in rows],
                "probabilities": rows,
                "error": [unread or undecoded for (_, unread), undecoded in zip(read, errors, strict=True)],
            }
        )


class _Files:
    """The files of a checkpoint; equal to any other, so that the digest alone is the key of the cache."""

    def __init__(self, files: Broadcast[dict[str, bytes]]) -> None:
        self.files = files

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Files)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=1)
def _load_classifier(digest: str, checkpoint: _Files, views: tuple[tuple[str, Any], ...]) -> Classifier:
    """Build the classifier once in a Python worker process; one of other files or views takes its place."""
    with tempfile.TemporaryDirectory(prefix=f"dlspark-{digest[:12]}-") as folder:
        for name, data in checkpoint.files.value.items():
            (Path(folder) / name).write_bytes(data)
        return Classifier.load(folder, views=dict(views))


def list_images(source: str) -> list[tuple[str, int]]:
    """Return (URL, bytes) of the image files in a folder and the folders in it, by name.

    Raises:
        SourceError: the folder is missing or holds no images.
    """
    filesystem, path = storage.resolve(source)
    where = storage.absolute(source)
    if not filesystem.isdir(path):
        raise SourceError("the folder of images does not exist", where=where, fix="correct source")
    filesystem.invalidate_cache(path)
    found = filesystem.find(path, detail=True)
    images = [
        (storage.absolute(str(filesystem.unstrip_protocol(name))), int(info["size"] or 0))
        for name, info in sorted(found.items())
        if Path(name).suffix.lower() in IMAGE_EXTENSIONS
    ]
    if not images:
        raise SourceError(
            "the folder holds no images",
            got=f"{len(found)} other files",
            allowed=f"files that end in {', '.join(sorted(IMAGE_EXTENSIONS))}",
            where=where,
            fix="correct source",
        )
    if len(images) < len(found):
        logger.info("%d files of %s are no images and are left out", len(found) - len(images), where)
    return images


def require_free_output(output: str, *, overwrite: bool) -> None:
    """Refuse an output that is there, unless it is one of ours and may be replaced.

    Raises:
        OutputExistsError: see above.
    """
    if not storage.list_names(output):
        return
    where = storage.absolute(output)
    if not overwrite:
        raise OutputExistsError(
            "the output exists already", where=where, fix="set overwrite=true, or another predict.output"
        )
    if not storage.exists(storage.join(output, COMMIT_FILE)):
        raise OutputExistsError(
            "the output holds something that is not a result of dlspark, and is not overwritten",
            got=f"no {COMMIT_FILE} in it",
            where=where,
            fix="set another predict.output, or remove the folder yourself",
        )


def score_folder(
    spark: SparkSession,
    *,
    source: str,
    checkpoint_url: str,
    output: str,
    overwrite: bool,
    batch_size: int,
    max_image_bytes: int,
    max_image_pixels: int,
    views: Mapping[str, Any] = MappingProxyType({}),
) -> ScoreResult:
    """Classify the images of a folder, and of the folders in it, into Parquet.

    Columns of the output, one row an image: `path`, `label` (predicted; null where there is none),
    `probability` (of that label), `probabilities` (in the order of the classes) and `error` (null, or why
    there is no label).
    The file `_dlspark_predictions.json` is written last; an output without it is not whole.

    Args:
        spark: the session whose executors do the work; dlspark must be importable there.
        source: URL of the folder, readable from the executors.
        checkpoint_url: folder of the checkpoint, readable from the driver.
        output: URL of the folder to write, by Spark.
        overwrite: replace an earlier result of this function.
        batch_size: images that go through the network at once.
        max_image_bytes: a larger file is not read.
        max_image_pixels: a larger image is not decoded.
        views: fields of `Views` that are other ones than the checkpoint has.

    Raises:
        OutputExistsError: the output exists.
        SourceError: there are no images, or none of them can be classified.
        ModelError: the checkpoint cannot be loaded.
    """
    require_free_output(output, overwrite=overwrite)
    images = list_images(source)
    classes = Classifier.load(checkpoint_url).classes
    files = {
        name: storage.read_bytes(storage.join(checkpoint_url, name))
        for name in storage.list_names(checkpoint_url)
    }
    broadcast = spark.sparkContext.broadcast(files)
    score = _Score(
        checkpoint=broadcast,
        digest=_digest(files),
        views=tuple(views.items()),
        batch_size=batch_size,
        max_image_bytes=max_image_bytes,
        max_image_pixels=max_image_pixels,
        loads=spark.sparkContext.accumulator(0),
    )
    storage.remove_tree(output)
    try:
        predicted, failed = _write(spark, images, score, output)
    except BaseException:
        storage.remove_tree(output)
        raise
    finally:
        broadcast.destroy()
    result = ScoreResult(
        output=storage.absolute(output),
        num_images=len(images),
        num_failed=failed,
        predicted={name: predicted.get(name, 0) for name in classes},
        num_loads=score.loads.value,
    )
    commit = {
        "classes": list(classes),
        "num_images": len(images),
        "num_failed": failed,
        "predicted": result.predicted,
    }
    storage.write_json(storage.join(output, COMMIT_FILE), commit)
    return result


def _write(
    spark: SparkSession, images: Sequence[tuple[str, int]], score: _Score, output: str
) -> tuple[dict[str, int], int]:
    """Run the job; return the images of each predicted class and the number of those without one."""
    slots = spark.sparkContext.defaultParallelism
    num_tasks = max(min(slots, len(images)), math.ceil(len(images) / _FILES_PER_TASK))
    uri = storage.as_uri(output)
    rows = spark.createDataFrame(pd.DataFrame(images, columns=["path", "num_bytes"])).repartition(num_tasks)
    rows.mapInPandas(score, _SCHEMA).write.parquet(uri)
    written = spark.read.schema(_SCHEMA).parquet(uri)
    counts = {row["label"]: int(row["count"]) for row in written.groupBy("label").count().collect()}
    failed = counts.pop(None, 0)
    if failed + sum(counts.values()) != len(images):
        raise SourceError(
            "the result is not whole",
            got=f"{failed + sum(counts.values())} rows",
            allowed=len(images),
            where=uri,
        )
    if failed == len(images):
        first = written.select("path", "error").first()
        raise SourceError(
            "none of the images can be classified",
            got=f"{first['error']} ({first['path']})" if first is not None else None,
            where=f"{failed} images",
            fix="look at the first one; the folder must be readable from every executor",
        )
    return counts, failed


def _read(path: str, num_bytes: int, max_bytes: int) -> tuple[bytes | None, str | None]:
    if num_bytes > max_bytes:
        return None, f"too_large: {num_bytes:,} bytes, allowed are {max_bytes:,}"
    try:
        return storage.read_bytes(path), None
    except Exception as error:  # noqa: BLE001 - storage of any kind; the row tells the reason
        return None, f"unreadable_file: {type(error).__name__}: {error}"


def _digest(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, data in sorted(files.items()):
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()
