"""What the layers of a network do in one step: activations, gradients, updates, summed over all ranks.

Hooks are set for the measured step alone and taken off after it, so that the other steps pay nothing. A unit
is a channel of a convolution or an output of a dense layer. Per unit only sums and counts are kept, float64
[U], which add up over batches and ranks; one all-reduce of the measured step joins them. Which layers there
are is found by one image of zeros in evaluation mode, since a rank may have no rows in that step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dlspark.contracts import Communicator
from dlspark.models.layers import Maxout
from dlspark.models.spread import SATURATION_LIMITS

_RECTIFIERS = (nn.ReLU, nn.ReLU6)
_ACTIVATIONS: tuple[type[nn.Module], ...] = (
    *_RECTIFIERS,
    *SATURATION_LIMITS,
    *(nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Mish, Maxout),
)
_NUM_ROWS_OF_SUMS = 4
_NUM_MAP_DIMENSIONS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class ActivationLayer:
    """One use of an activation in the forward pass; a module that is used n times has n of them."""

    name: str
    """As in the state dict; later uses have :2, :3 behind it."""
    num_units: int
    rectifies: bool
    """Its units can be dead: 0 is the value of a unit that is off."""
    saturates: bool
    """Its units have a range with ends."""


@contextmanager
def hooked(model: nn.Module, layers: list[tuple[str, nn.Module]], seen: Any) -> Iterator[None]:
    """Call `seen(name, layer, output)` after each forward pass of a layer, during the block."""

    def hook(name: str) -> Any:
        return lambda layer, inputs, output: seen(name, layer, output)

    with ExitStack() as stack:
        for name, layer in layers:
            stack.callback(layer.register_forward_hook(hook(name)).remove)
        yield


class ActivationProbe:
    """Sums over the units of all activation layers; equal on all ranks after `join`."""

    def __init__(self, model: nn.Module, image_shape: tuple[int, ...], device: torch.device) -> None:
        """Find the activation layers of a network.

        Args:
            model: [b, C, H, W] -> [b, K], on `device`; it is left as it was.
            image_shape: (C, H, W).
            device: where the network is.
        """
        self._model = model
        self._modules = [
            (name, layer) for name, layer in model.named_modules() if isinstance(layer, _ACTIVATIONS)
        ]
        self._uses: dict[str, list[int]] = {}
        self.layers: list[ActivationLayer] = []
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            with torch.no_grad(), hooked(model, self._modules, self._add_layer):
                model(torch.zeros(1, *image_shape, device=device))
        finally:
            for module, training in modes:
                module.training = training
        num_units = sum(layer.num_units for layer in self.layers)
        self._starts = [0]
        for layer in self.layers:
            self._starts.append(self._starts[-1] + layer.num_units)
        # Rows: sum, sum of squares, active values, saturated values of each unit. Last: values and rows.
        self._sums = torch.zeros(_NUM_ROWS_OF_SUMS, num_units, dtype=torch.float64, device=device)
        self._counts = torch.zeros(len(self.layers) + 1, dtype=torch.float64, device=device)
        self._calls: dict[str, int] = {}

    @contextmanager
    def watching(self, num_rows: int) -> Iterator[None]:
        """Add up the activations of the forward passes in the block, of `num_rows` rows of this rank."""
        self._sums.zero_()
        self._counts.zero_()
        self._calls.clear()
        self._counts[-1] = num_rows
        with hooked(self._model, self._modules, self._add):
            yield

    def join(self, communicator: Communicator) -> UnitSums:
        """Return the sums over all ranks. A collective: one all-reduce."""
        flat = torch.cat([self._sums.flatten(), self._counts])
        communicator.all_reduce_sum(flat)
        flat = flat.cpu()
        return UnitSums(
            sums=flat[: self._sums.numel()].view_as(self._sums),
            counts=flat[self._sums.numel() :],
        )

    def _add_layer(self, name: str, layer: nn.Module, output: torch.Tensor) -> None:
        uses = self._uses.setdefault(name, [])
        uses.append(len(self.layers))
        self.layers.append(
            ActivationLayer(
                name=name if len(uses) == 1 else f"{name}:{len(uses)}",
                num_units=output.shape[_unit_dimension(output)],
                rectifies=isinstance(layer, _RECTIFIERS),
                saturates=type(layer) in SATURATION_LIMITS,
            )
        )

    @torch.no_grad()
    def _add(self, name: str, layer: nn.Module, output: torch.Tensor) -> None:
        call = self._calls.get(name, 0)
        self._calls[name] = call + 1
        # With accumulation a step makes several forward passes.
        index = self._uses[name][call % len(self._uses[name])]
        if not output.numel():  # layers that talk to other ranks are passed also without rows
            return
        unit = _unit_dimension(output)
        values = output.detach().float()
        others = [dimension for dimension in range(values.ndim) if dimension != unit]
        num_values = values.numel() // values.shape[unit]
        # Two passes are as exact as torch.var_mean, which takes six times as long with channels last.
        mean = values.mean(dim=others, keepdim=True)
        deviation = (values - mean).square_().sum(dim=others).double()
        mean = mean.flatten().double()
        sums = self._sums[:, self._starts[index] : self._starts[index + 1]]
        sums[0] += mean * num_values
        sums[1] += deviation + mean**2 * num_values
        if self.layers[index].rectifies:
            sums[2] += values.amax(dim=others) > 0
        if self.layers[index].saturates:
            low, high = SATURATION_LIMITS[type(layer)]
            sums[3] += ((values < low) | (values > high)).sum(dim=others)
        self._counts[index] += num_values


@dataclass(kw_only=True, slots=True)
class UnitSums:
    """Sums over the units of all activation layers, U in all, and over the rows of one or more steps."""

    sums: torch.Tensor
    """float64 [4, U]: values, their squares, passes with a value above 0, saturated values."""
    counts: torch.Tensor
    """float64 [layers + 1]: values of each unit of the layer; at the end the rows."""

    @property
    def num_rows(self) -> int:
        """Rows over all ranks."""
        return int(self.counts[-1])

    def add(self, other: UnitSums) -> None:
        """Take in the sums of another step."""
        self.sums += other.sums
        self.counts += other.counts

    def spread(self, layers: list[ActivationLayer]) -> dict[str, tuple[float, float]]:
        """Return mean and standard deviation over all values of each layer."""
        found = {}
        for layer, values, sums in self._of_layers(layers):
            mean, square = (sums[row].sum() / (values * layer.num_units) for row in (0, 1))
            found[layer.name] = (float(mean), float((square - mean**2).clamp(min=0.0).sqrt()))
        return found

    def dead(self, layers: list[ActivationLayer]) -> dict[str, tuple[int, int]]:
        """Return of each layer of rectifiers the units without any value above 0, and all units."""
        return {
            layer.name: (int((sums[2] == 0).sum()), layer.num_units)
            for layer, _, sums in self._of_layers(layers)
            if layer.rectifies
        }

    def saturated(self, layers: list[ActivationLayer], share: float = 0.95) -> dict[str, tuple[int, int]]:
        """Return of each layer with a range the units with at least `share` values at its ends, and all."""
        return {
            layer.name: (int((sums[3] >= share * values).sum()), layer.num_units)
            for layer, values, sums in self._of_layers(layers)
            if layer.saturates
        }

    def _of_layers(
        self, layers: list[ActivationLayer]
    ) -> Iterator[tuple[ActivationLayer, torch.Tensor, torch.Tensor]]:
        parts = torch.split(self.sums, [layer.num_units for layer in layers], dim=1)
        return zip(layers, self.counts[:-1], parts, strict=True)


class WeightProbe:
    """Gradient norms and update-to-weight ratios of the weight layers in one step; equal on all ranks."""

    def __init__(self, model: nn.Module) -> None:
        """Find the weights: trainable parameters with two dimensions or more."""
        named = [
            (name.removesuffix(".weight"), parameter)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and parameter.ndim > 1
        ]
        self._names = [name for name, _ in named]
        self._weights: list[torch.Tensor] = [parameter for _, parameter in named]
        self._before: list[torch.Tensor] = []
        self._gradient_norms: list[torch.Tensor] = []

    @torch.no_grad()
    def before_update(self) -> None:
        """Note the gradients of the whole batch, before they are clipped, and the weights."""
        gradients = [weight.grad for weight in self._weights if weight.grad is not None]
        self._gradient_norms = list(torch._foreach_norm(gradients))
        self._before = [weight.detach().clone() for weight in self._weights]

    @torch.no_grad()
    def after_update(self) -> dict[str, tuple[float, float]]:
        """Return of each layer the gradient norm, and |update| / |weights| (weights of 0: left out)."""
        lengths = list(torch._foreach_norm(self._before))
        torch._foreach_sub_(self._before, self._weights)
        updates = list(torch._foreach_norm(self._before))
        self._before = []
        if not lengths:
            return {}
        table = torch.stack([torch.stack(self._gradient_norms), torch.stack(updates), torch.stack(lengths)])
        columns = zip(self._names, *table.tolist(), strict=True)
        return {
            name: (gradient, update / length) for name, gradient, update, length in columns if length > 0.0
        }


def _unit_dimension(values: torch.Tensor) -> int:
    """Return 1 for [b, C, H, W] and [b, U], else the last: transformers have [b, tokens, U]."""
    return 1 if values.ndim == _NUM_MAP_DIMENSIONS else values.ndim - 1
