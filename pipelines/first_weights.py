"""The first weights of a run that were made elsewhere: found, read, and matched with its network.

All of it is done on the driver before the run exists, so that what does not fit is refused at once; the
workers read what was written into the run directory.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from dlspark import storage
from dlspark.config import Config
from dlspark.config.transfer_section import TransferConfig
from dlspark.contracts import Preprocessing
from dlspark.data.manifest import Manifest
from dlspark.errors import ModelError
from dlspark.models.pretrained import MatchedWeights, is_weights_file, match_weights, read_weights_file
from dlspark.recipe import preprocessing_of
from dlspark.tracking.registry import logged_model
from dlspark.tracking.server import require_reachable
from dlspark.training.checkpoint import (
    TENSORS_FILE,
    CheckpointDescription,
    read_commit,
    read_description,
    read_tensors,
)
from dlspark.training.frozen import freeze
from dlspark.training.start import write_start
from pipelines.run_directory import is_run, read_run_description
from pipelines.run_model import trained_model

_log = logging.getLogger(__name__)

_RUN_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstWeights:
    """Weights that fit the network of a run, and where they come from."""

    matched: MatchedWeights
    facts: Mapping[str, str]
    """weights: what the user named; where it is known also run_id, sha256 (of the file of the checkpoint) and
    fingerprint (of the dataset that it was trained on)."""

    def tags(self) -> dict[str, object]:
        """Return the facts as tags of the MLflow run."""
        return {f"dlspark.start.{name}": value for name, value in self.facts.items()}

    def write(self, run_dir: str) -> None:
        """Put them where the workers read them."""
        write_start(run_dir, self.matched.tensors, self.facts)


def find_first_weights(config: Config, manifest: Manifest, network: nn.Module) -> FirstWeights | None:
    """Read the weights that `transfer.weights` names; None: there are none to read. What was found is logged.

    Args:
        config: of the run.
        manifest: of its dataset.
        network: of the run, on the device "meta".

    Raises:
        ModelError: there are no such weights, they are not safe to read, or do not fit the network.
        TrackingError: they are of the registry, which does not answer or does not have them.
    """
    named = config.transfer.weights
    if named is None:
        return None
    if is_weights_file(named) or (storage.exists(named) and not storage.is_folder(named)):
        facts = {"weights": named if "://" in named else storage.absolute(named)}
        tensors, description = read_weights_file(named), None
    else:
        tensors, description, facts = _read_checkpoint(named, config)
    matched = match_weights(
        network,
        tensors,
        same_classes=description is None or description.classes == manifest.classes,
        where=f"transfer.weights={named}" + (f", a {description.model}" if description else ""),
    )
    if description is not None:
        _compare(description.preprocessing, preprocessing_of(config, manifest), named)
    num_values = sum(tensor.numel() for tensor in matched.tensors.values())
    _log.info(
        "the training starts from %s: %d tensors with %s values",
        *(named, len(matched.tensors), f"{num_values:,}"),
    )
    if matched.why_drawn is not None:
        _log.info("the head %s is drawn anew: %s", matched.head, matched.why_drawn)
    elif description is None:
        _log.info("the head %s is kept; the file does not say which classes it is for", matched.head)
    return FirstWeights(matched=matched, facts=facts)


def log_frozen(transfer: TransferConfig, network: nn.Module) -> None:
    """Say which share of a network is frozen.

    Args:
        transfer: what is trained of it.
        network: on the device "meta"; its parameters are frozen by this.

    Raises:
        ModelError: it has fewer blocks than are to be trained.
    """
    num_frozen = freeze(network, transfer.trainable)
    num_values = sum(parameter.numel() for parameter in network.parameters())
    if num_frozen:
        _log.info(
            "transfer.trainable=%s: %s of %s parameters are frozen",
            *(transfer.trainable, f"{num_frozen:,}", f"{num_values:,}"),
        )


def _read_checkpoint(
    named: str, config: Config
) -> tuple[dict[str, torch.Tensor], CheckpointDescription, dict[str, str]]:
    facts, model = {"weights": named}, named
    if _RUN_ID.fullmatch(named) and not storage.exists(named):
        model, facts["run_id"] = _model_of_run(named, config.tracking.uri), named
    elif storage.exists(named):
        facts["weights"] = storage.absolute(named)
        if is_run(named):
            facts["run_id"] = read_run_description(named).run_id
    with trained_model(model, config.tracking.uri, key="transfer.weights") as checkpoint:
        description = read_description(checkpoint)
        sha256 = read_commit(checkpoint)["tensors_sha256"]
        tensors = read_tensors(storage.join(checkpoint, TENSORS_FILE), sha256)
    return tensors, description, facts | {"sha256": sha256, "fingerprint": description.fingerprint}


def _model_of_run(run_id: str, tracking_uri: str) -> str:
    require_reachable(tracking_uri)
    model = logged_model(tracking_uri=tracking_uri, run_id=run_id)
    if model is None:
        raise ModelError(
            "the run has no model in MLflow",
            where=f"transfer.weights={run_id}",
            fix="name the run directory, or log the model with `dlspark register run_dir=...`",
        )
    return model


def _compare(there: Preprocessing, here: Preprocessing, named: str) -> None:
    if there.input_size != here.input_size:
        _log.warning(
            "the weights of %s were trained on images of %dx%d pixels, this run has %dx%d",
            *(named, *there.input_size, *here.input_size),
        )
    if (there.mean, there.std) != (here.mean, here.std):
        _log.info(
            "images are normalised by this dataset's mean %s and std %s; those of %s were by %s and %s",
            *(_short(here.mean), _short(here.std), named, _short(there.mean), _short(there.std)),
        )


def _short(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)
