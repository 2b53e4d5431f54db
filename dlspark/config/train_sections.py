"""The keys of the optimisation: optimizers by name, the learning rate over time, and the training itself."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dlspark.config.section import Count, Positive, Section, Share


class SgdConfig(Section):
    """Stochastic gradient descent, with momentum where asked (torch.optim.SGD)."""

    name: Literal["sgd"] = "sgd"
    lr: Positive = 0.1
    """Learning rate of the global batch; never scaled by the number of workers."""
    momentum: Share = 0.0
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """L2 penalty on weights; norms and biases are left out."""

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> SgdConfig:
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov=true needs a momentum above 0, got momentum=0")
        return self


class AdamConfig(Section):
    """Adam (Kingma and Ba 2015) or AdamW (Loshchilov and Hutter 2019)."""

    name: Literal["adam", "adamw"] = "adam"
    lr: Positive = 0.001
    """Learning rate; never scaled by the number of workers."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """On weights only; norms and biases are left out."""


OptimizerConfig = Annotated[SgdConfig | AdamConfig, Field(discriminator="name")]


class ScheduleConfig(Section):
    """The learning rate over the optimizer steps of the run, as a factor on optimizer.lr."""

    name: Literal["constant", "cosine", "step", "exponential"] = "constant"
    warmup_epochs: Annotated[float, Field(ge=0.0)] = 0.0
    """Linear rise from 0 over so many epochs."""
    step_epochs: Count = 10
    """step: epochs between two falls."""
    gamma: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """step: factor at each fall; exponential: factor per epoch."""


class TrainConfig(Section):
    """The optimisation."""

    epochs: Count = 12
    global_batch_size: Count = 128
    """Rows of one optimizer step over all workers; the last batch of an epoch may be smaller."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the initial weights, the shuffle, the augmentation and dropout."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast where the hardware has it, else fp32; evaluation is always fp32."""
