"""A checkpoint is the same network again, or an error that names the file."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from dlspark import storage
from dlspark.contracts import ImageFormat, Preprocessing
from dlspark.errors import ModelError
from dlspark.models.build import build_model
from dlspark.training import checkpoint
from dlspark.training.checkpoint import CheckpointDescription, load_checkpoint, save_checkpoint
from dlspark.training.views import NO_VIEWS, Views

OPTIONS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": (7, 5), "batch_norm": True, "activation": "maxout", "initialisation": "he_uniform"},
    "lenet5": {},
    "mnist_cnn": {"widths": (4, 8), "padding": "same", "dense": 16},
    "resnet18": {"stem": "small"},
    "alexnet": {"stem": "small"},
    "vgg11_bn": {"dropout": 0.1},
    "torchvision": {"architecture": "shufflenet_v2_x0_5"},
}


def describe(name: str) -> CheckpointDescription:
    return CheckpointDescription(
        model=name,
        model_options=OPTIONS[name],
        preprocessing=Preprocessing(
            image=ImageFormat(height=16, width=16, channels=3, resize="exact"),
            mean=(0.1, 0.2, 1 / 3),
            std=(0.5, 0.6, 0.7),
        ),
        classes=("cat", "dog", "ñandú"),
        fingerprint="0" * 32,
        epoch=3,
        step=36,
        metrics={"val_accuracy": 0.99},
        views=Views(shift=1, rotate_degrees=5.0),
    )


def save(url: Path, name: str = "mnist_cnn") -> torch.nn.Module:
    torch.manual_seed(5)
    model = build_model(name, channels=3, height=16, width=16, num_classes=3, **OPTIONS[name])
    model(torch.randn(4, 3, 16, 16))  # moves the running statistics of batch normalisation
    save_checkpoint(str(url), model, describe(name))
    return model


def test_a_checkpoint_from_before_there_were_views_has_none(tmp_path: Path) -> None:
    save(tmp_path)
    file = tmp_path / "checkpoint.json"
    values = json.loads(file.read_text())
    del values["views"]
    file.write_text(json.dumps(values))
    assert load_checkpoint(str(tmp_path))[1].views == NO_VIEWS


@pytest.mark.parametrize("name", OPTIONS)
def test_round_trip_is_bit_equal(name: str, tmp_path: Path) -> None:
    saved = save(tmp_path / "final", name)
    random_state = torch.get_rng_state()
    loaded, description = load_checkpoint(str(tmp_path / "final"))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert description.to_json() == json.loads(json.dumps(describe(name).to_json()), object_hook=_tuples)
    before, after = saved.state_dict(), loaded.state_dict()
    assert list(before) == list(after)
    for key in before:
        assert before[key].dtype == after[key].dtype
        assert torch.equal(before[key], after[key]), key
    assert not loaded.training
    assert all(
        parameter.requires_grad and parameter.device.type == "cpu" for parameter in loaded.parameters()
    )
    images = torch.randn(5, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(saved.eval()(images), loaded(images))


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: tuple(value) if key in ("classes", "mean", "std") else value for key, value in values.items()
    }


def test_nothing_is_pickled_or_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a checkpoint went through pickle")

    for module, name in (
        (torch, "load"),
        (torch, "save"),
        (pickle, "load"),
        (pickle, "loads"),
        (pickle, "Unpickler"),
    ):
        monkeypatch.setattr(module, name, refuse)
    save(tmp_path / "final")
    load_checkpoint(str(tmp_path / "final"))
    assert sorted(path.name for path in (tmp_path / "final").iterdir()) == [
        "checkpoint.json",
        "model.safetensors",
    ]
    data = (tmp_path / "final" / "model.safetensors").read_bytes()
    header_bytes = int.from_bytes(data[:8], "little")  # the safetensors format: length, JSON header, tensors
    assert "0.weight" in json.loads(data[8 : 8 + header_bytes])


@pytest.mark.parametrize("place", [0, 100, -1])
def test_one_corrupted_byte_is_refused(place: int, tmp_path: Path) -> None:
    save(tmp_path)
    file = tmp_path / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    with pytest.raises(ModelError, match=r"checksum.*in .*model\.safetensors"):
        load_checkpoint(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("checkpoint.json", None, "there is no checkpoint"),
        ("model.safetensors", None, "are missing"),
        ("checkpoint.json", b'{"version": 1, "mod', "is not JSON"),
        ("checkpoint.json", b"\xff\xfe", "is not JSON"),
        ("checkpoint.json", b"[]", "another version"),
        ("checkpoint.json", b'{"version": 2}', "got 2; allowed: 1"),
        ("checkpoint.json", b'{"version": 1}', "is not whole"),
    ],
)
def test_a_missing_or_foreign_file_is_named(
    name: str, content: bytes | None, said: str, tmp_path: Path
) -> None:
    save(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=said) as error:
        load_checkpoint(str(tmp_path))
    assert str(tmp_path / name) in str(error.value)


def test_tensors_of_another_network_are_refused(tmp_path: Path) -> None:
    save(tmp_path)
    file = tmp_path / "checkpoint.json"
    values = json.loads(file.read_text())
    values["model_options"]["dense"] = 17
    file.write_text(json.dumps(values))
    with pytest.raises(
        ModelError, match=r"not those of the network mnist_cnn.*size mismatch.*model\.safetensors"
    ):
        load_checkpoint(str(tmp_path))


def test_the_description_is_written_last_and_withdrawn_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path)

    def full(url: str, data: bytes) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint.storage, "write_bytes", full)
    with pytest.raises(OSError, match="no space left"):
        save(tmp_path)
    monkeypatch.undo()
    with pytest.raises(ModelError, match="there is no checkpoint"):
        load_checkpoint(str(tmp_path))


@pytest.mark.faults(scenario=6)
def test_any_storage_serves() -> None:
    url = "memory://checkpoints/final"
    torch.manual_seed(0)
    model = build_model("mlp", channels=3, height=16, width=16, num_classes=3, **OPTIONS["mlp"])
    save_checkpoint(url, model, describe("mlp"))
    loaded, _ = load_checkpoint(url)
    assert torch.equal(loaded.state_dict()["2.weight"], model.state_dict()["2.weight"])
    storage.remove_tree(url)
