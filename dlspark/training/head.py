"""The head of a network alone, and the features that its frozen body gives it.

A body that is frozen is in evaluation mode, so it makes the same of an image in each epoch: its features can
be computed once, and the head trained on them. That head is the module of the network itself, under its name
there: what is trained is always a part of the whole network, which nobody has to put together again, and the
body is out of reach of every step.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from dlspark.errors import ModelError
from dlspark.models.blocks import blocks_of
from dlspark.training.frozen import train_mode

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_NUM_AXES = 2
"""Of features: row and number."""


class HeadOnFeatures(nn.Module):
    """[b, F] -> logits [b, K]: the last layer of a network, with the dropout before it; see `head_of`."""

    def __init__(self, network: nn.Module, path: str, dropout: nn.Module | None, num_features: int) -> None:
        """Take the modules of a network; they stay a part of it.

        Args:
            network: the whole one.
            path: of its head.
            dropout: of the network, applied to the features in training; None: there is none.
            num_features: F.
        """
        super().__init__()
        self.path, self.num_features = path, num_features
        self._dropout = nn.Identity() if dropout is None else dropout
        *folders, name = path.split(".")
        holder: nn.Module = self
        for folder in folders:
            inner = nn.Module()
            holder.add_module(folder, inner)
            holder = inner
        holder.add_module(name, network.get_submodule(path))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map float32 [b, F] to logits [b, K]."""
        logits: torch.Tensor = self.get_submodule(self.path)(self._dropout(features))
        return logits


def head_of(network: nn.Module, image_shape: tuple[int, int, int]) -> HeadOnFeatures:
    """Return the head of a network whose other blocks are frozen; the network is then in evaluation mode.

    One image of zeros shows what lies around the head; nothing is drawn and no weight changes.

    Args:
        network: [b, C, H, W] -> logits [b, K], on any device, also "meta".
        image_shape: (C, H, W).

    Raises:
        ModelError: what is trained is more than one module on a list of features, with dropout before it.
    """
    block = blocks_of(network)[-1]
    head = network.get_submodule(block.name)
    train_mode(network)
    dropouts = [
        module
        for module in network.modules()
        if isinstance(module, _DROPOUTS) and module.training and module.p
    ]
    seen: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}

    def note(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        seen[module] = inputs[0], output

    network.eval()
    device = next(network.parameters()).device
    with ExitStack() as stack, torch.no_grad():
        for module in (head, *dropouts):
            stack.callback(module.register_forward_hook(note).remove)
        logits = network(torch.zeros(1, *image_shape, device=device))
    features, made = seen[head]
    is_alone = (
        all(name.startswith(f"{block.name}.") for name in block.parameters)
        # Tensors are compared as objects: in evaluation mode dropout returns what it is given.
        and made is logits
        and features.ndim == _NUM_AXES
        and all(seen[module][1] is features for module in dropouts)
        and len(dropouts) <= 1
    )
    if not is_alone:
        raise ModelError(
            "the features before the head of this network cannot be cached: more is trained, or follows it, "
            "than one dense layer with dropout before it",
            got=f"the head {block.name} of {type(network).__name__}, given {tuple(features.shape[1:])}",
            where="transfer.cache_features",
            fix="set transfer.cache_features=false: the same is learned, only slower",
        )
    return HeadOnFeatures(network, block.name, next(iter(dropouts), None), features.shape[1])


@torch.no_grad()
def features_of(network: nn.Module, head: HeadOnFeatures, images: torch.Tensor) -> torch.Tensor:
    """Return what a network gives to its head, float32 [b, F].

    Args:
        network: in evaluation mode.
        head: of that network.
        images: float32 [b, C, H, W], on the device of the network.
    """
    given: list[torch.Tensor] = []
    layer = network.get_submodule(head.path)
    hook = layer.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    try:
        network(images)
    finally:
        hook.remove()
    return given[0]


def tensors_of_body(network: nn.Module, head: HeadOnFeatures) -> dict[str, torch.Tensor]:
    """Return the parameters and buffers of a network that are not of its head, by name; no copies."""
    of_head = head.state_dict()
    return {name: tensor for name, tensor in network.state_dict().items() if name not in of_head}
