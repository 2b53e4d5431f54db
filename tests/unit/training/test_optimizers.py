"""Optimizers: their first steps against the papers' formulas in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from dlspark.config import train_sections as sections
from dlspark.errors import ModelError
from dlspark.models.build import build_model
from dlspark.training.optimizers import build_optimizer

Array = npt.NDArray[np.float64]
Rule = Callable[[Array, list[Array], float], Array]
LR = 0.05


def sgd(momentum: float, nesterov: bool) -> Rule:
    def rule(start: Array, gradients: list[Array], decay: float) -> Array:
        weight, velocity = start.copy(), np.zeros_like(start)
        for raw in gradients:
            gradient = raw + decay * weight
            velocity = momentum * velocity + gradient
            weight -= LR * (gradient + momentum * velocity if nesterov else velocity)
        return weight

    return rule


def adam(decoupled: bool) -> Rule:
    def rule(start: Array, gradients: list[Array], decay: float) -> Array:
        weight, first, second = start.copy(), np.zeros_like(start), np.zeros_like(start)
        for step, raw in enumerate(gradients, start=1):
            gradient = raw if decoupled else raw + decay * weight
            if decoupled:
                weight *= 1 - LR * decay
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            mean, spread = first / (1 - 0.9**step), second / (1 - 0.999**step)
            weight -= LR * mean / (np.sqrt(spread) + 1e-8)
        return weight

    return rule


@pytest.mark.parametrize(
    ("name", "options", "rule"),
    [
        ("sgd", {}, sgd(0.0, nesterov=False)),
        ("sgd", {"momentum": 0.9}, sgd(0.9, nesterov=False)),
        ("sgd", {"momentum": 0.9, "nesterov": True}, sgd(0.9, nesterov=True)),
        ("adam", {"betas": (0.9, 0.999), "eps": 1e-8}, adam(decoupled=False)),
        ("adamw", {}, adam(decoupled=True)),
    ],
)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_first_steps_equal_the_formulas(name: str, options: dict[str, Any], rule: Rule, decay: float) -> None:
    random = np.random.default_rng(0)
    layer = nn.Linear(3, 4)
    starts = {"weight": random.normal(size=(4, 3)), "bias": random.normal(size=4)}
    gradients = {key: [random.normal(size=start.shape) for _ in range(3)] for key, start in starts.items()}
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(starts["weight"]))
        layer.bias.copy_(torch.from_numpy(starts["bias"]))
    optimizer = build_optimizer(layer, name, lr=LR, weight_decay=decay, **options)
    for step in range(3):
        layer.weight.grad = torch.from_numpy(gradients["weight"][step]).float()
        layer.bias.grad = torch.from_numpy(gradients["bias"][step]).float()
        optimizer.step()
    weight = rule(starts["weight"], gradients["weight"], decay)
    bias = rule(starts["bias"], gradients["bias"], 0.0)  # no weight decay on biases
    np.testing.assert_allclose(layer.weight.detach().numpy(), weight, atol=2e-6)
    np.testing.assert_allclose(layer.bias.detach().numpy(), bias, atol=2e-6)


def test_weight_decay_leaves_out_biases_and_norms() -> None:
    model = build_model("resnet18", channels=1, height=8, width=8, num_classes=2)
    decayed, others = build_optimizer(model, "sgd", lr=0.1, weight_decay=1e-4).param_groups
    assert decayed["weight_decay"] == 1e-4
    assert others["weight_decay"] == 0.0
    weights = [layer.weight for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert {id(tensor) for tensor in decayed["params"]} == {id(tensor) for tensor in weights}
    assert len(decayed["params"]) + len(others["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize(
    "config", [sections.SgdConfig(), sections.AdamConfig(), sections.AdamConfig(name="adamw")]
)
def test_all_keys_of_the_configuration_are_taken(config: sections.SgdConfig | sections.AdamConfig) -> None:
    values = config.model_dump()
    optimizer = build_optimizer(nn.Linear(2, 2), values.pop("name"), **values)
    for key in set(values) - {"weight_decay"}:
        assert optimizer.defaults[key] == values[key]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ModelError, match=r"got 'lion'; allowed: sgd, adam, adamw"):
        build_optimizer(nn.Linear(2, 2), "lion", lr=0.1)
    with pytest.raises(ModelError, match="got momentum; in optimizer"):
        build_optimizer(nn.Linear(2, 2), "adam", lr=0.1, momentum=0.9)
