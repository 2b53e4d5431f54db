"""One step of a run, made again: which rows it trained on, their pixels, what the network makes of them.

The rows of a step and their augmentation depend on (fingerprint, seed, epoch, step) and the row ids only, so
one process on a laptop rebuilds what any number of ranks have seen.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from dlspark.config import Config
from dlspark.contracts import Batch, Preprocessing
from dlspark.data.manifest import Manifest
from dlspark.errors import ConfigError
from dlspark.training.checkpoint import load_checkpoint
from dlspark.training.snapshots import checkpoints_folder, final_checkpoint, nearest_snapshot
from dlspark.worker import open_source


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayedStep:
    """The b rows of one optimizer step over all ranks, in the order in which one rank would read them."""

    step: int
    """Of the run, from 1, as in its metrics."""
    epoch: int
    """From 1."""
    row_ids: NDArray[np.int64]
    """int64 [b]."""
    labels: NDArray[np.int64]
    """int64 [b], of the rows themselves where they are mixed with others."""
    pixels: NDArray[np.uint8]
    """uint8 [b, H, W, C], after the augmentation and the mixing."""
    losses: NDArray[np.float32]
    """float32 [b], cross entropy in nats of a checkpoint, in evaluation mode; of a mixed row, the mean for
    its two labels by their shares."""
    predicted: NDArray[np.int64]
    """int64 [b], labels that it gives."""
    weights_step: int
    """Optimizer steps that the checkpoint had made."""


def replay_step(config: Config, dataset: str, manifest: Manifest, run_dir: str, step: int) -> ReplayedStep:
    """Make a step of a training again, and pass it through a checkpoint of the run.

    The checkpoint is the last one from before the step that was kept; the final one where there is none.

    Args:
        config: of the run.
        dataset: URL.
        manifest: of the dataset, which the run was trained on.
        run_dir: URL.
        step: of the run, from 1, as in its metrics.

    Raises:
        ConfigError: the run has no such step.
        DatasetError: a file of the dataset is not what the manifest says.
        ModelError: the run has no complete checkpoint.
    """
    with open_source(config, dataset, manifest, "train", rank=0, num_ranks=1) as source:
        num_steps = source.num_steps * config.train.epochs
        if not 1 <= step <= num_steps:
            raise ConfigError(
                "the run has no such step",
                got=f"step={step}",
                allowed=f"1 to {num_steps}: {config.train.epochs} epochs of {source.num_steps} steps",
                where=run_dir,
            )
        epoch, step_of_epoch = divmod(step - 1, source.num_steps)
        with closing(source.batches(epoch, step_of_epoch)) as batches:
            batch = next(batches)
    before = nearest_snapshot(checkpoints_folder(run_dir), step - 1)
    model, description = load_checkpoint(before.url if before else final_checkpoint(run_dir))
    losses, predicted = _judge(batch, model)
    return ReplayedStep(
        step=step,
        epoch=epoch + 1,
        row_ids=batch.row_ids,
        labels=batch.labels.numpy(),
        pixels=_pixels_of(batch.images, manifest.preprocessing),
        losses=losses,
        predicted=predicted,
        weights_step=description.step,
    )


def _judge(batch: Batch, model: nn.Module) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    with torch.inference_mode():
        logits = model(batch.images)
        losses = functional.cross_entropy(logits, batch.labels, reduction="none")
        if batch.other_labels is not None and batch.label_share is not None:
            others = functional.cross_entropy(logits, batch.other_labels, reduction="none")
            losses = others + batch.label_share * (losses - others)
    return losses.numpy(), logits.argmax(dim=1).numpy()


def _pixels_of(images: torch.Tensor, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Return uint8 [b, H, W, C] pixels of normalised images: exactly those that were normalised."""
    mean = torch.tensor(preprocessing.mean, dtype=torch.float64).view(1, -1, 1, 1)
    std = torch.tensor(preprocessing.std, dtype=torch.float64).view(1, -1, 1, 1)
    pixels = ((images * std + mean) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())
