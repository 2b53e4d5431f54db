"""Figures of a classifier as counts, which add up exactly over batches and ranks."""

from __future__ import annotations

import torch

from dlspark.errors import DatasetError


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
