"""The keys of each network, by its name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dlspark.config.section import Count, Section, Share

Activation = Literal["sigmoid", "tanh", "relu", "leaky_relu"]


class MlpConfig(Section):
    """Fully connected layers on the flattened image; no hidden layer makes it a (multi-class) perceptron."""

    name: Literal["mlp"] = "mlp"
    hidden: tuple[Count, ...] = (500, 500)
    """Units of each hidden layer."""
    activation: Activation = "relu"
    dropout_input: Share = 0.0
    """Share of the inputs set to 0 in training."""
    dropout_hidden: Share = 0.0
    """Share of the hidden units set to 0 in training."""


class LeNet5Config(Section):
    """LeNet-5 (LeCun et al. 1998): convolution 6, pool, convolution 16, pool, dense 120, dense 84."""

    name: Literal["lenet5"] = "lenet5"
    activation: Activation = "tanh"


class MnistCnnConfig(Section):
    """The lecture's CNN: conv 32, conv 64, subsample 2x2, dropout, dense, dropout, output."""

    name: Literal["mnist_cnn"] = "mnist_cnn"
    widths: tuple[Count, Count] = (32, 64)
    """Filters of the two 3x3 convolutions."""
    padding: Literal["valid", "same"] = "valid"
    """valid: no padding, each convolution takes 2 pixels; same: the size is kept (for tiny images)."""
    dense: Count = 128
    """Units of the dense layer."""
    activation: Activation = "relu"
    dropout_features: Share = 0.25
    """After the subsampling."""
    dropout_dense: Share = 0.5
    """After the dense layer."""


class ResNet18Config(Section):
    """torchvision's ResNet-18 (He et al. 2015), with batch normalisation."""

    name: Literal["resnet18"] = "resnet18"
    stem: Literal["auto", "imagenet", "small"] = "auto"
    """imagenet: 7x7 stride 2 and pool; small: 3x3 stride 1, no pool; auto: small up to 64 pixels."""


ModelConfig = Annotated[
    MlpConfig | LeNet5Config | MnistCnnConfig | ResNet18Config, Field(discriminator="name")
]
