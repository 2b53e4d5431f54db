"""Any other classification network of torchvision, through its own registry, in its published form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dlspark.errors import ModelError
from dlspark.models.batch_norm import accept_lone_values
from dlspark.models.layer_table import check_fit
from dlspark.models.options import require_choice
from dlspark.models.zoo import take_channels


def build_torchvision(
    *,
    channels: int,
    height: int,
    width: int,
    num_classes: int,
    architecture: str = "efficientnet_b0",
) -> nn.Module:
    """Build torchvision.models.<architecture> with random first weights, without auxiliary heads.

    Args:
        channels: C.
        height: H, pixels; the published size is always right, other sizes are tried before anything is
            trained. The vision transformers take square images of whole patches.
        width: W, pixels.
        num_classes: K.
        architecture: a name of torchvision.models.list_models(module=torchvision.models).

    Raises:
        ModelError: there is no such architecture, or it does not fit the image.
    """
    # Here, since it imports torch's compiler, which the other networks need not wait for.
    from torchvision import models

    require_choice("architecture", architecture, models.list_models(module=models))
    options: dict[str, Any] = {"num_classes": num_classes}
    if architecture in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}
    elif architecture.startswith("vit_"):
        _require_square(architecture, height, width)
        options["image_size"] = height
    elif architecture == "maxvit_t":
        options["input_size"] = (height, width)
    try:
        network = _build_anywhere(lambda: models.get_model_builder(architecture)(**options))
    except (AssertionError, ValueError) as error:
        raise ModelError(
            "the image does not fit the network",
            got=f"{height}x{width} pixels: {' '.join(str(error).split())}",
            where=f"{architecture} of torchvision",
            fix="choose another image.size, or a network that takes any size",
        ) from error
    take_channels(network, channels)
    accept_lone_values(network)
    if architecture.startswith("mnasnet"):
        _accept_unversioned_weights(network)
    check_fit(network, architecture, channels=channels, height=height, width=width)
    return network


def _build_anywhere(build: Callable[[], nn.Module]) -> nn.Module:
    """Build on torch's default device, also where that is "meta" and the builder computes with tensors."""
    try:
        return build()
    except NotImplementedError:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            return build().to("meta")


def _accept_unversioned_weights(network: nn.Module) -> None:
    """Make a MNASNet load tensors without the version that comes in a pickle only, in place.

    torchvision's refuses them, to tell the weights of its first release; a checkpoint here is never one.
    """
    published: Any = type(network)

    class MNASNet(published):  # type: ignore[misc] # torchvision publishes no types
        def _load_from_state_dict(
            self, state_dict: Any, prefix: str, local_metadata: dict[str, Any], *others: Any
        ) -> None:
            version = {"version": published._version}
            super()._load_from_state_dict(state_dict, prefix, version | local_metadata, *others)

    network.__class__ = MNASNet


def _require_square(architecture: str, height: int, width: int) -> None:
    if height != width:
        raise ModelError(
            "the network takes square images only",
            got=f"{height}x{width} pixels",
            where=f"{architecture} of torchvision",
            fix="use square images (image.size), or a convolutional network",
        )
