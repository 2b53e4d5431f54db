"""Figures of a classifier as counts, which add up exactly over batches and ranks.

What is no count (the bias of each class) is a sum in float64. Per-class figures follow from the confusion
counts, as scikit-learn defines them: a precision of no rows is 0, and a class without rows is left out of the
means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional

from dlspark.contracts import EvaluationResult
from dlspark.errors import DatasetError

Outputs = Literal["softmax", "sigmoid", "raw"]
"""What is compared with the one-hot target: softmax or sigmoid of the logits, or the logits themselves."""

_MAX_CLASSES_SHOWN = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What an evaluation counts beside loss and confusion."""

    top_k: int | None = None
    """k, in [2, K); None: not counted."""
    outputs: Outputs = "softmax"
    """Of the bias."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassFigures:
    """The figures of one class; shares in [0, 1]."""

    num_rows: int
    """Rows that are of the class."""
    recall: float | None
    """Share of these that were given to it; None where there are none."""
    precision: float
    """Share that is of the class, of the rows given to it; 0 where none was."""
    f1: float
    """Harmonic mean of both, 2 * hits / (rows of it + rows given to it); 0 where there are neither."""


def count_correct(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the rows whose largest logit is that of their label.

    Args:
        logits: float [b, K].
        labels: int64 [b], in [0, K).

    Returns:
        int64 scalar.
    """
    return (logits.argmax(dim=1) == labels).sum()


def confusion_counts(logits: torch.Tensor, labels: torch.Tensor, *, num_classes: int) -> torch.Tensor:
    """Return how many rows of each true class were given to each predicted class.

    Args:
        logits: float [b, K].
        labels: int64 [b], in [0, K).
        num_classes: K.

    Returns:
        int64 [K, K]: first axis the true class, second the predicted one.

    Raises:
        DatasetError: a label is outside [0, K).
    """
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise DatasetError(
            "a label is outside the classes of the dataset",
            got=f"labels from {int(labels.min())} to {int(labels.max())}",
            allowed=f"0 to {num_classes - 1}",
            fix="ingest the dataset again",
        )
    cells = labels * num_classes + logits.argmax(dim=1)
    return torch.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def count_in_top(logits: torch.Tensor, labels: torch.Tensor, k: int) -> torch.Tensor:
    """Return the rows whose label is among the k largest logits.

    Args:
        logits: float [b, K].
        labels: int64 [b], in [0, K).
        k: in [1, K].

    Returns:
        int64 scalar.
    """
    return (logits.topk(k, dim=1).indices == labels[:, None]).sum()


def bias_sums(logits: torch.Tensor, labels: torch.Tensor, outputs: Outputs) -> torch.Tensor:
    """Return the sum over rows of output minus one-hot target.

    Args:
        logits: float [b, K].
        labels: int64 [b], in [0, K).
        outputs: what the logits become first.

    Returns:
        float64 [K].
    """
    given = logits.double()
    if outputs != "raw":
        given = given.softmax(dim=1) if outputs == "softmax" else given.sigmoid()
    return (given - functional.one_hot(labels, logits.shape[1])).sum(dim=0)


def outputs_of(loss: str, outputs: str) -> Outputs:
    """Return what the logits become before a loss compares them with its target.

    Args:
        loss: its name, as in `dlspark.training.losses.build_loss`.
        outputs: softmax or raw, of mse and mae.
    """
    of_losses: dict[str, Outputs] = {"bce": "sigmoid", "hinge": "raw", "squared_hinge": "raw"}
    return of_losses.get(loss, "raw" if outputs == "raw" else "softmax")


def class_figures(confusion: Sequence[Sequence[int]]) -> tuple[ClassFigures, ...]:
    """Return the figures of each class, [K].

    Args:
        confusion: [K][K] row counts: first index the true class, second the predicted one.
    """
    counts = torch.tensor(confusion, dtype=torch.int64)
    columns = zip(counts.diag().tolist(), counts.sum(1).tolist(), counts.sum(0).tolist(), strict=True)
    return tuple(
        ClassFigures(
            num_rows=rows,
            recall=hits / rows if rows else None,
            precision=hits / given if given else 0.0,
            f1=2 * hits / (rows + given) if rows + given else 0.0,
        )
        for hits, rows, given in columns
    )


def evaluation_metrics(result: EvaluationResult, prefix: str) -> dict[str, float]:
    """Return the figures of a split as metrics: loss, accuracies, means over classes, bias.

    Args:
        result: of the split.
        prefix: of the names, e.g. val.
    """
    present = [figures for figures in class_figures(result.confusion) if figures.num_rows]
    metrics = {
        "loss": result.loss,
        "accuracy": result.accuracy,
        "macro_recall": sum(figures.recall or 0.0 for figures in present) / len(present),
        "macro_precision": sum(figures.precision for figures in present) / len(present),
        "macro_f1": sum(figures.f1 for figures in present) / len(present),
    }
    if result.top_k_accuracy is not None:
        metrics[f"top{result.top_k}_accuracy"] = result.top_k_accuracy
    if result.class_bias:
        metrics["mean_bias_error"] = result.mean_bias_error
    return {f"{prefix}_{name}": value for name, value in metrics.items()}


def class_metrics(result: EvaluationResult, prefix: str) -> dict[str, float]:
    """Return recall, precision and F1 of each class as metrics `<prefix>_class/<label>/recall`, ...

    Args:
        result: of the split; with more than 20 classes nothing is returned, the curves would be too many.
        prefix: of the names, e.g. val.
    """
    if len(result.confusion) > _MAX_CLASSES_SHOWN:
        return {}
    metrics = {}
    for label, figures in enumerate(class_figures(result.confusion)):
        name = f"{prefix}_class/{label:02d}"
        if figures.recall is not None:
            metrics[f"{name}/recall"] = figures.recall
        metrics |= {f"{name}/precision": figures.precision, f"{name}/f1": figures.f1}
    return metrics
