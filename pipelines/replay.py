"""The stage `replay`: the batch of one step of a run, made again here, as numbers and as a picture."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from dlspark import storage
from dlspark.config import Config
from dlspark.data.keys import find_keys
from dlspark.data.manifest import Manifest, read_manifest
from dlspark.errors import ConfigError, DatasetError
from dlspark.inspection.batch_sheet import draw_batch
from dlspark.replay import ReplayedStep, replay_step
from pipelines.run_directory import read_config, read_run_description
from pipelines.stage import required

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayedRow:
    """One row of the batch."""

    row_id: int
    key: str
    """Of its image."""
    label: str
    predicted: str
    loss: float
    """In nats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayResult:
    """What a step trained on."""

    run_dir: str
    step: int
    epoch: int
    """From 1."""
    weights_step: int
    """Whose losses these are: the weights after this step."""
    picture: str
    rows: tuple[ReplayedRow, ...]
    """In the order of the batch."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def run(config: Config, spark: SparkSession | None) -> ReplayResult:
    """Make the batch of `step` of the run in `run_dir` again, and draw it into the run's pictures.

    Args:
        config: run_dir and step are required; dataset defaults to the one the run was trained on, and may
            name a copy of it; data.reader and the like say how it is read here.
        spark: not used.

    Raises:
        DlsparkError: there is no run, no such step, another dataset, no complete checkpoint.
    """
    run_dir = storage.absolute(required(config.run_dir, "run_dir", "replay"))
    if config.step is None:
        raise ConfigError("`replay` needs step", got="nothing", where="the command line", fix="add step=...")
    described = read_run_description(run_dir)
    dataset = storage.absolute(config.dataset or described.dataset)
    manifest = read_manifest(dataset)
    if manifest.fingerprint != described.fingerprint:
        raise DatasetError(
            "the dataset is not the one that the run was trained on",
            got=f"fingerprint {manifest.fingerprint}",
            allowed=described.fingerprint,
            where=dataset,
            fix="set dataset to a copy of the one it was trained on",
        )
    trained = read_config(run_dir)
    readers = config.data.model_dump(include={"reader", "prefetch_batches", "num_threads", "memory_bytes"})
    trained = trained.model_copy(update={"data": trained.data.model_copy(update=readers)})
    step = replay_step(trained, dataset, manifest, run_dir, config.step)
    picture = _draw(step, manifest, run_dir)
    return ReplayResult(
        run_dir=run_dir,
        step=step.step,
        epoch=step.epoch,
        weights_step=step.weights_step,
        picture=picture,
        rows=_rows(step, dataset, manifest),
    )


def _draw(step: ReplayedStep, manifest: Manifest, run_dir: str) -> str:
    picture = storage.join(run_dir, "pictures", f"replay_step_{step.step:06d}.png")
    mean = float(step.losses.mean())
    draw_batch(
        step.pixels,
        step.labels,
        step.predicted,
        step.losses,
        picture,
        classes=manifest.classes,
        title=f"step {step.step}, epoch {step.epoch}: mean loss {mean:.4g} after {step.weights_step} steps",
    )
    _log.info(
        "step %d, epoch %d: %d rows, mean loss %.4g of the weights after step %d; their images: %s",
        *(step.step, step.epoch, len(step.row_ids), mean, step.weights_step, picture),
    )
    return picture


def _rows(step: ReplayedStep, dataset: str, manifest: Manifest) -> tuple[ReplayedRow, ...]:
    keys = find_keys(dataset, manifest, "train", step.row_ids)
    columns = (
        step.row_ids.tolist(),
        keys,
        step.labels.tolist(),
        step.predicted.tolist(),
        step.losses.tolist(),
    )
    return tuple(
        ReplayedRow(
            row_id=row_id,
            key=key,
            label=manifest.classes[label],
            predicted=manifest.classes[predicted],
            loss=loss,
        )
        for row_id, key, label, predicted, loss in zip(*columns, strict=True)
    )
