"""The files of a dataset, looked at once: a small description of each is all that the audit reads later.

A description has the row ids, keys, labels, looks and `nearest` of the originals of one file. `nearest` says
how alike unrelated pictures of this dataset look: the similarity to the third nearest of about a thousand
rows, which are a random sample, since rows lie in a hash order. Handwritten ones look alike and photographs
do not, so what counts as a twin must depend on it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dlspark import storage
from dlspark.contracts import SPLITS
from dlspark.data.audit.perceptual_hash import DESCRIPTOR_SIGN, DESCRIPTOR_SOURCE, look_at, unit
from dlspark.data.audit.records import ROW
from dlspark.data.columns import FileColumns, pixels_of
from dlspark.data.manifest import FileEntry, Manifest
from dlspark.data.parquet_file import read_table, write_table
from dlspark.errors import DatasetError

AUDIT_FOLDER = "_audit"

_COLUMNS = ["row_id", "key", "label", "image", "parent_id", "pixel_hash", "source_hash"]
_HASH_BYTES = 16
_REFERENCE_ROWS = 1024
_REFERENCE_SHARE = 8
"""A small dataset takes only an eighth of its rows, so that few twins of a row are among them."""
_MIN_REFERENCE_ROWS = 16
_NEIGHBOUR = 3


class Originals(NamedTuple):
    """n original rows of one file."""

    row_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    keys: pa.Array
    pixels: NDArray[np.uint8]
    pixel_hashes: NDArray[np.uint64]
    """uint64 [n, 2]."""
    source_hashes: NDArray[np.uint64]
    """uint64 [n, 2]."""


def read_originals(dataset: str, manifest: Manifest, entry: FileEntry) -> Originals:
    """Read the rows of a file that are no augmented copies.

    Raises:
        DatasetError: the file is missing, or holds something else than the manifest says.
    """
    where = storage.join(dataset, entry.path)
    try:
        table = read_table(storage.read_bytes(where), _COLUMNS)
    except FileNotFoundError as error:
        raise DatasetError("a file of the dataset is missing", where=where) from error
    except (pa.ArrowException, OSError) as error:
        raise DatasetError("a file of the dataset cannot be read", got=error, where=where) from error
    chosen = np.flatnonzero(table["row_id"].to_numpy() == table["parent_id"].to_numpy())
    if len(chosen) < table.num_rows:
        table = table.take(pa.array(chosen)).combine_chunks()
    row_ids, labels = table["row_id"].to_numpy(), table["label"].to_numpy().astype(np.int64)
    image = manifest.preprocessing.image
    pixels = np.empty((0, image.height, image.width, image.channels), dtype=np.uint8)
    if len(row_ids):
        columns = FileColumns(row_ids=row_ids, labels=labels, images=table["image"].chunk(0))
        pixels = pixels_of(columns, image, manifest.storage, where=where)
    words = [_words(table[name], where) for name in ("pixel_hash", "source_hash")]
    keys = table["key"].to_pylist()
    return Originals(row_ids, labels, pa.array(keys, type=pa.string()), pixels, *words)


class Reference(NamedTuple):
    """The random sample that every row is compared to."""

    row_ids: NDArray[np.int64]
    descriptors: NDArray[np.float32]
    """float32 [m, 256], of length 1."""


def read_reference(dataset: str, manifest: Manifest) -> Reference:
    """Read the first originals of the dataset; see the module."""
    total = sum(manifest.splits[split].rows for split in SPLITS)
    wanted = min(_REFERENCE_ROWS, max(_MIN_REFERENCE_ROWS, total // _REFERENCE_SHARE))
    row_ids, descriptors = [], []
    for entry in (entry for split in SPLITS for entry in manifest.splits[split].files):
        rows = read_originals(dataset, manifest, entry)
        if len(rows.row_ids):
            row_ids.append(rows.row_ids[:wanted])
            descriptors.append(unit(look_at(rows.pixels[:wanted]).descriptors))
            wanted -= len(row_ids[-1])
        if wanted == 0:
            break
    return Reference(np.concatenate(row_ids), np.concatenate(descriptors))


def describe(
    dataset: str, manifest: Manifest, entry: FileEntry, number: int, reference: Reference
) -> NDArray[np.void]:
    """Write the description of a file, and return its rows.

    Args:
        dataset: URL.
        manifest: of the dataset.
        entry: the file.
        number: of the file, through all splits.
        reference: of the dataset.

    Returns:
        ROW [n].
    """
    rows = read_originals(dataset, manifest, entry)
    found = np.empty(len(rows.row_ids), dtype=ROW)
    if not len(found):
        return found
    looks = look_at(rows.pixels)
    table = {
        "row_id": rows.row_ids,
        "key": rows.keys,
        "label": rows.labels.astype(np.int32),
        "descriptor": pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(looks.descriptors.shape[1]), len(found), [None, pa.py_buffer(looks.descriptors)]
        ),
        "nearest": _nearest(unit(looks.descriptors), rows.row_ids, reference),
    }
    write_table(pa.table(table), _url(dataset, number))
    found["pixel_hash"], found["source_hash"] = rows.pixel_hashes, rows.source_hashes
    found["address"] = (number << 32) | np.arange(len(found))
    found["hash"], found["is_flat"] = looks.hashes, looks.is_flat
    return found


def read_description(dataset: str, number: int) -> pa.Table:
    """Return what `describe` wrote of a file: row_id, key, label, descriptor, nearest."""
    data = storage.read_bytes(_url(dataset, number))
    return read_table(data)


def _nearest(
    descriptors: NDArray[np.float32], row_ids: NDArray[np.int64], reference: Reference
) -> NDArray[np.float32]:
    best = np.full((len(descriptors), len(reference.row_ids)), -1.0, dtype=np.float32)
    for source, sign in zip(DESCRIPTOR_SOURCE, DESCRIPTOR_SIGN, strict=True):
        np.maximum(best, descriptors[:, source] * sign @ reference.descriptors.T, out=best)
    best[row_ids[:, None] == reference.row_ids[None]] = -1.0
    neighbour = min(_NEIGHBOUR, best.shape[1])
    return np.partition(best, -neighbour, axis=1)[:, -neighbour]


def _words(column: pa.ChunkedArray, where: str) -> NDArray[np.uint64]:
    values = column.to_pylist()
    if any(len(value) != _HASH_BYTES for value in values):
        raise DatasetError("a file of the dataset has a hash of another length", allowed=16, where=where)
    return np.frombuffer(b"".join(values), dtype="<u8").reshape(-1, 2)


def _url(dataset: str, number: int) -> str:
    return storage.join(dataset, AUDIT_FOLDER, "rows", f"part-{number:05d}.parquet")
