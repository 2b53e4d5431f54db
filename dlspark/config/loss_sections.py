"""The keys of each loss, by its name. All are means over the rows of the global batch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dlspark.config.section import Positive, Section, Share

OverOutputs = Literal["mean", "sum"]


class WeightedSection(Section):
    """What every loss has."""

    class_weights: Literal["none", "balanced"] | tuple[Positive, ...] = "none"
    """Factor w on the loss of a row by its class; the mean over rows is of w * loss. balanced: training rows
    / (classes * training rows of the class), which is 1 on average; a list: one for each class."""


class CrossEntropyConfig(WeightedSection):
    """Softmax cross entropy, in nats; at zero outputs it is ln K for K classes."""

    name: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: Share = 0.0
    """Share of the target that is spread evenly over all classes (Szegedy et al. 2016)."""
    focal_gamma: Annotated[float, Field(ge=0.0)] = 0.0
    """Power g of the factor (1 - p)^g on rows whose class has probability p already (Lin et al. 2017)."""


class BceConfig(WeightedSection):
    """Binary cross entropy of each output against its class or the rest; at zero outputs ln 2 per output."""

    name: Literal["bce"] = "bce"
    over_outputs: OverOutputs = "mean"
    """How the K losses of a row become one."""


class SquaredErrorConfig(WeightedSection):
    """Squared error between the outputs and the one-hot target."""

    name: Literal["mse"] = "mse"
    outputs: Literal["softmax", "raw"] = "softmax"
    """softmax: probabilities (the Brier score); raw: the outputs as they are (least squares)."""
    over_outputs: OverOutputs = "mean"
    """How the K errors of a row become one."""


class AbsoluteErrorConfig(WeightedSection):
    """Absolute error between the outputs and the one-hot target."""

    name: Literal["mae"] = "mae"
    outputs: Literal["softmax", "raw"] = "softmax"
    """softmax: probabilities; raw: the outputs as they are."""
    over_outputs: OverOutputs = "mean"
    """How the K errors of a row become one."""


class HingeConfig(WeightedSection):
    """Multi-class hinge (Weston and Watkins 1999): each wrong output must stay 1 below the right one."""

    name: Literal["hinge"] = "hinge"


class SquaredHingeConfig(WeightedSection):
    """The multi-class hinge with each margin that is missed squared."""

    name: Literal["squared_hinge"] = "squared_hinge"


LossConfig = Annotated[
    CrossEntropyConfig
    | BceConfig
    | SquaredErrorConfig
    | AbsoluteErrorConfig
    | HingeConfig
    | SquaredHingeConfig,
    Field(discriminator="name"),
]
