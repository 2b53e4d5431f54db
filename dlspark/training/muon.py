"""Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon): momentum whose update is made orthogonal.

The update of a weight matrix is replaced by the nearest matrix whose singular values are about 1, found by
five Newton-Schulz iterations, so that rare directions are learned as fast as frequent ones. The filters of a
convolution are the rows of a matrix. torch.optim.Muon takes no convolutions and iterates in bf16, whose
rounding would show the number of ranks in the result; here it is fp32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic polynomial, chosen by Jordan for the steepest slope at 0."""
_ADAMW_BETAS, _ADAMW_EPS = (0.9, 0.95), 1e-10
"""Those of the reference implementation for the parameters that are not Muon's."""


def split_for_muon(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the parameters for Muon, and the others: biases, norms and the weights of the output layer.

    The output layer is taken to be the last weight with more than one axis in the network's own order.
    """
    *hidden, output = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    return hidden, [output, *(parameter for parameter in model.parameters() if parameter.ndim <= 1)]


def orthogonalize(matrix: torch.Tensor, num_steps: int) -> torch.Tensor:
    """Return about U V^T of a matrix U S V^T, its singular values between about 0.7 and 1.2.

    Args:
        matrix: float32 [m, n].
        num_steps: iterations; five bring singular values above 0.01 of the largest into the range.
    """
    a, b, c = _COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    result: torch.Tensor = matrix.T if is_tall else matrix
    result = result / (result.norm() + 1e-7)
    for _ in range(num_steps):
        gram = result @ result.T
        result = a * result + (b * gram + c * gram @ gram) @ result
    return result.T if is_tall else result


class Muon(torch.optim.Optimizer):
    """Muon for weights, AdamW for the groups with `use_adamw`."""

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        *,
        lr: float = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        newton_schulz_steps: int = 5,
        weight_decay: float = 0.0,
    ) -> None:
        """Set up.

        Args:
            params: parameter groups; those of Muon hold tensors with two axes or more only.
            lr: learning rate; an update has about the root of the layer's shorter side as its length.
            momentum: of the mean of gradients, in (0, 1).
            nesterov: look ahead by the momentum.
            newton_schulz_steps: see `orthogonalize`.
            weight_decay: decoupled, for both kinds of group.
        """
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "newton_schulz_steps": newton_schulz_steps,
            "weight_decay": weight_decay,
            "use_adamw": False,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Make one step; `closure` is there for torch's interface and not called."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                    update = self._adamw_update if group["use_adamw"] else self._muon_update
                    parameter.sub_(update(parameter, group), alpha=group["lr"])

    def _muon_update(self, parameter: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None  # noqa: S101 - the caller has looked
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        mean: torch.Tensor = state["momentum_buffer"].lerp_(gradient, 1.0 - group["momentum"])
        update = gradient.lerp(mean, group["momentum"]) if group["nesterov"] else mean
        matrix = orthogonalize(update.flatten(1), group["newton_schulz_steps"])
        num_rows, num_columns = matrix.shape
        return matrix.view_as(update) * math.sqrt(max(1.0, num_rows / num_columns))

    def _adamw_update(self, parameter: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None  # noqa: S101 - the caller has looked
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1.0
        first, second = _ADAMW_BETAS
        mean: torch.Tensor = state["exp_avg"].lerp_(gradient, 1.0 - first)
        square: torch.Tensor = state["exp_avg_sq"].lerp_(gradient.square(), 1.0 - second)
        num_steps = int(state["step"])
        first_share, second_share = 1.0 - math.pow(first, num_steps), 1.0 - math.pow(second, num_steps)
        return mean / first_share / ((square / second_share).sqrt() + _ADAMW_EPS)
