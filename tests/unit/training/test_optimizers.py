"""Optimizers: twenty steps of each against the papers' formulas in float64."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from dlspark.config import optimizer_sections as sections
from dlspark.config.schema import Config
from dlspark.errors import ModelError
from dlspark.models.build import build_model
from dlspark.recipe import base_lr_of, optimizer_of
from dlspark.training.muon import Muon, orthogonalize
from dlspark.training.optimizers import build_optimizer, momentum_schedule, set_rates

Array = npt.NDArray[np.float64]
Rule = Callable[[Array, list[Array], float], Array]
LR = 0.05
NUM_STEPS = 20
VARIANTS = get_args(get_args(sections.OptimizerConfig)[0])


def sgd(momentum: float = 0.0, nesterov: bool = False) -> Rule:
    """Polyak 1964; Sutskever et al. 2013; the velocity is not yet scaled by the rate, as in torch."""

    def rule(start: Array, gradients: list[Array], decay: float) -> Array:
        weight, velocity = start.copy(), np.zeros_like(start)
        for raw in gradients:
            gradient = raw + decay * weight
            velocity = momentum * velocity + gradient
            weight -= LR * (gradient + momentum * velocity if nesterov else velocity)
        return weight

    return rule


def adagrad(start: Array, gradients: list[Array], decay: float) -> Array:
    weight, total = start.copy(), np.zeros_like(start)
    for raw in gradients:
        gradient = raw + decay * weight
        total = total + gradient**2
        weight -= LR * gradient / (np.sqrt(total) + 1e-10)
    return weight


def rmsprop(start: Array, gradients: list[Array], decay: float) -> Array:
    weight, square = start.copy(), np.zeros_like(start)
    for raw in gradients:
        gradient = raw + decay * weight
        square = 0.9 * square + 0.1 * gradient**2
        weight -= LR * gradient / (np.sqrt(square) + 1e-8)
    return weight


def adadelta(start: Array, gradients: list[Array], decay: float) -> Array:
    weight, square, moved = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for raw in gradients:
        gradient = raw + decay * weight
        square = 0.95 * square + 0.05 * gradient**2
        update = np.sqrt(moved + 1e-6) / np.sqrt(square + 1e-6) * gradient
        moved = 0.95 * moved + 0.05 * update**2
        weight -= LR * update
    return weight


def adam(decoupled: bool = False, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> Rule:
    def rule(start: Array, gradients: list[Array], decay: float) -> Array:
        weight, first, second = start.copy(), np.zeros_like(start), np.zeros_like(start)
        for step, raw in enumerate(gradients, start=1):
            gradient = raw if decoupled else raw + decay * weight
            if decoupled:
                weight *= 1 - LR * decay
            first = betas[0] * first + (1 - betas[0]) * gradient
            second = betas[1] * second + (1 - betas[1]) * gradient**2
            mean, spread = first / (1 - betas[0] ** step), second / (1 - betas[1] ** step)
            weight -= LR * mean / (np.sqrt(spread) + eps)
        return weight

    return rule


def newton_schulz(matrix: Array) -> Array:
    if matrix.shape[0] > matrix.shape[1]:
        return newton_schulz(matrix.T).T
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


def muon(start: Array, gradients: list[Array], decay: float) -> Array:
    """Jordan et al. 2024, with the scale of the reference implementation."""
    weight, mean = start.copy(), np.zeros_like(start)
    for gradient in gradients:
        mean = 0.95 * mean + 0.05 * gradient
        update = newton_schulz((0.05 * gradient + 0.95 * mean).reshape(len(start), -1))
        weight *= 1 - LR * decay
        weight -= LR * max(1, update.shape[0] / update.shape[1]) ** 0.5 * update.reshape(start.shape)
    return weight


RULES: dict[str, Rule] = {
    "gd": sgd(),
    "sgd": sgd(),
    "momentum": sgd(0.9),
    "nesterov": sgd(0.9, nesterov=True),
    "adagrad": adagrad,
    "rmsprop": rmsprop,
    "adadelta": adadelta,
    "adam": adam(),
    "adamw": adam(decoupled=True),
    "muon": muon,
}


class Layers(nn.Module):
    """A convolution, and an output layer that Muon leaves to AdamW."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.tall = nn.Linear(2, 5)
        self.output = nn.Linear(3, 4)


def twenty_steps(layers: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, tuple[Array, list[Array]]]:
    """Make the steps with random gradients; return the start and the gradients of each parameter."""
    random = np.random.default_rng(0)
    drawn = {}
    with torch.no_grad():
        for name, parameter in layers.named_parameters():
            start = random.normal(size=parameter.shape)
            parameter.copy_(torch.from_numpy(start))
            drawn[name] = (start, [random.normal(size=parameter.shape) for _ in range(NUM_STEPS)])
    for step in range(NUM_STEPS):
        for name, parameter in layers.named_parameters():
            parameter.grad = torch.from_numpy(drawn[name][1][step]).float()
        optimizer.step()
    return drawn


@pytest.mark.parametrize("section", VARIANTS, ids=lambda section: section.model_fields["name"].default)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_twenty_steps_equal_the_formulas(section: type[sections.OptimizerSection], decay: float) -> None:
    torch.manual_seed(0)
    layers = Layers()
    own = {"adamw_lr": LR} if section is sections.MuonConfig else {}
    config = Config(optimizer=section(lr=LR, weight_decay=decay, **own))
    drawn = twenty_steps(layers, optimizer_of(config, layers))
    for name, parameter in layers.named_parameters():
        is_others = config.optimizer.name == "muon" and (parameter.ndim == 1 or name.startswith("output"))
        rule = adam(decoupled=True, betas=(0.9, 0.95), eps=1e-10) if is_others else RULES[section().name]
        expected = rule(*drawn[name], decay if parameter.ndim > 1 else 0.0)
        np.testing.assert_allclose(parameter.detach().numpy(), expected, atol=1e-5, err_msg=name)


def test_sgd_takes_momentum_and_nesterov() -> None:
    layers = nn.Linear(3, 4)
    drawn = twenty_steps(layers, build_optimizer(layers, "sgd", lr=LR, momentum=0.9, nesterov=True))
    expected = sgd(0.9, nesterov=True)(*drawn["weight"], 0.0)
    np.testing.assert_allclose(layers.weight.detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (16, 16)])
def test_orthogonalize_brings_singular_values_near_one(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    left, sizes, right = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    sizes = torch.linspace(1.0, 0.02, len(sizes))
    result = orthogonalize(left @ torch.diag(sizes) @ right, 5)
    ours = torch.diagonal(left.T @ result @ right.T)
    assert 0.6 < float(ours.min()) <= float(ours.max()) < 1.25
    torch.testing.assert_close(left @ torch.diag(ours) @ right, result, atol=1e-4, rtol=0.0)


def test_muon_leaves_the_output_layer_norms_and_biases_to_adamw() -> None:
    model = build_model("resnet18", channels=1, height=8, width=8, num_classes=2)
    optimizer = build_optimizer(model, "muon", lr=0.02, adamw_lr=0.001, weight_decay=0.1)
    assert isinstance(optimizer, Muon)
    hidden, output, others = optimizer.param_groups
    assert {parameter.ndim for parameter in hidden["params"]} == {4}
    assert [id(parameter) for parameter in output["params"]] == [id(model.fc.weight)]
    assert {parameter.ndim for parameter in others["params"]} == {1}
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.1, 0.0]
    set_rates(optimizer, lr=0.01, momentum=0.5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.0005, 0.0005])


def test_the_state_of_muon_survives_a_round_trip() -> None:
    torch.manual_seed(0)
    first, second = Layers(), Layers()
    second.load_state_dict(first.state_dict())
    ours, theirs = (build_optimizer(layers, "muon", lr=LR) for layers in (first, second))
    twenty_steps(first, ours)
    second.load_state_dict(first.state_dict())
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    for layers, optimizer in ((first, ours), (second, theirs)):
        for parameter in layers.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    for mine, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_weight_decay_leaves_out_biases_and_norms_unless_asked() -> None:
    model = build_model("resnet18", channels=1, height=8, width=8, num_classes=2)
    decayed, others = build_optimizer(model, "sgd", lr=0.1, weight_decay=1e-4).param_groups
    assert decayed["weight_decay"] == 1e-4
    assert others["weight_decay"] == 0.0
    weights = [layer.weight for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert {id(tensor) for tensor in decayed["params"]} == {id(tensor) for tensor in weights}
    assert len(decayed["params"]) + len(others["params"]) == len(list(model.parameters()))
    asked = build_optimizer(model, "sgd", lr=0.1, weight_decay=1e-4, decay_norms_and_biases=True)
    assert [group["weight_decay"] for group in asked.param_groups] == [1e-4, 1e-4]


@pytest.mark.parametrize("section", VARIANTS, ids=lambda section: section.model_fields["name"].default)
def test_all_keys_of_the_configuration_are_taken(section: type[sections.OptimizerSection]) -> None:
    config = Config(optimizer=section())
    optimizer = optimizer_of(config, nn.Linear(2, 2))
    values = config.optimizer.model_dump()
    taken = set(values) - {"name", "weight_decay", "decay_norms_and_biases", "adamw_lr", "lr_scaling"}
    for key in taken - {"momentum_start", "momentum_epochs"}:
        assert optimizer.defaults[key] == values[key]


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("momentum", lambda group: group["momentum"]),
        ("muon", lambda group: group["momentum"]),
        ("adam", lambda group: group["betas"][0]),
        ("adamw", lambda group: group["betas"][0]),
    ],
)
def test_the_momentum_of_a_step_is_set(name: str, read: Callable[[dict[str, Any]], float]) -> None:
    optimizer = build_optimizer(Layers(), name, lr=0.1)
    set_rates(optimizer, lr=0.2)
    assert {read(group) for group in optimizer.param_groups} <= {0.9, 0.95}
    set_rates(optimizer, lr=0.2, momentum=0.6)
    assert {read(group) for group in optimizer.param_groups} == {0.6}
    assert {group["lr"] for group in optimizer.param_groups} == {0.2}
    if "adam" in name:
        assert optimizer.param_groups[0]["betas"] == (0.6, 0.999)


def test_momentum_rises_in_a_line_and_is_held() -> None:
    momentum = momentum_schedule(0.5, 0.99, epochs=500, steps_per_epoch=2)  # Hinton et al. 2012
    assert [momentum(step) for step in (0, 500, 1000, 6000)] == pytest.approx([0.5, 0.745, 0.99, 0.99])


@pytest.mark.parametrize(("scaling", "factor"), [("none", 1.0), ("linear", 4.0), ("sqrt", 2.0)])
def test_the_rate_is_scaled_with_the_workers_only_if_asked_and_logged(
    scaling: Any, factor: float, caplog: pytest.LogCaptureFixture
) -> None:
    config = Config(optimizer=sections.SgdConfig(lr=0.1, lr_scaling=scaling))
    with caplog.at_level(logging.INFO):
        assert math.isclose(base_lr_of(config, 4), 0.1 * factor)
    assert ("instead of optimizer.lr=0.1, for 4 ranks" in caplog.text) == (scaling != "none")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ModelError, match=r"got 'lion'; allowed: gd, sgd, momentum"):
        build_optimizer(nn.Linear(2, 2), "lion", lr=0.1)
    with pytest.raises(ModelError, match="got momentum; in optimizer"):
        build_optimizer(nn.Linear(2, 2), "adam", lr=0.1, momentum=0.9)
