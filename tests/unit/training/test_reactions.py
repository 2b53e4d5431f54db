"""What a training does about its own advice: lower the rate, take the weights back, end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from dlspark.errors import ModelError
from dlspark.training.checkpoint_writer import SilentCheckpoints
from dlspark.training.named_optimizer import NamedOptimizer
from dlspark.training.optimizers import build_optimizer
from dlspark.training.reactions import Action, ReactionOptions, Reactions
from dlspark.training.tensor_tree import join_tensors, split_tensors
from dlspark.training.trainer import FitResult, fit
from tests.unit.training.doubles import ListTracker, MemorySource, ThreadCommunicator, random_rows, run_ranks
from tests.unit.training.small_network import CPU, NUM_CLASSES, network

IMAGES, LABELS = random_rows(60, num_classes=NUM_CLASSES, size=6)
_STEPS_OF_EPOCH = 30


class _Burst(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: torch.Tensor) -> torch.Tensor:
        return values.clone()

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("inf")


class _BurstLayer(nn.Module):
    """Its gradient is infinite in one forward pass of the whole training."""

    def __init__(self, at_pass: int) -> None:
        super().__init__()
        self._at_pass, self._num_passes = at_pass, 0

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return values
        self._num_passes += 1
        passed: torch.Tensor = _Burst.apply(values) if self._num_passes == self._at_pass else values
        return passed


def train(
    model: nn.Module,
    actions: Mapping[str, Action],
    tracker: ListTracker,
    communicator: ThreadCommunicator,
    *,
    lr: float = 0.1,
    epochs: int = 3,
    **options: Any,
) -> FitResult:
    owners = range(communicator.size)
    return fit(
        model,
        build_optimizer(model, "momentum", lr=lr, momentum=0.9),
        lambda step: 1.0,
        MemorySource(IMAGES, LABELS, global_batch_size=2, rank=communicator.rank, owners=owners),
        MemorySource(IMAGES, LABELS, global_batch_size=20, rank=communicator.rank, owners=owners),
        communicator,
        tracker,
        SilentCheckpoints(lambda: False),
        epochs=epochs,
        num_classes=NUM_CLASSES,
        base_lr=lr,
        precision="fp32",
        device=CPU,
        reactions=ReactionOptions(actions=actions, **options),
    )


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_weights_that_burst_are_taken_back_and_the_training_goes_on(num_ranks: int) -> None:
    burst = _STEPS_OF_EPOCH + 7
    lost = burst + 1  # the first step whose loss is of the burst weights
    models = [nn.Sequential(network(), _BurstLayer(burst)) for _ in range(num_ranks)]
    trackers = [ListTracker() for _ in range(num_ranks)]
    results = run_ranks(
        num_ranks,
        lambda ranks: train(models[ranks.rank], {"divergence": "roll_back"}, trackers[ranks.rank], ranks),
    )
    assert [result.steps for result in results] == [3 * _STEPS_OF_EPOCH] * num_ranks
    for model in models:
        assert all(bool(tensor.isfinite().all()) for tensor in model.parameters())
    rates = dict(trackers[0].metrics["step/learning_rate"])
    losses = trackers[0].values("train_loss")
    assert lost not in rates, "a step that was taken back is in no curve"
    assert (rates[burst], rates[lost + 1]) == pytest.approx((0.1, 0.05))
    assert len(losses) == 3
    assert losses[2] < losses[0]
    notes = {name: (step, text) for step, name, text in trackers[0].notes}
    step, text = notes["reaction_to_divergence"]
    assert step == lost
    assert "not finite" in text
    assert "The weights of the last good epoch are back" in text


def test_taking_back_is_exact_and_survives_a_checkpoint() -> None:
    model = network()
    optimizer = build_optimizer(model, "adam", lr=0.1)
    parts = {"model": model, "optimizer": NamedOptimizer(model, optimizer)}
    reactions = Reactions(ReactionOptions(actions={"divergence": "roll_back"}), parts)

    def steps(num: int) -> None:
        for _ in range(num):
            optimizer.zero_grad()
            torch.autograd.backward(model(IMAGES[:, :, :6, :6]).square().sum())
            optimizer.step()

    steps(3)
    kept = split_tensors({name: part.state_dict() for name, part in parts.items()})
    reactions.keep()
    steps(2)
    saved = join_tensors(*split_tensors(reactions.state_dict()))
    resumed = Reactions(ReactionOptions(actions={"divergence": "roll_back"}), parts)
    resumed.load_state_dict(saved)
    for each in (reactions, resumed):
        steps(1)
        assert "0.5 times" in each.roll_back()
        tensors, values = split_tensors({name: part.state_dict() for name, part in parts.items()})
        assert values == kept[1]
        assert all(torch.equal(tensor, kept[0][name]) for name, tensor in tensors.items())


def test_a_rate_that_is_too_large_is_found_or_the_training_ends() -> None:
    """At rate 40 the loss is finite and rises; a thousandth of it learns, a tenth of a tenth does not."""
    tracker = ListTracker()
    options: dict[str, Any] = {"lr": 40.0, "epochs": 4}
    [result] = run_ranks(
        1,
        lambda ranks: train(
            network(), {"divergence": "roll_back"}, tracker, ranks, rate_factor=1e-3, **options
        ),
    )
    assert result.epochs == 4
    assert tracker.values("train_loss")[-1] < 2.0
    with pytest.raises(ModelError, match=r"still diverges.*got 1 times.*max_roll_backs=1"):
        run_ranks(
            1,
            lambda ranks: train(
                *(network(), {"divergence": "roll_back"}, ListTracker(), ranks),
                rate_factor=0.9,
                max_roll_backs=1,
                **options,
            ),
        )
    with pytest.raises(ModelError, match="the training diverges"):
        run_ranks(1, lambda ranks: train(network(), {"divergence": "stop"}, ListTracker(), ranks, **options))


def test_weights_that_are_taken_back_after_the_last_step_are_those_that_are_evaluated() -> None:
    """One epoch at rate 40 diverges: what is left are the first weights, and their validation."""
    model, tracker = network(), ListTracker()
    [result] = run_ranks(
        1, lambda ranks: train(model, {"divergence": "roll_back"}, tracker, ranks, lr=40.0, epochs=1)
    )
    for tensor, first in zip(model.parameters(), network().parameters(), strict=True):
        assert torch.equal(tensor, first)
    assert result.validation is not None
    with torch.no_grad():
        expected = float(nn.functional.cross_entropy(model(IMAGES), LABELS))
    assert result.validation.loss == pytest.approx(expected, rel=1e-5)


def frozen_network() -> nn.Module:
    """It stays at the loss of a network that knows nothing."""
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model


@pytest.mark.parametrize(("action", "epochs"), [("lower_rate", 8), ("stop", 6)])
def test_a_plateau_lowers_the_rate_once_or_ends_the_training(action: Action, epochs: int) -> None:
    tracker = ListTracker()
    [result] = run_ranks(
        1,
        lambda ranks: train(
            frozen_network(), {"plateau": action}, tracker, ranks, lr=1e-9, epochs=8, rate_factor=0.25
        ),
    )
    assert result.epochs == epochs
    rates = tracker.values("step/learning_rate")
    num_full = 6 * _STEPS_OF_EPOCH
    assert rates == [1e-9] * num_full + [0.25e-9] * (len(rates) - num_full)
    [(step, text)] = [(step, text) for step, name, text in tracker.notes if name == "reaction_to_plateau"]
    assert step == num_full
    assert text.startswith("Because of plateau")


def test_advice_alone_changes_nothing() -> None:
    tracker = ListTracker()
    [result] = run_ranks(1, lambda ranks: train(frozen_network(), {}, tracker, ranks, lr=1e-9, epochs=8))
    assert result.epochs == 8
    names = {name for _, name, _ in tracker.notes}
    assert "plateau" in names
    assert not any(name.startswith("reaction") for name in names)
