"""The keys that say what a training does about its own advice."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dlspark.config.section import Count, Section


class ReactionsConfig(Section):
    """What a training does about its own advice, beside giving it; null: nothing.

    lower_rate: the learning rate is multiplied by rate_factor, once for each kind of advice; stop: the
    training ends after that epoch with the weights it has then.
    """

    divergence: Literal["lower_rate", "roll_back", "stop"] | None = None
    """The loss has risen far above its first value. roll_back: weights and optimizer go back to the end of
    the epoch before, and the rate is lowered; so too where a loss is not a finite number, which else ends the
    run with an error. stop: an error at once."""
    plateau: Literal["lower_rate", "stop"] | None = None
    """The training loss has not moved for five epochs."""
    overfitting: Literal["lower_rate", "stop"] | None = None
    """The validation loss rises while the training loss falls."""
    underfitting: Literal["stop"] | None = None
    """After three epochs the network still knows nothing."""
    rate_factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """What the learning rate is multiplied by when it is lowered."""
    max_roll_backs: Count = 3
    """After so many the next divergence ends the run with an error."""
