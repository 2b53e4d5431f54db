"""Losses: values against the formulas in float64, and theory at the start of a training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from dlspark.config.schema import Config
from dlspark.errors import ConfigError
from dlspark.recipe import loss_of
from dlspark.training.losses import (
    balanced_weights,
    build_loss,
    cross_entropy_sum,
    expected_initial_loss,
    mixed_sum,
)

Array = npt.NDArray[np.float64]
NUM_CLASSES = 5

CASES: list[tuple[str, dict[str, Any]]] = [
    ("cross_entropy", {}),
    ("cross_entropy", {"label_smoothing": 0.1}),
    ("cross_entropy", {"focal_gamma": 2.0}),
    ("cross_entropy", {"focal_gamma": 0.5, "label_smoothing": 0.2}),
    *(("bce", {"over_outputs": over}) for over in ("mean", "sum")),
    *(
        (name, {"outputs": outputs, "over_outputs": over})
        for name in ("mse", "mae")
        for outputs in ("softmax", "raw")
        for over in ("mean", "sum")
    ),
    ("hinge", {}),
    ("squared_hinge", {}),
]


def draw(num_rows: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(num_rows, NUM_CLASSES, generator=generator)
    return logits, torch.randint(NUM_CLASSES, (num_rows,), generator=generator)


def reference(name: str, scores: Array, label: int, options: dict[str, Any]) -> float:
    """Return the loss of one row, by the formulas of the docstring."""
    p, t = np.exp(scores) / np.exp(scores).sum(), np.eye(len(scores))[label]
    if name == "cross_entropy":
        smoothing = options.get("label_smoothing", 0.0)
        target = (1 - smoothing) * t + smoothing / len(scores)
        return float(-(target * np.log(p)).sum() * (1 - p[label]) ** options.get("focal_gamma", 0.0))
    if "hinge" in name:
        margins = [max(0.0, 1 + s - scores[label]) for j, s in enumerate(scores) if j != label]
        return sum(margin ** (2 if name == "squared_hinge" else 1) for margin in margins)
    if name == "bce":
        sigmoid = 1 / (1 + np.exp(-scores))
        errors = -(t * np.log(sigmoid) + (1 - t) * np.log(1 - sigmoid))
    else:
        error = (p if options["outputs"] == "softmax" else scores) - t
        errors = error**2 if name == "mse" else abs(error)
    return float(errors.mean() if options["over_outputs"] == "mean" else errors.sum())


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("weights", [None, (0.5, 1.0, 2.0, 3.0, 0.25)])
def test_sums_equal_the_formulas(
    name: str, options: dict[str, Any], weights: tuple[float, ...] | None
) -> None:
    logits, labels = draw()
    loss = build_loss(name, class_weights=weights, **options)(logits, labels)
    assert loss.dtype == torch.float32
    rows = zip(logits.double().numpy(), labels.tolist(), strict=True)
    expected = sum(
        reference(name, scores, label, options) * (weights[label] if weights else 1.0)
        for scores, label in rows
    )
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_parts_add_up_and_no_rows_are_zero(name: str, options: dict[str, Any]) -> None:
    logits, labels = draw()
    loss = build_loss(name, class_weights=(1.0, 2.0, 3.0, 4.0, 5.0), **options)
    parts = loss(logits[:13], labels[:13]) + loss(logits[13:], labels[13:])
    assert parts.item() == pytest.approx(loss(logits, labels).item(), rel=1e-6)
    assert loss(logits.bfloat16(), labels).dtype == torch.float32
    if "hinge" not in name:  # torch refuses to give it no rows, and the train loop never does
        assert loss(logits[:0], labels[:0]).item() == 0.0


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("num_classes", [2, 10])
def test_the_loss_at_the_start_is_the_theory(name: str, options: dict[str, Any], num_classes: int) -> None:
    labels = torch.arange(num_classes).repeat(3)
    seen = build_loss(name, **options)(torch.zeros(len(labels), num_classes), labels).item() / len(labels)
    known = {key: value for key, value in options.items() if key != "label_smoothing"}
    assert seen == pytest.approx(expected_initial_loss(name, num_classes=num_classes, **known), rel=1e-6)


def test_the_theory_is_that_of_the_lectures() -> None:
    assert expected_initial_loss("cross_entropy", num_classes=10) == math.log(10)
    assert expected_initial_loss("bce", num_classes=10) == pytest.approx(math.log(2))
    assert expected_initial_loss("hinge", num_classes=10) == 9.0
    assert expected_initial_loss("squared_hinge", num_classes=10) == 9.0


def test_balanced_weights_have_mean_one_over_the_rows_and_leave_the_first_loss() -> None:
    class_rows = (90, 9, 1, 0)
    weights = balanced_weights(class_rows)
    assert weights == pytest.approx((100 / 270, 100 / 27, 100 / 3, 0.0))
    labels = torch.repeat_interleave(torch.arange(4), torch.tensor(class_rows))
    loss = build_loss("cross_entropy", class_weights=weights)(torch.zeros(100, 4), labels).item() / 100
    assert loss == pytest.approx(math.log(4), rel=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_focal_gradient_of_a_certain_row_is_finite(gamma: float) -> None:
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    build_loss("cross_entropy", focal_gamma=gamma)(logits, torch.tensor([0])).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_the_configuration_is_taken() -> None:
    logits, labels = draw()
    rows = (10, 20, 30, 40, 50)
    assert loss_of(Config(), rows) is cross_entropy_sum
    config = Config(
        loss={"name": "mae", "outputs": "raw", "over_outputs": "sum", "class_weights": "balanced"}
    )
    expected = build_loss("mae", outputs="raw", over_outputs="sum", class_weights=balanced_weights(rows))
    assert torch.equal(loss_of(config, rows)(logits, labels), expected(logits, labels))
    with pytest.raises(
        ConfigError, match=r"got 2 weights; allowed: 5, one for each class.*loss.class_weights"
    ):
        loss_of(Config(loss={"name": "bce", "class_weights": (1.0, 2.0)}), rows)
    with pytest.raises(ConfigError, match="unknown loss; got 'l2'"):
        build_loss("l2")


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("weights", [None, (0.5, 1.0, 2.0, 3.0, 0.25)])
def test_a_mixed_row_has_the_losses_of_both_labels_by_their_shares(
    name: str, options: dict[str, Any], weights: tuple[float, ...] | None
) -> None:
    logits, labels = draw()
    generator = torch.Generator().manual_seed(2)
    others = torch.randint(NUM_CLASSES, labels.shape, generator=generator)
    share = torch.rand(labels.shape, generator=generator)
    share[0], share[1] = 0.0, 1.0
    mixed = mixed_sum(build_loss(name, class_weights=weights, **options), logits, labels, others, share)
    of_class = np.ones(NUM_CLASSES) if weights is None else np.array(weights)
    expected = 0.0
    for scores, one, other, part in zip(
        logits.double().numpy(), labels.tolist(), others.tolist(), share.double().tolist(), strict=True
    ):
        expected += part * of_class[one] * reference(name, scores, one, options)
        expected += (1 - part) * of_class[other] * reference(name, scores, other, options)
    assert mixed.dtype == torch.float32
    assert float(mixed) == pytest.approx(expected, rel=2e-6)
    same = mixed_sum(build_loss(name, class_weights=weights, **options), logits, labels, labels, share)
    alone = build_loss(name, class_weights=weights, **options)(logits, labels)
    assert float(same) == pytest.approx(float(alone), rel=2e-6)


def test_a_mixed_cross_entropy_is_that_of_the_mixed_target() -> None:
    logits, labels = draw()
    others, share = labels.roll(1), torch.linspace(0.0, 1.0, len(labels))
    one_hot = torch.eye(NUM_CLASSES, dtype=torch.float64)
    target = share[:, None] * one_hot[labels] + (1 - share)[:, None] * one_hot[others]
    expected = torch.nn.functional.cross_entropy(logits.double(), target, reduction="sum")
    assert float(mixed_sum(cross_entropy_sum, logits, labels, others, share)) == pytest.approx(
        float(expected), rel=1e-6
    )
