"""Flatten and Dropout of our own: torch's, but for their speed on a CPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dlspark.models.layers import Dropout, Flatten

CHANNELS_LAST = torch.channels_last


def images(shape: tuple[int, ...] = (4, 6, 5, 5)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(memory_format=CHANNELS_LAST)


def test_flatten_hands_back_the_layout_that_it_got_and_torchs_values() -> None:
    ours, theirs = images().requires_grad_(), images().requires_grad_()
    weights = torch.randn(4, 150, generator=torch.Generator().manual_seed(1))
    gradients = list[torch.Tensor]()
    pooled = ours * 1.0
    features = Flatten()(pooled)
    pooled.register_hook(gradients.append)  # type: ignore[no-untyped-call]
    (features * weights).sum().backward()  # type: ignore[no-untyped-call]
    (nn.Flatten()(theirs) * weights).sum().backward()
    assert torch.equal(features, nn.Flatten()(theirs))
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad)
    assert gradients[0].is_contiguous(memory_format=CHANNELS_LAST)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_dropout_drops_its_share_and_scales_what_is_left(dtype: torch.dtype, share: float) -> None:
    torch.manual_seed(0)
    values = torch.ones(400, 1000, dtype=dtype)
    dropped = Dropout(share)(values)
    is_kept = dropped != 0
    assert dropped.dtype == dtype
    num_kept = int(is_kept.sum())
    # Five standard deviations of a binomial distribution.
    assert abs(num_kept - 400_000 * (1 - share)) < 5 * (400_000 * share * (1 - share)) ** 0.5
    torch.testing.assert_close(
        dropped[is_kept], torch.full((num_kept,), 1 / (1 - share), dtype=dtype), rtol=2e-3, atol=0
    )
    # Neighbours in memory, whose bits come from one draw, know nothing of each other.
    pairs = (is_kept[:, 0::2] & is_kept[:, 1::2]).double().mean()
    assert float(pairs) == pytest.approx((1 - share) ** 2, abs=0.01)


def test_dropout_keeps_the_layout_and_gives_the_gradient_the_same_mask() -> None:
    values = images().requires_grad_()
    dropped = Dropout(0.5)(values)
    dropped.sum().backward()
    assert dropped.is_contiguous(memory_format=CHANNELS_LAST)
    assert values.grad is not None
    assert torch.equal(values.grad != 0, dropped != 0)
    assert set(values.grad.unique().tolist()) == {0.0, 2.0}


def test_dropout_draws_from_torchs_generator_and_anew_each_time() -> None:
    layer, values = Dropout(0.5), torch.ones(7, 11)
    torch.manual_seed(3)
    first, second = layer(values), layer(values)
    torch.manual_seed(3)
    assert torch.equal(layer(values), first)
    assert not torch.equal(first, second)


def test_dropout_does_nothing_in_evaluation_and_without_a_share() -> None:
    values = images()
    assert torch.equal(Dropout(0.5).eval()(values), values)
    assert torch.equal(Dropout(0.0)(values), values)


def test_torch_compile_makes_one_graph_of_them() -> None:
    network = nn.Sequential(nn.MaxPool2d(2), Dropout(0.5), Flatten(), nn.Linear(24, 2))
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    assert compiled(images().requires_grad_()).shape == (4, 2)
