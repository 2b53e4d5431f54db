"""torchvision's GoogLeNet (Szegedy et al. 2014, arXiv:1409.4842) without auxiliary heads.

The nine inception modules run four filters side by side; torchvision's have batch normalisation, and 3x3
where the paper has 5x5. The published stem divides the image by 8 before the first module; the small stem,
as is common on CIFAR, has a 3x3 filter of stride 1 and no pooling, so that the two poolings between the
modules are the only strides.
"""

from __future__ import annotations

from torch import nn

from dlspark.models.batch_norm import accept_lone_values
from dlspark.models.layers import dropout_layer
from dlspark.models.zoo import choose_stem, require_total_stride, take_channels

_TOTAL_STRIDES = {"imagenet": 32, "small": 4}


def build_googlenet(
    *,
    channels: int,
    height: int,
    width: int,
    num_classes: int,
    stem: str = "auto",
    dropout: float = 0.2,
) -> nn.Module:
    """Build GoogLeNet: stem, nine inception modules, global average pooling, logits [b, K].

    Args:
        channels: C.
        height: H, pixels; at least the total stride: 4 with the small stem, 32 with the imagenet stem.
        width: W, pixels; as the height.
        num_classes: K.
        stem: "imagenet" (7x7 stride 2, two poolings of stride 2), "small" (3x3 stride 1, no poolings), or
            "auto": small where the shorter side has at most 64 pixels; the choice is logged.
        dropout: share set to 0 in training before the logits, in [0, 1).

    Raises:
        ModelError: the image is smaller than the total stride, or an option is unknown or out of range.
    """
    stem = choose_stem("googlenet", stem, height=height, width=width)
    drop = dropout_layer("dropout", dropout)
    require_total_stride(
        "googlenet", "inception5b", height=height, width=width, stem=stem, strides=_TOTAL_STRIDES
    )

    # Here, since it imports torch's compiler, which the other networks need not wait for.
    from torchvision.models import googlenet
    from torchvision.models.googlenet import BasicConv2d

    network: nn.Module = googlenet(num_classes=num_classes, aux_logits=False, init_weights=True)
    network.dropout = drop
    if stem == "small":
        network.conv1 = BasicConv2d(3, 64, kernel_size=3, padding=1)
        network.maxpool1 = nn.Identity()
        network.maxpool2 = nn.Identity()
    take_channels(network, channels)
    accept_lone_values(network)
    return network
