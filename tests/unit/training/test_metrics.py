"""Losses and counts against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dlspark.errors import DatasetError
from dlspark.training.losses import cross_entropy_sum
from dlspark.training.metrics import confusion_counts, count_correct


def test_cross_entropy_is_a_sum_in_fp32() -> None:
    logits = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)) * 5
    labels = torch.arange(9) % 4
    exact = logits.double().numpy()
    exact = exact - np.log(np.exp(exact).sum(axis=1, keepdims=True))
    expected = -exact[np.arange(9), labels.numpy()].sum()
    assert float(cross_entropy_sum(logits, labels)) == pytest.approx(expected, rel=1e-6)
    assert cross_entropy_sum(logits.bfloat16(), labels).dtype == torch.float32
    assert float(cross_entropy_sum(logits[:0], labels[:0])) == 0.0


def test_uniform_logits_cost_log_k_a_row() -> None:
    assert float(cross_entropy_sum(torch.zeros(3, 10), torch.tensor([0, 5, 9]))) == pytest.approx(
        3 * np.log(10)
    )


def test_counts() -> None:
    logits = torch.tensor([[2.0, 1, 0], [0, 3, 1], [5, 1, 0], [0, 0, 1]])
    labels = torch.tensor([0, 2, 1, 2])
    assert int(count_correct(logits, labels)) == 2
    assert confusion_counts(logits, labels, num_classes=3).tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 1]]
    assert confusion_counts(logits[:0], labels[:0], num_classes=3).sum() == 0


def test_a_label_outside_the_classes_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"labels from -1 to 2; allowed: 0 to 1"):
        confusion_counts(torch.zeros(2, 2), torch.tensor([-1, 2]), num_classes=2)
