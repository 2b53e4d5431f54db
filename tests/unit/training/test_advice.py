"""Each rule speaks of a run that goes wrong, and is silent about a healthy one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dlspark.training.advice import (
    batch_noise_advice,
    dead_units_advice,
    divergence_advice,
    initial_loss_advice,
    overfitting_advice,
    plateau_advice,
    saturated_units_advice,
    underfitting_advice,
    update_ratio_advice,
)

FALLING = [2.3 * 0.98**step for step in range(100)]
NOISE = np.random.default_rng(0).normal(size=100)


def said(sentence: str | None, *parts: str) -> bool:
    """Tell whether it is one plain sentence with all the parts."""
    assert sentence is not None
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return all(part in sentence for part in parts)


def test_initial_loss() -> None:
    expected = math.log(10)
    assert said(initial_loss_advice(3.5, expected), "3.5", "2.303", "initialisation")
    assert initial_loss_advice(3.4, expected) is None
    assert initial_loss_advice(0.4, expected) is None  # trained weights


def test_dead_units_names_the_worst_layer() -> None:
    dead = {"0": (0, 32), "2": (40, 64), "7": (10, 128)}
    assert said(dead_units_advice(dead, num_rows=1024), "40 of the 64", "layer 2", "1024 rows")
    assert dead_units_advice({"0": (3, 32), "2": (19, 64)}, num_rows=1024) is None
    assert dead_units_advice({}, num_rows=1024) is None


def test_saturated_units_names_the_worst_layer() -> None:
    saturated = {"1": (10, 100), "3": (60, 100)}
    assert said(saturated_units_advice(saturated, num_rows=1000), "60 of the 100", "layer 3")
    assert saturated_units_advice({"1": (50, 100)}, num_rows=1000) is None
    assert saturated_units_advice({}, num_rows=1000) is None


@pytest.mark.parametrize(("ratio", "word"), [(0.5, "lower optimizer.lr"), (1e-7, "raise optimizer.lr")])
def test_update_ratio_fires_far_from_a_thousandth(ratio: float, word: str) -> None:
    assert said(update_ratio_advice([ratio, ratio, 1e-3]), word)


@pytest.mark.parametrize("ratios", [[], [1e-3], [0.03, 0.01, 5.0], [1e-4]])
def test_update_ratio_is_silent_near_it(ratios: list[float]) -> None:
    assert update_ratio_advice(ratios) is None


def test_divergence() -> None:
    rising = [2.3 * 1.05**step for step in range(60)]
    assert said(divergence_advice(rising, 2.3), "diverges", "from 2.3")
    assert divergence_advice(FALLING, 2.3) is None
    assert divergence_advice([2.3, 50.0, 9.0] + [2.0] * 20, 2.3) is None  # one spike
    assert divergence_advice([50.0] * 10, 2.3) is None  # too early to say


def test_overfitting() -> None:
    train = [1.0, 0.5, 0.3, 0.2, 0.1, 0.05]
    assert said(overfitting_advice(train, [1.0, 0.6, 0.5, 0.55, 0.6, 0.7]), "0.5 (epoch 3) to 0.7", "heart")
    assert overfitting_advice(train, [1.0, 0.6, 0.5, 0.45, 0.42, 0.41]) is None  # a gap alone
    assert overfitting_advice(train, [1.0, 0.6, 0.5, 0.505, 0.51, 0.51]) is None  # a small rise
    assert overfitting_advice([1.0, 0.5, 0.6, 0.7], [1.0, 0.5, 0.8, 0.9]) is None  # both rise
    assert overfitting_advice(train, []) is None


def test_underfitting() -> None:
    expected = math.log(10)
    assert said(underfitting_advice([2.31, 2.30, 2.29], expected), "After 3 epochs", "2.303")
    assert underfitting_advice([2.31, 2.30], expected) is None  # too early to say
    assert underfitting_advice([2.31, 1.9, 1.2], expected) is None


def test_plateau() -> None:
    flat = [2.0, 1.0] + [0.999] * 5
    assert said(plateau_advice(flat), "0.999", "5 epochs")
    assert plateau_advice([2.0 * 0.95**epoch for epoch in range(20)]) is None
    assert plateau_advice([2.0, 0.01] + [0.01] * 5) is None  # solved
    assert plateau_advice(flat[:5]) is None


def test_batch_noise() -> None:
    noisy = (2.0 + 0.8 * NOISE).tolist()
    assert said(batch_noise_advice(noisy, 2.3, global_rows=4), "batch of 4 rows")
    assert batch_noise_advice(noisy[:40], 2.3, global_rows=4) is None  # too early to say
    assert batch_noise_advice((2.0 + 0.1 * NOISE).tolist(), 2.3, global_rows=4) is None
    falls = (np.linspace(2.3, 0.9, 100) + 0.5 * NOISE).tolist()
    assert batch_noise_advice(falls, 2.3, global_rows=4) is None  # the trend shows
    assert batch_noise_advice((0.05 + 0.04 * NOISE).tolist(), 2.3, global_rows=4) is None  # nearly solved
