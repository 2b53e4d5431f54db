"""The picture sheet of a batch: each image as the network saw it, with labels and loss, worst first."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dlspark import storage

MAX_IMAGES = 96

_COLUMNS = 12
_WRONG, _RIGHT = "#b3261e", "#1a1a1a"


def draw_batch(
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    losses: NDArray[np.float32],
    path: str,
    *,
    classes: Sequence[str],
    title: str,
) -> None:
    """Draw the images of a batch; red: the network gives another label.

    Args:
        pixels: uint8 [b, H, W, C], C 1 or 3; the 96 with the largest losses are drawn.
        labels: int64 [b].
        predicted: int64 [b].
        losses: float32 [b], in nats.
        path: file or URL of the PNG.
        classes: names by label.
        title: above the images.
    """
    worst = np.argsort(-losses, kind="stable")[:MAX_IMAGES].tolist()
    num_rows = max(1, math.ceil(len(worst) / _COLUMNS))
    figure = Figure(figsize=(1.1 * _COLUMNS, 1.4 * num_rows + 0.6), dpi=100, layout="constrained")
    cells = figure.subplots(num_rows, _COLUMNS, squeeze=False).reshape(-1)
    for axes in cells:
        axes.set_axis_off()
    for axes, row in zip(cells, worst, strict=False):
        image = pixels[row] if pixels.shape[3] > 1 else pixels[row, :, :, 0]
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        is_wrong = predicted[row] != labels[row]
        names = classes[labels[row]][:12] + (f" → {classes[predicted[row]][:12]}" if is_wrong else "")
        text = f"{names}\n{losses[row]:.3g}".replace("$", r"\$")
        axes.set_title(text, fontsize=7, color=_WRONG if is_wrong else _RIGHT, pad=2)
    shown = f", the {len(worst)} with the largest losses of {len(losses)}" if len(worst) < len(losses) else ""
    figure.suptitle(title + shown, x=0.01, ha="left", fontsize=10, fontweight="bold")
    FigureCanvasAgg(figure)
    target = io.BytesIO()
    figure.savefig(target, format="png")
    storage.write_bytes(path, target.getvalue())
