"""The first weights of a run that were made elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from dlspark.errors import ModelError
from dlspark.training.start import load_start, write_start


def test_what_is_not_among_them_keeps_its_own_weights(tmp_path: Path) -> None:
    given, network = nn.Linear(3, 4), nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    head = network[1].weight.detach().clone()
    write_start(str(tmp_path), {"0.weight": given.weight.detach(), "0.bias": given.bias.detach()}, {})
    load_start(str(tmp_path), network)
    assert torch.equal(network[0].weight, given.weight)
    assert torch.equal(network[0].bias, given.bias)
    assert torch.equal(network[1].weight, head)


def test_damaged_ones_are_refused(tmp_path: Path) -> None:
    write_start(str(tmp_path), {"weight": torch.zeros(2, 2)}, {})
    file = tmp_path / "start" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError, match="checksum is another one"):
        load_start(str(tmp_path), nn.Linear(2, 2))
