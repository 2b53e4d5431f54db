"""The picture of a learning-rate range test: the loss over the rate, with the suggestion marked."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dlspark import storage

_RAW, _SMOOTHED, _SUGGESTED, _OTHER = "#9dbfdf", "#1f6fb4", "#d9541e", "#4d4d4d"
_ROOM = 0.08


def draw_lr_curve(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    path: str,
    *,
    suggested: float,
    steepest: float,
    largest: float,
    title: str,
) -> None:
    """Draw the loss over the learning rate on a logarithmic axis.

    Args:
        rates: [n], growing, > 0.
        losses: [n] of each step; the end is cut off above where it leaves the first loss far behind.
        smoothed: [n].
        path: file or URL of the PNG.
        suggested: rate that is marked as the suggestion.
        steepest: rate that is marked as that of the fastest fall.
        largest: rate that is marked as the largest for a schedule.
        title: above the curve.
    """
    figure = Figure(figsize=(9.0, 5.0), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, color=_RAW, linewidth=0.9, label="of each step")
    axes.plot(rates, smoothed, color=_SMOOTHED, linewidth=2.0, label="smoothed")
    marks = (
        (suggested, f"suggestion: {suggested:.2g}", {"color": _SUGGESTED, "linewidth": 2.5}),
        (steepest, f"falls fastest: {steepest:.2g}", {"color": _OTHER, "linestyle": "--"}),
        (largest, f"largest for a schedule: {largest:.2g}", {"color": _OTHER, "linestyle": ":"}),
    )
    for rate, label, style in marks:
        axes.axvline(rate, label=label, **style)
    low, start = min(losses), max(losses[: max(1, len(losses) // 4)])
    room = _ROOM * max(start - low, abs(start), 1e-12)
    axes.set_ylim(low - room, start + 3 * room)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="best")
    figure.suptitle(title.replace("$", r"\$"), x=0.01, ha="left", fontweight="bold")
    FigureCanvasAgg(figure)
    target = io.BytesIO()
    figure.savefig(target, format="png")
    storage.write_bytes(path, target.getvalue())
