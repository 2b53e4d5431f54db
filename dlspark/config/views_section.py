"""The keys that say how many views of an image a trained network is asked about."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from dlspark.config.section import Section


class ViewsConfig(Section):
    """Views of an image beside itself: the outputs for all of them are averaged.

    So it is when a trained network is evaluated, predicts or serves. A training keeps the views with its
    network, and validates without them, which is faster.
    """

    shift: Annotated[int, Field(ge=0, le=64)] | None = None
    """Pixels by which an image is moved in each of eight directions; null: as in the training, there 0."""
    rotate_degrees: Annotated[float, Field(ge=0.0, le=180.0)] | None = None
    """Degrees by which it is turned either way; null: as in the training, there 0."""
    mirror: bool | None = None
    """Whether it is mirrored left to right; null: as in the training, there false."""

    @property
    def given(self) -> dict[str, Any]:
        """The keys that are not null."""
        return self.model_dump(exclude_none=True)
