"""The diagnostics see what there is, whatever the number of ranks, and only at the measured steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from dlspark.config import Config
from dlspark.config.loss_sections import BceConfig, CrossEntropyConfig
from dlspark.recipe import diagnostics_of
from dlspark.training.checkpoint_writer import SilentCheckpoints
from dlspark.training.diagnostics import Diagnostics, DiagnosticsOptions
from dlspark.training.diagnostics_layers import ActivationProbe, WeightProbe
from dlspark.training.optimizers import build_optimizer
from dlspark.training.step import StepOptions
from dlspark.training.trainer import fit
from tests.unit.training.doubles import ListTracker, MemorySource, ThreadCommunicator, random_rows, run_ranks

CPU = torch.device("cpu")
IMAGES, LABELS = random_rows(64, num_classes=4)


def network(*, bias: float = 0.0, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Build a small network whose first convolution has `bias` in 4 of its 6 channels."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), activation(), nn.Flatten(), nn.Linear(6 * 36, 10), nn.Tanh(), nn.Linear(10, 4)
    )
    with torch.no_grad():
        model[0].bias[:4] += bias
    return model


def train(
    num_ranks: int = 1, owners: Sequence[int] = (0,), *, lr: float = 0.05, epochs: int = 2, **named: Any
) -> list[tuple[ListTracker, int]]:
    every, parts = named.pop("every_steps", 3), named.pop("parts", 1)
    options = {name: named.pop(name) for name in ("expected_loss", "starts_trained") if name in named}
    models = [network(**named) for _ in range(num_ranks)]

    def on_rank(communicator: ThreadCommunicator) -> tuple[ListTracker, int]:
        model, tracker = models[communicator.rank], ListTracker()
        source = MemorySource(
            *(IMAGES, LABELS), global_batch_size=16, rank=communicator.rank, owners=owners, seed=1
        )
        fit(
            model,
            build_optimizer(model, "sgd", lr=lr),
            lambda step: 1.0,
            source,
            None,
            communicator,
            tracker,
            SilentCheckpoints(lambda: False),
            epochs=epochs,
            num_classes=4,
            base_lr=lr,
            precision="fp32",
            device=CPU,
            options=StepOptions(num_parts=parts),
            diagnostics=DiagnosticsOptions(every_steps=every, **options),
        )
        assert not any(module._forward_hooks for module in model.modules())
        return tracker, communicator.num_collectives

    return run_ranks(num_ranks, on_rank)


def layer_metrics(tracker: ListTracker) -> dict[str, list[tuple[int, float]]]:
    return {name: values for name, values in tracker.metrics.items() if name.startswith("layer/")}


@pytest.mark.parametrize(("num_ranks", "owners"), [(2, (0, 1)), (3, (0, 0, 2))])
def test_the_figures_are_the_same_for_any_number_of_ranks(num_ranks: int, owners: tuple[int, ...]) -> None:
    [(alone, _)] = train(bias=-10.0, epochs=3)
    together = train(num_ranks, owners, bias=-10.0, epochs=3)
    expected = layer_metrics(alone)
    assert expected["layer/0/gradient_norm"]
    for tracker, num_collectives in together:
        assert num_collectives == together[0][1]
        assert tracker.notes == alone.notes
        found = layer_metrics(tracker)
        assert found.keys() == expected.keys()
        for name, curve in found.items():
            assert [step for step, _ in curve] == [step for step, _ in expected[name]]
            values = [value for _, value in expected[name]]
            assert [value for _, value in curve] == pytest.approx(values, rel=1e-4, abs=1e-6), name


def test_units_with_a_bias_of_minus_ten_are_dead() -> None:
    [(tracker, _)] = train(bias=-10.0, epochs=3)
    # Said once as many rows have passed as the split has: with the measured steps 1, 4, 7 and 10.
    assert tracker.metrics["layer/1/dead_share"] == [(12, 4 / 6)]
    [(step, name, sentence)] = tracker.notes
    assert (step, name) == (12, "dead_units")
    assert "4 of the 6 units of layer 1 were active for none of 64 rows" in sentence


def test_a_healthy_network_gets_no_advice() -> None:
    [(tracker, _)] = train(epochs=6)
    assert tracker.notes == []
    assert tracker.values("layer/1/dead_share") == [0.0] * len(tracker.values("layer/1/dead_share"))


def test_saturated_units() -> None:
    [(tracker, _)] = train(bias=20.0, activation=nn.Sigmoid, epochs=3)
    assert tracker.values("layer/1/saturated_share")[0] == 4 / 6
    assert "saturated_units" in [name for _, name, _ in tracker.notes]


def test_only_the_measured_steps_pay() -> None:
    [(tracker, measured)] = train(every_steps=3)
    [(silent, plain)] = train(every_steps=None)
    assert [step for step, _ in tracker.metrics["layer/0/gradient_norm"]] == [1, 4, 7]
    assert measured == plain + 3
    assert layer_metrics(silent) == {}
    assert silent.metrics["step/loss"] == tracker.metrics["step/loss"]  # measuring changes nothing


def test_the_parts_of_a_step_are_one_step() -> None:
    [(whole, _)], [(parts, _)] = train(), train(parts=3)
    for name, curve in layer_metrics(whole).items():
        found = [value for _, value in parts.metrics[name]]
        assert found == pytest.approx([value for _, value in curve], rel=1e-4, abs=1e-6), name


class _Reuse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.relu = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 5, 3), nn.ReLU(inplace=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.relu(self.second(self.relu(self.first(images)))).mean((2, 3))


def test_sums_against_the_activations_themselves_also_of_a_module_used_twice() -> None:
    model = _Reuse().train()
    probe = ActivationProbe(model, (1, 8, 8), CPU)
    assert model.training
    assert [(layer.name, layer.num_units) for layer in probe.layers] == [("relu", 3), ("relu:2", 5)]
    with torch.no_grad():
        first = model.first(IMAGES).relu()
        second = model.second(first).relu()
        with probe.watching(64):
            model(IMAGES[:40])
            model(IMAGES[40:])
    [sums] = run_ranks(1, probe.join)
    assert sums.num_rows == 64
    spread = sums.spread(probe.layers)
    for name, values in (("relu", first), ("relu:2", second)):
        assert spread[name] == pytest.approx(
            (float(values.mean()), float(values.std(correction=0))), rel=1e-5
        )


def test_a_rank_without_rows_adds_nothing() -> None:
    model = _Reuse()
    probe = ActivationProbe(model, (1, 8, 8), CPU)
    with torch.no_grad(), probe.watching(0):
        model(IMAGES[:0])
    [sums] = run_ranks(1, probe.join)
    assert (sums.sums == 0).all()
    assert (sums.counts == 0).all()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_spread_that_is_small_beside_its_mean_is_exact(layout: torch.memory_format) -> None:
    model = nn.Sequential(nn.ReLU())
    probe = ActivationProbe(model, (3, 8, 8), CPU)
    images = 100 + 1e-2 * torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), probe.watching(64):
        model(images.to(memory_format=layout))
    [sums] = run_ranks(1, probe.join)
    values = images.double()
    expected = (float(values.mean()), float(values.std(correction=0)))
    assert sums.spread(probe.layers)["0"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("starts_trained", [False, True])
def test_weights_that_know_something_are_not_judged_by_their_first_loss_nor_their_rates(
    starts_trained: bool,
) -> None:
    [(tracker, _)] = train(lr=1e-7, expected_loss=0.1, starts_trained=starts_trained, every_steps=1)
    notes = {name for _, name, _ in tracker.notes}
    assert notes >= ({"initial_loss", "update_ratio"} if not starts_trained else set())
    assert not (starts_trained and notes & {"initial_loss", "update_ratio"})


def test_gradient_norm_and_update_ratio() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2, bias=False))
    model(torch.randn(5, 3)).square().sum().backward()
    before = [layer.weight.detach().clone() for layer in model]
    probe = WeightProbe(model)
    probe.before_update()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    found = probe.after_update()
    assert list(found) == ["0", "1"]
    for name, layer, old in zip(found, model, before, strict=True):
        gradient = float(layer.weight.grad.norm())
        assert found[name] == pytest.approx((gradient, 0.1 * gradient / float(old.norm())), rel=1e-4)


def test_what_was_seen_survives_a_stop() -> None:
    def watch() -> tuple[Diagnostics, ListTracker]:
        tracker = ListTracker()
        made = Diagnostics(
            *(network(), ThreadCommunicator(0, [None], None), tracker, CPU),  # type: ignore[arg-type]
            base_lr=0.1,
            num_rows=64,
            options=DiagnosticsOptions(expected_loss=1.0),
        )
        return made, tracker

    losses = [1.0, 1.0, 1.0]
    first, said = watch()
    for epoch, loss in enumerate(losses, start=1):
        first.after_epoch({"train_loss": loss}, step=epoch, global_rows=16)
    assert [name for _, name, _ in said.notes] == ["underfitting"]
    second, silent = watch()
    second.load_state_dict(first.state_dict())
    second.after_epoch({"train_loss": 1.0}, step=4, global_rows=16)
    assert silent.notes == []  # once for each run
    assert second.state_dict()["train_losses"] == [1.0] * 4


def test_the_theory_of_the_first_loss_is_that_of_the_loss() -> None:
    assert diagnostics_of(Config(), 10).expected_loss == pytest.approx(2.302585)
    assert diagnostics_of(Config(), 10).every_steps == 50
    assert diagnostics_of(Config(loss=BceConfig(name="bce")), 10).expected_loss == pytest.approx(0.693147)
    weighted = CrossEntropyConfig(class_weights=(1.0, 9.0))
    assert diagnostics_of(Config(loss=weighted), 2).expected_loss is None
