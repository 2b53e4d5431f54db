"""What changed between two datasets: rows that were added, removed, relabelled, moved or have other pixels.

Rows are the same if their keys are (row ids are hashes of them). Only ids, labels and hashes are read: some
40 bytes of memory for each row of the two datasets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dlspark.contracts import SPLITS
from dlspark.data.manifest import Manifest
from dlspark.data.verify import read_files

_NUM_EXAMPLES = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Diff:
    """The way from dataset A to dataset B, in rows."""

    same: bool
    """The fingerprints are equal: then nothing else was looked at."""
    added: int = 0
    removed: int = 0
    relabelled: int = 0
    changed: int = 0
    """Other pixels."""
    moved: int = 0
    """In another split."""
    added_by_class: dict[str, int]
    removed_by_class: dict[str, int]
    relabelled_by_class: dict[str, int]
    """As "old -> new"."""
    examples: dict[str, list[str]]
    """Up to 10 keys of each kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rows:
    """The rows of a dataset, sorted by row id."""

    ids: NDArray[np.int64]
    labels: NDArray[np.int32]
    splits: NDArray[np.int8]
    hashes: NDArray[np.uint64]
    """uint64 [n, 2]."""


def diff(dataset_a: str, manifest_a: Manifest, dataset_b: str, manifest_b: Manifest) -> Diff:
    """Compare two datasets.

    Args:
        dataset_a: URL of the first.
        manifest_a: its manifest.
        dataset_b: URL of the second.
        manifest_b: its manifest.

    Raises:
        DatasetError: a file of either is missing or damaged.
    """
    if manifest_a.fingerprint == manifest_b.fingerprint:
        return Diff(same=True, added_by_class={}, removed_by_class={}, relabelled_by_class={}, examples={})
    a, b = _read(dataset_a, manifest_a), _read(dataset_b, manifest_b)
    _, in_a, in_b = np.intersect1d(a.ids, b.ids, assume_unique=True, return_indices=True)
    added, removed = np.setdiff1d(b.ids, a.ids), np.setdiff1d(a.ids, b.ids)
    names_a, names_b = np.array(manifest_a.classes), np.array(manifest_b.classes)
    old, new = names_a[a.labels[in_a]], names_b[b.labels[in_b]]
    relabelled = old != new
    changed = (a.hashes[in_a] != b.hashes[in_b]).any(axis=1)
    moved = a.splits[in_a] != b.splits[in_b]
    both = a.ids[in_a]
    kinds_b = {"added": added, "relabelled": both[relabelled], "changed": both[changed], "moved": both[moved]}
    return Diff(
        same=False,
        added=len(added),
        removed=len(removed),
        relabelled=int(relabelled.sum()),
        changed=int(changed.sum()),
        moved=int(moved.sum()),
        added_by_class=_count(names_b[b.labels[np.searchsorted(b.ids, added)]]),
        removed_by_class=_count(names_a[a.labels[np.searchsorted(a.ids, removed)]]),
        relabelled_by_class=_count(
            [f"{one} -> {two}" for one, two in zip(old[relabelled], new[relabelled], strict=True)]
        ),
        examples={
            **_keys(dataset_b, manifest_b, kinds_b),
            **_keys(dataset_a, manifest_a, {"removed": removed}),
        },
    )


def _read(dataset: str, manifest: Manifest) -> _Rows:
    ids, labels, splits, hashes = [], [], [], []
    for split, table in read_files(dataset, manifest, ["row_id", "label", "pixel_hash"]):
        ids.append(table["row_id"].to_numpy())
        labels.append(table["label"].to_numpy())
        splits.append(np.full(table.num_rows, SPLITS.index(split), dtype=np.int8))
        words = np.frombuffer(b"".join(table["pixel_hash"].to_pylist()), dtype="<u8")
        hashes.append(words.reshape(-1, 2))
    order = np.argsort(np.concatenate(ids))
    return _Rows(
        ids=np.concatenate(ids)[order],
        labels=np.concatenate(labels)[order],
        splits=np.concatenate(splits)[order],
        hashes=np.concatenate(hashes)[order],
    )


def _keys(dataset: str, manifest: Manifest, kinds: dict[str, NDArray[np.int64]]) -> dict[str, list[str]]:
    wanted = {int(row_id) for ids in kinds.values() for row_id in ids[:_NUM_EXAMPLES]}
    found: dict[int, str] = {}
    for _, table in read_files(dataset, manifest, ["row_id", "key"]) if wanted else ():
        rows = np.flatnonzero(np.isin(table["row_id"].to_numpy(), list(wanted)))
        found |= {table["row_id"][int(row)].as_py(): table["key"][int(row)].as_py() for row in rows}
    return {kind: [found[int(row_id)] for row_id in ids[:_NUM_EXAMPLES]] for kind, ids in kinds.items()}


def _count(names: NDArray[np.str_] | Sequence[str]) -> dict[str, int]:
    return dict(sorted(Counter(str(name) for name in names).items()))
