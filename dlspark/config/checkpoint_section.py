"""The keys that say when a training saves its state, and how much of it is kept."""

from __future__ import annotations

from typing import Literal

from dlspark.config.section import Count, Positive, Section


class CheckpointConfig(Section):
    """When a training saves all that it needs to go on: after each epoch, and more often where asked."""

    every_steps: Count | None = None
    """Also after each so many optimizer steps; null: not counted in steps."""
    every_minutes: Positive | None = 10.0
    """Also within an epoch if the last save is so many minutes ago; null: never."""
    keep: Count = 2
    """How many of the last are kept, beside the best and the final one."""
    best_metric: Literal["val_loss", "val_accuracy", "train_loss", "train_accuracy"] = "val_loss"
    """The epoch with the best value of it is kept too; val_ needs a val split."""
