"""The networks: their sizes, their parameter counts, what they refuse, and their first weights."""

from __future__ import annotations

import inspect
import json
import logging
from typing import Any, get_args

import pytest
import torch
from torch import nn

from dlspark.config import model_sections as sections
from dlspark.errors import ModelError
from dlspark.models.build import BUILDERS, build_model, option_names
from dlspark.models.layers import activation_layer
from dlspark.models.resnet import RESNETS
from dlspark.models.vgg import VGGS

CONFIGS = {
    name: section
    for section in get_args(get_args(sections.ModelConfig)[0])
    for name in get_args(section.model_fields["name"].annotation)
}


FAMILIES = [name for name in BUILDERS if name not in RESNETS[1:] and name not in VGGS[1:]]


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


OWN: list[tuple[str, dict[str, Any], int]] = [
    ("perceptron", {}, 1),
    ("mlp", {}, 1),
    ("mlp", {"hidden": ()}, 1),
    ("mlp", {"hidden": (7, 5, 3), "dropout_input": 0.2, "dropout_hidden": 0.5}, 1),
    ("mlp", {"hidden": (8,) * 6, "activation": "sigmoid", "batch_norm": True}, 1),
    ("lenet5", {}, 16),
    ("lenet5", {"batch_norm": True, "activation": "maxout"}, 16),
    ("mnist_cnn", {}, 6),
    ("mnist_cnn", {"padding": "same"}, 2),
    ("mnist_cnn", {"padding": "same", "batch_norm": True, "activation": "maxout", "maxout_pieces": 3}, 2),
    ("alexnet", {}, 8),
]
PUBLISHED: list[tuple[str, dict[str, Any], int]] = [
    *[("googlenet", {"stem": stem}, size) for stem, size in (("small", 4), ("imagenet", 32))],
    *[(name, {"stem": stem}, size) for name in RESNETS for stem, size in (("small", 8), ("imagenet", 32))],
    *[(name, {"stem": "small"}, 16) for name in VGGS],
    ("vgg11", {"stem": "imagenet"}, 32),
    ("alexnet", {"stem": "imagenet"}, 63),
]
"""Networks, and the pixels of the smallest image that each takes."""


@pytest.mark.parametrize(
    ("name", "options", "smallest"),
    [*OWN, ("vgg11_bn", {}, 16), *(pytest.param(*case, marks=pytest.mark.slow) for case in PUBLISHED)],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_smallest_image_trains_and_one_pixel_less_is_refused(
    name: str, options: dict[str, Any], smallest: int, channels: int
) -> None:
    torch.manual_seed(0)
    sizes = {"channels": channels, "height": smallest, "width": smallest, "num_classes": 5}
    model = build_model(name, **sizes, **options)
    for rows in (2, 1):  # one row alone too, which torch's batch normalisation would refuse at 1x1
        logits = model(torch.randn(rows, channels, smallest, smallest))
        assert logits.shape == (rows, 5)
        assert logits.dtype == torch.float32
        loss = nn.functional.cross_entropy(logits, torch.arange(rows))
        assert torch.isfinite(loss)
        model.zero_grad()
        loss.backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, key
            assert torch.isfinite(parameter.grad).all(), key
    for axis in ("height", "width"):
        said = (
            rf"layer .*{name} on images with a {axis} of {smallest - 1} pixels" if smallest > 1 else "got 0"
        )
        with pytest.raises(ModelError, match=said):
            build_model(name, **(sizes | {axis: smallest - 1}), **options)


@pytest.mark.parametrize(("name", "smallest"), [("googlenet", 32), ("vgg11", 32), ("alexnet", 63)])
def test_published_forms_refuse_images_that_are_too_small(name: str, smallest: int) -> None:
    sizes = {"channels": 1, "height": 64, "width": smallest - 1, "num_classes": 5, "stem": "imagenet"}
    with torch.device("meta"), pytest.raises(ModelError, match=f"width of {smallest - 1} pixels"):
        build_model(name, **sizes)


@pytest.mark.parametrize("name", FAMILIES)
def test_options_from_json_build_for_images_that_are_small_and_not_square(name: str) -> None:
    options = CONFIGS[name](name=name).model_dump(mode="json", exclude={"name"})
    assert json.loads(json.dumps(options)) == options
    sides: list[int] = []
    with torch.device("meta"):
        model = build_model(name, channels=1, height=28, width=40, num_classes=4, **options).eval()
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(lambda _, __, output: sides.append(output.shape[2]))
        assert model(torch.empty(3, 1, 28, 40)).shape == (3, 4)
    if name in ("alexnet", "googlenet", "vgg11", "resnet18"):
        assert sides[0] == 28  # the small stem does not shrink the image
        assert min(sides) == {"alexnet": 7, "googlenet": 7, "vgg11": 1, "resnet18": 4}[name]


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
    for name, options in (("perceptron", {}), ("mlp", {"hidden": ()})):
        model = build_model(name, channels=1, height=28, width=28, num_classes=10, **options)
        assert count(model) == 785 * 10


@pytest.mark.parametrize(
    ("name", "parameters", "layers"),
    [
        ("alexnet", 61_100_840, 8),
        ("googlenet", 6_624_904, None),  # 22 deep, but its modules run side by side
        ("vgg16", 138_357_544, 16),
        ("vgg19", 143_667_240, 19),
        ("resnet18", 11_689_512, 18),
        ("resnet34", 21_797_672, 34),
        ("resnet50", 25_557_032, 50),
    ],
)
def test_published_networks_have_their_parameters_and_layers(
    name: str, parameters: int, layers: int | None
) -> None:
    with torch.device("meta"):
        model = build_model(name, channels=3, height=224, width=224, num_classes=1000)
    assert count(model) == parameters
    weighted = [
        key
        for key, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and "downsample" not in key
    ]
    assert layers in (None, len(weighted))


def test_small_stems_keep_the_convolutions_of_the_published_vgg() -> None:
    with torch.device("meta"):
        small, published = (
            build_model("vgg11", channels=3, height=size, width=size, num_classes=10).state_dict()
            for size in (32, 224)
        )
    shared = {key: tensor.shape for key, tensor in small.items() if key.startswith("features")}
    assert len(shared) == 16
    assert shared == {key: published[key].shape for key in shared}
    assert small["classifier.1.weight"].shape == (10, 512)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_first_convolution_keeps_its_spread_for_any_number_of_channels(channels: int) -> None:
    torch.manual_seed(0)
    model = build_model("vgg11", channels=channels, height=32, width=32, num_classes=4)
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    assert first.weight.shape == (64, channels, 3, 3)
    spread = first(torch.randn(8, channels, 32, 32))[..., 1:-1, 1:-1].detach().std()
    assert float(spread) == pytest.approx((27 * 2 / (64 * 9)) ** 0.5, rel=0.1)  # He by fan_out, 3 channels


@pytest.mark.parametrize(("size", "stem"), [(64, "small"), (65, "imagenet")])
@pytest.mark.parametrize("name", ["resnet18", "alexnet"])
def test_the_stem_is_chosen_by_size_and_said(
    name: str, size: int, stem: str, caplog: pytest.LogCaptureFixture
) -> None:
    shape = {"channels": 1, "height": size, "width": size, "num_classes": 2}
    with caplog.at_level(logging.INFO), torch.device("meta"):
        chosen = build_model(name, **shape)
        assert f"{name}: stem {stem}" in caplog.text
        asked = build_model(name, **shape, stem=stem)
    assert str(chosen) == str(asked)


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
    with pytest.raises(
        ModelError, match=r"got 'lenet'; allowed: perceptron, mlp, lenet5, .* Fix: use lenet5\."
    ):
        build_model("lenet", **shape)
    with pytest.raises(ModelError, match=r"got 'droput_dense'.*Fix: use dropout_dense\."):
        build_model("mnist_cnn", **shape, droput_dense=0.1)
    with pytest.raises(ModelError, match=r"got 'gelu'; allowed: sigmoid, tanh, relu, leaky_relu, maxout"):
        build_model("mlp", **shape, activation="gelu")
    with pytest.raises(ModelError, match=r"got 'he'; allowed: auto, torch, .* in model\.initialisation"):
        build_model("mlp", **shape, initialisation="he")
    with pytest.raises(ModelError, match=r"initialisation_std.*got 0\.0; allowed: > 0"):
        build_model("perceptron", **shape, initialisation_std=0.0)
    with pytest.raises(ModelError, match=r"maxout_pieces.*got 1; allowed: >= 2"):
        build_model("lenet5", **shape, activation="maxout", maxout_pieces=1)
    with pytest.raises(ModelError, match=r"dropout_hidden.*got 1\.0; allowed: \[0, 1\)"):
        build_model("mlp", **shape, dropout_hidden=1.0)
    with pytest.raises(ModelError, match=r"units of a layer.*got 0; allowed: >= 1"):
        build_model("mlp", **shape, hidden=(0,))
    with pytest.raises(ModelError, match=r"dropout .*got -0\.1"):
        build_model("vgg11", **shape, dropout=-0.1)
    with pytest.raises(ModelError, match=r"got 'full'; allowed: valid, same"):
        build_model("mnist_cnn", **shape, padding="full")
    with pytest.raises(ModelError, match=r"got 'tiny'; allowed: auto, imagenet, small"):
        build_model("resnet18", **shape, stem="tiny")
    with pytest.raises(ModelError, match=r"num_classes.*got 1; allowed: >= 2"):
        build_model("mlp", **(shape | {"num_classes": 1}))


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
