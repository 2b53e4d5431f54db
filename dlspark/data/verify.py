"""Prove a dataset against its manifest: every file is there, whole, and holds what was published.

Three proofs, each stronger than the one before: length, checksum of the file, and the hash of each row's
pixels, whose sums give the fingerprint. The last one decodes every image again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from dlspark import storage
from dlspark.contracts import SPLITS, Progress, Split
from dlspark.data.columns import FileColumns, pixels_of
from dlspark.data.fingerprint import add_sums, dataset_fingerprint, file_checksum, hash_bytes, sum_by_class
from dlspark.data.manifest import FileEntry, Manifest
from dlspark.data.parquet_file import read_table
from dlspark.errors import DatasetError


class Damage(NamedTuple):
    """One file that is not what was published."""

    path: str
    """Relative to the dataset."""
    split: Split
    problem: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """What a proof found."""

    num_files: int
    num_rows: int
    """Rows whose pixels were hashed again."""
    damages: tuple[Damage, ...]
    fingerprint: str | None
    """Of the pixels that were read; None where a file is damaged."""


def verify(dataset: str, manifest: Manifest, progress: Progress) -> Verified:
    """Read every file of a dataset and hash every pixel of it.

    Args:
        dataset: URL.
        manifest: of the dataset.
        progress: is told the files that are read.

    Returns:
        What is damaged; nothing is, if `damages` is empty and `fingerprint` is the manifest's.
    """
    damages: list[Damage] = []
    sums: dict[Split, dict[int, int]] = {split: {} for split in SPLITS}
    num_rows = 0
    entries = [(split, entry) for split in SPLITS for entry in manifest.splits[split].files]
    for index, (split, entry) in enumerate(entries):
        progress.update(index, len(entries))
        try:
            table = read_file(dataset, entry)
            part = _row_sums(table, manifest, storage.join(dataset, entry.path))
        except DatasetError as error:
            damages.append(Damage(entry.path, split, str(error)))
            continue
        sums[split] = add_sums([sums[split], part])
        num_rows += table.num_rows
    progress.update(len(entries), len(entries))
    fingerprint = None if damages else dataset_fingerprint(manifest.classes, sums)
    return Verified(
        num_files=len(entries), num_rows=num_rows, damages=tuple(damages), fingerprint=fingerprint
    )


def read_file(dataset: str, entry: FileEntry, columns: list[str] | None = None) -> pa.Table:
    """Return a file of a dataset, proven by its checksum.

    Args:
        dataset: URL.
        entry: of its manifest.
        columns: those that are wanted; None for all.

    Raises:
        DatasetError: the file is missing or is not the one that was published.
    """
    where = storage.join(dataset, entry.path)
    try:
        data = storage.read_bytes(where)
    except FileNotFoundError as error:
        raise DatasetError("a file of the dataset is missing", where=where) from error
    if not entry.is_whole(data):
        raise DatasetError(
            "a file of the dataset is not the one that was published",
            got=f"{len(data)} bytes, checksum {file_checksum(data)}",
            allowed=f"{entry.num_bytes} bytes, checksum {entry.checksum}",
            where=where,
        )
    return read_table(data, columns)


def read_files(dataset: str, manifest: Manifest, columns: list[str]) -> Iterator[tuple[Split, pa.Table]]:
    """Yield some columns of every file, split by split; see `read_file`."""
    for split in SPLITS:
        for entry in manifest.splits[split].files:
            yield split, read_file(dataset, entry, columns)


def _row_sums(table: pa.Table, manifest: Manifest, where: str) -> dict[int, int]:
    image = manifest.preprocessing.image
    row_ids, labels = table["row_id"].to_numpy(), table["label"].to_numpy()
    columns = FileColumns(row_ids=row_ids, labels=labels, images=table["image"].chunk(0))
    pixels = pixels_of(columns, image, manifest.storage, where=where)
    hashes = [hash_bytes(row.tobytes()) for row in pixels]
    if hashes != table["pixel_hash"].to_pylist():
        raise DatasetError("the pixels of a file are not those that were hashed at ingest", where=where)
    shape = (image.height, image.width, image.channels)
    return sum_by_class(row_ids.tolist(), labels.tolist(), shape, hashes)
