"""Datasets with planted twins, written file by file without an ingest."""

from __future__ import annotations

import dataclasses
import io
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from dlspark.contracts import SPLITS, ImageFormat, Preprocessing, Split
from dlspark.data.audit.symmetry import TRANSFORMS, transform_picture
from dlspark.data.fingerprint import hash_bytes
from dlspark.data.images import encode_png
from dlspark.data.layout import FilePlace
from dlspark.data.manifest import FileEntry, Manifest, SplitEntry
from dlspark.data.parquet_file import FileRows, Provenance, store_rows

NEAR_KINDS = (
    *(transform.name for transform in TRANSFORMS[1:]),
    "jpeg",
    "brighter",
    "darker",
    "shift_1",
    "shift_2",
    "blur",
)


class Planted(NamedTuple):
    key: str
    label: int
    split: Split
    pixels: NDArray[np.uint8]
    source: bytes
    parent_id: int | None = None


def write_dataset(
    folder: str, rows: Sequence[Planted], *, classes: Sequence[str], file_rows: int
) -> Manifest:
    """Write rows in a hash order; row ids are the hashes of the keys."""
    height, width, channels = rows[0].pixels.shape
    image = ImageFormat(height=height, width=width, channels=cast("Any", channels), resize="none")
    by_split: defaultdict[Split, list[tuple[int, Planted]]] = defaultdict(list)
    for row in rows:
        by_split[row.split].append((row_id(row.key), row))
    splits: dict[Split, SplitEntry] = {}
    for split in SPLITS:
        ordered = sorted(by_split[split], key=lambda pair: pair[0])
        files = []
        for index, start in enumerate(range(0, len(ordered), file_rows)):
            part = ordered[start : start + file_rows]
            file = FileRows(image, "raw", most=len(part))
            for number, row in part:
                parent = number if row.parent_id is None else row.parent_id
                origin = Provenance(parent, hash_bytes(row.source), len(row.source), 0, height, width)
                file.append(number, row.key, row.label, row.pixels, origin)
            report = store_rows(file, FilePlace(split=split, index=index), dataset=folder, attempt="test")
            names = [field.name for field in dataclasses.fields(FileEntry)]
            files.append(FileEntry(**{name: getattr(report, name) for name in names}))
        splits[split] = SplitEntry(rows=len(ordered), class_rows=(0,) * len(classes), files=tuple(files))
    values: dict[str, Any] = dict.fromkeys(field.name for field in dataclasses.fields(Manifest))
    mean = (0.5,) * channels
    values |= {
        "classes": tuple(classes),
        "splits": splits,
        "storage": "raw",
        "preprocessing": Preprocessing(image=image, mean=mean, std=mean),
    }
    return Manifest(**values)


def row_id(key: str) -> int:
    return int.from_bytes(hash_bytes(key.encode())[:8], "little") >> 1


def near_twin(pixels: NDArray[np.uint8], kind: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a changed picture of the same shape [H, W, C]; H = W."""
    names = [transform.name for transform in TRANSFORMS]
    if kind in names:
        return np.ascontiguousarray(transform_picture(pixels, TRANSFORMS[names.index(kind)]))
    if kind in {"brighter", "darker"}:
        factor = 1.1 if kind == "brighter" else 0.9
        return np.clip(np.rint(pixels * factor), 0, 255).astype(np.uint8)
    if kind.startswith("shift"):
        return _shift(pixels, int(kind[-1]), rng)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if kind == "blur":
        picture = picture.filter(ImageFilter.GaussianBlur(0.7))
    else:
        target = io.BytesIO()
        picture.save(target, "JPEG", quality=70)
        picture = Image.open(target)
    return np.asarray(picture, dtype=np.uint8).reshape(pixels.shape)


def png_of(pixels: NDArray[np.uint8], level: int) -> bytes:
    """The same pixels in other bytes, by the level of the compression."""
    return encode_png(pixels) + bytes([level])


def _shift(pixels: NDArray[np.uint8], distance: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Move the picture along one or both axes; the edge is repeated into the gap."""
    padded = np.pad(pixels, ((distance, distance), (distance, distance), (0, 0)), mode="edge")
    down, right = [(0, 1), (1, 0), (2, 1), (1, 2), (0, 0), (2, 2), (0, 2), (2, 0)][rng.integers(8)]
    height, width = pixels.shape[:2]
    top, left = down * distance, right * distance
    return np.ascontiguousarray(padded[top : top + height, left : left + width])
