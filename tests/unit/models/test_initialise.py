"""The first weights by name, maxout and batch normalisation, and the spread that they give the signal."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dlspark.models.build import build_model
from dlspark.models.initialise import INITIALISATIONS, maxout_second_moment
from dlspark.models.layers import ACTIVATIONS, Maxout, activation_layer, convolution_block, dense_block
from dlspark.models.spread import LayerSpread, measure_spread


def deep(**options: object) -> nn.Module:
    """Six hidden layers of 400 units on 400 inputs."""
    torch.manual_seed(0)
    return build_model(
        "mlp", channels=1, height=20, width=20, num_classes=10, **({"hidden": (400,) * 6} | options)
    )


def noise(rows: int = 256, size: int = 20) -> torch.Tensor:
    return torch.randn(rows, 1, size, size, generator=torch.Generator().manual_seed(1))


def stds(network: nn.Module, kind: str) -> list[float]:
    return [row.std for row in measure_spread(network, noise()) if row.kind == kind]


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "relu", "leaky_relu", "maxout"])
def test_first_weights_suit_the_activation(name: str) -> None:
    spreads = []
    for layer in deep(activation=name).children():
        if isinstance(layer, nn.Linear):
            assert not layer.bias.any()
            # times the root of the inputs it is 1 for Xavier and the root of 2 for He
            spreads.append(float(layer.weight.detach().std()) * 20)
    expected = 2**0.5 if name in ("relu", "leaky_relu") else 1.0
    assert spreads[:-1] == pytest.approx([expected] * 6, rel=0.02)
    assert spreads[-1] == pytest.approx(0.1, rel=0.05)  # the logits


@pytest.mark.parametrize(
    "name", ["perceptron", "mlp", "lenet5", "mnist_cnn", "alexnet", "vgg11", "googlenet", "resnet18"]
)
def test_a_network_that_knows_nothing_has_the_first_loss_of_theory(name: str) -> None:
    torch.manual_seed(0)
    network = build_model(name, channels=1, height=32, width=32, num_classes=10)
    with torch.no_grad():
        loss = nn.functional.cross_entropy(network(noise(64, size=32)), torch.arange(64) % 10)
    assert float(loss) == pytest.approx(math.log(10), rel=0.25)


@pytest.mark.parametrize(
    ("initialisation", "spread", "is_uniform"),
    [
        ("torch", (1 / 3) ** 0.5, True),  # uniform in +-1/sqrt(fan_in)
        ("normal", 0.01 * 20, False),
        ("xavier_normal", 1.0, False),
        ("xavier_uniform", 1.0, True),
        ("he_normal", 2**0.5, False),
        ("he_uniform", 2**0.5, True),
    ],
)
def test_a_named_initialisation_has_its_variance_and_its_shape(
    initialisation: str, spread: float, is_uniform: bool
) -> None:
    layers = [
        layer for layer in deep(initialisation=initialisation).children() if isinstance(layer, nn.Linear)
    ]
    weight = layers[2].weight.detach()
    assert float(weight.std()) * 20 == pytest.approx(spread, rel=0.02)
    # a uniform variable ends at sqrt(3) standard deviations, a normal one of 160,000 does not
    assert (float(weight.abs().max() / weight.std()) < 1.8) == is_uniform
    assert layers[2].bias.any() == (initialisation == "torch")
    assert set(INITIALISATIONS) >= {initialisation}


def test_hintons_recipe_draws_all_weights_from_a_small_normal() -> None:
    model = build_model("mlp", channels=1, height=28, width=28, num_classes=10, initialisation="normal")
    for layer in model.children():
        if isinstance(layer, nn.Linear):
            assert float(layer.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
            assert not layer.bias.any()


def test_he_keeps_the_signal_of_relu_and_small_normal_loses_it() -> None:
    he = stds(deep(initialisation="he_normal"), "Linear")[:-1]
    assert he == pytest.approx([2**0.5] * 6, rel=0.25)
    small = stds(deep(initialisation="normal"), "Linear")
    assert small[0] == pytest.approx(0.2, rel=0.05)
    assert small[5] < 1e-3


def test_maxout_keeps_the_second_moment_of_the_signal() -> None:
    for pieces in (2, 5):
        rows = measure_spread(deep(activation="maxout", maxout_pieces=pieces), noise())
        moments = [row.mean**2 + row.std**2 for row in rows if row.kind == "Maxout"]
        assert moments == pytest.approx([1.0] * 6, rel=0.35)
    assert maxout_second_moment(1) == pytest.approx(1.0, abs=1e-6)
    assert maxout_second_moment(2) == pytest.approx(1.0, abs=1e-6)
    assert maxout_second_moment(3) == pytest.approx(1 + math.sqrt(3) / (2 * math.pi), abs=1e-6)


def test_batch_norm_brings_a_deep_sigmoid_network_to_unit_spread() -> None:
    plain = stds(deep(activation="sigmoid", initialisation="normal"), "Linear")
    assert max(plain[1:6]) < 0.11
    network = deep(activation="sigmoid", initialisation="normal", batch_norm=True)
    assert stds(network, "BatchNorm1d") == pytest.approx([1.0] * 6, abs=0.02)
    assert stds(network, "Sigmoid") == pytest.approx([0.208] * 6, abs=0.01)  # of sigmoid(N(0, 1))
    assert [layer.bias is None for layer in network.modules() if isinstance(layer, nn.Linear)] == (
        [True] * 6 + [False]
    )


def test_the_spread_counts_zeros_and_saturated_units_and_leaves_the_network_alone() -> None:
    network = deep(hidden=(400,), activation="relu", batch_norm=True, dropout_hidden=0.5)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    rows = {row.kind: row for row in measure_spread(network, noise())}
    assert rows["ReLU"].zeros == pytest.approx(0.5, abs=0.02)
    assert rows["ReLU"].saturated is None
    assert "Dropout" not in rows
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[key])
    assert network.training

    wide = deep(hidden=(400,), activation="tanh", initialisation="normal", initialisation_std=1.0)
    tanh = next(row for row in measure_spread(wide, noise()) if row.kind == "Tanh")
    # tanh(20 z) is within 0.9 of 0 for |z| < atanh(0.9)/20 = 0.0736
    assert tanh.saturated == pytest.approx(1 - math.erf(0.0736 / math.sqrt(2)), abs=0.01)
    assert tanh.zeros == 0.0


def test_a_spread_of_known_values() -> None:
    images = torch.tensor([-1.0, 0.0, 1.0, 2.0]).reshape(4, 1, 1, 1)
    (row,) = measure_spread(nn.Sequential(nn.ReLU()), images)
    assert row == LayerSpread(
        name="0", kind="ReLU", mean=0.75, std=pytest.approx(0.6875**0.5), zeros=0.5, saturated=None
    )


def test_maxout_is_the_largest_of_its_pieces() -> None:
    values = torch.tensor([[1.0, 5.0, -2.0, -3.0]], requires_grad=True)
    out = Maxout(2)(values)
    assert out.tolist() == [[5.0, -2.0]]
    torch.autograd.backward(out.sum())
    assert values.grad is not None
    assert values.grad.tolist() == [[0.0, 1.0, 1.0, 0.0]]
    maps = torch.randn(2, 6, 4, 4)
    out = Maxout(3)(maps)
    assert out.shape == (2, 2, 4, 4)
    assert torch.equal(out[:, 1], maps[:, 3:].amax(1))


def test_maxout_of_two_pieces_learns_the_absolute_value() -> None:
    unit = nn.Sequential(*dense_block(1, 1, activation="maxout"))
    with torch.no_grad():
        unit[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))  # type: ignore[operator,union-attr]
        unit[0].bias.zero_()  # type: ignore[operator,union-attr]
    x = torch.linspace(-2, 2, 9).unsqueeze(1)
    assert torch.equal(unit(x), x.abs())


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_blocks_give_the_size_that_was_asked_for(name: str, batch_norm: bool) -> None:
    dense = nn.Sequential(*dense_block(6, 4, activation=name, maxout_pieces=3, batch_norm=batch_norm))
    assert dense(torch.randn(5, 6)).shape == (5, 4)
    convolution = nn.Sequential(
        *convolution_block(2, 4, kernel=3, padding=1, activation=name, maxout_pieces=3, batch_norm=batch_norm)
    )
    assert convolution(torch.randn(5, 2, 8, 8)).shape == (5, 4, 8, 8)


@torch.no_grad()
def test_activations_are_the_lectures() -> None:
    x = torch.tensor([-2.0, 0.0, 3.0])
    assert activation_layer("relu")(x).tolist() == [0.0, 0.0, 3.0]
    assert activation_layer("leaky_relu")(x).tolist() == pytest.approx([-0.02, 0.0, 3.0])
    assert activation_layer("tanh")(x).tolist() == pytest.approx([math.tanh(-2), 0.0, math.tanh(3)])
    assert activation_layer("sigmoid")(x).tolist() == pytest.approx(
        [1 / (1 + math.exp(-v)) for v in (-2, 0, 3)]
    )
