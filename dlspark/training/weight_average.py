"""The moving average of the weights over the steps, which is often better than the last weights.

It follows w by a <- d*a + (1 - d)*w after each step, with d = min(decay, (1 + n)/(10 + n)) at step n, so
that the first weights are soon forgotten (as in TensorFlow's ExponentialMovingAverage). The running
statistics of batch normalisation are averaged in the same way (as in timm's ModelEma): those of the last
weights belong to other activations, and with them the averaged weights can be as bad as chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

_NUM_UPDATES = "num_updates"


class WeightAverage:
    """The average of the trainable parameters and of the running statistics of one network.

    The parameters are equal on all ranks, as those of the network are. The statistics are, like the network's
    own, those of a rank's rows, until somebody averages `statistics` over the ranks.
    """

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
        self._buffers = {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}
        self.statistics = {name: buffer.clone() for name, buffer in self._buffers.items()}
        """By the name of the buffer; always the same tensors, whose values change."""
        self._num_updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights after a step into the average."""
        if not self._averages:
            self._averages = {name: parameter.clone() for name, parameter in self._parameters.items()}
            for name, average in self.statistics.items():
                average.copy_(self._buffers[name])
        self._num_updates += 1
        decay = min(self._decay, (1.0 + self._num_updates) / (10.0 + self._num_updates))
        for name, average in self._averages.items():
            average.lerp_(self._parameters[name], 1.0 - decay)
        for name, average in self.statistics.items():
            average.lerp_(self._buffers[name], 1.0 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Give the network the averages, and what it had back at the end; no-op before an update."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the averages by name of parameter or buffer, and the number of updates, int64 scalar."""
        return {**self._averages, **self.statistics, _NUM_UPDATES: torch.tensor(self._num_updates)}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over what `state_dict` returned, on any device."""
        self._num_updates = int(state[_NUM_UPDATES])
        self._averages = {
            name: state[name].detach().to(parameter.device, copy=True)
            for name, parameter in self._parameters.items()
            if name in state
        }
        with torch.no_grad():
            for name, average in self.statistics.items():
                average.copy_(state[name])

    @torch.no_grad()
    def _swap(self) -> None:
        if not self._num_updates:
            return
        held_by_name = {**self._parameters, **self._buffers}
        for name, average in {**self._averages, **self.statistics}.items():
            held = held_by_name[name]
            own = held.clone()
            held.copy_(average)
            average.copy_(own)
