"""The stage `lr-find`: the learning-rate range test, with the step and the loader of a training."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from dlspark import storage
from dlspark.cluster.communicator import LocalCommunicator
from dlspark.config import Config
from dlspark.data.manifest import Manifest, read_manifest
from dlspark.heap import keep_freed_memory
from dlspark.progress import show_progress
from dlspark.recipe import build_network, initial_model, optimizer_of, step_options_of
from dlspark.training.lr_range import LrCurve, LrSuggestion, measure_lr_curve, suggest_lr
from dlspark.training.precision import choose_precision
from dlspark.worker import open_source
from pipelines.first_weights import find_first_weights
from pipelines.stage import required

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from torch import nn

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class LrFindResult:
    """The loss over the learning rate, and what it says; rates are those of the global batch."""

    dataset: str
    model: str
    optimizer: str
    suggestion: float
    """The smaller of the next two: the one to start from."""
    steepest: float
    """Where the loss fell fastest."""
    largest: float
    """A tenth of the rate at which the smoothed loss was lowest: the most that a schedule should reach."""
    end: str
    """Why the test ended."""
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    picture: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)


def run(config: Config, spark: SparkSession | None) -> LrFindResult:
    """Train one process while the learning rate grows, and draw the loss into the working directory.

    Nothing is kept of the training: no checkpoint, no run. The schedule, optimizer.lr and
    regularize.ema_decay have no part in it.

    Args:
        config: dataset is required; lr_find says which rates; model, loss, optimizer, regularize, augment and
            train say what is trained.
        spark: not used.

    Raises:
        ConfigError: the loss did not fall at any rate.
        DlsparkError: there is no dataset, or the network does not fit its images.
    """
    dataset = storage.absolute(required(config.dataset, "dataset", "lr-find"))
    curve = _measure(config, dataset, read_manifest(dataset))
    suggestion = suggest_lr(curve)
    name = f"{dataset.rstrip('/').rpartition('/')[2]}_lr_{config.model.name}_{config.optimizer.name}.png"
    result = LrFindResult(
        dataset=dataset,
        model=config.model.name,
        optimizer=config.optimizer.name,
        suggestion=suggestion.rate,
        steepest=suggestion.steepest,
        largest=suggestion.largest,
        end=curve.end,
        rates=curve.rates,
        losses=curve.losses,
        smoothed=curve.smoothed,
        picture=storage.absolute(name),
    )
    _draw(result)
    _tell(config, curve, suggestion, result.picture)
    return result


def _first_model(config: Config, manifest: Manifest) -> nn.Module:
    """Return the network as a training would start with it, also from weights that were made elsewhere."""
    with torch.device("meta"):
        network = build_network(config, manifest)
    first = find_first_weights(config, manifest, network)
    with tempfile.TemporaryDirectory(prefix="dlspark-lr-find-") as folder:
        if first is not None:
            first.write(folder)
        return initial_model(config, manifest, rank=0, run_dir=folder, resumes=False)


def _measure(config: Config, dataset: str, manifest: Manifest) -> LrCurve:
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    communicator = LocalCommunicator()
    with (
        torch.random.fork_rng(devices=[]),
        show_progress("lr-find", "steps") as progress,
        open_source(config, dataset, manifest, "train", rank=0, num_ranks=1, device=device) as train,
    ):
        model = _first_model(config, manifest).to(device)
        return measure_lr_curve(
            model,
            optimizer_of(config, model),
            train,
            communicator,
            min_lr=config.lr_find.min,
            max_lr=config.lr_find.max,
            num_steps=config.lr_find.num_steps,
            precision=choose_precision(config.train.precision, device),
            device=device,
            options=step_options_of(
                config,
                class_rows=manifest.splits["train"].class_rows,
                steps_per_epoch=train.num_steps,
            ),
            progress=progress,
        )


def _draw(result: LrFindResult) -> None:
    # Here, and not above: matplotlib takes seconds to import, which a wrong setting need not wait for.
    from dlspark.inspection.lr_picture import draw_lr_curve

    draw_lr_curve(
        result.rates,
        result.losses,
        result.smoothed,
        result.picture,
        suggested=result.suggestion,
        steepest=result.steepest,
        largest=result.largest,
        title=f"Learning-rate range test: {result.model}, {result.optimizer}",
    )


def _tell(config: Config, curve: LrCurve, suggestion: LrSuggestion, picture: str) -> None:
    at = f"{curve.end} at {curve.rates[-1]:.3g}, after {len(curve.rates)} steps"
    _log.info("the loss over the learning rate (%s): %s", at, picture)
    if curve.end == "largest rate":
        _log.warning("the loss did not break at any rate: raise lr_find.max to see where it does")
    if config.optimizer.lr_scaling != "none":
        _log.warning(
            "optimizer.lr_scaling=%s multiplies optimizer.lr; the rates here are those after it",
            config.optimizer.lr_scaling,
        )
    _log.info(
        "the loss fell fastest at %.2g; a tenth of the rate where it was lowest is %.2g",
        *(suggestion.steepest, suggestion.largest),
    )
    _log.info("use: optimizer.lr=%.2g", suggestion.rate)
