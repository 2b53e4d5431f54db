"""The picture sheet of an audit: twins side by side, leaks and conflicting labels first."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dlspark import storage

MAX_PAIRS = 40

_COLUMNS = 4
_GAP = 2
_MAX_KEY = 30
_ALARM, _CALM = "#b3261e", "#1a1a1a"


def draw_pairs(
    pairs: Sequence[tuple[Mapping[str, Any], NDArray[np.uint8], NDArray[np.uint8]]],
    path: str,
    *,
    classes: Sequence[str],
) -> None:
    """Draw pairs of pictures with what the audit says of them; red: a leak or a conflict.

    Args:
        pairs: a row of the pairs table and its two pictures, uint8 [H, W, C], C 1 or 3, of one shape; 40 at
            most are drawn: leaks with conflicting labels, leaks, conflicts, then the others.
        path: file or URL of the PNG.
        classes: names by label.
    """
    chosen = sorted(pairs, key=lambda pair: -2 * pair[0]["leak"] - pair[0]["label_conflict"])[:MAX_PAIRS]
    num_rows = max(1, math.ceil(len(chosen) / _COLUMNS))
    figure = Figure(figsize=(3.6 * _COLUMNS, 2.7 * num_rows + 0.5), dpi=100, layout="constrained")
    cells = figure.subplots(num_rows, _COLUMNS, squeeze=False).reshape(-1)
    for axes in cells:
        axes.set_axis_off()
    for axes, (pair, one, other) in zip(cells, chosen, strict=False):
        _draw_pair(axes, pair, one, other, classes)
    title = f"{len(chosen)} of {len(pairs)} pairs of twins" if chosen else "No twins"
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    FigureCanvasAgg(figure)
    target = io.BytesIO()
    figure.savefig(target, format="png")
    storage.write_bytes(path, target.getvalue())


def _draw_pair(
    axes: Axes,
    pair: Mapping[str, Any],
    one: NDArray[np.uint8],
    other: NDArray[np.uint8],
    classes: Sequence[str],
) -> None:
    gap = np.full((one.shape[0], _GAP, one.shape[2]), 255, dtype=np.uint8)
    both = np.concatenate([one, gap, other], axis=1)
    axes.imshow(both if both.shape[2] > 1 else both[..., 0], cmap="gray", vmin=0, vmax=255)
    marks = [name for name, field in (("LEAK", "leak"), ("CONFLICT", "label_conflict")) if pair[field]]
    how = f"{pair['kind']}, {pair['transform']}, {pair['distance']} bits, {pair['similarity']:.3f}"
    lines = [how + "".join(f" {mark}" for mark in marks)]
    for side in ("a", "b"):
        key = str(pair[f"key_{side}"])
        key = key if len(key) <= _MAX_KEY else "…" + key[1 - _MAX_KEY :]
        lines.append(f"{pair[f'split_{side}']}: {key} ({classes[pair[f'label_{side}']]})")
    # matplotlib would read a pair of dollars in a key as mathematics.
    text = "\n".join(lines).replace("$", r"\$")
    color = _ALARM if marks else _CALM
    axes.text(0.0, -0.04, text, fontsize=7, color=color, va="top", transform=axes.transAxes)
