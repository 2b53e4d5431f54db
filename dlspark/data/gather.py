"""The rows of a step, out of files that are in memory; where rows are mixed, their partners behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlspark.contracts import ImageFormat
from dlspark.data.held_rows import HeldRows

Partners = Callable[[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64] | int], NDArray[np.int64]]
"""Row ids and places in their files, int64 [b] each, and the rows of those files, to the partners' places."""


class StoredRows(NamedTuple):
    """n rows, as they are stored."""

    pixels: NDArray[np.uint8]
    """uint8 [n, H, W, C]."""
    row_ids: NDArray[np.int64]
    """int64 [n]."""
    labels: NDArray[np.int64]
    """int64 [n]."""


def gather_from_files(
    files: Sequence[HeldRows],
    starts: Sequence[int],
    indices: NDArray[np.int64],
    image: ImageFormat,
    partners: Partners | None,
) -> StoredRows:
    """Return the b rows of a step, and their b partners behind them if there are any.

    Args:
        files: that hold the rows, each once.
        starts: rows [starts[i], starts[i + 1]) are in files[i].
        indices: int64 [b], of the rows in their files.
        image: of the dataset.
        partners: draws them; None: rows are not mixed.

    Raises:
        DatasetError: a row does not hold what the manifest says.
    """
    halves = 1 if partners is None else 2
    number = len(indices)
    pixels = np.empty((halves * number, image.height, image.width, image.channels), dtype=np.uint8)
    row_ids, labels = np.empty((2, halves * number), dtype=np.int64)
    for file, start, end in zip(files, starts[:-1], starts[1:], strict=True):
        wanted = [indices[start:end]]
        if partners is not None:
            wanted.append(partners(file.row_ids[wanted[0]], wanted[0], len(file.row_ids)))
        for half, rows in enumerate(wanted):
            place = slice(half * number + start, half * number + end)
            file.read(rows, pixels[place])
            row_ids[place], labels[place] = file.row_ids[rows], file.labels[rows]
    return StoredRows(pixels, row_ids, labels)


def places_with_partners(
    places: NDArray[np.int64],
    row_ids: NDArray[np.int64],
    starts: NDArray[np.int64],
    num_rows: NDArray[np.int64],
    partners: Partners,
) -> NDArray[np.int64]:
    """Return the places of the b rows of a step in a whole split, and those of their partners behind them.

    Args:
        places: int64 [b], of the rows in the split.
        row_ids: int64 [b].
        starts: int64 [b], place of the first row of each row's file.
        num_rows: int64 [b], of each row's file.
        partners: draws them.
    """
    return np.concatenate([places, starts + partners(row_ids, places - starts, num_rows)])
