"""The features of a dataset: for each of its files one with what a frozen network makes of the rows.

Columns: row_id, label, and features, F little-endian float32 of a row, one after the other. The rows stand in
the order of the dataset's file, so a training reads features by the same plan and through the same readers as
images. A file is named by its checksum, so that one is never another. `_dlspark_features.json`, written last,
names the files; features without it do not exist.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dlspark import storage
from dlspark.contracts import SPLITS, ImageFormat, Progress, Split
from dlspark.data.columns import IMAGE_COLUMN
from dlspark.data.fingerprint import file_checksum
from dlspark.data.manifest import FileEntry, Manifest
from dlspark.data.parquet_file import table_bytes
from dlspark.errors import DatasetError

INDEX_NAME = "_dlspark_features.json"
FEATURES_COLUMN = "features"
VALUE_BYTES = 4
_VERSION = 3
_SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.int64(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field(FEATURES_COLUMN, pa.binary(), nullable=False),
    ]
)
_MOST_BYTES = 2**31 - 1
"""Of a column: Arrow counts them in int32."""
_NUM_THREADS = 8
"""That wait for the storage while files are proven."""

_log = logging.getLogger(__name__)

Place = tuple[Split, int]
"""Split, and index of the file in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureManifest(Manifest):
    """A dataset whose rows are features: files and preprocessing.image are those of the features."""

    num_features: int
    """F."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureIndex:
    """What a folder of features holds."""

    num_features: int
    """F."""
    files: Mapping[Place, FileEntry]
    """By the place of the dataset's file; paths are relative to the folder."""
    used: float
    """When a training last began with them, in seconds since 1970."""


def store_features(
    folder: str,
    place: Place,
    *,
    row_ids: NDArray[np.int64],
    labels: NDArray[np.int64],
    features: NDArray[np.float32],
) -> FileEntry:
    """Write the features of one file of a dataset, whole or not at all.

    Args:
        folder: URL.
        place: of the dataset's file.
        row_ids: int64 [n], n > 0.
        labels: int64 [n].
        features: float32 [n, F].

    Raises:
        DatasetError: the file has more features than a column can hold.
    """
    split, index = place
    num_rows, num_features = features.shape
    values = np.ascontiguousarray(features, dtype="<f4")
    if values.nbytes > _MOST_BYTES:
        raise DatasetError(
            "the features of a file are more than a column can hold",
            got=f"{num_rows} rows of {num_features} features, {values.nbytes} bytes",
            allowed=f"at most {_MOST_BYTES} bytes",
            where=f"file {index} of the {split} split",
            fix="ingest with a smaller data.file_bytes, or set transfer.cache_features=false",
        )
    offsets = np.arange(num_rows + 1, dtype=np.int32) * np.int32(num_features * VALUE_BYTES)
    column = pa.BinaryArray.from_buffers(
        pa.binary(), num_rows, [None, pa.py_buffer(offsets), pa.py_buffer(values)]
    )
    table = pa.table([pa.array(row_ids, pa.int64()), pa.array(labels, pa.int32()), column], schema=_SCHEMA)
    data = table_bytes(table, uncompressed=_SCHEMA.names)
    checksum = file_checksum(data)
    path = storage.join(f"split={split}", f"part-{index:05d}-{checksum}.parquet")
    storage.write_bytes(storage.join(folder, path), data)
    return FileEntry(
        path=path,
        rows=num_rows,
        num_bytes=len(data),
        checksum=checksum,
        min_row_id=int(row_ids.min()),
        max_row_id=int(row_ids.max()),
    )


def content_column(manifest: Manifest) -> str:
    """Return the name of the column that a dataset's images are in, or its features."""
    return FEATURES_COLUMN if isinstance(manifest, FeatureManifest) else IMAGE_COLUMN


def write_index(folder: str, index: FeatureIndex) -> None:
    """Publish the features of a folder; their files must be complete."""
    files = {
        split: [dataclasses.asdict(index.files[place]) for place in sorted(index.files) if place[0] == split]
        for split in SPLITS
    }
    values = {
        "version": _VERSION,
        "num_features": index.num_features,
        "used": index.used,
        "files": files,
    }
    storage.write_json(storage.join(folder, INDEX_NAME), values)


def read_index(folder: str) -> FeatureIndex | None:
    """Return what a folder of features holds; None where nothing was published, or its index is damaged."""
    url = storage.join(folder, INDEX_NAME)
    try:
        values = storage.read_json(url)
        if values["version"] != _VERSION:
            raise ValueError(f"version {values['version']} instead of {_VERSION}")
        return FeatureIndex(
            num_features=int(values["num_features"]),
            files=_entries(values["files"]),
            used=float(values["used"]),
        )
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        _log.warning("the features in %s are computed again: %s is damaged: %r", folder, url, error)
        return None


def whole_files(folder: str, index: FeatureIndex, progress: Progress) -> dict[Place, FileEntry]:
    """Return the files of features that are as they were written, each byte proven; the others are logged.

    Args:
        folder: URL.
        index: of the folder.
        progress: is told the files that are proven.
    """
    whole: dict[Place, FileEntry] = {}
    places = sorted(index.files)
    with ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="dlspark-features") as pool:
        problems = pool.map(lambda place: _problem(folder, index.files[place]), places)
        for number, (place, problem) in enumerate(zip(places, problems, strict=True), start=1):
            progress.update(number, len(places))
            if problem is None:
                whole[place] = index.files[place]
            else:
                url = storage.join(folder, index.files[place].path)
                _log.warning("a file of features is computed again: %s is %s", url, problem)
    return whole


def as_dataset(folder: str, manifest: Manifest) -> FeatureManifest:
    """Return the features of a dataset as a dataset with the same rows in the same places.

    Args:
        folder: URL of the features.
        manifest: of the dataset.

    Raises:
        DatasetError: they are not there, or not those of this dataset's files.
    """
    index = read_index(folder)
    if index is None:
        raise DatasetError("there are no features", where=folder, fix="start the training again")
    splits = {
        split: dataclasses.replace(
            entry,
            files=tuple(
                _of_the_same_rows(index, (split, number), file, folder)
                for number, file in enumerate(entry.files)
            ),
        )
        for split, entry in manifest.splits.items()
    }
    image = ImageFormat(height=1, width=index.num_features * VALUE_BYTES, channels=1, resize="none")
    fields = {field.name: getattr(manifest, field.name) for field in dataclasses.fields(Manifest)}
    fields |= {"splits": splits, "preprocessing": dataclasses.replace(manifest.preprocessing, image=image)}
    return FeatureManifest(**fields, num_features=index.num_features)


def _of_the_same_rows(index: FeatureIndex, place: Place, file: FileEntry, folder: str) -> FileEntry:
    found = index.files.get(place)
    allowed = (file.rows, file.min_row_id, file.max_row_id)
    got = None if found is None else (found.rows, found.min_row_id, found.max_row_id)
    if found is None or got != allowed:
        raise DatasetError(
            f"the features of {file.path} are of other rows (rows, smallest and largest row id)",
            got=got,
            allowed=allowed,
            where=folder,
            fix="remove that folder and start the training again: the features are computed anew",
        )
    return found


def _entries(values: Mapping[str, Any]) -> dict[Place, FileEntry]:
    entries: dict[Place, FileEntry] = {}
    for split in SPLITS:
        for number, entry in enumerate(values[split]):
            entries[split, number] = FileEntry(**entry)
    return entries


def _problem(folder: str, entry: FileEntry) -> str | None:
    """Return what is wrong with a file; None: nothing."""
    try:
        data = storage.read_bytes(storage.join(folder, entry.path))
    except FileNotFoundError:
        return "missing"
    if not entry.is_whole(data):
        return f"damaged: {len(data)} bytes, checksum {file_checksum(data)}"
    return None
