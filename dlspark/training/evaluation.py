"""Exact figures of one split over any number of ranks.

Each rank adds up sums (loss, confusion counts) over its own rows in float64, where counts are exact up to
2^53; one all-reduce joins them, and the only division is by the rows that were really counted. A mean of the
ranks' means would be wrong as soon as two ranks hold unequal rows. Ranks and batches without rows are fine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from dlspark.contracts import BatchSource, Communicator, EvaluationResult
from dlspark.errors import DatasetError, ModelError
from dlspark.training.losses import Loss, cross_entropy_sum
from dlspark.training.metrics import Figures, bias_sums, confusion_counts, count_in_top

_NUM_IMAGE_DIMENSIONS = 4


def evaluate_model(
    model: nn.Module,
    source: BatchSource,
    communicator: Communicator,
    *,
    num_classes: int,
    device: torch.device,
    loss: Loss = cross_entropy_sum,
    figures: Figures = Figures(),  # noqa: B008 - frozen
) -> EvaluationResult:
    """Evaluate a network on a split, in evaluation mode, without gradients, in fp32. A collective.

    Args:
        model: [b, C, H, W] -> logits [b, K], on `device`, equal on all ranks; its mode is restored.
        source: the rows of this rank; they need not be as many on each rank.
        communicator: one all-reduce is made.
        num_classes: K.
        device: where the network is.
        loss: the sum over rows.
        figures: what else is counted.

    Returns:
        The same value on every rank.

    Raises:
        DatasetError: a label is outside the classes, or the rows counted over all ranks are not those of the
            split.
        ModelError: the loss is not finite.
    """
    sums = torch.zeros(2 + num_classes + num_classes**2, dtype=torch.float64, device=device)
    loss_sum, top_sum, bias_sum, confusion_sum = _parts(sums, num_classes)
    with _evaluation_mode(model), torch.inference_mode(), torch.autocast(device.type, enabled=False):
        communicator.whereabouts.note("evaluation")
        for batch in source.batches(epoch=0):
            if not len(batch.labels):
                continue
            labels = batch.labels.to(device, non_blocking=True)
            logits = model(for_inference(batch.images.to(device, non_blocking=True)))
            confusion_sum += confusion_counts(logits, labels, num_classes=num_classes)
            loss_sum += loss(logits, labels)
            bias_sum += bias_sums(logits, labels, figures.outputs)
            if figures.top_k is not None:
                top_sum += count_in_top(logits, labels, figures.top_k)
            communicator.whereabouts.note("evaluation")
    communicator.all_reduce_sum(sums)
    return _summarise(sums.cpu(), num_rows=source.num_rows, num_classes=num_classes, top_k=figures.top_k)


def for_inference(images: torch.Tensor) -> torch.Tensor:
    """Return images [b, C, H, W] in the layout that is fastest without gradients; features as they are.

    The convolutions of oneDNN on a CPU read the channels of a pixel side by side, and take down to half the
    time for it. Training in fp32 does not use it: there the sums over a batch would depend more on how its
    rows are dealt to ranks, and the curves of one and two of them part after a hundred steps.
    """
    is_faster = images.ndim == _NUM_IMAGE_DIMENSIONS and images.device.type == "cpu"
    # Not by contiguous(), which leaves images of one channel as they are: they count as laid out either way.
    return images.to(memory_format=torch.channels_last) if is_faster else images


def _parts(
    sums: torch.Tensor, num_classes: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return views of the sums: loss [1], rows in the top k [1], bias [K], confusion [K, K]."""
    loss, top, bias, confusion = torch.split(sums, [1, 1, num_classes, num_classes**2])
    return loss, top, bias, confusion.view(num_classes, num_classes)


def _summarise(sums: torch.Tensor, *, num_rows: int, num_classes: int, top_k: int | None) -> EvaluationResult:
    loss_sum, top_sum, bias_sum, confusion = _parts(sums, num_classes)
    confusion = confusion.to(torch.int64)
    counted = int(confusion.sum())
    if counted != num_rows or counted == 0:
        raise DatasetError(
            "the rows that were evaluated are not the rows of the split",
            got=f"{counted} rows over all ranks",
            allowed=f"{num_rows} rows, each once" if num_rows else "at least 1 row",
            fix="ingest the dataset again" if num_rows else "give the split a share above 0 at ingest",
        )
    loss = float(loss_sum) / counted
    if not math.isfinite(loss):
        raise ModelError(
            "the loss of the evaluation is not finite",
            got=loss,
            allowed="a finite number",
            fix="lower optimizer.lr, or set schedule.warmup_epochs; the weights have grown too large",
        )
    return EvaluationResult(
        num_rows=counted,
        loss=loss,
        accuracy=int(confusion.trace()) / counted,
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        top_k=top_k,
        top_k_accuracy=None if top_k is None else int(top_sum) / counted,
        class_bias=tuple((bias_sum / counted).tolist()),
    )


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
