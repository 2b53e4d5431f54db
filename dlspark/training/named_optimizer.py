"""The state of an optimizer by the names of the parameters.

torch numbers the parameters in the order of the groups, so its own state dictionary fits the wrong parameters
in silence once that order changes. By name, a change is an error.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dlspark.errors import ModelError


class NamedOptimizer:
    """An optimizer as a part of a training's state: tensors and plain JSON values."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Bind to an optimizer of parameters of `model`."""
        self._optimizer = optimizer
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._names = [
            names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return {"state": {parameter: {key: value}}, "groups": [options, "params": names]}."""
        raw = self._optimizer.state_dict()
        groups = [
            {**group, "params": [self._names[index] for index in group["params"]]}
            for group in raw["param_groups"]
        ]
        return {
            "state": {self._names[index]: dict(values) for index, values in raw["state"].items()},
            "groups": groups,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state; tensors go to the device of their parameter.

        Raises:
            ModelError: it is of other parameters, or of other groups of them.
        """
        raw = self._optimizer.state_dict()
        mine = [[self._names[index] for index in group["params"]] for group in raw["param_groups"]]
        theirs = [group["params"] for group in state["groups"]]
        if mine != theirs:
            raise ModelError(
                "the state of the optimizer is of other parameters than the network has",
                got=theirs,
                allowed=mine,
                fix="resume with the network and the optimizer that the run was started with",
            )
        groups = [
            {name: _like(group[name], saved[name]) for name in group if name in saved and name != "params"}
            | {"params": group["params"]}
            for group, saved in zip(raw["param_groups"], state["groups"], strict=True)
        ]
        places = {name: index for index, name in enumerate(self._names)}
        by_index = {places[name]: values for name, values in state["state"].items()}
        self._optimizer.load_state_dict({"state": by_index, "param_groups": groups})


def _like(present: Any, saved: Any) -> Any:
    """Return a saved option in the type that torch uses: JSON knows no tuples (Adam's betas)."""
    return tuple(saved) if isinstance(present, tuple) else saved
