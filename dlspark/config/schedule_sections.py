"""The keys of each schedule of the learning rate, by its name: a factor on optimizer.lr at every step."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dlspark.config.section import Count, Positive, Section

Factor = Annotated[float, Field(ge=0.0, le=1.0)]
Fall = Annotated[float, Field(gt=0.0, le=1.0)]


class WarmupSection(Section):
    """What every schedule has that does not rise by itself."""

    warmup_epochs: Annotated[float, Field(ge=0.0)] = 0.0
    """Linear rise from 0 over so many epochs."""


class ConstantConfig(WarmupSection):
    """The learning rate stays as it is."""

    name: Literal["constant"] = "constant"


class CosineConfig(WarmupSection):
    """Half a cosine from optimizer.lr to 0 over the run (Loshchilov and Hutter 2017)."""

    name: Literal["cosine"] = "cosine"


class StepConfig(WarmupSection):
    """The learning rate falls every few epochs."""

    name: Literal["step"] = "step"
    step_epochs: Count = 10
    """Epochs between two falls."""
    gamma: Fall = 0.1
    """Factor at each fall."""


class ExponentialConfig(WarmupSection):
    """The learning rate falls by the same factor in each epoch."""

    name: Literal["exponential"] = "exponential"
    gamma: Fall = 0.95
    """Factor per epoch."""


class InverseTimeConfig(WarmupSection):
    """The learning rate falls as 1/(1 + decay * epochs)."""

    name: Literal["inverse_time"] = "inverse_time"
    decay: Positive = 1.0
    """Per epoch; at 1/decay epochs the rate has halved."""


class OneCycleConfig(Section):
    """The learning rate rises in a line to optimizer.lr and falls in a line (Smith and Topin 2018)."""

    name: Literal["one_cycle"] = "one_cycle"
    rise_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.3
    """Share of the run's steps in which the rate rises."""
    start_factor: Factor = 0.04
    """At the first step."""
    final_factor: Factor = 0.0001
    """At the last step."""


class PlateauConfig(WarmupSection):
    """The learning rate falls when the validation loss has stopped to improve."""

    name: Literal["plateau"] = "plateau"
    gamma: Fall = 0.1
    """Factor at each fall."""
    patience_epochs: Count = 5
    """Epochs in a row without a better loss before the rate falls."""
    min_improvement: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0001
    """A loss is better when it is below the best one by this share of it."""


ScheduleConfig = Annotated[
    ConstantConfig
    | CosineConfig
    | StepConfig
    | ExponentialConfig
    | InverseTimeConfig
    | OneCycleConfig
    | PlateauConfig,
    Field(discriminator="name"),
]
