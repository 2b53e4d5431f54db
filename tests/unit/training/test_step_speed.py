"""Tests of dlspark.training.step_speed."""

from __future__ import annotations

import numpy as np
import torch

from dlspark.contracts import Batch
from dlspark.training.optimizers import build_optimizer
from dlspark.training.step_speed import measure_steps
from tests.unit.training.doubles import ThreadCommunicator, run_ranks
from tests.unit.training.small_network import CPU, IMAGES, LABELS, network


def test_ranks_agree_on_the_steps_and_leave_the_weights() -> None:
    models = [network(), network()]

    def on_rank(communicator: ThreadCommunicator) -> tuple[int, float, float]:
        model = models[communicator.rank]
        batch = Batch(step=0, global_rows=60, row_ids=np.arange(30), images=IMAGES, labels=LABELS)
        # A rank that asked for another time alone would make another number of steps.
        seconds = 0.05 * (1 + communicator.rank)
        speed = measure_steps(
            *(model, build_optimizer(model, "sgd", lr=0.1), communicator, batch),
            precision="fp32",
            device=CPU,
            seconds=seconds,
        )
        return communicator.num_collectives, speed.images_per_second, speed.communication_share

    (first, rate, share), (second, *_) = run_ranks(2, on_rank)
    assert first == second > 5
    for model in models:
        for (name, weight), before in zip(model.named_parameters(), network().parameters(), strict=True):
            assert torch.equal(weight, before), name
    assert rate > 0
    assert 0 < share < 1
