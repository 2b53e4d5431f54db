"""The end of a training whose loss or weights are no longer numbers: an error, and the rows of the batch.

The loss is summed over all ranks, so all see it at the same step; each writes the rows that it held. Weights
are looked at before each save, so that no checkpoint holds what is not a number: those from before are good.
"""

from __future__ import annotations

import logging
import math

import torch
from torch import nn

from dlspark import storage
from dlspark.contracts import Batch, Communicator
from dlspark.errors import ModelError
from dlspark.training.precision import Precision

_LOGGER = logging.getLogger(__name__)


class NotFiniteError(ModelError):
    """The loss or the weights of a training are not finite numbers."""


def require_finite(
    model: nn.Module,
    batch: Batch,
    communicator: Communicator,
    *,
    loss: float,
    look_at_weights: bool,
    step: int,
    epoch: int,
    lr: float,
    precision: Precision,
    folder: str | None,
) -> None:
    """Return if the training can go on after a step; all ranks come to the same end, without a message.

    Args:
        model: after the step.
        batch: of the step, the rows of this rank.
        communicator: whose rank names the file.
        loss: of the step, over all ranks.
        look_at_weights: whether the weights are looked at too.
        step: optimizer steps done, with this one.
        epoch: that is under way, from 1.
        lr: learning rate of the step.
        precision: of its forward pass.
        folder: URL of the folder that takes step-S-rank-R.json: step, epoch, rank, host and row ids; None:
            nothing is written.

    Raises:
        NotFiniteError: the loss is not finite, or the weights were looked at and are not.
    """
    if math.isfinite(loss) and not (look_at_weights and not _is_finite(model)):
        return
    if folder is not None:
        _write_rows(folder, batch, communicator, step=step, epoch=epoch)
    what = "weights after the step are" if math.isfinite(loss) else "training loss is"
    precise = "" if precision == "fp32" else ", or set train.precision=fp32"
    rows = "" if folder is None else f"; the rows of the step are named in {folder}"
    raise NotFiniteError(
        f"the {what} not finite",
        got=f"loss {loss:g}" if math.isfinite(loss) else loss,
        allowed="a finite number",
        where=f"step {step} (epoch {epoch}), learning rate {lr:g}, precision {precision}{rows}",
        fix=f"lower optimizer.lr, or set schedule.warmup_epochs=1{precise}",
    )


@torch.no_grad()
def _is_finite(model: nn.Module) -> bool:
    norms = torch._foreach_norm(list(model.parameters()))
    return bool(torch.stack(list(norms)).isfinite().all())


def _write_rows(folder: str, batch: Batch, communicator: Communicator, *, step: int, epoch: int) -> None:
    url = storage.join(folder, f"step-{step:010d}-rank-{communicator.rank:03d}.json")
    rows = {
        "step": step,
        "epoch": epoch,
        "rank": communicator.rank,
        "host": communicator.host,
        "row_ids": batch.row_ids.tolist(),
    }
    try:
        storage.write_json(url, rows)
    except OSError as error:
        # The step itself is the news, and the error that follows names it.
        _LOGGER.warning("the rows of step %d cannot be written to %s: %s", step, url, error)
