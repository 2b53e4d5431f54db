"""One Parquet file: the images of its rows are taken over, or read and decoded, and then it is stored.

An image that cannot become a row goes to the quarantine with its reason; nothing is left out.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlspark.contracts import ImageFormat
from dlspark.data.accept import Accepted
from dlspark.data.copies import CopyRecipe, augmented_copy
from dlspark.data.fingerprint import hash_bytes
from dlspark.data.images import ImageError, decode_for_ingest, decode_stored, encode_jpeg, encode_png
from dlspark.data.layout import FilePlace
from dlspark.data.parquet_file import FileReport, FileRows, Provenance, Storage, store_rows
from dlspark.data.previous import Previous, StoredRows
from dlspark.data.quarantine import Refused, store_refused
from dlspark.data.sources.source import Source, SourceImage
from dlspark.errors import SourceError

_READ_ATTEMPTS = 4
_FIRST_WAIT_SECONDS = 0.1
_NO_LABEL = -1

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteSettings:
    """What all files of a dataset have in common."""

    dataset: str
    """URL."""
    attempt: str
    """Id of the ingest, a part of the names of its files."""
    source: Source
    classes: Mapping[str, int]
    """Labels by class name."""
    image: ImageFormat
    storage: Storage
    jpeg_quality: int | None
    """storage encoded: of the files that are made, in [1, 100]; None makes PNG files."""
    max_image_bytes: int
    max_image_pixels: int
    min_image_size: int
    refuse_constant: bool
    accepted: Accepted
    copies: CopyRecipe | None
    previous: Previous | None


class PlacedRow(NamedTuple):
    """A row on its way into its file."""

    row_id: int
    parent_id: int
    """Of the original; for an original its own row id."""
    copy: int
    """0 for an original, else the number of the augmented copy."""
    image: SourceImage


class GatheredRows(NamedTuple):
    """The rows of one file in memory, and what else became of its images."""

    rows: FileRows
    refused: list[tuple[Refused, int]]
    """Originals that cannot become rows, each with its label (-1 for none)."""
    num_decoded: int
    repeated: tuple[str, str] | None
    """Keys of two images with the same row id."""


def gather_rows(rows: Sequence[PlacedRow], settings: WriteSettings) -> GatheredRows:
    """Take over, or read and decode, the images of one file.

    Args:
        rows: of this file, in any order.
        settings: see there.

    Raises:
        SourceError: an image file cannot be read, after several attempts.
    """
    written = FileRows(settings.image, settings.storage, most=len(rows))
    stored = StoredRows(settings.previous) if settings.previous else None
    refused: list[tuple[Refused, int]] = []
    repeated = None
    num_decoded = 0
    last: PlacedRow | None = None
    for row in sorted(rows, key=attrgetter("row_id")):
        if last is not None and last.row_id == row.row_id:
            repeated = (last.image.key, row.image.key)
        last = row
        if stored and _take_over(row, stored, written, settings):
            continue
        data = None
        try:
            label = _label_of(row, settings)
            data = _read(row.image, settings)
            num_decoded += 1
            _decode(row, label, data, written, settings)
        except ImageError as error:
            if row.copy == 0:
                refused.append(_refuse(row.image, data, error, settings))
    return GatheredRows(written, refused, num_decoded, repeated)


def store_file(gathered: GatheredRows, place: FilePlace, settings: WriteSettings) -> FileReport:
    """Write gathered rows to their file and what was refused to the quarantine, and report both.

    Args:
        gathered: of this file.
        place: split and index of the file.
        settings: see there.
    """
    report = store_rows(gathered.rows, place, dataset=settings.dataset, attempt=settings.attempt)
    report.num_decoded, report.repeated = gathered.num_decoded, gathered.repeated
    quarantine(gathered.refused, report, place, settings)
    return report


def quarantine(
    refused: Sequence[tuple[Refused, int]], report: FileReport, place: FilePlace, settings: WriteSettings
) -> None:
    """Write refused originals, each with its label (-1 for none), to the quarantine and into the report."""
    store_refused(
        refused,
        report,
        place,
        dataset=settings.dataset,
        attempt=settings.attempt,
        accepted=settings.accepted,
    )


def read_with_retries(source: Source, image: SourceImage) -> bytes:
    """Return the bytes of an image; a read that fails is tried three more times, with growing waits.

    Raises:
        SourceError: the last attempt failed too.
    """
    for attempt in range(1, _READ_ATTEMPTS + 1):
        try:
            return source.read(image)
        except OSError as error:
            if attempt == _READ_ATTEMPTS:
                raise SourceError(
                    "an image file cannot be read",
                    got=f"{type(error).__name__}: {error}",
                    where=source.path_of(image),
                    fix="make sure that every Spark worker reaches the source, then run ingest again",
                ) from error
            path = source.path_of(image)
            _log.warning("reading %s failed (%s), attempt %d of %d", path, error, attempt, _READ_ATTEMPTS)
            time.sleep(_FIRST_WAIT_SECONDS * 3 ** (attempt - 1))
    raise AssertionError("unreachable")


def _take_over(row: PlacedRow, stored: StoredRows, written: FileRows, settings: WriteSettings) -> bool:
    found = stored.find(row.row_id)
    label = settings.classes.get(row.image.label or "")
    if found is None or label is None:
        return False
    origin = found.provenance
    was = (found.key, origin.parent_id, origin.source_bytes, origin.source_version)
    if was != (row.image.key, row.parent_id, row.image.num_bytes, row.image.version):
        return False
    written.append(row.row_id, found.key, label, found.pixels, origin, encoded=found.encoded)
    return True


def _label_of(row: PlacedRow, settings: WriteSettings) -> int:
    name = row.image.label
    label = settings.classes.get(name) if name is not None else None
    if label is None:
        known = "the image has no class" if name is None else f"class {name} is not one of data.classes"
        raise ImageError("unknown_label", known)
    return label


def _read(image: SourceImage, settings: WriteSettings) -> bytes:
    if image.num_bytes < 0:
        raise ImageError("missing", "the source names the image, but it is not there")
    if image.num_bytes > settings.max_image_bytes:
        raise ImageError(
            "bomb", f"{image.num_bytes:,} bytes, allowed are {settings.max_image_bytes:,}; not read"
        )
    return read_with_retries(settings.source, image)


def _decode(row: PlacedRow, label: int, data: bytes, written: FileRows, settings: WriteSettings) -> None:
    decoded = decode_for_ingest(
        data,
        settings.image,
        max_pixels=settings.max_image_pixels,
        min_size=settings.min_image_size,
        refuse_constant=settings.refuse_constant,
    )
    pixels: NDArray[np.uint8] = decoded.pixels
    keeps_file = decoded.keeps_file
    if row.copy and settings.copies is not None:
        pixels, keeps_file = augmented_copy(pixels, row.parent_id, row.copy, settings.copies), False
    encoded = b""
    if settings.storage == "encoded" and keeps_file:
        encoded = data
    elif settings.storage == "encoded" and settings.jpeg_quality:
        encoded = encode_jpeg(pixels, settings.jpeg_quality)
        pixels = decode_stored(encoded)  # what will be read, so its hash and sums are those of the dataset
    elif settings.storage == "encoded":
        encoded = encode_png(pixels)
    origin = Provenance(
        row.parent_id,
        hash_bytes(data),
        row.image.num_bytes,
        row.image.version,
        decoded.source_height,
        decoded.source_width,
    )
    written.append(row.row_id, row.image.key, label, pixels, origin, encoded=encoded)


def _refuse(
    image: SourceImage, data: bytes | None, error: ImageError, settings: WriteSettings
) -> tuple[Refused, int]:
    row = Refused(
        image.key,
        settings.source.path_of(image),
        image.label,
        image.num_bytes,
        None if data is None else hashlib.sha256(data).hexdigest(),
        error.reason,
        error.message,
    )
    return row, settings.classes.get(image.label or "", _NO_LABEL)
