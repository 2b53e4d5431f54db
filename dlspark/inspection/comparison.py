"""The picture of several trainings together: training loss and validation accuracy, a colour for each."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dlspark import storage
from dlspark.inspection.pictures import History

_NUM_COLOURS = 10
_MAX_POINTS = 100
"""Of the losses of single steps: several curves with the noise of each step would hide one another."""


def draw_comparison(histories: Mapping[str, History], path: str) -> None:
    """Draw the curves of several trainings over the optimizer steps, the loss on a logarithmic axis.

    Args:
        histories: by the label of the training its metrics, as in the journal. Used are step/loss (thin, as
            means of 1/100 of the steps), train_loss and val_accuracy (per epoch); those that are absent are
            left out.
        path: file or URL of the PNG.
    """
    figure = Figure(figsize=(10.0, 8.0), dpi=120, layout="constrained")
    loss, accuracy = figure.subplots(2, 1, sharex=True)
    colours = colormaps["tab10"]
    for index, (label, history) in enumerate(histories.items()):
        colour = colours(index % _NUM_COLOURS)
        style = "-" if index < _NUM_COLOURS else "--"
        _draw(loss, _thin_out(history.get("step/loss", ())), color=colour, linewidth=0.8, alpha=0.6)
        text = label.replace("$", r"\$")
        _draw(loss, history.get("train_loss", ()), color=colour, linestyle=style, marker=".", label=text)
        _draw(accuracy, history.get("val_accuracy", ()), color=colour, linestyle=style, marker=".")
    loss.set_yscale("log")
    loss.set_ylabel("training loss")
    accuracy.set_ylabel("validation accuracy")
    accuracy.set_xlabel("optimizer step")
    accuracy.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (loss, accuracy):
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
    figure.align_ylabels()
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    figure.suptitle("Comparison", x=0.01, ha="left", fontweight="bold")
    FigureCanvasAgg(figure)
    target = io.BytesIO()
    figure.savefig(target, format="png")
    storage.write_bytes(path, target.getvalue())


def _thin_out(curve: Sequence[tuple[int, float]]) -> Sequence[tuple[int, float]]:
    """Return the means of so many neighbours that `_MAX_POINTS` are left at most."""
    size = math.ceil(len(curve) / _MAX_POINTS)
    parts = [curve[start : start + size] for start in range(0, len(curve), max(1, size))]
    return [(part[len(part) // 2][0], fmean(value for _, value in part)) for part in parts]


def _draw(axes: Axes, curve: Sequence[tuple[int, float]], **style: object) -> None:
    if curve:
        steps, values = zip(*curve, strict=True)
        axes.plot(steps, values, **style)  # type: ignore[arg-type]
