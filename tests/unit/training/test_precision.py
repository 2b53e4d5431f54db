"""The precision that is chosen, and that the choice is said."""

from __future__ import annotations

import logging

import pytest
import torch

from dlspark.training.precision import choose_precision, has_fast_bf16

CPU = torch.device("cpu")


@pytest.mark.parametrize("asked", ["fp32", "bf16"])
def test_an_explicit_choice_is_taken(asked: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert choose_precision(asked, CPU) == asked  # type: ignore[arg-type]
    assert f"precision {asked}, as asked" in caplog.text


@pytest.mark.parametrize(("amx", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_auto_takes_bf16_on_a_cpu_with_amx_only(
    amx: bool, chosen: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "amx_bf16": amx})
    with caplog.at_level(logging.INFO):
        assert choose_precision("auto", CPU) == chosen
    assert f"precision {chosen}: cpu has {'' if amx else 'no '}bf16 matrix units" in caplog.text.replace(
        "  ", " "
    )


def test_the_question_is_answered_on_this_machine() -> None:
    assert has_fast_bf16(CPU) == bool(torch.cpu.get_capabilities().get("amx_bf16"))


def test_a_processor_without_such_a_flag_gets_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "aarch64", "neon": True})
    assert choose_precision("auto", CPU) == "fp32"


def test_bf16_on_a_cpu_without_units_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": False})
    assert choose_precision("bf16", CPU) == "bf16"
    assert "slower than fp32" in caplog.text
