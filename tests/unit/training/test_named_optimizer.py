"""The state of an optimizer goes by the names of the parameters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from dlspark.errors import ModelError
from dlspark.training.named_optimizer import NamedOptimizer
from dlspark.training.optimizers import build_optimizer


def _stepped(build: Callable[[], nn.Module]) -> tuple[nn.Module, torch.optim.Optimizer]:
    network = build()
    optimizer = build_optimizer(network, "adam", lr=0.1)
    network(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return network, optimizer


def test_the_state_of_an_optimizer_goes_by_names() -> None:
    network, optimizer = _stepped(lambda: nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)))
    state = NamedOptimizer(network, optimizer).state_dict()
    assert set(state["state"]) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    other, others = _stepped(lambda: nn.Sequential(nn.Linear(3, 3), nn.Identity(), nn.Linear(3, 3)))
    with pytest.raises(ModelError, match="other parameters"):
        NamedOptimizer(other, others).load_state_dict(state)
