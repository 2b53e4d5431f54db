"""Snapshots for tests of what is written: no training behind them."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from dlspark.contracts import ImageFormat, Preprocessing
from dlspark.training.checkpoint import CheckpointDescription
from dlspark.training.training_state import Snapshot


def describe(*, epoch: int, step: int, metrics: Mapping[str, float]) -> CheckpointDescription:
    image = ImageFormat(height=8, width=8, channels=1, resize="exact")
    return CheckpointDescription(
        model="mlp",
        model_options={},
        preprocessing=Preprocessing(image=image, mean=(0.0,), std=(1.0,)),
        classes=("a", "b", "c", "d"),
        fingerprint="0",
        epoch=epoch,
        step=step,
        metrics=metrics,
    )


def snapshot_of(step: int, metrics: Mapping[str, float] | None = None, *, num_values: int = 5) -> Snapshot:
    """A snapshot whose tensors all say the step."""
    return Snapshot(
        model={"weight": torch.full((num_values,), float(step))},
        tensors={"momentum": torch.full((num_values,), float(step))},
        values={"step": step},
        epoch=step // 10,
        step=step,
        metrics=metrics or {},
    )
