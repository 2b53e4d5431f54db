"""A small network, the rows that it is trained on, and a comparison of its weights."""

from __future__ import annotations

import torch
from torch import nn

from tests.unit.training.doubles import random_rows

CPU = torch.device("cpu")
NUM_CLASSES, NUM_ROWS, LR = 4, 30, 0.5
IMAGES, LABELS = random_rows(NUM_ROWS, num_classes=NUM_CLASSES, size=6)


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, NUM_CLASSES)
    )


def assert_close(model: nn.Module, expected: nn.Module) -> None:
    for (name, one), other in zip(model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")
