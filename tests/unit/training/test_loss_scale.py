"""Tests of dlspark.training.loss_scale."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from dlspark.contracts import Batch
from dlspark.training.gradients import GradientBuffer
from dlspark.training.loss_scale import LossScale
from dlspark.training.optimizers import build_optimizer
from dlspark.training.precision import Precision
from dlspark.training.step import train_step
from tests.unit.training.doubles import ThreadCommunicator, run_ranks
from tests.unit.training.small_network import CPU, IMAGES, LABELS, LR, assert_close, network


def step(
    scales: list[LossScale | None], *, precision: Precision = "fp16", images: torch.Tensor = IMAGES
) -> list[nn.Module]:
    """One step, each rank with its share of the rows and its scale."""
    models = [network() for _ in scales]

    def on_rank(communicator: ThreadCommunicator) -> None:
        rank = communicator.rank
        rows = slice(rank, None, len(scales))
        batch = Batch(
            step=0,
            global_rows=len(LABELS),
            row_ids=np.arange(len(LABELS))[rows],
            images=images[rows],
            labels=LABELS[rows],
        )
        optimizer = build_optimizer(models[rank], "sgd", lr=LR)
        train_step(
            *(models[rank], optimizer, GradientBuffer(models[rank], CPU), communicator, batch),
            lr=LR,
            precision=precision,
            scale=scales[rank],
        )

    run_ranks(len(scales), on_rank)
    return models


def test_the_scale_is_not_seen_in_the_step() -> None:
    (scaled,) = step([LossScale()], precision="fp32")
    (plain,) = step([None], precision="fp32")
    assert_close(scaled, plain)


def test_a_gradient_that_fp16_cannot_hold_is_kept() -> None:
    images = IMAGES * 1e-6
    (plain,) = step([None], images=images)
    (scaled,) = step([LossScale()], images=images)
    (exact,) = step([None], images=images, precision="fp32")
    # Of the gradients, since a step of fp32 weights rounds what is so small.
    lost, kept, wanted = (model[0].weight.grad for model in (plain, scaled, exact))
    assert (lost - wanted).norm() > 0.2 * wanted.norm()
    assert (kept - wanted).norm() < 0.05 * wanted.norm()


def test_a_scale_that_is_too_large_costs_the_step_on_every_rank_and_is_halved() -> None:
    scales = [LossScale(), LossScale()]
    for scale in scales:
        scale.value = 2.0**130
    for model in step([*scales]):
        assert_close(model, network())
    assert [scale.value for scale in scales] == [2.0**129] * 2


def test_at_its_least_what_is_not_finite_is_followed() -> None:
    gradients, scale = GradientBuffer(network(), CPU), LossScale()
    gradients.values[0] = float("nan")
    followed = [scale.unscale(gradients) for _ in range(18)]
    assert followed == [False] * 16 + [True] * 2
    assert scale.value == 1.0


def test_it_doubles_after_two_thousand_good_steps_and_remembers_them() -> None:
    gradients = GradientBuffer(network(), CPU)
    scale = LossScale()
    for _ in range(1999):
        assert scale.unscale(gradients)
    again = LossScale()
    again.load_state_dict(scale.state_dict())
    assert again.value == 2.0**16
    assert again.unscale(gradients)
    assert again.value == 2.0**17
    gradients.values[3] = float("inf")
    assert not again.unscale(gradients)
    assert again.value == 2.0**16
    assert again.state_dict()["num_good_steps"] == 0
