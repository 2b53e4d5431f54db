"""The pixels of a few pairs of the pairs table, for people to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlspark.contracts import SPLITS
from dlspark.data.audit.describe import read_originals
from dlspark.data.manifest import Manifest
from dlspark.errors import DatasetError


def pixels_of_pairs(
    dataset: str, manifest: Manifest, pairs: Sequence[Mapping[str, Any]]
) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Return both pictures, uint8 [H, W, C], of each pair; only the files that hold them are read.

    Args:
        dataset: URL.
        manifest: of the dataset.
        pairs: rows of the pairs table.

    Raises:
        DatasetError: a row is not in the dataset, or a file is damaged.
    """
    wanted = {int(pair[f"row_id_{side}"]) for pair in pairs for side in ("a", "b")}
    found: dict[int, NDArray[np.uint8]] = {}
    for entry in (entry for split in SPLITS for entry in manifest.splits[split].files):
        if any(entry.min_row_id <= row <= entry.max_row_id for row in wanted - found.keys()):
            rows = read_originals(dataset, manifest, entry)
            for place in np.flatnonzero(np.isin(rows.row_ids, list(wanted))).tolist():
                found[int(rows.row_ids[place])] = rows.pixels[place].copy()
    missing = wanted - found.keys()
    if missing:
        raise DatasetError("a pair names rows that the dataset lacks", got=sorted(missing)[:3], where=dataset)
    return [(found[pair["row_id_a"]], found[pair["row_id_b"]]) for pair in pairs]
