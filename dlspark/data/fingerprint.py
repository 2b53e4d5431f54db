"""The fingerprint of a dataset: what it holds, in whatever order, partitioning or storage form.

The pixels of each row are hashed to 128 bits, and again with its id, label and shape; these hashes are added
modulo 2^128 by split and class, which no order changes and which workers compute while they write. Sums of
such hashes stand against accidents, not against someone who constructs images to collide.

A hash is XXH64 (Collet 2014) with the seeds 0 and 1, one after the other. XXH3 is faster on paper and was
slower here: it uses AVX-512, which slows the processor down for the decoding between two small images. The
checksum of a whole file is XXH3, which there takes a quarter of the time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

from dlspark.contracts import SPLITS, Split

_MODULUS = 2**128

ClassSums = Mapping[int, int]
"""Sum of the row hashes by label, each in [0, 2^128)."""


def hash_bytes(data: bytes | memoryview | NDArray[np.uint8]) -> bytes:
    """Return the 16-byte hash of contiguous bytes: of encoded images, of pixels."""
    first = xxhash.xxh64_digest(data)  # type: ignore[arg-type] # an array is a buffer
    return first + xxhash.xxh64_digest(data, 1)  # type: ignore[arg-type]


def file_checksum(data: bytes | memoryview) -> str:
    """Return the checksum of a file, 32 hexadecimal digits of XXH3 with 128 bits."""
    return xxhash.xxh3_128_hexdigest(data)


def hash_row(row_id: int, label: int, shape: tuple[int, int, int], pixel_hash: bytes) -> int:
    """Return the 128-bit hash of a row.

    Args:
        row_id: in [0, 2^63).
        label: index of the class.
        shape: height, width and channels of its pixels.
        pixel_hash: `hash_bytes` of its uint8 [H, W, C] pixels in C order.
    """
    head = np.array([row_id, label, *shape], dtype="<i8").tobytes()
    return int.from_bytes(hash_bytes(head + pixel_hash), "big")


def sum_by_class(
    row_ids: Sequence[int], labels: Sequence[int], shape: tuple[int, int, int], pixel_hashes: Sequence[bytes]
) -> dict[int, int]:
    """Return the sums of the row hashes of n rows, by label; see `hash_row` for the arguments."""
    heads = np.empty((len(row_ids), 5), dtype="<i8")
    heads[:, 0], heads[:, 1], heads[:, 2:] = row_ids, labels, shape
    data, length = heads.tobytes(), heads.itemsize * 5
    sums: dict[int, int] = {}
    for row, (label, pixel_hash) in enumerate(zip(labels, pixel_hashes, strict=True)):
        digest = hash_bytes(data[row * length : (row + 1) * length] + pixel_hash)
        sums[label] = sums.get(label, 0) + int.from_bytes(digest, "big")
    return {label: value % _MODULUS for label, value in sums.items()}


def add_sums(parts: Iterable[ClassSums]) -> dict[int, int]:
    """Return the sums of several parts of a split."""
    total: dict[int, int] = {}
    for part in parts:
        for label, value in part.items():
            total[label] = (total.get(label, 0) + value) % _MODULUS
    return total


def sums_to_json(sums: Mapping[Split, ClassSums]) -> dict[Split, dict[str, str]]:
    """Return the sums as plain values: by split and label, 32 hexadecimal digits each."""
    return {
        split: {str(label): f"{value:032x}" for label, value in sorted(sums.get(split, {}).items())}
        for split in SPLITS
    }


def dataset_fingerprint(classes: Sequence[str], sums: Mapping[Split, ClassSums]) -> str:
    """Return the fingerprint of a dataset, 32 hexadecimal digits.

    Args:
        classes: class names by label.
        sums: for each split the sums of its row hashes; a split or class without rows may be absent.
    """
    content = {"classes": list(classes), "splits": sums_to_json(sums)}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hash_bytes(text.encode()).hex()
