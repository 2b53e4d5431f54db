"""The first weights of a training that were made elsewhere: <run_dir>/start/.

The driver puts them there once, before the workers start: model.safetensors with the tensors that are taken
over, start.json with where they come from and their checksum. So a run begins with the same weights however
often it is started, also when an alias has moved on or a file is gone. Rank 0 reads them; the other ranks
take its weights by the broadcast with which a training starts.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from dlspark import storage
from dlspark.training.checkpoint import TENSORS_FILE, read_tensors, write_tensors

START_FOLDER = "start"
_FACTS_FILE = "start.json"


def write_start(run_dir: str, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, object]) -> None:
    """Write the first weights of a run.

    Args:
        run_dir: URL of the run directory.
        tensors: by their names in the network, in host memory, contiguous.
        facts: where they come from, as JSON values.
    """
    folder = storage.join(run_dir, START_FOLDER)
    written = write_tensors(storage.join(folder, TENSORS_FILE), tensors)
    commit = {f"tensors_{name}": value for name, value in written.items()}
    storage.write_json(storage.join(folder, _FACTS_FILE), dict(facts) | commit)


@torch.no_grad()
def load_start(run_dir: str, model: nn.Module) -> None:
    """Give a network the first weights of a run; what is not among them (a new head) keeps its own.

    Args:
        run_dir: URL of the run directory.
        model: the network that the weights were matched with, on any device.

    Raises:
        ModelError: they are missing or damaged.
    """
    folder = storage.join(run_dir, START_FOLDER)
    facts = storage.read_json(storage.join(folder, _FACTS_FILE))
    own = model.state_dict()
    for name, tensor in read_tensors(storage.join(folder, TENSORS_FILE), facts["tensors_sha256"]).items():
        own[name].copy_(tensor)
