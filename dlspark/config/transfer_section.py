"""The keys of a training that starts from weights which another one made."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dlspark.config.section import Count, Section


class TransferConfig(Section):
    """Where the first weights come from, and which of them are trained on."""

    weights: str | None = None
    """What the training starts from: a run directory or the id of a run, a model of the registry
    (models:/name/version or models:/name@alias), or the path or URL of a file of weights (.safetensors, .pt,
    .pth; no code in it is run). null: weights drawn anew."""
    trainable: Literal["all", "head"] | Count = "all"
    """What is trained: all layers, the head (the last layer) alone, or so many of the last blocks, of which
    the head is one. The other layers stay as they came, to the bit."""
    depth_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """A block has so many times the learning rate of the next one towards the head; 1: all have the same."""
    cache_features: bool = False
    """With trainable=head: what the other layers make of each image is computed once (by a Spark job, in
    fp32) and kept in dlspark-features/ beside run_dir, for all trainings from these weights; only the head is
    run then. The same is learned; augment.* may not change images on the fly."""

    @model_validator(mode="after")
    def _is_about_weights_that_were_trained(self) -> TransferConfig:
        if self.weights is None and (self.trainable, self.depth_decay) != ("all", 1.0):
            raise ValueError(
                f"trainable={self.trainable} and depth_decay={self.depth_decay:g} are for layers that were "
                "trained before, and transfer.weights is null; name a run, a model or a file there"
            )
        return self

    @model_validator(mode="after")
    def _features_are_those_before_the_head(self) -> TransferConfig:
        if self.cache_features and self.trainable != "head":
            raise ValueError(
                f"cache_features=true is for a head that is trained alone, got trainable={self.trainable}; "
                "set transfer.trainable=head, or transfer.cache_features=false"
            )
        return self
