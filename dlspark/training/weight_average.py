"""The moving average of the weights over the steps, which is often better than the last weights.

It follows w by a <- d*a + (1 - d)*w after each step, with d = min(decay, (1 + n)/(10 + n)) at step n, so
that the first weights are soon forgotten (as in TensorFlow's ExponentialMovingAverage). Buffers (running
statistics of batch normalisation) are averages already and stay the network's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

_NUM_UPDATES = "num_updates"


class WeightAverage:
    """The average of the trainable parameters of one network; equal on all ranks, as they are."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start at the network's weights at the first update.

        Args:
            model: on its device; the average is held there.
            decay: in (0, 1).
        """
        self._decay = decay
        self._parameters = {
            name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        self._averages: dict[str, torch.Tensor] = {}
        self._num_updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights after a step into the average."""
        if not self._averages:
            self._averages = {name: parameter.clone() for name, parameter in self._parameters.items()}
        self._num_updates += 1
        decay = min(self._decay, (1.0 + self._num_updates) / (10.0 + self._num_updates))
        for name, average in self._averages.items():
            average.lerp_(self._parameters[name], 1.0 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Give the network the averaged weights, and its own ones back at the end; no-op before an update."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the averages by parameter name, and the number of updates, int64 scalar."""
        return {**self._averages, _NUM_UPDATES: torch.tensor(self._num_updates)}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over what `state_dict` returned, on any device."""
        self._num_updates = int(state[_NUM_UPDATES])
        self._averages = {
            name: state[name].detach().to(parameter.device, copy=True)
            for name, parameter in self._parameters.items()
            if name in state
        }

    @torch.no_grad()
    def _swap(self) -> None:
        for name, average in self._averages.items():
            parameter = self._parameters[name]
            own = parameter.clone()
            parameter.copy_(average)
            average.copy_(own)
