"""The keys that say when a training ends before its last epoch."""

from __future__ import annotations

from typing import Literal

from dlspark.config.section import Count, Section, Share


class EarlyStoppingConfig(Section):
    """A training that has stopped to get better ends, and its best weights are those that are kept."""

    patience_epochs: Count | None = None
    """Epochs in a row without a better value after which the training ends; the weights of the best epoch
    are restored then, and after the last epoch. null: all epochs, and the last weights."""
    metric: Literal["val_loss", "val_accuracy", "train_loss", "train_accuracy"] = "val_loss"
    """Which value; val_ needs a val split."""
    min_improvement: Share = 0.0
    """A value is better when it beats the best one by this share of it."""
