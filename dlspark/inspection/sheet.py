"""The picture sheet of a dataset: a few images of each class, as they are and as training changes them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dlspark import storage

_MAX_CLASSES = 24
_GAP = 2
"""White pixels between two images."""
_INCHES_PER_IMAGE = 0.8


def draw_sheet(
    samples: Mapping[int, NDArray[np.uint8]],
    classes: Sequence[str],
    path: str,
    *,
    augmented: Mapping[int, NDArray[np.uint8]] | None = None,
) -> None:
    """Draw a row of images for each class.

    Args:
        samples: by label uint8 [n, H, W, C], C 1 or 3; at most 24 classes are drawn, evenly chosen.
        classes: names by label.
        path: file or URL of the PNG.
        augmented: the same images after augmentation, drawn beside them; None: there is none.
    """
    labels = sorted(samples)
    if len(labels) > _MAX_CLASSES:
        labels = [
            labels[index] for index in np.linspace(0, len(labels) - 1, _MAX_CLASSES).round().astype(int)
        ]
    columns = max(len(samples[label]) for label in labels)
    sides = [("as stored", samples)] + ([("augmented", augmented)] if augmented is not None else [])
    size = (len(sides) * columns * _INCHES_PER_IMAGE + 1.5, len(labels) * _INCHES_PER_IMAGE + 0.6)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    for axes, (title, images) in zip(figure.subplots(1, len(sides), squeeze=False)[0], sides, strict=True):
        _draw_side(axes, [images[label] for label in labels], columns, title)
    names = [f"{classes[label][:18]}" for label in labels]
    first = figure.axes[0]
    height = samples[labels[0]].shape[1] + _GAP
    first.set_yticks([height * (row + 0.5) for row in range(len(labels))], names)
    target = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(target, format="png")
    storage.write_bytes(path, target.getvalue())


def _draw_side(axes: Axes, rows: Sequence[NDArray[np.uint8]], columns: int, title: str) -> None:
    _, height, width, channels = rows[0].shape
    mosaic = np.full((len(rows) * (height + _GAP), columns * (width + _GAP), channels), 255, dtype=np.uint8)
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            top, left = row * (height + _GAP), column * (width + _GAP)
            mosaic[top : top + height, left : left + width] = image
    shown = mosaic[:, :, 0] if channels == 1 else mosaic
    axes.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
