"""The keys of the search for a learning rate."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from dlspark.config.section import Positive, Section


class LrFindConfig(Section):
    """The learning-rate range test of `lr-find`."""

    num_steps: Annotated[int, Field(ge=30)] = 100
    """Optimizer steps from the smallest rate to the largest; it ends before where the loss has grown."""
    min: Positive = 1e-6
    """Learning rate of the first step."""
    max: Positive = 10.0
    """Learning rate of the last step."""

    @model_validator(mode="after")
    def _the_rate_grows(self) -> LrFindConfig:
        if self.max <= self.min:
            raise ValueError(f"max={self.max:g} must be above min={self.min:g}; raise lr_find.max")
        return self
