"""One optimizer step with all that it may do: against a plain reference, equal for any number of ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dlspark.config.optimizer_sections import AdamConfig, GdConfig, MomentumConfig
from dlspark.config.schema import Config
from dlspark.config.train_sections import RegularizeConfig, TrainConfig
from dlspark.contracts import Batch
from dlspark.recipe import rows_of_a_step, step_options_of
from dlspark.training.gradients import GradientBuffer
from dlspark.training.losses import build_loss
from dlspark.training.optimizers import build_optimizer
from dlspark.training.replicas import broadcast_state
from dlspark.training.step import StepOptions, StepResult, train_step
from tests.unit.training.doubles import ThreadCommunicator, run_ranks
from tests.unit.training.small_network import (
    CPU,
    IMAGES,
    LABELS,
    LR,
    NUM_CLASSES,
    NUM_ROWS,
    assert_close,
    network,
)

OTHERS, SHARES = (LABELS + 1) % NUM_CLASSES, torch.linspace(0.0, 1.0, NUM_ROWS)


def steps(
    num_ranks: int = 1,
    owners: tuple[int, ...] = (0,),
    *,
    num_steps: int = 3,
    optimizer: str = "sgd",
    model: nn.Module | None = None,
    mixed: bool = False,
    **options: Any,
) -> tuple[nn.Module, list[StepResult]]:
    """Make steps from all rows; return rank 0's network and results, after a look that all ranks agree."""
    models = [network() if model is None else model for _ in range(num_ranks)]

    def on_rank(communicator: ThreadCommunicator) -> list[StepResult]:
        own = models[communicator.rank]
        broadcast_state(own, communicator)
        gradients = GradientBuffer(own, CPU)
        chosen = build_optimizer(own, optimizer, lr=LR)
        mine = np.flatnonzero(np.resize(owners, NUM_ROWS) == communicator.rank)
        batch = Batch(
            step=0,
            global_rows=NUM_ROWS,
            row_ids=mine,
            images=IMAGES[mine],
            labels=LABELS[mine],
            other_labels=OTHERS[mine] if mixed else None,
            label_share=SHARES[mine] if mixed else None,
        )
        return [
            train_step(
                *(own, chosen, gradients, communicator, batch),
                lr=LR,
                precision="fp32",
                options=StepOptions(**options),
            )
            for _ in range(num_steps)
        ]

    results = run_ranks(num_ranks, on_rank)
    for other in models[1:]:
        for one, first in zip(other.parameters(), models[0].parameters(), strict=True):
            assert torch.equal(one, first)
    return models[0], results[0]


CHOICES: dict[str, dict[str, Any]] = {
    "accumulation": {"num_parts": 4},
    "l1": {"l1": 0.01},
    "clip_norm": {"clip_norm": 0.1},
    "clip_value": {"clip_value": 0.01},
    "max_norm": {"max_squared_norm": 0.5},
    "class weights": {"loss": build_loss("cross_entropy", class_weights=(3.0, 1.0, 0.5, 0.1))},
    "hinge": {"loss": build_loss("hinge")},
    "mixing": {"mixed": True},
    "mixing by parts": {"mixed": True, "num_parts": 3, "loss": build_loss("mse")},
    "all": {"num_parts": 3, "l1": 0.01, "clip_norm": 0.1, "max_squared_norm": 0.5},
}


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize(("num_ranks", "owners"), [(2, (0, 1)), (2, (0, 0, 0, 1)), (3, (0, 2))])
def test_any_number_of_ranks_makes_the_same_step(
    choice: str, num_ranks: int, owners: tuple[int, ...]
) -> None:
    alone, results = steps(**CHOICES[choice])
    together, others = steps(num_ranks, owners, **CHOICES[choice])
    assert_close(together, alone)
    losses = [result.loss_sum for result in results]
    assert [result.loss_sum for result in others] == pytest.approx(losses, rel=1e-6)
    assert [result.num_correct for result in others] == [result.num_correct for result in results]


@pytest.mark.parametrize("choice", list(CHOICES)[1:])
def test_each_choice_changes_the_step(choice: str) -> None:
    plain, changed = steps()[0], steps(**CHOICES[choice])[0]
    assert any(
        not torch.allclose(one, other, atol=1e-4)
        for one, other in zip(plain.parameters(), changed.parameters(), strict=True)
    )


@pytest.mark.parametrize("num_parts", [2, 7, 100])
def test_parts_equal_one_big_batch(num_parts: int) -> None:
    whole, results = steps()
    parts, others = steps(num_parts=num_parts)
    assert_close(parts, whole)
    assert [result.loss_sum for result in others] == pytest.approx([r.loss_sum for r in results], rel=1e-6)
    assert [result.num_correct for result in others] == [r.num_correct for r in results]


def test_of_mixed_rows_the_larger_share_counts() -> None:
    model = network()
    given = model(IMAGES).argmax(dim=1)
    larger = torch.where(torch.arange(NUM_ROWS) >= NUM_ROWS / 2, LABELS, OTHERS)
    _, (result,) = steps(num_steps=1, mixed=True)
    assert result.num_correct == int((given == larger).sum())
    assert result.num_correct != int((given == LABELS).sum())


class CountingNetwork(nn.Sequential):
    """Notes how many rows came at a time."""

    def __init__(self) -> None:
        super().__init__(*network())
        self.seen: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(images))
        return super().forward(images)  # type: ignore[no-any-return]


def test_parts_are_what_goes_through_the_network_at_once() -> None:
    model = CountingNetwork()
    steps(num_steps=1, num_parts=4, model=model)
    assert model.seen == [8, 8, 8, 6]


def reference_step(model: nn.Module, *, l1: float = 0.0, change: Any = None) -> None:
    """Make one plain step on all rows, by autograd and torch's own tools."""
    model.zero_grad()
    loss = nn.functional.cross_entropy(model(IMAGES), LABELS)
    loss = loss + l1 * sum(p.abs().sum() for p in model.parameters() if p.ndim > 1)
    loss.backward()
    if change is not None:
        change(list(model.parameters()))
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.sub_(LR * parameter.grad)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_l1_is_the_gradient_of_the_penalty_once(num_ranks: int) -> None:
    expected = network()
    for _ in range(3):
        reference_step(expected, l1=0.01)
    assert_close(steps(num_ranks, tuple(range(num_ranks)), l1=0.01)[0], expected)


@pytest.mark.parametrize("largest", [0.05, 100.0])
def test_clipping_is_that_of_torch(largest: float) -> None:
    for option, change in (
        ("clip_norm", nn.utils.clip_grad_norm_),
        ("clip_value", nn.utils.clip_grad_value_),
    ):
        expected = network()
        for _ in range(3):
            reference_step(expected, change=lambda parameters, change=change: change(parameters, largest))
        assert_close(steps(2, (0, 1), **{option: largest})[0], expected)


def test_a_gradient_of_zero_length_stays() -> None:
    model = network()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    before = [parameter.clone() for parameter in model.parameters()]
    steps(num_steps=1, model=model, loss=lambda logits, labels: logits.sum() * 0.0, clip_norm=1.0)
    for parameter, start in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, start)


@pytest.mark.parametrize("limit", [0.3, 15.0])
def test_weights_of_a_unit_are_scaled_to_the_limit_and_biases_are_not(limit: float) -> None:
    model, expected = network(), network()
    reference_step(expected)
    scaled = 0
    with torch.no_grad():
        for parameter in expected.parameters():
            if parameter.ndim > 1:
                for unit in parameter:  # a filter, or a row of a dense layer
                    squared = float(unit.double().square().sum())
                    if squared > limit:
                        unit.mul_((limit / squared) ** 0.5)
                        scaled += 1
    steps(num_steps=1, model=model, max_squared_norm=limit)
    assert_close(model, expected)
    assert (scaled > 0) == (limit < 1.0)
    longest = max(
        float(p.detach().flatten(1).square().sum(dim=1).max()) for p in model.parameters() if p.ndim > 1
    )
    assert longest <= limit * (1 + 1e-5)


def test_gd_takes_all_rows_a_step_some_at_a_time() -> None:
    config = Config(optimizer=GdConfig(), train=TrainConfig(global_batch_size=8))
    assert rows_of_a_step(config, 30) == 30
    options = step_options_of(config, class_rows=(10, 10, 6, 4), steps_per_epoch=1)
    assert options.num_parts == 4
    model = CountingNetwork()
    steps(num_steps=2, optimizer="gd", model=model, num_parts=options.num_parts)
    assert max(model.seen) <= 8
    expected = network()
    for _ in range(2):
        reference_step(expected)
    assert_close(model, expected)


def test_the_configuration_is_taken() -> None:
    config = Config(
        optimizer=MomentumConfig(momentum=0.9, momentum_start=0.5, momentum_epochs=2.0),
        train=TrainConfig(accumulate_steps=3),
        regularize=RegularizeConfig(l1=0.1, clip_norm=2.0, max_squared_norm=15.0),
    )
    assert rows_of_a_step(config, 1000) == 128
    options = step_options_of(config, class_rows=(5, 5), steps_per_epoch=10)
    assert (options.num_parts, options.l1, options.clip_norm, options.clip_value) == (3, 0.1, 2.0, None)
    assert options.max_squared_norm == 15.0
    assert options.momentum is not None
    assert [options.momentum(step) for step in (0, 10, 20, 99)] == pytest.approx([0.5, 0.7, 0.9, 0.9])
    adam = Config(optimizer=AdamConfig(betas=(0.8, 0.99), momentum_start=0.6))
    momentum = step_options_of(adam, class_rows=(5, 5), steps_per_epoch=10).momentum
    assert momentum is not None
    assert momentum(10**6) == 0.8
    plain = step_options_of(Config(), class_rows=(5, 5), steps_per_epoch=10)
    assert plain == StepOptions()


def bf16_step(model: nn.Module, images: torch.Tensor) -> StepResult:
    rows = Batch(step=0, global_rows=NUM_ROWS, row_ids=np.arange(NUM_ROWS), images=images, labels=LABELS)

    def on_rank(communicator: ThreadCommunicator) -> StepResult:
        buffer, optimizer = GradientBuffer(model, CPU), build_optimizer(model, "sgd", lr=LR)
        return train_step(model, optimizer, buffer, communicator, rows, lr=LR, precision="bf16")

    [result] = run_ranks(1, on_rank)
    return result


@pytest.mark.parametrize("shape", [(2, 3, 6), (1, 6, 6), (36,)], ids=["images", "gray", "features"])
def test_with_autocast_images_are_channels_last_and_features_are_as_they_are(shape: tuple[int, ...]) -> None:
    seen: list[torch.Tensor] = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, NUM_CLASSES))
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.randn(NUM_ROWS, *shape)
    assert np.isfinite(bf16_step(model, images).loss_sum)
    assert torch.equal(seen[0], images)
    assert seen[0].stride(1) == 1, "the channels of a pixel, or the features, are not side by side"


@pytest.mark.parametrize("channels", [1, 3])
def test_with_autocast_the_layers_behind_the_images_are_channels_last_too(channels: int) -> None:
    seen: list[torch.Tensor] = []
    model = nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, NUM_CLASSES)
    )
    for layer in model[:2]:
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    bf16_step(model, torch.randn(NUM_ROWS, channels, 6, 6))
    for output in seen:
        assert output.is_contiguous(memory_format=torch.channels_last)
        assert not output.is_contiguous()
