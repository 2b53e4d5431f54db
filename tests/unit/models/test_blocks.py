"""The blocks of networks of each kind, from the input to the head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from dlspark.models.blocks import blocks_of
from dlspark.models.build import build_model


def build(name: str, size: int = 32, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return build_model(name, channels=3, height=size, width=size, num_classes=7, **options)


def names_of(network: nn.Module) -> list[str]:
    return [block.name for block in blocks_of(network)]


def test_layers_in_a_row_are_a_block_each_and_norms_belong_to_the_one_before() -> None:
    assert names_of(build("lenet5")) == ["0", "3", "7", "9", "11"]
    blocks = blocks_of(build("mlp", hidden=(5, 4), batch_norm=True))
    assert [block.parameters for block in blocks] == [
        ("2.weight", "3.weight", "3.bias"),
        ("6.weight", "7.weight", "7.bias"),
        ("10.weight", "10.bias"),
    ]


def test_a_residual_block_is_one() -> None:
    pairs = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    network = build("resnet18")
    assert names_of(network) == ["conv1", *pairs, "fc"]
    assert blocks_of(network)[0].parameters == ("conv1.weight", "bn1.weight", "bn1.bias")


def test_the_layers_of_a_transformer_are_blocks_and_its_tokens_stand_at_the_input() -> None:
    blocks = blocks_of(build("torchvision", 64, architecture="vit_b_32"))
    layers = [f"encoder.layers.encoder_layer_{index}" for index in range(12)]
    assert [block.name for block in blocks] == ["conv_proj", *layers, "heads.head"]
    assert set(blocks[0].parameters) == {
        "class_token",
        "encoder.pos_embedding",
        "conv_proj.weight",
        "conv_proj.bias",
    }
    assert {"encoder.ln.weight", "encoder.ln.bias"} < set(blocks[-2].parameters)


def is_cut_once(network: nn.Module) -> bool:
    """Tell whether each parameter is in one block."""
    parameters = [name for block in blocks_of(network) for name in block.parameters]
    return sorted(parameters) == sorted(name for name, _ in network.named_parameters())


def head_outputs(network: nn.Module) -> int | None:
    """Return the outputs of the last block; None if it is no single layer."""
    last = blocks_of(network)[-1]
    head = network.get_submodule(last.name)
    if not isinstance(head, nn.Linear | nn.Conv2d):
        return None
    return (
        head.weight.shape[0] if set(last.parameters) <= {f"{last.name}.weight", f"{last.name}.bias"} else None
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("perceptron", {}),
        ("mnist_cnn", {}),
        ("googlenet", {}),
        ("vgg11_bn", {}),
        ("alexnet", {}),
        ("torchvision", {"architecture": "mobilenet_v3_small"}),
        ("torchvision", {"architecture": "densenet121"}),
        ("torchvision", {"architecture": "squeezenet1_1"}),
        ("torchvision", {"architecture": "convnext_tiny"}),
    ],
    ids=lambda value: value.get("architecture", "") if isinstance(value, dict) else value,
)
def test_the_last_block_is_the_head_and_each_parameter_is_in_one(name: str, options: dict[str, Any]) -> None:
    network = build(name, **options)
    assert is_cut_once(network)
    assert head_outputs(network) == 7


@pytest.mark.slow
@pytest.mark.parametrize("architecture", models.list_models(module=models))
def test_so_it_is_in_every_network_of_the_registry(architecture: str) -> None:
    network = build("torchvision", 224, architecture=architecture)
    assert is_cut_once(network)
    assert head_outputs(network) == 7


def test_a_lone_layer_is_its_own_head() -> None:
    [block] = blocks_of(nn.Linear(2, 2))
    assert block.parameters == ("weight", "bias")
