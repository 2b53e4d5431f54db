"""Layers that are not trained, and layers that are trained at rates of their own.

A frozen layer has no gradient, no place in the all-reduce and no place in the optimizer, so nothing can move
it; it is in evaluation mode, so that the statistics of batch normalisation stand still too and no dropout
disturbs the features. Rates that fall from the head to the input are Howard and Ruder's discriminative
fine-tuning (2018, arXiv:1801.06146, section 3.2, a factor of 1/2.6 = 0.385 from layer to layer).
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from dlspark.errors import ModelError
from dlspark.models.blocks import blocks_of


def freeze(model: nn.Module, trainable: Literal["all", "head"] | int) -> int:
    """Freeze all blocks but the last ones, in place; return the number of frozen parameters.

    Args:
        model: on any device, also "meta".
        trainable: "all" freezes none, "head" all but the last block, a number all but so many; >= 1.

    Raises:
        ModelError: the network has fewer blocks.
    """
    if trainable == "all":
        return 0
    blocks = blocks_of(model)
    num_trained = 1 if trainable == "head" else trainable
    if num_trained > len(blocks):
        raise ModelError(
            "more blocks are to be trained than the network has",
            got=num_trained,
            allowed=f"1 to {len(blocks)}, from the input: {', '.join(block.name for block in blocks)}",
            where="transfer.trainable",
        )
    frozen = {name for block in blocks[:-num_trained] for name in block.parameters}
    parameters = [parameter for name, parameter in model.named_parameters() if name in frozen]
    for parameter in parameters:
        parameter.requires_grad_(False)
    return sum(parameter.numel() for parameter in parameters)


def train_mode(model: nn.Module) -> None:
    """Put a network into training mode, and what is frozen of it into evaluation mode.

    Frozen are the modules with parameters of which none is trained, and those without any that come before
    the last of them: dropout between two frozen layers is off, dropout before the head is on.
    """
    model.train()
    modules = list(model.modules())
    frozen = [_is_frozen(module) for module in modules]
    num_up_to_last = max((index + 1 for index, is_frozen in enumerate(frozen) if is_frozen), default=0)
    for module, is_frozen in zip(modules[:num_up_to_last], frozen, strict=False):
        if is_frozen or not any(True for _ in module.parameters()):
            module.eval()


def lr_factors(model: nn.Module, depth_decay: float) -> dict[str, float]:
    """Return by parameter name by what the learning rate is multiplied: depth_decay ** (blocks to the head).

    Args:
        model: on any device.
        depth_decay: in (0, 1]; 1 gives all parameters 1.
    """
    if depth_decay == 1.0:
        return {name: 1.0 for name, _ in model.named_parameters()}
    return {
        name: depth_decay**distance
        for distance, block in enumerate(reversed(blocks_of(model)))
        for name in block.parameters
    }


def _is_frozen(module: nn.Module) -> bool:
    trained = [parameter.requires_grad for parameter in module.parameters()]
    return bool(trained) and not any(trained)
