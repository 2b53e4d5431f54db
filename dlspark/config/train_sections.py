"""The keys of the training itself, and of what keeps its weights in bounds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dlspark.config.early_stopping_section import EarlyStoppingConfig
from dlspark.config.reactions_section import ReactionsConfig
from dlspark.config.section import Count, Positive, Section


class TrainConfig(Section):
    """The optimisation."""

    epochs: Count = 12
    global_batch_size: Count = 128
    """Rows of one optimizer step over all workers; the last batch of an epoch may be smaller. With
    optimizer=gd a step has all rows of the training split, and this many go through the network at once."""
    accumulate_steps: Count = 1
    """Parts into which a worker cuts its rows of a step, to need less memory: the gradients of the parts are
    added up, so only batch normalisation and dropout see the difference."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the initial weights, the shuffle, the augmentation and dropout."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 autocast where the hardware has it, else fp32; fp16: autocast with a loss scale, for GPUs
    without bf16; evaluation is always fp32."""
    compile: bool = False
    """torch.compile turns forward and backward pass into one program for this hardware: a minute or more
    before the first step, faster steps after it where the layers are small. Each worker needs a C++ compiler.
    Steps whose layers are measured, and evaluation, run as written."""
    sync_batch_norm: bool = False
    """Batch normalisation over the rows of all workers, at two small all-reduces a layer and step; else each
    worker normalises by its own rows."""
    gradient_compression: Literal["none", "fp16"] = "none"
    """fp16: gradients go between workers in half precision, half the bytes, with a loss scale that keeps them
    in its range; the curves of any number of workers are then close, not equal. none: fp32."""
    gradient_reduction: Literal["mean", "adasum"] = "mean"
    """mean: over the rows of all workers. adasum: of the workers' own means, added where they are orthogonal,
    averaged where they are parallel (Maleki et al. 2020), for large global batches at the learning rate of
    small ones. The number of workers, a power of two, is then seen in the result, and a step sends and holds
    that many times the gradient."""
    top_k: Annotated[int, Field(ge=2)] | None = 5
    """A row counts in the top-k accuracy if its class is among its k largest outputs; null, or not fewer
    than the classes: not counted."""
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()
    reactions: ReactionsConfig = ReactionsConfig()

    @model_validator(mode="after")
    def _adasum_is_of_gradients_by_worker(self) -> TrainConfig:
        if self.gradient_reduction == "adasum" and self.sync_batch_norm:
            raise ValueError(
                "gradient_reduction=adasum compares what each worker learns from its own rows, and "
                "sync_batch_norm=true mixes the rows of all; leave one of the two out"
            )
        return self

    @model_validator(mode="after")
    def _parts_have_rows(self) -> TrainConfig:
        if self.accumulate_steps > self.global_batch_size:
            raise ValueError(
                f"accumulate_steps={self.accumulate_steps} cuts global_batch_size={self.global_batch_size} "
                "rows into more parts than there are rows"
            )
        return self


class RegularizeConfig(Section):
    """What holds gradients and weights in bounds, beside optimizer.weight_decay and the network's dropout."""

    l1: Annotated[float, Field(ge=0.0)] = 0.0
    """Penalty on the absolute values of weights (not of norms and biases); train_loss is without it."""
    max_squared_norm: Positive | None = None
    """Largest squared length of a unit's incoming weights, restored after each step; null: none."""
    clip_norm: Positive | None = None
    """Largest length of the whole gradient; a longer one is scaled down. null: none."""
    clip_value: Positive | None = None
    """Largest absolute value of each number of the gradient; null: none."""
    ema_decay: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Decay of the moving average of the weights that is evaluated and saved in their place; null: none."""

    @model_validator(mode="after")
    def _one_kind_of_clipping(self) -> RegularizeConfig:
        if self.clip_norm is not None and self.clip_value is not None:
            raise ValueError(
                f"clip_norm={self.clip_norm:g} and clip_value={self.clip_value:g} exclude each other; "
                "set one of them to null"
            )
        return self
