"""Frozen layers stay as they are to the bit, and rates fall with the distance from the head."""

from __future__ import annotations

import copy
from typing import Any, Literal

import pytest
import torch
from torch import nn

from dlspark.errors import ModelError
from dlspark.models.batch_norm import BatchNorm1d, BatchNorm2d
from dlspark.models.build import build_model
from dlspark.training.checkpoint_writer import SilentCheckpoints
from dlspark.training.diagnostics import DiagnosticsOptions
from dlspark.training.frozen import freeze, lr_factors, train_mode
from dlspark.training.gradients import GradientBuffer
from dlspark.training.named_optimizer import NamedOptimizer
from dlspark.training.optimizers import build_optimizer, set_rates
from dlspark.training.step import StepOptions
from dlspark.training.trainer import fit
from dlspark.training.weight_average import WeightAverage
from tests.unit.training.doubles import ListTracker, MemorySource, ThreadCommunicator, random_rows, run_ranks

CPU = torch.device("cpu")
IMAGES, LABELS = random_rows(46, num_classes=4, size=6)
DECAY = {"weight_decay": 0.1, "decay_norms_and_biases": True}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.05, "momentum": 0.9, **DECAY},
    "adamw": {"lr": 0.01, **DECAY},
    "rmsprop": {"lr": 0.01, **DECAY},
    "muon": {"lr": 0.02, "adamw_lr": 0.01, **DECAY},
}


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten()),
        *(nn.Linear(64, 8), BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 4)),
    )


def train(
    optimizer: str,
    *,
    trainable: Literal["all", "head"] | int,
    num_ranks: int = 1,
    depth_decay: float = 1.0,
    **options: Any,
) -> tuple[nn.Module, ListTracker]:
    models = [network() for _ in range(num_ranks)]
    tracker = ListTracker()

    def on_rank(communicator: ThreadCommunicator) -> None:
        model, rank = models[communicator.rank], communicator.rank
        freeze(model, trainable)
        owners = [0, *range(num_ranks)]  # rank 0 has more rows than the others
        source = MemorySource(IMAGES, LABELS, global_batch_size=20, rank=rank, owners=owners, seed=1)
        fit(
            model,
            build_optimizer(model, optimizer, depth_decay=depth_decay, **OPTIMIZERS[optimizer]),
            lambda step: 1.0,
            source,
            source,
            communicator,
            tracker if rank == 0 else ListTracker(),
            SilentCheckpoints(lambda: False),
            epochs=3,
            num_classes=4,
            base_lr=OPTIMIZERS[optimizer]["lr"],
            precision="fp32",
            device=CPU,
            options=StepOptions(**options),
            average=WeightAverage(model, 0.9),
            diagnostics=DiagnosticsOptions(every_steps=1),
        )

    run_ranks(num_ranks, on_rank)
    return models[0], tracker


def changed(model: nn.Module) -> set[str]:
    """The layers of which a tensor is not, to the bit, what it was."""
    before = network().state_dict()
    return {
        name.partition(".")[0]
        for name, tensor in model.state_dict().items()
        if not torch.equal(tensor, before[name])
    }


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("num_ranks", [1, 3])
def test_what_is_frozen_stays_to_the_bit_with_its_statistics(optimizer: str, num_ranks: int) -> None:
    bounds = {"l1": 0.01, "clip_norm": 1.0, "max_squared_norm": 0.1}
    model, tracker = train(optimizer, trainable="head", num_ranks=num_ranks, **bounds)
    assert changed(model) == {"9"}
    assert changed(train(optimizer, trainable=2, num_ranks=num_ranks, **bounds)[0]) == {"5", "6", "9"}
    layers = {name.split("/")[1] for name in tracker.metrics if name.endswith("/update_ratio")}
    assert layers == {"9"}


def test_all_layers_change_where_nothing_is_frozen() -> None:
    assert changed(train("sgd", trainable="all")[0]) == {"0", "1", "5", "6", "9"}
    assert changed(train("sgd", trainable=3)[0]) == {"0", "1", "5", "6", "9"}


def test_frozen_layers_have_no_place_in_the_all_reduce_nor_in_the_optimizer() -> None:
    model = network()
    assert freeze(model, "head") == 4 * 9 + 4 + 8 + 64 * 8 + 8 + 16
    assert len(GradientBuffer(model, CPU).values) == 8 * 4 + 4
    assert all(parameter.grad is None for parameter in model[:9].parameters())
    optimizer = build_optimizer(model, "adam", lr=0.1)
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 1]


def test_dropout_is_off_between_frozen_layers_and_on_before_the_head() -> None:
    model = network()
    freeze(model, "head")
    model.eval()
    train_mode(model)
    assert [module.training for module in model] == [False] * 7 + [True] * 3
    assert model.training
    plain = network().eval()
    train_mode(plain)
    assert all(module.training for module in plain.modules())


def test_inside_a_frozen_block_all_is_in_evaluation_mode() -> None:
    shape = {"channels": 1, "height": 32, "width": 32, "num_classes": 4}
    model = build_model("torchvision", **shape, architecture="efficientnet_b0")
    freeze(model, "head")
    train_mode(model)
    assert not any(module.training for module in model.features.modules())
    assert [module.training for module in model.classifier] == [True, True]  # dropout and head


def test_more_blocks_than_there_are_is_an_error() -> None:
    with pytest.raises(
        ModelError, match=r"got 4; allowed: 1 to 3, from the input: 0, 5, 9; in transfer\.train"
    ):
        freeze(network(), 4)


def three_layers() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def test_the_rate_of_a_layer_is_exactly_that_of_its_depth() -> None:
    model, before = three_layers(), three_layers()
    optimizer = build_optimizer(model, "sgd", lr=1.0, depth_decay=0.5)
    for rate in (0.4, 0.2):
        start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        loss = model(torch.ones(1, 3, dtype=torch.float64)).square().sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        set_rates(optimizer, lr=rate)
        optimizer.step()
        for name, parameter in model.named_parameters():
            factor = {"0": 0.25, "2": 0.5, "4": 1.0}[name.partition(".")[0]]
            expected = start[name] - rate * factor * parameter.grad
            torch.testing.assert_close(parameter.detach(), expected, rtol=1e-14, atol=0.0)
    assert lr_factors(before, 1.0) == {name: 1.0 for name, _ in before.named_parameters()}


def test_depth_and_weight_decay_and_the_rate_of_the_other_half_of_muon_multiply() -> None:
    model = three_layers()
    optimizer = build_optimizer(model, "muon", lr=0.1, adamw_lr=0.05, weight_decay=0.01, depth_decay=0.5)
    set_rates(optimizer, lr=0.2)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert found == {
        "2.weight": (0.1, 0.01),
        "0.weight": (0.05, 0.01),
        "4.weight": (0.1, 0.01),
        "4.bias": (0.1, 0.0),
        "2.bias": (0.05, 0.0),
        "0.bias": (0.025, 0.0),
    }


def test_the_rates_survive_a_resume() -> None:
    first, second = three_layers(), three_layers()
    ours, theirs = (
        build_optimizer(model, "adam", lr=0.1, depth_decay=0.5, betas=(0.9, 0.99))
        for model in (first, second)
    )
    inputs = torch.ones(1, 3, dtype=torch.float64)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, lr: float) -> None:
        optimizer.zero_grad()
        torch.autograd.backward(model(inputs).square().sum())
        set_rates(optimizer, lr=lr)
        optimizer.step()

    step(first, ours, 0.1)
    second.load_state_dict(first.state_dict())
    NamedOptimizer(second, theirs).load_state_dict(copy.deepcopy(NamedOptimizer(first, ours).state_dict()))
    for model, optimizer in ((first, ours), (second, theirs)):
        step(model, optimizer, 0.03)
        assert sorted(group["lr"] for group in optimizer.param_groups) == pytest.approx(
            [0.0075, 0.0075, 0.015, 0.015, 0.03, 0.03]
        )
    for mine, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(mine, other)
