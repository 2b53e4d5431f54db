"""The range test on a parabola, whose loss after any steps of gradient descent is a formula."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn

from dlspark.cluster.communicator import LocalCommunicator
from dlspark.errors import ConfigError
from dlspark.training.lr_range import LrCurve, measure_lr_curve, suggest_lr
from dlspark.training.optimizers import build_optimizer
from dlspark.training.step import StepOptions
from tests.unit.training.doubles import MemorySource

CPU = torch.device("cpu")
NUM_STEPS = 120


class Steps:
    """Keeps what is shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[int, int]] = []

    def update(self, completed: int, total: int, fields: Mapping[str, float] | None = None) -> None:
        self.shown.append((completed, total))


def parabola(curvature: float, *, min_lr: float = 1e-4, max_lr: float = 1e2) -> LrCurve:
    """The test on the loss curvature/2 * w^2 of a row, from w = 1."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 1, bias=False))
    nn.init.ones_(model[1].weight)  # type: ignore[arg-type]
    source = MemorySource(torch.ones(6, 1, 1, 1), torch.zeros(6, dtype=torch.int64), global_batch_size=4)
    return measure_lr_curve(
        model,
        build_optimizer(model, "sgd", lr=1.0),
        source,
        LocalCommunicator(),
        min_lr=min_lr,
        max_lr=max_lr,
        num_steps=NUM_STEPS,
        precision="fp32",
        device=CPU,
        options=StepOptions(loss=lambda logits, labels: curvature / 2 * logits.square().sum()),
        progress=Steps(),
    )


def expected_losses(curvature: float, rates: tuple[float, ...]) -> np.ndarray:
    weights = np.cumprod(np.concatenate([[1.0], 1.0 - curvature * np.array(rates[:-1])]))
    return curvature / 2 * weights**2


@pytest.mark.parametrize("curvature", [1.0, 30.0])
def test_rates_grow_by_one_factor_and_losses_are_those_of_gradient_descent(curvature: float) -> None:
    curve = parabola(curvature)
    assert curve.rates == pytest.approx(np.geomspace(1e-4, 1e2, NUM_STEPS)[: len(curve.rates)])
    # Near its bottom the parabola is below what float32 weights of size 1 can tell.
    assert curve.losses == pytest.approx(expected_losses(curvature, curve.rates), rel=1e-3, abs=1e-9)


def test_the_smoothed_loss_is_a_mean_with_falling_weights() -> None:
    curve = parabola(1.0)
    for step in (0, 1, 7, 40):
        weights = 0.9 ** np.arange(step, -1, -1) * np.resize([4, 2], step + 1)  # rows
        mean = (weights * curve.losses[: step + 1]).sum() / weights.sum()
        assert curve.smoothed[step] == pytest.approx(mean, rel=1e-9)


def test_it_ends_where_the_smoothed_loss_is_four_times_its_lowest() -> None:
    curve = parabola(1.0)
    assert curve.end == "loss grew"
    lowest = np.minimum.accumulate(curve.smoothed)
    grown = np.asarray(curve.smoothed) > 4 * lowest
    assert grown[-1]
    assert not grown[:-1].any()
    assert curve.rates[-1] > 2.0, "gradient descent on it diverges from 2/curvature on"


@pytest.mark.parametrize("curvature", [0.3, 1.0, 30.0])
def test_the_suggestion_is_where_the_loss_falls_fastest_and_scales_with_the_problem(curvature: float) -> None:
    curve = parabola(curvature)
    suggestion = suggest_lr(curve)
    # Over the logarithm of the rate, in the middle between two steps.
    fall = np.diff(expected_losses(curvature, curve.rates))
    steepest = curve.rates[int(np.argmin(fall))]
    assert 1 / 1.7 < suggestion.steepest / steepest < 1.7
    assert suggestion.rate == min(suggestion.steepest, suggestion.largest) < 2.0 / curvature
    assert suggestion.largest == pytest.approx(curve.rates[int(np.argmin(curve.smoothed))] / 10)


def test_a_batch_of_few_rows_weighs_little() -> None:
    rates = tuple(np.geomspace(1e-4, 1.0, 60).tolist())
    losses = np.interp(np.arange(60), [30, 50], [2.0, 1.5])
    rows = np.full(60, 64)
    losses[12], rows[12] = 0.0, 1
    curve = LrCurve(
        rates=rates,
        losses=tuple(losses.tolist()),
        smoothed=tuple(np.minimum.accumulate(losses + 2.0 * (rows == 1)).tolist()),
        rows=tuple(rows.tolist()),
        end="largest rate",
    )
    assert rates[35] < suggest_lr(curve).steepest < rates[45]


def test_a_test_that_reaches_its_largest_rate_says_so_and_suggests() -> None:
    curve = parabola(1.0, max_lr=0.2)
    assert curve.end == "largest rate"
    assert len(curve.rates) == NUM_STEPS
    assert curve.rates[-1] == pytest.approx(0.2)
    assert 0.0 < suggest_lr(curve).rate < 0.2


def test_a_loss_that_is_not_finite_ends_it_and_is_left_out() -> None:
    curve = parabola(1e30, min_lr=1.0)
    assert curve.end == "loss not finite"
    assert np.isfinite(curve.losses).all()
    with pytest.raises(ConfigError, match=r"did not fall.*Fix: lower lr_find\.min"):
        suggest_lr(curve)


def test_a_loss_that_only_grows_has_no_suggestion() -> None:
    curve = parabola(1.0, min_lr=3.0, max_lr=4.0)
    assert curve.end == "loss grew"
    with pytest.raises(ConfigError, match="did not fall"):
        suggest_lr(curve)
