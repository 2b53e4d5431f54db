"""torchvision's AlexNet (Krizhevsky 2014, arXiv:1404.5997), and its form for small images.

The published network starts with an 11x11 filter of stride 4 and ends in 6x6 maps under 59 million dense
weights. The small form is made as those that are common on CIFAR: a 3x3 filter of stride 1 first, poolings
that halve the image, a global average, and one dense layer.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from dlspark.models.initialise import initialise_logits
from dlspark.models.layer_table import check_fit
from dlspark.models.layers import Flatten, dropout_layer
from dlspark.models.zoo import choose_stem, require_total_stride, take_channels

_TOTAL_STRIDES = {"small": 8}


def build_alexnet(
    *,
    channels: int,
    height: int,
    width: int,
    num_classes: int,
    stem: str = "auto",
    dropout: float = 0.5,
) -> nn.Module:
    """Build AlexNet: five convolutions with three overlapping poolings, then dense layers, logits [b, K].

    Args:
        channels: C.
        height: H, pixels; at least 8 with the small stem, 63 with the imagenet stem.
        width: W, pixels; as the height.
        num_classes: K.
        stem: "imagenet" (conv 11x11 stride 4, 6x6 maps, dense 4096, 4096, logits), "small" (conv 3x3 stride
            1, global average, dropout, logits), or "auto": small where the shorter side has at most 64
            pixels; the choice is logged.
        dropout: share set to 0 in training before each dense layer but the last; with the small stem before
            the logits; in [0, 1).

    Raises:
        ModelError: the image is too small, or an option is unknown or out of range.
    """
    stem = choose_stem("alexnet", stem, height=height, width=width)
    drop = dropout_layer("dropout", dropout)
    if stem == "small":
        require_total_stride(
            "alexnet", "pool3", height=height, width=width, stem=stem, strides=_TOTAL_STRIDES
        )
        return _small(channels, num_classes, drop)

    # Here, since it imports torch's compiler, which the other networks need not wait for.
    from torchvision.models import alexnet

    network: nn.Module = alexnet(num_classes=num_classes, dropout=dropout)
    take_channels(network, channels)
    check_fit(network, "alexnet", channels=channels, height=height, width=width)
    return network


def _small(channels: int, num_classes: int, drop: nn.Dropout) -> nn.Module:
    features: list[nn.Module] = []
    inputs = channels
    for filters, kernel, pools in (
        (64, 3, True),
        (192, 5, True),
        (384, 3, False),
        (256, 3, False),
        (256, 3, True),
    ):
        features += [nn.Conv2d(inputs, filters, kernel, padding=kernel // 2), nn.ReLU(inplace=True)]
        if pools:
            features.append(nn.MaxPool2d(3, stride=2, padding=1))
        inputs = filters
    parts = OrderedDict[str, nn.Module](
        features=nn.Sequential(*features),
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=Flatten(),
        classifier=nn.Sequential(drop, nn.Linear(inputs, num_classes)),
    )
    network = nn.Sequential(parts)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type] # these convolutions have one
        elif isinstance(layer, nn.Linear):
            initialise_logits(layer.weight)
            nn.init.zeros_(layer.bias)
    return network
