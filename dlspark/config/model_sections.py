"""The keys of each network, by its name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dlspark.config.section import Count, Positive, Section, Share

Activation = Literal["sigmoid", "tanh", "relu", "leaky_relu", "maxout"]
Initialisation = Literal[
    "auto", "torch", "normal", "xavier_normal", "xavier_uniform", "he_normal", "he_uniform"
]
Stem = Literal["auto", "imagenet", "small"]


class FirstWeights(Section):
    """How the first weights of a network of our own are drawn."""

    initialisation: Initialisation = "auto"
    """auto: He for relu, leaky_relu and maxout, Xavier for the others; torch: torch's own; normal: small."""
    initialisation_std: Positive = 0.01
    """Standard deviation of initialisation=normal."""


class Units(FirstWeights):
    """The units of a network of our own."""

    activation: Activation = "relu"
    """Of each layer but the last."""
    maxout_pieces: Annotated[int, Field(ge=2)] = 2
    """Linear pieces of each unit with activation=maxout."""
    batch_norm: bool = False
    """Normalise each layer but the last over the batch, before its activation."""


class PerceptronConfig(FirstWeights):
    """One linear unit for each class on the flattened image."""

    name: Literal["perceptron"] = "perceptron"


class MlpConfig(Units):
    """Fully connected layers on the flattened image; no hidden layer makes it a (multi-class) perceptron."""

    name: Literal["mlp"] = "mlp"
    hidden: tuple[Count, ...] = (500, 500)
    """Units of each hidden layer."""
    dropout_input: Share = 0.0
    """Share of the inputs set to 0 in training."""
    dropout_hidden: Share = 0.0
    """Share of the hidden units set to 0 in training."""


class LeNet5Config(Units):
    """LeNet-5 (LeCun et al. 1998): convolution 6, pool, convolution 16, pool, dense 120, dense 84."""

    name: Literal["lenet5"] = "lenet5"
    activation: Activation = "tanh"


class MnistCnnConfig(Units):
    """The lecture's CNN: conv 32, conv 64, subsample 2x2, dropout, dense, dropout, output."""

    name: Literal["mnist_cnn"] = "mnist_cnn"
    widths: tuple[Count, Count] = (32, 64)
    """Filters of the two 3x3 convolutions."""
    padding: Literal["valid", "same"] = "valid"
    """valid: no padding, each convolution takes 2 pixels; same: the size is kept (for tiny images)."""
    dense: Count = 128
    """Units of the dense layer."""
    dropout_features: Share = 0.25
    """After the subsampling."""
    dropout_dense: Share = 0.5
    """After the dense layer."""


class AlexNetConfig(Section):
    """torchvision's AlexNet (Krizhevsky 2014)."""

    name: Literal["alexnet"] = "alexnet"
    stem: Stem = "auto"
    """imagenet: 11x11 stride 4, dense 4096 twice; small: 3x3 stride 1, global average; auto: small up to 64
    pixels."""
    dropout: Share = 0.5
    """Before each dense layer but the last; with the small stem before the last."""


class GoogLeNetConfig(Section):
    """torchvision's GoogLeNet (Szegedy et al. 2014), with batch normalisation, without auxiliary heads."""

    name: Literal["googlenet"] = "googlenet"
    stem: Stem = "auto"
    """imagenet: 7x7 stride 2 and two pools; small: 3x3 stride 1, no pool; auto: small up to 64 pixels."""
    dropout: Share = 0.2
    """Before the last layer."""


class VggConfig(Section):
    """torchvision's VGG (Simonyan and Zisserman 2014); _bn: with batch normalisation."""

    name: Literal["vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"] = (
        "vgg16"
    )
    stem: Stem = "auto"
    """imagenet: five pools, dense 4096 twice; small: four pools, global average; auto: small up to 64
    pixels."""
    dropout: Share = 0.5
    """After each hidden dense layer; with the small stem before the last."""


class ResNetConfig(Section):
    """torchvision's ResNet (He et al. 2015), with batch normalisation."""

    name: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = "resnet18"
    stem: Stem = "auto"
    """imagenet: 7x7 stride 2 and pool; small: 3x3 stride 1, no pool; auto: small up to 64 pixels."""


class TorchvisionConfig(Section):
    """Any classification network of torchvision in its published form, with random first weights."""

    name: Literal["torchvision"] = "torchvision"
    architecture: str = "efficientnet_b0"
    """A name of torchvision.models, e.g. mobilenet_v3_small, densenet121, convnext_tiny, vit_b_16."""


ModelConfig = Annotated[
    PerceptronConfig
    | MlpConfig
    | LeNet5Config
    | MnistCnnConfig
    | AlexNetConfig
    | GoogLeNetConfig
    | VggConfig
    | ResNetConfig
    | TorchvisionConfig,
    Field(discriminator="name"),
]
