"""The networks of torchvision's own registry, one of each family."""

from __future__ import annotations

import pytest
import torch
from torchvision import models

from dlspark.errors import ModelError
from dlspark.models.build import build_model


@pytest.mark.parametrize(
    ("architecture", "size"),
    [("mobilenet_v3_small", 32), ("regnet_x_400mf", 32), ("vit_b_32", 64), ("swin_t", 32)],
)
def test_a_network_of_any_kind_is_built_for_gray_images(architecture: str, size: int) -> None:
    assert logits_shape(architecture, 1, size) == (2, 7)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", models.list_models(module=models))
def test_every_network_of_the_registry_is_built(architecture: str) -> None:
    for channels in (1, 3):
        assert logits_shape(architecture, channels, 224) == (2, 7)


def logits_shape(architecture: str, channels: int, size: int) -> tuple[int, ...]:
    """Build a network of 7 classes without values and pass two images through it."""
    shape = {"channels": channels, "height": size, "width": size, "num_classes": 7}
    with torch.device("meta"):
        model = build_model("torchvision", **shape, architecture=architecture)
        logits = model(torch.empty(2, channels, size, size))
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    return tuple(logits.shape)


def test_it_trains() -> None:
    torch.manual_seed(0)
    shape = {"channels": 1, "height": 32, "width": 32, "num_classes": 3}
    model = build_model("torchvision", **shape, architecture="mobilenet_v3_small")
    for rows in (2, 1):  # one row alone too, at 1x1
        loss = torch.nn.functional.cross_entropy(model(torch.randn(rows, 1, 32, 32)), torch.arange(rows))
        assert torch.isfinite(loss)
        torch.autograd.backward(loss)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_checkpoint_of_a_network_that_computes_while_it_is_built_can_be_rebuilt() -> None:
    # As a checkpoint does: the structure without values, then the tensors.
    shape = {"channels": 1, "height": 32, "width": 32, "num_classes": 3, "architecture": "regnet_x_400mf"}
    saved = build_model("torchvision", **shape).eval()
    state = torch.get_rng_state()
    with torch.device("meta"):
        loaded = build_model("torchvision", **shape)
    assert torch.equal(torch.get_rng_state(), state)
    loaded.load_state_dict(saved.state_dict(), assign=True)
    images = torch.randn(2, 1, 32, 32)
    assert torch.equal(loaded.eval()(images), saved(images))


def test_what_does_not_fit_or_does_not_exist_is_said() -> None:
    shape = {"channels": 3, "height": 32, "width": 32, "num_classes": 3}
    with torch.device("meta"):
        with pytest.raises(ModelError, match=r"unknown architecture; got 'densnet121'.*Fix: use densenet121"):
            build_model("torchvision", **shape, architecture="densnet121")
        with pytest.raises(
            ModelError, match=r"too small for layer .*inception_v3 on images with a height of 32"
        ):
            build_model("torchvision", **shape, architecture="inception_v3")
        with pytest.raises(ModelError, match=r"got 30x30 pixels.*in vit_b_16 of torchvision"):
            build_model("torchvision", **(shape | {"height": 30, "width": 30}), architecture="vit_b_16")
        with pytest.raises(ModelError, match=r"square images only; got 32x48 pixels"):
            build_model("torchvision", **(shape | {"width": 48}), architecture="vit_b_16")


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(name, marks=() if name.startswith(("mnasnet0_5", "vit_b_32")) else pytest.mark.slow)
        for name in models.list_models(module=models)
    ],
)
def test_its_tensors_alone_make_it_again(architecture: str) -> None:
    """A checkpoint holds tensors and nothing that torch would add to a pickle of them."""
    shape = {"channels": 3, "height": 224, "width": 224, "num_classes": 7}
    with torch.device("meta"):
        first, second = (build_model("torchvision", **shape, architecture=architecture) for _ in range(2))
        second.load_state_dict(dict(first.state_dict()), assign=True)
