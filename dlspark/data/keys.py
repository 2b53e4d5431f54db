"""The keys of rows, by which people know their images; training does not read them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dlspark.contracts import Split
from dlspark.data.manifest import Manifest
from dlspark.data.verify import read_file


def find_keys(dataset: str, manifest: Manifest, split: Split, row_ids: NDArray[np.int64]) -> list[str]:
    """Return the keys of rows of a split, in the order given.

    Args:
        dataset: URL.
        manifest: of the dataset.
        split: of the rows.
        row_ids: int64 [n].

    Raises:
        DatasetError: a file is missing or damaged.
        KeyError: a row is not in the split.
    """
    keys: dict[int, str] = {}
    for entry in manifest.splits[split].files:
        wanted = row_ids[(row_ids >= entry.min_row_id) & (row_ids <= entry.max_row_id)]
        if len(wanted):
            table = read_file(dataset, entry, ["row_id", "key"])
            rows = np.flatnonzero(np.isin(table["row_id"].to_numpy(), wanted))
            part = table.take(rows)
            keys |= dict(zip(part["row_id"].to_pylist(), part["key"].to_pylist(), strict=True))
    return [keys[row_id] for row_id in row_ids.tolist()]
