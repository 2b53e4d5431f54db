"""Weights from files: read without running code, and matched with a network."""

from __future__ import annotations

import os
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from dlspark.errors import ModelError
from dlspark.models.build import build_model
from dlspark.models.pretrained import MatchedWeights, match_weights, read_weights_file


class Runs:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def build(
    name: str = "mlp", *, channels: int = 1, size: int = 8, num_classes: int = 4, **options: Any
) -> nn.Module:
    shape = {"channels": channels, "height": size, "width": size, "num_classes": num_classes}
    return build_model(name, **shape, **options)


def published(architecture: str, **options: Any) -> dict[str, torch.Tensor]:
    """The names and shapes of torchvision's file for 1,000 classes."""
    with torch.device("meta"):
        return models.get_model(architecture, **options).state_dict()


def match(
    network: nn.Module, tensors: dict[str, torch.Tensor], *, same_classes: bool = True
) -> MatchedWeights:
    return match_weights(network, tensors, same_classes=same_classes, where="a.pt")


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.safetensors"])
def test_a_state_dict_is_read(name: str, tmp_path: Path) -> None:
    state, file = build().state_dict(), tmp_path / name
    save_file(state, file) if name.endswith(".safetensors") else torch.save(state, file)
    read = read_weights_file(str(file))
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], state[key]) for key in state)


def test_a_url_is_read(tmp_path: Path) -> None:
    torch.save(build().state_dict(), tmp_path / "a.pt")
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path)
    ) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            assert read_weights_file(f"{url}/a.pt?download=1").keys() == build().state_dict().keys()
            with pytest.raises(ModelError, match=r"cannot be read; got FileNotFoundError.*none\.pt"):
                read_weights_file(f"{url}/none.pt")
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_weights_beside_other_things_are_found(key: str, tmp_path: Path) -> None:
    state = build().state_dict()
    torch.save({"epoch": 3, key: state}, tmp_path / "a.pt")
    assert read_weights_file(str(tmp_path / "a.pt")).keys() == state.keys()


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_is_refused_and_not_run(legacy: bool, tmp_path: Path) -> None:
    state = {"weight": torch.zeros(2), "more": Runs(tmp_path / "made")}
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        ModelError, match=r"holds code or objects, .*; got posix\.mkdir; .*Fix: save the weights alone"
    ):
        read_weights_file(str(tmp_path / "a.pt"))
    assert not (tmp_path / "made").exists()


def test_a_whole_network_in_a_file_is_refused(tmp_path: Path) -> None:
    torch.save(build(), tmp_path / "a.pth")
    with pytest.raises(ModelError, match="holds code or objects"):
        read_weights_file(str(tmp_path / "a.pth"))


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be read; got FileNotFoundError"):
        read_weights_file(str(tmp_path / "none.pt"))
    for name in ("a.pt", "a.safetensors"):
        (tmp_path / name).write_bytes(b"something else, and long enough to be read")
        with pytest.raises(ModelError, match=name):
            read_weights_file(str(tmp_path / name))
    torch.save({"weight": torch.zeros(2), "epoch": 3}, tmp_path / "b.pt")
    with pytest.raises(ModelError, match="no state dict; got something else at 'epoch'"):
        read_weights_file(str(tmp_path / "b.pt"))
    with pytest.raises(ModelError, match="not a file of weights by its ending"):
        read_weights_file(str(tmp_path / "a.bin"))


def test_all_is_taken_over_where_the_classes_are_the_same() -> None:
    state = build().state_dict()
    matched = match(build(), state)
    assert matched.why_drawn is None
    assert matched.tensors.keys() == state.keys()
    assert all(torch.equal(matched.tensors[name], state[name]) for name in state)


def test_the_head_is_drawn_anew_for_other_classes() -> None:
    state = build(num_classes=9).state_dict()
    matched = match(build(), state)
    assert (matched.head, matched.why_drawn) == ("8", "it is for 9 classes, not 4")
    assert matched.tensors.keys() == state.keys() - {"8.weight", "8.bias"}
    assert match(build(num_classes=9), state, same_classes=False).why_drawn == "its classes are other ones"
    features = {name: tensor for name, tensor in state.items() if not name.startswith("8.")}
    assert match(build(), features).why_drawn == "there is none"


def test_anything_else_that_does_not_fit_is_one_error() -> None:
    state = build(hidden=(6, 5)).state_dict()
    del state["2.bias"]
    state["norm.weight"] = torch.zeros(3)
    with pytest.raises(ModelError) as caught:
        match(build(hidden=(6, 7)), state)
    assert str(caught.value).startswith(
        "the weights are not those of the network; got 2.bias is missing; "
        "5.weight has the shape [5, 6] instead of [7, 6]; 5.bias has the shape [5] instead of [7]; "
        "8.weight has the shape [4, 5] instead of [4, 7]; norm.weight is unexpected; "
        "allowed: the network's 6 tensors"
    )
    with pytest.raises(ModelError, match="and 96 more; allowed"):
        match(build("resnet18", num_classes=4), {"one": torch.zeros(1)})
    with pytest.raises(ModelError, match=r"2\.bias is of torch.int64 instead of torch.float32"):
        match(build(), build().state_dict() | {"2.bias": torch.zeros(500, dtype=torch.int64)})


def test_weights_for_other_channels_are_an_error_that_says_so() -> None:
    state = build("lenet5", channels=3, size=28).state_dict()
    with pytest.raises(ModelError, match=r"got 3 in 0\.weight; allowed: 1, .*image\.channels=3"):
        match(build("lenet5", channels=1, size=28), state)


def test_half_precision_becomes_that_of_the_network() -> None:
    state = {name: tensor.half() for name, tensor in build().state_dict().items()}
    for name, tensor in match(build(), state).tensors.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, state[name].float())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {}),
        ("vgg11_bn", {}),
        ("torchvision", {"architecture": "resnet18"}),
        ("torchvision", {"architecture": "mobilenet_v3_small"}),
        ("torchvision", {"architecture": "vit_b_32"}),
    ],
)
def test_files_of_torchvision_fit_its_networks(name: str, options: dict[str, str]) -> None:
    state = published(options.get("architecture", name))
    with torch.device("meta"):
        network = build(name, channels=3, size=224, num_classes=10, **options)
    matched = match(network, state)
    assert matched.why_drawn == "it is for 1000 classes, not 10"
    assert network.state_dict().keys() - matched.tensors.keys() == {
        f"{matched.head}.weight",
        f"{matched.head}.bias",
    }


def test_names_that_published_files_have_are_known() -> None:
    with torch.device("meta"):
        densenet = build("torchvision", channels=3, size=64, architecture="densenet121")
        googlenet = build("googlenet", channels=3, size=224)
    old = {
        name.replace("norm1", "norm.1")
        .replace("norm2", "norm.2")
        .replace("conv1", "conv.1")
        .replace("conv2", "conv.2"): tensor
        for name, tensor in published("densenet121").items()
        if "num_batches_tracked" not in name
    }
    assert any("denselayer1.norm.1.weight" in name for name in old)
    assert len(match(densenet, old).tensors) == len(old) - 2
    with_aux = published("googlenet", aux_logits=True, init_weights=False)
    assert any(name.startswith("aux1.") for name in with_aux)
    assert not any(name.startswith("aux") for name in match(googlenet, with_aux).tensors)
    wrapped = {f"module.{name}": tensor for name, tensor in build().state_dict().items()}
    assert match(build(), wrapped).tensors.keys() == build().state_dict().keys()
