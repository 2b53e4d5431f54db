"""The learning rate at chosen steps."""

from __future__ import annotations

import json
import logging
import math
from typing import Any, get_args

import pytest
import torch

from dlspark.config import schedule_sections
from dlspark.config.schema import Config
from dlspark.errors import ConfigError
from dlspark.recipe import schedule_of
from dlspark.training.plateau import PlateauSchedule
from dlspark.training.schedules import build_schedule, schedule_table

VARIANTS = get_args(get_args(schedule_sections.ScheduleConfig)[0])
ONE_CYCLE = {"rise_share": 0.3, "start_factor": 0.04, "final_factor": 0.0001}


def test_constant() -> None:
    schedule = build_schedule("constant", steps_per_epoch=10, epochs=3)
    assert [schedule(step) for step in (0, 15, 29)] == [1.0, 1.0, 1.0]


def test_cosine_falls_from_1_through_a_half_towards_0() -> None:
    schedule = build_schedule("cosine", steps_per_epoch=10, epochs=4)
    assert schedule(0) == 1.0
    assert schedule(20) == pytest.approx(0.5)
    assert schedule(10) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert schedule(39) == pytest.approx((1 + math.cos(math.pi * 39 / 40)) / 2)
    assert schedule(40) == pytest.approx(0.0, abs=1e-12)


def test_step_falls_at_whole_epochs() -> None:
    schedule = build_schedule("step", steps_per_epoch=10, epochs=9, step_epochs=3, gamma=0.5)
    assert [schedule(step) for step in (0, 29, 30, 59, 60, 89)] == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


def test_exponential_falls_by_gamma_each_epoch() -> None:
    schedule = build_schedule("exponential", steps_per_epoch=10, epochs=3, gamma=0.9)
    assert schedule(10) == pytest.approx(0.9)
    assert schedule(20) == pytest.approx(0.81)
    assert schedule(5) == pytest.approx(0.9**0.5)


def test_inverse_time_halves_after_1_over_decay_epochs() -> None:
    schedule = build_schedule("inverse_time", steps_per_epoch=10, epochs=9, decay=0.5)
    assert [schedule(step) for step in (0, 20, 40, 60)] == pytest.approx([1.0, 1 / 2, 1 / 3, 1 / 4])


@pytest.mark.parametrize("rise_share", [0.25, 0.3, 0.5])
def test_one_cycle_is_torchs_in_two_lines(rise_share: float) -> None:
    schedule = build_schedule(
        "one_cycle", steps_per_epoch=10, epochs=5, rise_share=rise_share, start_factor=0.04, final_factor=1e-4
    )
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    # torch ends the rise one step earlier: at share * steps - 1
    share = (rise_share * 49 + 1) / 50
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        *(optimizer, 1.0, 50),
        pct_start=share,
        anneal_strategy="linear",
        cycle_momentum=False,
        div_factor=25.0,
        final_div_factor=400.0,
    )
    expected = []
    for _ in range(50):
        expected.append(theirs.get_last_lr()[0])
        optimizer.step()
        if len(expected) < 50:
            theirs.step()
    assert schedule_table(schedule, 50) == pytest.approx(expected)
    assert max(expected) > 0.95


@pytest.mark.parametrize("epochs", [1, 2])
def test_one_cycle_of_few_steps_stays_in_range(epochs: int) -> None:
    schedule = build_schedule("one_cycle", steps_per_epoch=1, epochs=epochs, **ONE_CYCLE)
    assert all(0.0 < factor <= 1.0 for factor in schedule_table(schedule, epochs))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("constant", {}),
        ("cosine", {}),
        ("step", {"step_epochs": 10, "gamma": 0.1}),
        ("exponential", {"gamma": 0.1}),
        ("inverse_time", {"decay": 1.0}),
        ("plateau", {"gamma": 0.1, "patience_epochs": 1, "min_improvement": 0.0}),
    ],
)
def test_warmup_rises_in_a_line_and_ends_at_the_schedule(name: str, options: dict[str, Any]) -> None:
    schedule = build_schedule(name, steps_per_epoch=10, epochs=5, warmup_epochs=0.4, **options)
    without = build_schedule(name, steps_per_epoch=10, epochs=5, **options)
    assert schedule_table(schedule, 4) == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert schedule(4) == pytest.approx(1.0 if name == "cosine" else without(4))


def test_cosine_after_warmup_still_ends_at_the_last_step() -> None:
    schedule = build_schedule("cosine", steps_per_epoch=10, epochs=3, warmup_epochs=1.0)
    assert schedule(10) == 1.0
    assert schedule(20) == pytest.approx(0.5)
    assert schedule(29) < 0.01


def test_warmup_as_long_as_the_run_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        schedule = build_schedule("cosine", steps_per_epoch=10, epochs=1, warmup_epochs=2.0)
    assert "warmup_epochs=2 is as long as the run" in caplog.text
    assert [schedule(step) for step in range(10)] == pytest.approx([(step + 1) / 21 for step in range(10)])


def plateau(**changes: Any) -> PlateauSchedule:
    return PlateauSchedule(**({"gamma": 0.5, "patience_epochs": 2, "min_improvement": 0.01} | changes))


def test_plateau_falls_after_patience_and_waits_again() -> None:
    schedule, factors = plateau(), []
    # 0.995 is no improvement of 1 %, 0.9 is; a loss that is not finite is none either
    for loss in (1.0, 0.995, 0.992, 0.9, 0.95, math.nan, 0.9, 0.9, 0.5):
        schedule.observe(loss)
        factors.append(schedule(1000))
    assert factors == [1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]


def test_plateau_follows_torch() -> None:
    losses = [1.0, 0.9, 0.91, 0.905, 0.8, 0.82, 0.81, 0.83, 0.84, 0.85, 0.79, 0.8]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    # torch lets `patience` bad epochs pass before the one that falls
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1, threshold=0.01)
    ours = plateau()
    for loss in losses:
        theirs.step(loss)
        ours.observe(loss)
        assert ours(0) == theirs.get_last_lr()[0]
    assert ours(0) < 1.0


@pytest.mark.parametrize("stop", range(6))
def test_plateau_goes_on_from_its_state(stop: int) -> None:
    losses = [1.0, 1.0, 1.0, 1.0, 0.5, 0.6]
    whole, first, second = plateau(), plateau(), plateau()
    for loss in losses[:stop]:
        first.observe(loss)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for loss in losses:
        whole.observe(loss)
    for loss in losses[stop:]:
        second.observe(loss)
    assert second.state_dict() == whole.state_dict()
    assert second(7) == whole(7) < 1.0


def test_plateau_needs_a_val_split() -> None:
    config = Config(schedule=schedule_sections.PlateauConfig())
    assert isinstance(schedule_of(config, steps_per_epoch=3, has_val=True), PlateauSchedule)
    with pytest.raises(ConfigError, match=r"schedule=plateau follows the validation loss.*no val split"):
        schedule_of(config, steps_per_epoch=3, has_val=False)


@pytest.mark.parametrize("section", VARIANTS, ids=lambda section: section.model_fields["name"].default)
def test_all_names_and_keys_of_the_configuration_are_taken(section: Any) -> None:
    schedule = schedule_of(Config(schedule=section()), steps_per_epoch=7, has_val=True)
    assert all(0.0 <= factor <= 1.0 for factor in schedule_table(schedule, 7 * 12))


def test_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"got 'linear'; allowed: constant, cosine, step, exponential"):
        build_schedule("linear", steps_per_epoch=1, epochs=1)
