"""A checkpoint as a function from encoded images to labels, behind pyfunc, Spark scoring and REST alike.

It decodes with the same function as ingest and normalises with the same one as the training loop, in fp32, so
that what is served is what was evaluated. Images go through the network in bounded batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dlspark.data.images import ImageError, decode_image
from dlspark.data.normalise import normalise
from dlspark.training.checkpoint import CheckpointDescription, load_checkpoint
from dlspark.training.evaluation import for_inference
from dlspark.training.views import with_views

MAX_IMAGE_PIXELS = 100_000_000
BATCH_SIZE = 256


class Predictions(NamedTuple):
    """Answers for n images, in their order."""

    labels: list[str | None]
    """The class of the highest probability; None where the image could not be decoded."""
    probabilities: npt.NDArray[np.float64]
    """float64 [n, K] in the order of the classes; a row of NaN where the image could not be decoded."""
    errors: list[str | None]
    """None, or why the image could not be decoded."""


class Classifier:
    """A trained network with its preprocessing and class names."""

    def __init__(self, model: nn.Module, description: CheckpointDescription, device: torch.device) -> None:
        self.description = description
        self._device = device
        network = with_views(model, description.views, description.preprocessing)
        self._model = network.to(device).eval()

    @classmethod
    def load(
        cls, checkpoint_url: str, device: str = "cpu", *, views: Mapping[str, Any] = MappingProxyType({})
    ) -> Self:
        """Load a checkpoint folder.

        Args:
            checkpoint_url: URL of the folder.
            device: a torch device; a checkpoint trained on a GPU loads on a CPU.
            views: fields of `Views` that are other ones than the checkpoint has.

        Raises:
            ModelError: there is no checkpoint, or it is damaged.
        """
        model, description = load_checkpoint(checkpoint_url)
        description = replace(description, views=replace(description.views, **views))
        return cls(model, description, torch.device(device))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the probabilities."""
        return self.description.classes

    def predict(
        self,
        images: Sequence[bytes | None],
        *,
        batch_size: int = BATCH_SIZE,
        max_pixels: int = MAX_IMAGE_PIXELS,
    ) -> Predictions:
        """Classify encoded images; one that cannot be decoded gets a reason in place of a label.

        Args:
            images: n encoded image files (PNG, JPEG ...); None counts as an image without bytes.
            batch_size: images that go through the network at once; the answers do not depend on it beyond
                float noise.
            max_pixels: an image with more pixels is not decoded.
        """
        probabilities = np.full((len(images), len(self.classes)), np.nan)
        labels: list[str | None] = [None] * len(images)
        errors: list[str | None] = [None] * len(images)
        for rows, pixels in self._decode(images, errors, batch_size, max_pixels):
            probabilities[rows] = self._probabilities(pixels)
            for row in rows:
                labels[row] = self.classes[int(probabilities[row].argmax())]
        return Predictions(labels, probabilities, errors)

    def _decode(
        self, images: Sequence[bytes | None], errors: list[str | None], batch_size: int, max_pixels: int
    ) -> Iterator[tuple[list[int], npt.NDArray[np.uint8]]]:
        """Yield (row numbers, uint8 [b, H, W, C]) of the images that decode; note why of the others."""
        rows: list[int] = []
        pixels: list[npt.NDArray[np.uint8]] = []
        for row, data in enumerate(images):
            try:
                image = decode_image(data or b"", self.description.preprocessing.image, max_pixels=max_pixels)
            except ImageError as error:
                errors[row] = str(error)
                continue
            rows.append(row)
            pixels.append(image)
            if len(rows) == batch_size:
                yield rows, np.stack(pixels)
                rows, pixels = [], []
        if rows:
            yield rows, np.stack(pixels)

    def _probabilities(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        """Return float64 [b, K] for uint8 [b, H, W, C]."""
        with torch.inference_mode():
            batch = normalise(torch.from_numpy(pixels).to(self._device), self.description.preprocessing)
            logits = self._model(for_inference(batch))
            return torch.softmax(logits.double(), dim=1).cpu().numpy()
