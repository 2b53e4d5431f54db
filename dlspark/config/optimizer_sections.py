"""The keys of each optimizer, by its name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dlspark.config.section import Count, Positive, Section, Share

Decay = Annotated[float, Field(ge=0.0)]


class OptimizerSection(Section):
    """What every optimizer has."""

    lr: Positive
    """Learning rate of the global batch."""
    lr_scaling: Literal["none", "linear", "sqrt"] = "none"
    """Factor on lr for N workers, logged: none: 1; linear: N; sqrt: the root of N. The global batch does not
    grow with N, so a factor makes the result depend on it."""
    weight_decay: Decay = 0.0
    """L2 penalty on weights."""
    decay_norms_and_biases: bool = False
    """true: weight_decay pulls norms and biases too."""


class MomentumSection(OptimizerSection):
    """What every optimizer with momentum has beside it (for Adam: beside the first of betas)."""

    momentum_start: Share | None = None
    """Momentum of the first step, from which it rises or falls in a line to its own value; null: constant."""
    momentum_epochs: Positive = 1.0
    """Epochs from momentum_start to the momentum, which is held from then on."""


class GdConfig(OptimizerSection):
    """Gradient descent: each step takes the whole training set, train.global_batch_size rows at a time."""

    name: Literal["gd"] = "gd"
    lr: Positive = 0.1


class SgdConfig(MomentumSection):
    """Stochastic gradient descent, with momentum where asked (torch.optim.SGD)."""

    name: Literal["sgd"] = "sgd"
    lr: Positive = 0.1
    momentum: Share = 0.0
    nesterov: bool = False

    @model_validator(mode="after")
    def _momentum_is_there(self) -> SgdConfig:
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov=true needs a momentum above 0, got momentum=0")
        if self.momentum_start is not None and self.momentum == 0.0:
            raise ValueError("momentum_start needs a momentum above 0 to end at, got momentum=0")
        return self


class MomentumConfig(MomentumSection):
    """Gradient descent with classical momentum (Polyak 1964)."""

    name: Literal["momentum"] = "momentum"
    lr: Positive = 0.01
    momentum: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.9


class NesterovConfig(MomentumSection):
    """Gradient descent with Nesterov's momentum (Sutskever et al. 2013)."""

    name: Literal["nesterov"] = "nesterov"
    lr: Positive = 0.01
    momentum: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.9


class AdagradConfig(OptimizerSection):
    """AdaGrad (Duchi et al. 2011): the rate of a weight falls with the sum of its squared gradients."""

    name: Literal["adagrad"] = "adagrad"
    lr: Positive = 0.01
    eps: Positive = 1e-10


class RmspropConfig(OptimizerSection):
    """RMSProp (Tieleman and Hinton 2012): AdaGrad with a mean over the last steps in place of the sum."""

    name: Literal["rmsprop"] = "rmsprop"
    lr: Positive = 0.001
    alpha: Share = 0.9
    """Decay of the mean of squared gradients."""
    eps: Positive = 1e-8


class AdadeltaConfig(OptimizerSection):
    """AdaDelta (Zeiler 2012): updates in the units of the weights, so that lr=1 is the paper's."""

    name: Literal["adadelta"] = "adadelta"
    lr: Positive = 1.0
    rho: Share = 0.95
    """Decay of the means of squared gradients and squared updates."""
    eps: Positive = 1e-6


class AdamConfig(MomentumSection):
    """Adam (Kingma and Ba 2015)."""

    name: Literal["adam"] = "adam"
    lr: Positive = 0.001
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay of the means of gradients and of squared gradients."""
    eps: Positive = 1e-8


class AdamwConfig(MomentumSection):
    """AdamW (Loshchilov and Hutter 2019): Adam with decoupled weight decay."""

    name: Literal["adamw"] = "adamw"
    lr: Positive = 0.001
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay of the means of gradients and of squared gradients."""
    eps: Positive = 1e-8
    weight_decay: Decay = 0.01


class MuonConfig(MomentumSection):
    """Muon (Jordan et al. 2024) for hidden weights, AdamW for the output layer, norms and biases."""

    name: Literal["muon"] = "muon"
    lr: Positive = 0.02
    momentum: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.95
    nesterov: bool = True
    newton_schulz_steps: Count = 5
    """Iterations that make the singular values of an update nearly equal."""
    adamw_lr: Positive = 0.001
    """Learning rate of the weights that AdamW has; it follows the schedule as lr does."""


OptimizerConfig = Annotated[
    GdConfig
    | SgdConfig
    | MomentumConfig
    | NesterovConfig
    | AdagradConfig
    | RmspropConfig
    | AdadeltaConfig
    | AdamConfig
    | AdamwConfig
    | MuonConfig,
    Field(discriminator="name"),
]
