"""Tests of dlspark.training.replica_check."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from dlspark.errors import ModelError
from dlspark.training.optimizers import build_optimizer
from dlspark.training.replica_check import ReplicaCheck, digest, odd_ranks
from tests.unit.training.doubles import ThreadCommunicator, run_ranks

CPU = torch.device("cpu")


def flip_a_bit(tensor: torch.Tensor) -> None:
    tensor.detach().view(-1).view(torch.int32)[0] ^= 1


def errors_of(
    change: Callable[[nn.Module, torch.optim.Optimizer], object],
    *,
    size: int = 3,
    every_steps: int | None = 2,
    act: Callable[[ReplicaCheck], None] = lambda check: check.after_step(4, saves=False),
) -> list[str]:
    """What the ranks say, where rank 1 was changed after a step that all made alike."""

    first = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    models = [copy.deepcopy(first) for _ in range(size)]

    def on_rank(communicator: ThreadCommunicator) -> str:
        model = models[communicator.rank]
        optimizer = build_optimizer(model, "adam", lr=0.1)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        if communicator.rank == 1:
            change(model, optimizer)
        buffers = dict(model.named_buffers())
        check = ReplicaCheck(*(model, optimizer, communicator, CPU), buffers=buffers, every_steps=every_steps)
        try:
            act(check)
        except ModelError as error:
            return str(error)
        return ""

    return run_ranks(size, on_rank)


def no_change(*_: object) -> None:
    pass


def change_weight(model: nn.Module, _: object) -> None:
    flip_a_bit(model[2].weight)


def change_moment(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    flip_a_bit(optimizer.state[model[0].bias]["exp_avg"])


def change_buffer(model: nn.Module, _: object) -> None:
    flip_a_bit(model[1].running_mean)


@pytest.mark.parametrize(
    ("change", "name"), [(change_weight, "2.weight"), (change_moment, "0.bias (exp_avg of the optimizer)")]
)
def test_one_bit_of_one_rank_is_named_on_all(change: Callable[..., object], name: str) -> None:
    told = errors_of(change)
    assert len(set(told)) == 1
    for part in (f"got {name} of ", "differ on rank 1 on host localhost", "step 4", "Fix: start again"):
        assert part in told[0]


def test_equal_replicas_are_told_nothing() -> None:
    assert errors_of(no_change) == [""] * 3
    assert errors_of(no_change, act=lambda check: check.after_epoch(4)) == [""] * 3


def test_the_buffers_of_ranks_may_differ_within_an_epoch_only() -> None:
    assert errors_of(change_buffer) == [""] * 3
    told = errors_of(change_buffer, act=lambda check: check.after_epoch(4))
    assert all("1.running_mean of" in text for text in told)


def test_it_is_made_every_so_many_steps_and_before_each_save() -> None:
    def told(step: int, *, saves: bool = False, every_steps: int | None = 2) -> str:
        act = lambda check: check.after_step(step, saves=saves)  # noqa: E731
        return errors_of(change_weight, act=act, every_steps=every_steps)[0]

    assert told(3) == ""
    assert errors_of(change_weight, act=lambda check: check.after_load(3))[0] != ""
    assert told(3, saves=True) != ""
    assert told(6) != ""
    assert told(6, every_steps=None) == told(6, saves=True, every_steps=None) == ""


def test_most_ranks_are_right_and_of_two_rank_0() -> None:
    assert odd_ranks([5, 7, 7, 7]) == [0]
    assert odd_ranks([5, 7]) == [1]
    assert odd_ranks([5, 7, 7, 5]) == [1, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64])
def test_a_digest_is_of_the_bytes(dtype: torch.dtype) -> None:
    values = torch.arange(12, dtype=dtype).view(3, 4)
    assert digest(values) == digest(values.clone())
    assert digest(values) != digest(values.T)
    assert digest(values.T) == digest(values.T.contiguous())
    assert digest(torch.tensor(1.0)) != digest(torch.tensor(2.0))
