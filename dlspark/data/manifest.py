"""The manifest: the one small file that makes a folder of Parquet files a dataset, and says all about it.

It is written last, so that a dataset exists whole or not at all; whoever reads a dataset reads it first. It
is JSON of plain values: opening a dataset runs no code from it.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dlspark import storage
from dlspark.contracts import SPLITS, Preprocessing, Split
from dlspark.data.fingerprint import file_checksum
from dlspark.errors import DatasetError

MANIFEST_NAME = "_dlspark_manifest.json"
MARKER_PREFIX = "_dlspark_ingest-"
VERSION = 3

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """One Parquet file."""

    path: str
    """Relative to the dataset."""
    rows: int
    num_bytes: int
    checksum: str
    """See `file_checksum`."""
    min_row_id: int
    max_row_id: int

    def is_whole(self, data: bytes) -> bool:
        """Return whether these are the bytes that were written."""
        return len(data) == self.num_bytes and file_checksum(data) == self.checksum


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitEntry:
    """One split; without rows it has no files."""

    rows: int
    class_rows: tuple[int, ...]
    """Rows by label."""
    files: tuple[FileEntry, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """The ledger: listed = written + quarantined + deduplicated. Augmented copies stand beside it."""

    listed: int
    written: int
    quarantined: int
    deduplicated: int
    copies: int = 0
    """Rows that are augmented copies of written training images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """A published dataset."""

    fingerprint: str
    """32 hexadecimal digits over row ids, labels and pixels, by split and class."""
    fingerprint_sums: Mapping[Split, Mapping[str, str]]
    """What it is made of: by split and label, the sum of the row hashes, 32 hexadecimal digits."""
    classes: tuple[str, ...]
    """Names by label; sorted, unless data.classes gave them."""
    preprocessing: Preprocessing
    storage: Literal["raw", "encoded"]
    """raw: numpy's save format; encoded: PNG, or PNG and JPEG files as they came."""
    num_streams: int
    counts: Counts
    splits: Mapping[Split, SplitEntry]
    refused: Mapping[str, int]
    """Images of the quarantine table by reason."""
    refused_by_class: Mapping[str, int]
    """Images of the quarantine table by class name; without a class under the empty name."""
    quarantine_files: tuple[str, ...]
    """Relative to the dataset."""
    sizes: tuple[tuple[int, int, int], ...]
    """Height, width, number: originals by upright size in pixels, each rounded down to a power of two."""
    source: str
    """URL of the images."""
    source_digest: str
    """32 hexadecimal digits over key, length, version, class and split of every listed image."""
    settings: Mapping[str, Any]
    """What decides the rows and their pixels."""
    request: Mapping[str, Any]
    """The configuration of the ingest, so that it can be run again."""
    attempt: str
    """Id of the ingest, a part of the names of its files."""

    @property
    def file_paths(self) -> list[str]:
        """Paths of all Parquet files, relative to the dataset."""
        return [file.path for split in SPLITS for file in self.splits[split].files]

    def to_json(self) -> dict[str, Any]:
        """Return plain values, with the version of the format."""
        return {"version": VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Manifest:
        """Rebuild from `to_json`.

        Raises:
            KeyError: a field is missing.
            TypeError: a field is unknown or of a wrong type.
            ValueError: a file lies outside the dataset.
        """
        fields = {name: values[name] for name in (field.name for field in dataclasses.fields(cls))}
        splits: dict[Split, SplitEntry] = {split: _split_entry(values["splits"][split]) for split in SPLITS}
        fields |= {
            "classes": tuple(values["classes"]),
            "preprocessing": Preprocessing.from_json(values["preprocessing"]),
            "counts": Counts(**values["counts"]),
            "splits": splits,
            "quarantine_files": tuple(_inside(path) for path in values["quarantine_files"]),
            "sizes": tuple((height, width, number) for height, width, number in values["sizes"]),
        }
        return cls(**fields)


def read_manifest(dataset_url: str) -> Manifest:
    """Read the manifest of a published dataset.

    Raises:
        DatasetError: the dataset is missing, half-written, of another version, or its manifest is damaged.
    """
    where = storage.absolute(dataset_url)
    url = storage.join(where, MANIFEST_NAME)
    try:
        values = storage.read_json(url)
    except FileNotFoundError:
        raise _missing(where) from None
    except ValueError as error:
        raise _damaged(url, error) from error
    version = values.get("version") if isinstance(values, dict) else None
    if version != VERSION:
        raise DatasetError(
            "the dataset has another version",
            got=version,
            allowed=VERSION,
            where=url,
            fix="run ingest again with overwrite=true, or install the dlspark that wrote it",
        )
    try:
        return Manifest.from_json(values)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(url, error) from error


def write_manifest(dataset_url: str, manifest: Manifest) -> None:
    """Publish a dataset; its files must be complete."""
    storage.write_json(storage.join(dataset_url, MANIFEST_NAME), manifest.to_json())


def channel_statistics(
    sums: Sequence[int], squares: Sequence[int], num_values: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation by channel, in units of [0, 1], from exact integer sums.

    The variance is (n q - s^2) / n^2, in integers until the last division, so that it depends on no order. A
    channel that is constant gets a standard deviation of 1, and a warning: it is only shifted.

    Args:
        sums: s, sum of the pixel values 0..255 by channel.
        squares: q, sum of their squares by channel.
        num_values: n, values of each channel, > 0.
    """
    means, stds = [], []
    for channel, (total, square) in enumerate(zip(sums, squares, strict=True)):
        means.append(total / (255 * num_values))
        variance = num_values * square - total * total
        if variance == 0:
            _log.warning(
                "channel %d of the train split is constant; its standard deviation is taken as 1", channel
            )
        stds.append(math.sqrt(variance / num_values**2) / 255 if variance else 1.0)
    return tuple(means), tuple(stds)


def _split_entry(values: Mapping[str, Any]) -> SplitEntry:
    files = tuple(FileEntry(**{**entry, "path": _inside(entry["path"])}) for entry in values["files"])
    return SplitEntry(rows=values["rows"], class_rows=tuple(values["class_rows"]), files=files)


def _inside(path: str) -> str:
    if posixpath.isabs(path) or ".." in path.split("/") or ":" in path:
        raise ValueError(f"the file {path} lies outside the dataset")
    return path


def _missing(where: str) -> DatasetError:
    names = storage.list_names(where)
    if any(name.startswith((MARKER_PREFIX, "split=")) for name in names):
        return DatasetError(
            "the dataset is half-written: it has no manifest, so an ingest has not published it",
            where=where,
            fix="wait if that ingest is running, else run it again: it completes the dataset",
        )
    return DatasetError(
        "there is no dataset",
        got="no manifest in the folder" if storage.exists(where) else "an absent folder",
        where=where,
        fix=f"make one with: dlspark ingest source=... dataset={where}",
    )


def _damaged(url: str, error: Exception) -> DatasetError:
    return DatasetError(
        "the manifest of the dataset is damaged",
        got=f"{type(error).__name__}: {error}",
        where=url,
        fix="run ingest again with overwrite=true",
    )
