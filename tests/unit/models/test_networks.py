"""The networks: their sizes, their parameter counts, what they refuse, and their first weights."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import pytest
import torch
from torch import nn

from dlspark.config import model_sections as sections
from dlspark.errors import ModelError
from dlspark.models.build import BUILDERS, build_model, option_names
from dlspark.models.layers import activation_layer

CONFIGS = {
    "mlp": sections.MlpConfig,
    "lenet5": sections.LeNet5Config,
    "mnist_cnn": sections.MnistCnnConfig,
    "resnet18": sections.ResNet18Config,
}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", BUILDERS)
def test_options_and_defaults_are_those_of_the_configuration(name: str) -> None:
    fields = {key: field.default for key, field in CONFIGS[name].model_fields.items() if key != "name"}
    assert set(option_names(name)) == set(fields)
    parameters = inspect.signature(BUILDERS[name]).parameters
    assert {key: parameters[key].default for key in fields} == fields


def test_every_model_of_the_configuration_can_be_built() -> None:
    assert set(CONFIGS) == set(BUILDERS)


@pytest.mark.parametrize(
    ("name", "options", "smallest"),
    [
        ("mlp", {}, 1),
        ("mlp", {"hidden": ()}, 1),
        ("mlp", {"hidden": (7, 5, 3), "dropout_input": 0.2, "dropout_hidden": 0.5}, 1),
        ("lenet5", {}, 16),
        ("mnist_cnn", {}, 6),
        ("mnist_cnn", {"padding": "same"}, 2),
        ("resnet18", {}, 8),
        ("resnet18", {"stem": "imagenet"}, 32),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_smallest_image_gives_logits_and_one_pixel_less_is_refused(
    name: str, options: dict[str, Any], smallest: int, channels: int
) -> None:
    sizes = {"channels": channels, "height": smallest, "width": smallest, "num_classes": 5}
    model = build_model(name, **sizes, **options)
    for rows in (2, 1):  # one row alone too, which nn.BatchNorm2d would refuse at 1x1
        logits = model(torch.randn(rows, channels, smallest, smallest))
        assert logits.shape == (rows, 5)
        assert logits.dtype == torch.float32
        assert torch.isfinite(logits).all()
    for axis in ("height", "width"):
        said = (
            rf"layer .*{name} on images with a {axis} of {smallest - 1} pixels" if smallest > 1 else "got 0"
        )
        with pytest.raises(ModelError, match=said):
            build_model(name, **(sizes | {axis: smallest - 1}), **options)


@pytest.mark.parametrize("name", BUILDERS)
def test_images_need_not_be_square(name: str) -> None:
    model = build_model(name, channels=1, height=32, width=40, num_classes=4).eval()
    assert model(torch.randn(3, 1, 32, 40)).shape == (3, 4)


def test_lenet5_has_61706_parameters_at_32_and_at_28_pixels() -> None:
    for size in (32, 28):
        model = build_model("lenet5", channels=1, height=size, width=size, num_classes=10)
        assert count(model) == 61_706
        assert model(torch.randn(2, 1, size, size)).shape == (2, 10)


def test_lenet5_refuses_a_size_that_does_not_fit_with_layer_and_formula() -> None:
    with pytest.raises(ModelError) as error:
        build_model("lenet5", channels=1, height=33, width=33, num_classes=10)
    assert "layer pool1 does not fit" in str(error.value)
    assert "lenet5 on images with a height of 33 pixels" in str(error.value)
    assert "(29 - 2 + 2*0)/2 + 1 = 14.50" in str(error.value)


def test_the_lectures_mnist_cnn() -> None:
    model = build_model("mnist_cnn", channels=1, height=28, width=28, num_classes=10)
    names = [type(layer).__name__ for layer in model.children()]
    assert names == [
        *["Conv2d", "ReLU", "Conv2d", "ReLU", "MaxPool2d", "Dropout"],
        *["Flatten", "Linear", "ReLU", "Dropout", "Linear"],
    ]
    # 320 + 18,496 for the convolutions, 12*12*64 inputs of the dense layer, 128 of the output layer
    assert count(model) == 320 + 18_496 + (12 * 12 * 64 + 1) * 128 + 129 * 10


def test_mnist_cnn_says_when_pooling_leaves_pixels_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        model = build_model("mnist_cnn", channels=1, height=9, width=8, num_classes=3)
    assert "layer pool of mnist_cnn on images with a height of 9 pixels" in caplog.text
    assert "width" not in caplog.text
    assert model(torch.randn(2, 1, 9, 8)).shape == (2, 3)


def test_hintons_mnist_network() -> None:
    model = build_model("mlp", channels=1, height=28, width=28, num_classes=10)
    assert count(model) == 785 * 500 + 501 * 500 + 501 * 10


def test_perceptron_has_one_unit_for_each_class() -> None:
    assert count(build_model("mlp", channels=1, height=28, width=28, num_classes=10, hidden=())) == 785 * 10


def test_resnet18_is_torchvisions_at_224_pixels() -> None:
    model = build_model("resnet18", channels=3, height=224, width=224, num_classes=1000)
    assert count(model) == 11_689_512  # as published by torchvision
    assert isinstance(model.get_submodule("maxpool"), nn.MaxPool2d)


@pytest.mark.parametrize(("size", "stem"), [(64, "small"), (65, "imagenet")])
def test_resnet18_chooses_its_stem_by_size_and_says_so(
    size: int, stem: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        model = build_model("resnet18", channels=1, height=size, width=size, num_classes=2)
    assert f"stem {stem}" in caplog.text
    assert isinstance(model.get_submodule("maxpool"), nn.Identity) == (stem == "small")


def test_one_lone_value_does_not_change_the_running_statistics() -> None:
    model = build_model("resnet18", channels=1, height=8, width=8, num_classes=2)
    last = model.get_submodule("layer4.1.bn2")
    before = last.running_mean.clone()
    model(torch.randn(1, 1, 8, 8))
    assert torch.equal(last.running_mean, before)
    model(torch.randn(2, 1, 8, 8))
    assert not torch.equal(last.running_mean, before)


def test_unknown_names_are_answered_with_the_allowed_ones_and_the_nearest() -> None:
    shape = {"channels": 1, "height": 28, "width": 28, "num_classes": 10}
    with pytest.raises(ModelError, match=r"got 'lenet'; allowed: mlp, lenet5, .* Fix: use lenet5\."):
        build_model("lenet", **shape)
    with pytest.raises(ModelError, match=r"got 'droput_dense'.*Fix: use dropout_dense\."):
        build_model("mnist_cnn", **shape, droput_dense=0.1)
    with pytest.raises(ModelError, match=r"got 'gelu'; allowed: sigmoid, tanh, relu, leaky_relu"):
        build_model("mlp", **shape, activation="gelu")
    with pytest.raises(ModelError, match=r"got 'full'; allowed: valid, same"):
        build_model("mnist_cnn", **shape, padding="full")
    with pytest.raises(ModelError, match=r"got 'tiny'; allowed: auto, imagenet, small"):
        build_model("resnet18", **shape, stem="tiny")
    with pytest.raises(ModelError, match=r"num_classes.*got 1; allowed: >= 2"):
        build_model("mlp", **(shape | {"num_classes": 1}))


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "relu", "leaky_relu"])
def test_first_weights_keep_the_size_of_the_signal(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(
        "mlp", channels=1, height=20, width=20, num_classes=10, hidden=(400,) * 6, activation=name
    )
    spreads = []
    for layer in model.children():
        if isinstance(layer, nn.Linear):
            assert not layer.bias.any()
            # times the root of the inputs it is 1 for Xavier and the root of 2 for He
            spreads.append(float(layer.weight.detach().std()) * 20)
    expected = 2**0.5 if name in ("relu", "leaky_relu") else 1.0
    assert spreads[:-1] == pytest.approx([expected] * 6, rel=0.02)
    assert spreads[-1] == pytest.approx((2 * 400 / 410) ** 0.5, rel=0.05)  # the logits: Xavier


@torch.no_grad()
def test_lectures_perceptron_and_two_layer_network() -> None:
    perceptron, sigmoid = nn.Linear(2, 1), activation_layer("sigmoid")
    perceptron.weight.copy_(torch.tensor([[3.0, -2.0]]))
    perceptron.bias.fill_(1.0)
    z = perceptron(torch.tensor([-1.0, 2.0]))
    assert float(z) == -6.0
    assert float(sigmoid(z)) == pytest.approx(0.0025, abs=5e-5)

    hidden, output = nn.Linear(2, 3, bias=False), nn.Linear(3, 1, bias=False)
    hidden.weight.copy_(torch.tensor([[0.8, 0.6], [0.2, 0.9], [0.7, 0.1]]))
    output.weight.copy_(torch.tensor([[0.2, 0.8, 0.5]]))
    rounded = (sigmoid(hidden(torch.ones(2))) * 100).round() / 100
    assert rounded.tolist() == pytest.approx([0.80, 0.75, 0.69])
    assert float(output(rounded)) == pytest.approx(1.105)
    assert float(sigmoid(output(rounded))) == pytest.approx(0.75, abs=0.005)
