"""The table of layers: torchvision's own published counts, and sizes that do not fit."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import nn

from dlspark.errors import ModelError
from dlspark.models.build import build_model
from dlspark.models.layer_table import LayerRow, check_fit, describe_layers


def rows_of(
    name: str, size: int, *, channels: int = 3, num_classes: int = 1000, **options: Any
) -> list[LayerRow]:
    shape = {"channels": channels, "height": size, "width": size}
    with torch.device("meta"):
        network = build_model(name, num_classes=num_classes, **shape, **options)
    return list(describe_layers(network, name, **shape))


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("alexnet", "AlexNet_Weights"),
        ("vgg16", "VGG16_Weights"),
        ("resnet50", "ResNet50_Weights"),
        ("torchvision", "ViT_B_16_Weights"),
    ],
)
def test_parameters_and_multiply_adds_are_those_that_torchvision_publishes(name: str, weights: str) -> None:
    from torchvision import models

    published = getattr(models, weights).IMAGENET1K_V1.meta
    options = {"architecture": weights.removesuffix("_Weights").lower()} if name == "torchvision" else {}
    rows = rows_of(name, 224, **options)
    assert sum(row.parameters for row in rows) == published["num_params"]
    # torchvision gives them in units of 1e9, to three places
    assert sum(row.multiply_adds for row in rows) / 1e9 == pytest.approx(published["_ops"], abs=6e-4)


def test_lenet5_layer_by_layer() -> None:
    rows = rows_of("lenet5", 32, channels=1, num_classes=10)
    conv, tanh, pool = rows[:3]
    assert conv == LayerRow(
        name="0",
        kind="Conv2d",
        output=(6, 28, 28),
        formulas=("(32 - 5 + 2*0)/1 + 1 = 28",),
        parameters=156,
        activation_bytes=6 * 28 * 28 * 4,
        multiply_adds=6 * 28 * 28 * 25,
    )
    assert (tanh.kind, tanh.parameters, tanh.multiply_adds, tanh.formulas) == ("Tanh", 0, 0, ())
    assert (pool.output, pool.formulas) == ((6, 14, 14), ("(28 - 2 + 2*0)/2 + 1 = 14",))
    assert rows[-1].output == (10,)
    assert rows[-1].multiply_adds == 840
    assert sum(row.parameters for row in rows) == 61_706


def test_height_and_width_have_a_formula_each_where_they_differ() -> None:
    network = build_model("lenet5", channels=1, height=32, width=28, num_classes=10)
    conv = describe_layers(network, "lenet5", channels=1, height=32, width=28)[0]
    assert conv.formulas == ("(32 - 5 + 2*0)/1 + 1 = 28", "(28 - 5 + 2*2)/1 + 1 = 28")


def test_a_floor_that_loses_pixels_is_a_warning_and_one_in_the_padding_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        rows = {row.name: row for row in rows_of("vgg11", 28, channels=1, num_classes=10)}
    assert rows["features.10"].lost_pixels == (1, 1)
    assert rows["features.10"].warnings == (
        "layer features.10: output (W - F + 2P)/S + 1 = (7 - 2 + 2*0)/2 + 1 = 3.50, rounded down to 3: the "
        "last rows (1) and columns (1) of its input are not used",
    )
    assert "vgg11 on images of 28x28 pixels: layer features.10" in caplog.text
    caplog.clear()
    for name in ("resnet18", "alexnet"):
        assert [line for row in rows_of(name, 224) for line in row.warnings] == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_each_axis_warns_for_itself() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.MaxPool2d(3))
    for (height, width), said in {
        (6, 7): "(7 - 3 + 2*0)/3 + 1 = 2.33, rounded down to 2: the last columns (1)",
        (8, 6): "(8 - 3 + 2*0)/3 + 1 = 2.67, rounded down to 2: the last rows (2)",
    }.items():
        (line,) = describe_layers(network, "two", channels=1, height=height, width=width)[1].warnings
        assert said in line
    both = describe_layers(network, "two", channels=1, height=7, width=8)[1].warnings
    assert ["rows (1)" in both[0], "columns (2)" in both[1]] == [True, True]
    assert describe_layers(network, "two", channels=1, height=6, width=6)[1].warnings == ()


def test_a_layer_that_does_not_fit_is_named_with_its_numbers() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 3), nn.MaxPool2d(2), nn.Conv2d(1, 1, 5, dilation=2))
    said = r"too small for layer 2; got 7 pixels.*\(7 - 9 \+ 2\*0\)/1 \+ 1 = -1; .*mine on .* a width of 16"
    with pytest.raises(ModelError, match=said):
        check_fit(network, "mine", channels=1, height=32, width=16)
    dense = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(ModelError, match=r"does not fit layer 1; got 5x5 pixels: .*shapes.*in mine"):
        check_fit(dense, "mine", channels=1, height=5, width=5)


def test_the_network_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    network = build_model("mlp", channels=1, height=4, width=4, num_classes=3, batch_norm=True)
    network[1].eval()  # type: ignore[index]
    modes = [layer.training for layer in network.modules()]
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    describe_layers(network, "mlp", channels=1, height=4, width=4)
    assert [layer.training for layer in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in network.modules())


def test_layers_that_write_over_their_input_take_no_memory() -> None:
    rows = {row.kind: row for row in rows_of("alexnet", 224)}
    assert rows["ReLU"].activation_bytes == rows["Dropout"].activation_bytes == 0
    first = rows_of("alexnet", 224)[0]
    assert first.activation_bytes == 64 * 55 * 55 * 4
