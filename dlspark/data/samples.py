"""A few images of each class of a dataset, for people to look at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dlspark import storage
from dlspark.contracts import Split
from dlspark.data.columns import FileColumns, pixels_of
from dlspark.data.manifest import Manifest
from dlspark.data.verify import read_file

_MAX_FILES = 16


def sample_by_class(
    dataset: str, manifest: Manifest, split: Split, per_class: int
) -> dict[int, tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    """Return the first originals of each class in a split: by label row ids [n] and uint8 [n, H, W, C].

    Rows lie in a hash order, so the first ones are a random sample. At most 16 files are read, so a rare
    class may have fewer than `per_class` images, or none.

    Raises:
        DatasetError: a file is missing or damaged.
    """
    ids: dict[int, list[int]] = {}
    found: dict[int, list[NDArray[np.uint8]]] = {}
    for entry in manifest.splits[split].files[:_MAX_FILES]:
        table = read_file(dataset, entry, ["row_id", "parent_id", "label", "image"])
        columns = FileColumns(
            row_ids=table["row_id"].to_numpy(),
            labels=table["label"].to_numpy(),
            images=table["image"].chunk(0),
        )
        where = storage.join(dataset, entry.path)
        pixels = pixels_of(columns, manifest.preprocessing.image, manifest.storage, where=where)
        for row in np.flatnonzero(columns.row_ids == table["parent_id"].to_numpy()).tolist():
            label = int(columns.labels[row])
            if len(found.setdefault(label, [])) < per_class:
                found[label].append(pixels[row].copy())
                ids.setdefault(label, []).append(int(columns.row_ids[row]))
        if all(len(found.get(label, ())) >= per_class for label in range(len(manifest.classes))):
            break
    return {label: (np.array(ids[label]), np.stack(images)) for label, images in sorted(found.items())}
