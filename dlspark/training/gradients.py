"""One flat float32 buffer that holds all gradients, so that a step needs one all-reduce.

The gradient of each parameter is a view into the buffer: backward adds into it and the optimizer reads from
it, so nothing is copied, and a rank without rows contributes the zeros that are already there. Three places
at the end carry the loss sum, the correct rows and what the ranks ask for along. Cost: backward and
communication do not overlap; for networks of this size a flat all-reduce is a few per cent of the step.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from dlspark.contracts import Batch, Communicator
from dlspark.training.adasum import adasum
from dlspark.training.replicas import gather_rows

Compression = Literal["none", "fp16"]
Reduction = Literal["mean", "adasum"]


class GradientBuffer:
    """The gradients of a network and three sums, laid out as one tensor [P + 3].

    With compression fp16 the gradients go between the ranks in half precision: half the bytes, as with
    Horovod's `Compression.fp16`. What is cast is a rank's share of the mean over all rows (its loss has been
    divided by the rows of the global batch), so the sum is a mean and does not grow with the ranks. fp16 ends
    at 65,504 and at 6e-8, so a training multiplies the loss by `LossScale` then. A sum, whole or of some
    ranks, that is too large is infinite on every rank: the step is left out and the factor halved. What
    vanishes is below 1e-12, by the first factor. Each addition rounds to 11 bits, an error of 5e-4 of the sum
    so far; one rank alone rounds once. The three sums go in float32, in an all-reduce of their own. Cost: a
    second buffer of 2 bytes a gradient, and two copies a step.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        *,
        compression: Compression = "none",
        reduction: Reduction = "mean",
    ) -> None:
        """Point the gradients of all trainable parameters into a new buffer.

        Args:
            model: its parameters are contiguous float32 on `device`.
            device: where the buffer is made.
            compression: in what the gradients go between the ranks; none: float32.
            reduction: what becomes of them: the mean over all rows; or `adasum` of the ranks' own means, of
                which there are a power of two.
        """
        self.device = device
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._reduction = reduction
        self._sizes = [parameter.numel() for parameter in parameters]
        num_gradients = sum(self._sizes)
        self._flat = torch.zeros(num_gradients + 3, dtype=torch.float32, device=device)
        start = 0
        for parameter in parameters:
            end = start + parameter.numel()
            parameter.grad = self._flat[start:end].view_as(parameter)
            start = end
        self._totals = self._flat[num_gradients:]
        self.values = self._flat[:num_gradients]
        """All gradients as one tensor, float32 [P]."""
        self._sent = torch.zeros_like(self.values, dtype=torch.float16) if compression == "fp16" else None

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

    def num_rows_of_mean(self, batch: Batch) -> int:
        """Return by what a rank divides the sum of its losses: the rows of all ranks, for Adasum its own."""
        return batch.global_rows if self._reduction == "mean" else len(batch.labels)

    def all_reduce(self, communicator: Communicator) -> tuple[float, int, int]:
        """Reduce the gradients over the ranks, and sum the rest; return loss sum, correct rows and the asked.

        A collective: one all-reduce; two with compression; with Adasum two, and a broadcast, since the
        processors of hosts may round its sums differently.
        """
        if self._reduction == "mean" and self._sent is None:
            communicator.all_reduce_sum(self._flat)
        else:
            sent = self.values if self._sent is None else self._sent.copy_(self.values)
            if self._reduction == "mean":
                self.values.copy_(communicator.all_reduce_sum(sent))
            else:
                self.values.copy_(adasum(gather_rows(sent, communicator), self._sizes))
                communicator.broadcast(self.values)
            communicator.all_reduce_sum(self._totals)
        loss_sum, num_correct, asked = self._totals.tolist()
        return loss_sum, round(num_correct), round(asked)
