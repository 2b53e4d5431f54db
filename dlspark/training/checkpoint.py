"""A network as two files: model.safetensors, and checkpoint.json, which says what it is.

checkpoint.json carries the checksum of the tensors and is written last: a folder without it, or whose
tensors are other ones, is no checkpoint. Reading is parsing only (safetensors and JSON): nothing is ever
unpickled, so a checkpoint from anywhere can be opened without running its code. The tensors pass through
memory once, whole. A checkpoint that a training goes on from holds a third file, see `snapshots`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from dlspark import storage
from dlspark.contracts import Preprocessing
from dlspark.errors import ModelError
from dlspark.models.build import build_model
from dlspark.training.tensor_tree import split_tensors
from dlspark.training.views import NO_VIEWS, Views

CHECKPOINT_VERSION = 1
DESCRIPTION_FILE = "checkpoint.json"
TENSORS_FILE = "model.safetensors"
_FIX = "name a run directory whose training ended, or train again"


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointDescription:
    """All that is needed to build the network again and to feed it, and where it comes from."""

    model: str
    """Name of the network, as in `build_model`."""
    model_options: Mapping[str, Any]
    """Options of the network, as in `build_model`: plain JSON values."""
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    """Name of each logit."""
    fingerprint: str
    """Of the dataset it was trained on."""
    epoch: int
    """Epochs done."""
    step: int
    """Optimizer steps done."""
    metrics: Mapping[str, float]
    """Figures at that step, e.g. val_accuracy."""
    views: Views = NO_VIEWS
    """Of each image, when the network is evaluated, predicts or serves."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CheckpointDescription:
        """Rebuild from `to_json`; keys of the file that are not of the description are left out."""
        known = {"views": {}} | dict(values)  # checkpoints from before there were views have none
        fields = {field.name: known[field.name] for field in dataclasses.fields(cls)}
        fields["views"] = Views(**known["views"])
        fields["preprocessing"] = Preprocessing.from_json(values["preprocessing"])
        fields["classes"] = tuple(values["classes"])
        return cls(**fields)

    def build(self) -> nn.Module:
        """Build the network that is described, with first weights from torch's global generator."""
        height, width = self.preprocessing.input_size
        return build_model(
            self.model,
            channels=self.preprocessing.image.channels,
            height=height,
            width=width,
            num_classes=len(self.classes),
            **self.model_options,
        )


def save_checkpoint(url: str, model: nn.Module, description: CheckpointDescription) -> None:
    """Write a checkpoint folder; a checkpoint that is there is withdrawn first.

    Args:
        url: the folder.
        model: the network that `description` describes, on any device.
        description: written beside the tensors.
    """
    storage.remove_tree(storage.join(url, DESCRIPTION_FILE))
    tensors, _ = split_tensors(model.state_dict())
    write_model(url, tensors, description)


def write_model(
    url: str,
    tensors: Mapping[str, torch.Tensor],
    description: CheckpointDescription,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write the two files, checkpoint.json last.

    Args:
        url: the folder; it holds no checkpoint.
        tensors: of the network, in host memory, contiguous.
        description: of the network.
        more: further keys of checkpoint.json.
    """
    written = write_tensors(storage.join(url, TENSORS_FILE), tensors)
    commit = {"version": CHECKPOINT_VERSION} | {f"tensors_{name}": value for name, value in written.items()}
    storage.write_json(storage.join(url, DESCRIPTION_FILE), commit | description.to_json() | dict(more))


def load_checkpoint(url: str) -> tuple[nn.Module, CheckpointDescription]:
    """Read a checkpoint folder.

    Returns:
        The network with its weights, on the CPU, in evaluation mode, and its description. Torch's generators
        are left as they are.

    Raises:
        ModelError: a file is missing, damaged or of another version, or the tensors are not those of the
            network; the message names the file.
    """
    values = read_commit(url)
    description = _description(url, values)
    file = storage.join(url, TENSORS_FILE)
    tensors = read_tensors(file, values.get("tensors_sha256"))
    with torch.device("meta"):
        model = description.build()
    try:
        model.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise ModelError(
            f"the tensors of a checkpoint are not those of the network {description.model}",
            got=" ".join(str(error).split()),
            where=file,
            fix=_FIX,
        ) from error
    return model.eval(), description


def read_description(url: str) -> CheckpointDescription:
    """Return what a checkpoint folder says about itself, without its tensors.

    Raises:
        ModelError: there is no checkpoint, or its description is damaged or of another version.
    """
    return _description(url, read_commit(url))


def write_tensors(file: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Write a safetensors file; return its `bytes` and `sha256`."""
    data = save_tensors(dict(tensors))
    storage.write_bytes(file, data)
    return {"bytes": len(data), "sha256": _sha256(data)}


def read_tensors(file: str, sha256: str | None) -> dict[str, torch.Tensor]:
    """Read a safetensors file whose checksum is known.

    Raises:
        ModelError: it is missing or damaged.
    """
    try:
        data = storage.read_bytes(file)
    except FileNotFoundError as error:
        raise ModelError("the tensors of a checkpoint are missing", where=file, fix=_FIX) from error
    if _sha256(data) != sha256:
        raise ModelError(
            "the tensors of a checkpoint are damaged: their checksum is another one",
            got=f"sha256 {_sha256(data)}",
            allowed=f"sha256 {sha256}",
            where=file,
            fix=_FIX,
        )
    return load_tensors(data)


def read_commit(url: str) -> dict[str, Any]:
    """Return what checkpoint.json of a checkpoint folder holds.

    Raises:
        ModelError: there is none, or it is damaged or of another version.
    """
    file = storage.join(url, DESCRIPTION_FILE)
    try:
        values = storage.read_json(file)
    except FileNotFoundError as error:
        raise ModelError("there is no checkpoint", where=file, fix=_FIX) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(
            "the description of a checkpoint is not JSON", got=error, where=file, fix=_FIX
        ) from error
    version = values.get("version") if isinstance(values, dict) else None
    if version != CHECKPOINT_VERSION:
        raise ModelError(
            "the checkpoint is of another version",
            got=version,
            allowed=CHECKPOINT_VERSION,
            where=file,
            fix="read it with the version of dlspark that wrote it",
        )
    _description(url, values)
    return dict(values)


def _description(url: str, values: Mapping[str, Any]) -> CheckpointDescription:
    try:
        values["tensors_sha256"]
        return CheckpointDescription.from_json(values)
    except (KeyError, TypeError) as error:
        raise ModelError(
            "the description of a checkpoint is not whole",
            got=repr(error),
            where=storage.join(url, DESCRIPTION_FILE),
            fix=_FIX,
        ) from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
