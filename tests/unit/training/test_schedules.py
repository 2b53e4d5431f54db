"""The learning rate at chosen steps."""

from __future__ import annotations

import logging
import math

import pytest

from dlspark.config import train_sections
from dlspark.errors import ConfigError
from dlspark.training.schedules import build_schedule


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


@pytest.mark.parametrize("name", ["constant", "cosine", "step", "exponential"])
def test_warmup_rises_in_a_line_and_ends_at_the_schedule(name: str) -> None:
    schedule = build_schedule(name, steps_per_epoch=10, epochs=5, warmup_epochs=0.4)
    assert [schedule(step) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert schedule(4) == pytest.approx(1.0, abs=0.61 if name == "exponential" else 0.0)
    assert schedule(4) <= 1.0


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


def test_all_names_and_keys_of_the_configuration_are_taken() -> None:
    for name in ("constant", "cosine", "step", "exponential"):
        values = train_sections.ScheduleConfig(name=name).model_dump()
        schedule = build_schedule(values.pop("name"), steps_per_epoch=7, epochs=3, **values)
        assert all(0.0 <= schedule(step) <= 1.0 for step in range(21))


def test_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"got 'linear'; allowed: constant, cosine, step, exponential"):
        build_schedule("linear", steps_per_epoch=1, epochs=1)
