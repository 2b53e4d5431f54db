"""A head that is trained on features of the body before it learns what it learns inside the network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dlspark.errors import ModelError
from dlspark.models.blocks import blocks_of
from dlspark.models.build import build_model
from dlspark.training.checkpoint_writer import SilentCheckpoints
from dlspark.training.diagnostics import DiagnosticsOptions
from dlspark.training.frozen import freeze, train_mode
from dlspark.training.head import features_of, head_of, tensors_of_body
from dlspark.training.optimizers import build_optimizer
from dlspark.training.step import StepOptions
from dlspark.training.trainer import fit
from dlspark.training.weight_average import WeightAverage
from tests.unit.training.doubles import ListTracker, MemorySource, ThreadCommunicator, run_ranks
from tests.unit.training.test_frozen import CPU, IMAGES, LABELS, OPTIMIZERS, network

SHAPE = {"channels": 1, "height": 32, "width": 32, "num_classes": 4}
NETWORKS: dict[str, dict[str, Any]] = {
    "perceptron": {},
    "mlp": {"hidden": (12, 8), "dropout_hidden": 0.5, "batch_norm": True},
    "lenet5": {},
    "mnist_cnn": {"widths": (4, 4), "dense": 16},
    "alexnet": {},
    "vgg11": {},
    "resnet18": {},
    "torchvision": {"architecture": "mobilenet_v3_small"},
}


def frozen(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(name, **SHAPE, **NETWORKS[name])
    freeze(model, "head")
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_features_and_head_give_the_logits_of_the_network_to_the_bit(name: str) -> None:
    model, images = frozen(name), torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    state = torch.get_rng_state()
    head = head_of(model, (1, 32, 32))
    assert torch.equal(torch.get_rng_state(), state)
    features = features_of(model, head, images)
    assert features.shape == (3, head.num_features)
    assert torch.equal(head.eval()(features), model(images))
    assert tuple(head.state_dict()) == blocks_of(model)[-1].parameters
    assert all(parameter.requires_grad for parameter in head.parameters())
    whole = dict(model.named_parameters())
    assert all(parameter is whole[path] for path, parameter in head.named_parameters())
    assert {*tensors_of_body(model, head), *head.state_dict()} == set(model.state_dict())

    # In training, with the dropout that stands before the head.
    outputs = []
    train_mode(model)
    train_mode(head)
    for module, inputs in ((model, images), (head, features)):
        torch.manual_seed(2)
        outputs.append(module(inputs))
    assert torch.equal(*outputs)


def test_it_needs_no_values() -> None:
    with torch.device("meta"):
        model = build_model("resnet18", **SHAPE)
    freeze(model, "head")
    assert head_of(model, (1, 32, 32)).num_features == 512


def test_more_than_a_layer_with_dropout_is_refused() -> None:
    def convolution() -> list[nn.Module]:
        return [nn.Conv2d(1, 4, 3), nn.ReLU()]

    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    refused = {
        "pooling behind the head": nn.Sequential(*convolution(), nn.Conv2d(4, 4, 1), *pool),
        "an activation behind the head": nn.Sequential(*convolution(), *pool, nn.Linear(4, 4), nn.Tanh()),
        "pooling behind dropout": nn.Sequential(*convolution(), nn.Dropout(), *pool, nn.Linear(4, 4)),
        "two dropouts": nn.Sequential(*convolution(), *pool, nn.Dropout(), nn.Dropout(), nn.Linear(4, 4)),
        "a norm behind the head": nn.Sequential(*convolution(), *pool, nn.Linear(4, 4), nn.BatchNorm1d(4)),
        "maps before the head": nn.Sequential(*convolution(), nn.Linear(30, 4)),
    }
    for model in refused.values():
        freeze(model, "head")
        with pytest.raises(ModelError, match=r"more is trained.*set transfer\.cache_features=false"):
            head_of(model, (1, 32, 32))
    plain = nn.Sequential(*convolution(), *pool, nn.Dropout(0.0), nn.Linear(4, 4))
    freeze(plain, "head")
    assert head_of(plain, (1, 32, 32)).path == "5"


def train(
    model: nn.Module, images: torch.Tensor, optimizer: str, num_ranks: int
) -> dict[str, list[tuple[int, float]]]:
    """Train copies of a network, or of its head on features, on some ranks; return what rank 0 reports."""
    tracker = ListTracker()

    def on_rank(communicator: ThreadCommunicator) -> None:
        rank = communicator.rank
        own = model if rank == 0 else rebuilt(model)
        source = MemorySource(
            *(images, LABELS), global_batch_size=20, rank=rank, owners=[0, *range(num_ranks)], seed=1
        )
        fit(
            own,
            build_optimizer(own, optimizer, **OPTIMIZERS[optimizer]),
            lambda step: 1.0,
            source,
            source,
            communicator,
            tracker if rank == 0 else ListTracker(),
            SilentCheckpoints(lambda: False),
            epochs=3,
            num_classes=4,
            base_lr=OPTIMIZERS[optimizer]["lr"],
            precision="fp32",
            device=CPU,
            options=StepOptions(l1=0.01, clip_norm=1.0, max_squared_norm=0.1),
            average=WeightAverage(own, 0.9),
            diagnostics=DiagnosticsOptions(every_steps=2, replicas_every_steps=2),
        )

    run_ranks(num_ranks, on_rank)
    return tracker.metrics


def rebuilt(model: nn.Module) -> nn.Module:
    other = without_dropout()
    return other if isinstance(model, nn.Sequential) else head_of(other, IMAGES.shape[1:])  # type: ignore[arg-type]


def without_dropout() -> nn.Module:
    model = network()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    freeze(model, "head")
    return model


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("num_ranks", [1, 3])
def test_the_head_learns_on_features_what_it_learns_in_the_network(optimizer: str, num_ranks: int) -> None:
    inside, outside = without_dropout(), without_dropout()
    expected = train(inside, IMAGES, optimizer, num_ranks)
    head = head_of(outside, IMAGES.shape[1:])  # type: ignore[arg-type]
    found = train(head, features_of(outside, head, IMAGES), optimizer, num_ranks)
    for name in ("step/loss", "train_loss", "val_loss", "layer/9/gradient_norm"):
        losses = [value for _, value in expected[name]]
        assert [value for _, value in found[name]] == pytest.approx(losses, rel=1e-5), name
    assert expected["step/loss"][-1][1] < 0.95 * expected["step/loss"][0][1], "nothing was learned"
    for name, tensor in outside.state_dict().items():
        torch.testing.assert_close(tensor, inside.state_dict()[name], rtol=1e-5, atol=1e-5)
        assert torch.equal(tensor, without_dropout().state_dict()[name]) == (not name.startswith("9.")), name
