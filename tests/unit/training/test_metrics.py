"""Losses and counts against numpy in float64."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, top_k_accuracy_score

from dlspark.contracts import EvaluationResult
from dlspark.errors import DatasetError
from dlspark.training.losses import cross_entropy_sum
from dlspark.training.metrics import (
    bias_sums,
    class_figures,
    class_metrics,
    confusion_counts,
    count_correct,
    count_in_top,
    evaluation_metrics,
    outputs_of,
)


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


def test_class_figures_are_those_of_scikit_learn() -> None:
    labels, predicted = np.array([0, 0, 1, 1, 1, 2, 2, 4]), np.array([0, 1, 1, 1, 2, 2, 0, 0])
    confusion = confusion_matrix(labels, predicted, labels=range(5)).tolist()
    precision, recall, f1, rows = precision_recall_fscore_support(
        labels, predicted, labels=range(5), zero_division=0
    )
    found = class_figures(confusion)
    assert [figures.num_rows for figures in found] == rows.tolist()
    assert found[3].recall is None  # no row is of it
    assert [figures.recall or 0.0 for figures in found] == pytest.approx(recall.tolist())
    assert [figures.precision for figures in found] == pytest.approx(precision.tolist())
    assert [figures.f1 for figures in found] == pytest.approx(f1.tolist())
    result = EvaluationResult(
        num_rows=8, loss=1.0, accuracy=0.5, confusion=confusion, top_k=2, top_k_accuracy=0.75
    )
    metrics = evaluation_metrics(result, "val")
    present = [0, 1, 2, 4]
    assert metrics["val_macro_recall"] == pytest.approx(recall[present].mean())
    assert metrics["val_macro_precision"] == pytest.approx(precision[present].mean())
    assert metrics["val_macro_f1"] == pytest.approx(f1[present].mean())
    assert metrics["val_top2_accuracy"] == 0.75
    each = class_metrics(result, "val")
    assert each["val_class/02/recall"] == 0.5
    assert "val_class/03/recall" not in each
    many = dataclasses.replace(result, confusion=tuple((0,) * 21 for _ in range(21)))
    assert class_metrics(many, "val") == {}


@pytest.mark.parametrize("k", [1, 2, 3])
def test_rows_in_the_top_k(k: int) -> None:
    logits, labels = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 4
    expected = top_k_accuracy_score(labels, logits, k=k, normalize=False)
    assert int(count_in_top(logits, labels, k)) == expected
    assert int(count_in_top(torch.zeros(50, 4), labels, k)) <= 13 * k  # ties are no hits for all


def test_the_bias_has_a_sign() -> None:
    labels = torch.tensor([0, 1])
    raw = torch.tensor([[3.0, 0.0], [0.0, 0.0]])
    assert bias_sums(raw, labels, "raw").tolist() == [2.0, -1.0]
    assert bias_sums(-raw, labels, "raw").tolist() == [-4.0, -1.0]
    softmax = bias_sums(raw, labels, "softmax")
    assert float(softmax.sum()) == pytest.approx(0.0, abs=1e-12)
    assert softmax[0] > 0 > softmax[1]  # class 0 is given more than it is there
    assert float(bias_sums(torch.zeros(1, 2), labels[:1], "sigmoid").sum()) == 0.0
    assert [outputs_of(*names) for names in (("bce", "softmax"), ("mse", "raw"), ("mae", "softmax"))] == [
        "sigmoid",
        "raw",
        "softmax",
    ]
