"""torchvision's ResNets (He et al. 2015, arXiv:1512.03385) for 1 or 3 channels and for small images.

The published stem divides the image by 4 before the first block; the small stem (3x3, stride 1, no pooling)
is that of the paper's own CIFAR-10 networks (section 4.2).
"""

from __future__ import annotations

from functools import partial

from torch import nn

from dlspark.models.batch_norm import BatchNorm2d
from dlspark.models.zoo import choose_stem, require_total_stride

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
_TOTAL_STRIDES = {"imagenet": 32, "small": 8}


def build_resnet(
    name: str, *, channels: int, height: int, width: int, num_classes: int, stem: str = "auto"
) -> nn.Module:
    """Build a ResNet: stem, four groups of residual blocks, global average pooling, logits [b, K].

    ResNet-34 has 34 layers with weights, and so on; the 1x1 convolutions of the shortcuts are not counted.

    Args:
        name: one of RESNETS; 18 and 34 have blocks of two 3x3 convolutions, the others bottlenecks of three.
        channels: C.
        height: H, pixels; at least the total stride: 8 with the small stem, 32 with the imagenet stem.
        width: W, pixels; as the height.
        num_classes: K.
        stem: "imagenet" (7x7 stride 2, max pool 3x3 stride 2), "small" (3x3 stride 1, no pool), or "auto":
            small where the shorter side has at most 64 pixels; the choice is logged.

    Raises:
        ModelError: the image is smaller than the total stride, or the stem is unknown.
    """
    stem = choose_stem(name, stem, height=height, width=width)
    require_total_stride(name, "layer4", height=height, width=width, stem=stem, strides=_TOTAL_STRIDES)

    # Here, since it imports torch's compiler, which the other networks need not wait for.
    from torchvision.models import get_model_builder

    network: nn.Module = get_model_builder(name)(num_classes=num_classes, norm_layer=BatchNorm2d)
    convolution = partial(nn.Conv2d, channels, 64, bias=False)
    if stem == "small":
        network.conv1 = convolution(kernel_size=3, padding=1)
        network.maxpool = nn.Identity()
    else:
        network.conv1 = convolution(kernel_size=7, stride=2, padding=3)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    return network
