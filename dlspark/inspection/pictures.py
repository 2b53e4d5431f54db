"""Pictures of a run as PNG files: learning curves and the confusion matrix.

Drawn on matplotlib's Figure objects with the Agg canvas, never through pyplot: no display is needed, and no
global state is touched, so a driver may draw from any thread.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, MaxNLocator, PercentFormatter

from dlspark import storage
from dlspark.errors import DlsparkError

History = Mapping[str, Sequence[tuple[int, float]]]
"""Metric name to (optimizer steps done, value), in the order of the steps."""

_TRAIN, _VAL, _RATE = "#1f6fb4", "#d9541e", "#4d4d4d"
_MAX_CLASSES_WITH_COUNTS = 30
_MAX_CLASSES_WITH_ALL_NAMES = 60
_MAX_NAME = 18
_LETTER_WIDTH = 0.65
"""Of its height, about."""
_POINTS_PER_INCH = 72.0
_SHARE_POWER = 0.5
"""Colour follows the root of the share: a few errors in a hundred rows can be seen."""
_NAME_SIZES = (10, 30, 60), (10.0, 9.0, 6.5)
"""Numbers of classes, and the font size of their names in points; between them it is interpolated."""
_COUNT_SIZES = (10, 20, 30), (10.0, 7.5, 6.0)
_GRID_WIDTHS = (20, 60), (1.2, 0.4)
_DARK_SHARE = 0.35
"""From this share on the colour of a cell asks for white text."""


def draw_learning_curves(history: History, path: str) -> None:
    """Draw loss and accuracy of training and validation, and the learning rate, over the optimizer steps.

    Args:
        history: metrics by their names in the journal. Used are step/loss, step/accuracy, step/learning_rate
            (thin, per step), train_loss, train_accuracy, val_loss, val_accuracy (per epoch); those that are
            absent are left out.
        path: file or URL of the PNG.
    """
    figure = Figure(figsize=(9.0, 8.0), dpi=120, layout="constrained")
    loss, accuracy, rate = figure.subplots(3, 1, sharex=True, height_ratios=[5, 5, 2])
    _draw_pair(loss, history, "loss", "loss (nats)")
    _draw_pair(accuracy, history, "accuracy", "accuracy")
    _scale_loss(loss, history)
    _scale_accuracy(accuracy, history)
    _draw_curve(rate, history.get("step/learning_rate", ()), color=_RATE, linewidth=1.5)
    rate.set_ylabel("learning rate")
    rate.set_ylim(bottom=0)
    rate.set_xlabel("optimizer step")
    rate.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (loss, accuracy, rate):
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
    figure.align_ylabels()
    figure.suptitle("Learning curves", x=0.01, ha="left", fontweight="bold")
    _write_png(figure, path)


def draw_confusion_matrix(confusion: Sequence[Sequence[int]], classes: Sequence[str], path: str) -> None:
    """Draw how the rows of each true class were predicted: colour is the share of the row, text the count.

    Up to 30 classes show counts; up to 60 show every name, more show some of them.

    Args:
        confusion: [K][K] row counts; first index the true class, second the predicted one.
        classes: K names.
        path: file or URL of the PNG.

    Raises:
        DlsparkError: the counts are not K x K for K names.
    """
    counts = np.asarray(confusion, dtype=np.int64)
    num_classes = len(classes)
    if counts.shape != (num_classes, num_classes):
        raise DlsparkError(
            "a confusion matrix needs one row and one column for each class",
            got=f"{counts.shape} counts for {num_classes} classes",
            where=path,
        )
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    inches = min(max(4.2, 2.2 + 0.42 * num_classes), 14.0)
    figure = Figure(figsize=(inches + 1.0, inches + 0.4), dpi=120, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(_SHARE_POWER, vmin=0.0, vmax=1.0))
    bar = figure.colorbar(image, ax=axes, shrink=0.75, pad=0.02, ticks=[0.0, 0.01, 0.05, 0.2, 0.5, 1.0])
    bar.ax.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
    bar.ax.minorticks_off()
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    _name_classes(axes, classes, cell_inches=0.75 * inches / num_classes)
    if num_classes <= _MAX_CLASSES_WITH_COUNTS:
        _write_counts(axes, counts, shares)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    correct, total = int(counts.trace()), int(counts.sum())
    axes.set_title(
        f"{correct:,} of {total:,} right ({correct / max(total, 1):.2%})", loc="left", fontweight="bold"
    )
    _write_png(figure, path)


def _draw_pair(axes: Axes, history: History, figure_of: str, label: str) -> None:
    _draw_curve(axes, history.get(f"step/{figure_of}", ()), color=_TRAIN, linewidth=0.7, alpha=0.35)
    marker: dict[str, Any] = {"marker": "o", "markersize": 4.0, "linewidth": 1.8}
    for name, color in (("train", _TRAIN), ("val", _VAL)):
        points = history.get(f"{name}_{figure_of}", ())
        if points:
            last = points[-1][1]
            _draw_curve(axes, points, color=color, label=f"{name} (last {last:.4f})", **marker)
    axes.set_ylabel(label)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="best")


def _draw_curve(axes: Axes, points: Sequence[tuple[int, float]], **style: Any) -> None:
    if points:
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, **style)


def _values(history: History, *names: str) -> list[float]:
    return [value for name in names for _, value in history.get(name, ()) if math.isfinite(value)]


def _scale_loss(axes: Axes, history: History) -> None:
    """Use a logarithmic axis where the loss falls by more than 10, else the end of the run is a flat line."""
    values = [value for value in _values(history, "train_loss", "val_loss", "step/loss") if value > 0]
    epochs = [value for value in _values(history, "train_loss", "val_loss") if value > 0]
    if values and max(values) > 10 * min(epochs or values):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.set_ylim(bottom=0.6 * min(epochs or values))


def _scale_accuracy(axes: Axes, history: History) -> None:
    values = _values(history, "train_accuracy", "val_accuracy")
    if values:
        low = min(values)
        axes.set_ylim(max(0.0, low - 0.15 * (1.0 - low) - 0.02), 1.0 + 0.04 * (1.0 - low) + 0.002)


def _name_classes(axes: Axes, classes: Sequence[str], *, cell_inches: float) -> None:
    num_classes = len(classes)
    step = 1 if num_classes <= _MAX_CLASSES_WITH_ALL_NAMES else math.ceil(num_classes / 50)
    places = range(0, num_classes, step)
    names = [_shorten(classes[place]) for place in places]
    size = float(np.interp(num_classes, *_NAME_SIZES))
    name_inches = max(map(len, names)) * _LETTER_WIDTH * size / _POINTS_PER_INCH
    turned = name_inches > cell_inches * step
    axes.set_xticks(places, names, fontsize=size, rotation=90 if turned else 0)
    axes.set_yticks(places, names, fontsize=size)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(num_classes + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(num_classes + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=float(np.interp(num_classes, *_GRID_WIDTHS)))
    axes.tick_params(which="minor", length=0)


def _write_counts(axes: Axes, counts: npt.NDArray[np.int64], shares: npt.NDArray[np.float64]) -> None:
    size = float(np.interp(len(counts), *_COUNT_SIZES))
    for row, column in zip(*np.nonzero(counts), strict=True):
        color = "white" if shares[row, column] > _DARK_SHARE else "#1a1a1a"
        text = f"{counts[row, column]:,}"
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=size)


def _shorten(name: str) -> str:
    return name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…"


def _write_png(figure: Figure, path: str) -> None:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png")
    storage.write_bytes(path, buffer.getvalue())
