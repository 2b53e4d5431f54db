"""The moving average of weights and statistics: its formula, in and out of the network, and restarted."""

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
    model(torch.randn(8, 3))  # moves the running statistics


@pytest.mark.parametrize("decay", [0.2, 0.9])
def test_the_average_is_the_formula(decay: float) -> None:
    model = moving_network()
    average = WeightAverage(model, decay)
    expected: list[np.ndarray] = []
    for update in range(1, 21):
        move(model)
        average.update()
        held = (model[0].weight, model[1].running_mean, model[1].running_var)
        now = [tensor.detach().double().numpy().copy() for tensor in held]
        kept = min(decay, (1 + update) / (10 + update))
        before = expected or now
        expected = [kept * old + (1 - kept) * new for old, new in zip(before, now, strict=True)]
    state = average.state_dict()
    for name, values in zip(("0.weight", "1.running_mean", "1.running_var"), expected, strict=True):
        np.testing.assert_allclose(state[name].numpy(), values, rtol=1e-5, atol=1e-6)


def test_the_statistics_are_those_of_the_averaged_weights() -> None:
    # Weights that swing from side to side have an average of nearly nothing, and so have their maps.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, momentum=1.0))
    average = WeightAverage(model, 0.9)
    for update in range(100):
        with torch.no_grad():
            model[0].weight.fill_(-1.0 if update % 2 else 1.0)
        model(torch.randn(64, 1) + 3)
        average.update()
    own = float(model[1].running_mean)
    model.eval()
    with average.swapped_in():
        assert abs(float(model[1].running_mean)) < 0.1 * abs(own)


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
            for name, tensor in model.state_dict().items():
                if tensor.is_floating_point():
                    assert torch.equal(tensor, averages[name]), name
                    assert not torch.equal(tensor, own[name]), name
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
    statistics = {"1.running_mean", "1.running_var"}
    assert set(average.state_dict()) == {"0.bias", "1.weight", "1.bias", *statistics, "num_updates"}
