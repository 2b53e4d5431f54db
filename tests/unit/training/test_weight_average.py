"""The moving average of the weights against its formula, in and out of the network, and through a restart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dlspark.training.weight_average import WeightAverage


def moving_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def move(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))


@pytest.mark.parametrize("decay", [0.2, 0.9])
def test_the_average_is_the_formula(decay: float) -> None:
    model = moving_network()
    average = WeightAverage(model, decay)
    expected: np.ndarray | None = None
    for update in range(1, 21):
        move(model)
        average.update()
        weight = model[0].weight.detach().double().numpy().copy()
        kept = min(decay, (1 + update) / (10 + update))
        expected = weight if expected is None else kept * expected + (1 - kept) * weight
    np.testing.assert_allclose(average.state_dict()["0.weight"].numpy(), expected, atol=1e-6)


def test_weights_are_swapped_in_and_back_also_after_an_error() -> None:
    model = moving_network()
    average = WeightAverage(model, 0.5)
    with average.swapped_in():
        pass  # before an update there is nothing to swap
    for _ in range(3):
        move(model)
        average.update()
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    averages = {name: tensor.clone() for name, tensor in average.state_dict().items()}

    def leave_in_the_middle() -> None:
        with average.swapped_in():
            for name, parameter in model.named_parameters():
                assert torch.equal(parameter, averages[name])
                assert not torch.equal(parameter, own[name])
            assert torch.equal(model[1].running_mean, own["1.running_mean"])
            raise InterruptedError

    with pytest.raises(InterruptedError):
        leave_in_the_middle()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, own[name])
    for name, tensor in average.state_dict().items():
        assert torch.equal(tensor, averages[name])


def test_it_goes_on_from_its_state() -> None:
    model = moving_network()
    whole, first = WeightAverage(model, 0.9), WeightAverage(model, 0.9)
    for _ in range(4):
        move(model)
        whole.update()
        first.update()
    second = WeightAverage(model, 0.9)
    state = first.state_dict()
    second.load_state_dict(state)
    kept = {name: tensor.clone() for name, tensor in state.items()}
    for _ in range(3):
        move(model)
        whole.update()
        second.update()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, kept[name])  # the state was copied, not shared


def test_frozen_parameters_are_left_out() -> None:
    model = moving_network()
    model[0].weight.requires_grad_(False)
    average = WeightAverage(model, 0.9)
    average.update()
    assert set(average.state_dict()) == {"0.bias", "1.weight", "1.bias", "num_updates"}
