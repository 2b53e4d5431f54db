"""A small checkpoint with random weights, and images for it."""

from __future__ import annotations

import numpy as np
import torch

from dlspark.contracts import ImageFormat, Preprocessing
from dlspark.data.images import encode_png
from dlspark.training.checkpoint import CheckpointDescription, save_checkpoint
from dlspark.training.views import NO_VIEWS, Views

CLASSES = ("even", "odd", "other")


def save_example(url: str, *, step: int = 10, views: Views = NO_VIEWS) -> None:
    """Save an untrained network for gray 8 x 8 images of three classes."""
    description = CheckpointDescription(
        model="mlp",
        model_options={"hidden": [16], "activation": "relu", "dropout_input": 0.0, "dropout_hidden": 0.5},
        preprocessing=Preprocessing(
            image=ImageFormat(height=8, width=8, channels=1, resize="exact"), mean=(0.3,), std=(0.2,)
        ),
        classes=CLASSES,
        fingerprint="f" * 32,
        epoch=1,
        step=step,
        metrics={"val_accuracy": 0.5},
        views=views,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_checkpoint(url, description.build(), description)


def example_images(num_images: int) -> list[bytes]:
    """Return so many different PNG files, every third of another size, in gray and in colour."""
    generator = np.random.default_rng(0)
    images = []
    for number in range(num_images):
        size = 8 if number % 3 else 13
        channels = 1 if number % 2 else 3
        images.append(encode_png(generator.integers(0, 256, (size, size, channels), dtype=np.uint8)))
    return images
