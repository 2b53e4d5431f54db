"""torchvision's VGG networks (Simonyan and Zisserman 2014, arXiv:1409.1556), and their form for small images.

The five poolings divide the image by 32, and two dense layers of 4096 units hold 120 of the 138 million
parameters of VGG-16. The small form is the one that is common on CIFAR: the last pooling is a global average,
and one dense layer gives the logits. Its convolutions have the names they have in the published network.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from dlspark.models.batch_norm import accept_lone_values
from dlspark.models.layer_table import check_fit
from dlspark.models.layers import Flatten, dropout_layer
from dlspark.models.zoo import choose_stem, take_channels

VGGS = ("vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn")
_CONFIGURATIONS = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}
"""Columns of the paper's table 1."""


def build_vgg(
    name: str,
    *,
    channels: int,
    height: int,
    width: int,
    num_classes: int,
    stem: str = "auto",
    dropout: float = 0.5,
) -> nn.Module:
    """Build a VGG network: five groups of 3x3 convolutions, each with a pooling, then dense layers.

    Args:
        name: one of VGGS: the number of layers with weights, and _bn for batch normalisation after each
            convolution.
        channels: C.
        height: H, pixels; at least 16 with the small stem, 32 with the imagenet stem.
        width: W, pixels; as the height.
        num_classes: K.
        stem: "imagenet" (five poolings, 7x7 maps, dense 4096, 4096, logits), "small" (four poolings, global
            average, dropout, logits), or "auto": small where the shorter side has at most 64 pixels; logged.
        dropout: share set to 0 in training after each hidden dense layer; with the small stem before the
            logits; in [0, 1).

    Raises:
        ModelError: the image is too small, or an option is unknown or out of range.
    """
    stem = choose_stem(name, stem, height=height, width=width)
    drop = dropout_layer("dropout", dropout)

    # Here, since it imports torch's compiler, which the other networks need not wait for.
    from torchvision.models import get_model_builder
    from torchvision.models.vgg import cfgs, make_layers

    network: nn.Module
    if stem == "imagenet":
        network = get_model_builder(name)(num_classes=num_classes, dropout=dropout)
    else:
        plain, _, norm = name.partition("_")
        features = make_layers(cfgs[_CONFIGURATIONS[plain]][:-1], batch_norm=norm == "bn")
        parts = OrderedDict(
            features=features,
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=Flatten(),
            classifier=nn.Sequential(drop, nn.Linear(512, num_classes)),
        )
        network = nn.Sequential(parts)
        _draw_as_published(network)
    take_channels(network, channels)
    accept_lone_values(network)
    check_fit(network, name, channels=channels, height=height, width=width)
    return network


def _draw_as_published(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
