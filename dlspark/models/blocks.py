"""The blocks of a network from its input to its head: what can be frozen, or trained at a rate of its own.

A block is a layer with weights, or a residual, inception or transformer block as a whole. Modules that only
hold others in a row are opened; so is one that holds more than half of all weights, such as the encoder of a
vision transformer. A normalisation belongs to the block before it. Modules count in the order in which they
were given to the network, which is that of the forward pass in all networks here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

_ROWS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """One block."""

    name: str
    """Of its first module, as in the state dict."""
    parameters: tuple[str, ...]
    """Names in the state dict."""


def blocks_of(network: nn.Module) -> tuple[Block, ...]:
    """Return the blocks of a network; the last one is the head, the layer that gives the logits.

    Args:
        network: with at least one parameter; its tensors may be on the device "meta".
    """
    half = _num_values(network) / 2
    names: list[str] = []
    modules: list[list[str]] = []
    for name, module in _units(network, "", half):
        if modules and all(parameter.ndim <= 1 for parameter in module.parameters()):
            modules[-1].append(name)
        else:
            names.append(name)
            modules.append([name])
    owners = {f"{name}.": index for index, found in enumerate(modules) for name in found}
    parameters: list[list[str]] = [[] for _ in modules] or [[]]
    for name, _ in network.named_parameters():
        # What belongs to no module in a row (the class token of a transformer) stands at the input.
        index = next((owners[prefix] for prefix in owners if name.startswith(prefix)), 0)
        parameters[index].append(name)
    return tuple(
        Block(name=name, parameters=tuple(own)) for name, own in zip(names or [""], parameters, strict=True)
    )


def _units(module: nn.Module, name: str, half: float) -> Iterator[tuple[str, nn.Module]]:
    for child_name, child in module.named_children():
        path = f"{name}.{child_name}" if name else child_name
        num_values = _num_values(child)
        if isinstance(child, _ROWS) or (num_values > half and any(True for _ in child.children())):
            yield from _units(child, path, half)
        elif num_values:
            yield path, child


def _num_values(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
