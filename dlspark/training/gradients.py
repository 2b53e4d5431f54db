"""One flat float32 buffer that holds all gradients, so that a step needs one all-reduce.

The gradient of each parameter is a view into the buffer: backward adds into it and the optimizer reads from
it, so nothing is copied, and a rank without rows contributes the zeros that are already there. Three places
at the end carry the loss sum, the correct rows and what the ranks ask for along. Cost: backward and
communication do not overlap; for networks of this size a flat all-reduce is a few per cent of the step.
"""

from __future__ import annotations

import torch
from torch import nn

from dlspark.contracts import Communicator


class GradientBuffer:
    """The gradients of a network and three sums, laid out as one tensor [P + 3]."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        """Point the gradients of all trainable parameters into a new buffer.

        Args:
            model: its parameters are contiguous float32 on `device`.
            device: where the buffer is made.
        """
        self.device = device
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        num_gradients = sum(parameter.numel() for parameter in parameters)
        self._flat = torch.zeros(num_gradients + 3, dtype=torch.float32, device=device)
        start = 0
        for parameter in parameters:
            end = start + parameter.numel()
            parameter.grad = self._flat[start:end].view_as(parameter)
            start = end
        self._totals = self._flat[num_gradients:]
        self.values = self._flat[:num_gradients]
        """All gradients as one tensor, float32 [P]."""

    def clear(self) -> None:
        """Set all gradients and sums to 0; in place of `optimizer.zero_grad`, which would drop the views."""
        self._flat.zero_()

    def add_totals(self, loss_sum: torch.Tensor, num_correct: torch.Tensor) -> None:
        """Add to this rank's loss sum and correct rows (scalars) behind the gradients."""
        self._totals[0] += loss_sum.detach()
        self._totals[1] += num_correct

    def put_ask(self, ask: int) -> None:
        """Put what this rank asks for at the end of the step; see `dlspark.training.stopping`."""
        self._totals[2] = ask

    def all_reduce_sum(self, communicator: Communicator) -> tuple[float, int, int]:
        """Replace all by its sum over ranks; return loss sum, correct rows and what was asked for."""
        communicator.all_reduce_sum(self._flat)
        loss_sum, num_correct, asked = self._totals.tolist()
        return loss_sum, round(num_correct), round(asked)
