"""The image part of the configuration."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from dlspark.config.data_sections import ImageConfig


@pytest.mark.parametrize(
    ("size", "resize", "policy"),
    [
        (None, "auto", "none"),
        (None, "none", "none"),
        (64, "auto", "exact"),
        (64, "none", "none"),
        (64, "shorter", "shorter"),
        (64, "pad", "pad"),
    ],
)
def test_auto_stretches_where_a_size_is_given(size: int | None, resize: str, policy: str) -> None:
    assert ImageConfig(size=size, resize=resize).resize_policy == policy  # type: ignore[arg-type]


@pytest.mark.parametrize("resize", ["exact", "shorter", "pad"])
def test_a_resize_needs_a_size(resize: str) -> None:
    with pytest.raises(ValidationError, match=f"resize={resize} needs a size"):
        ImageConfig(resize=resize)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"min_size": 0}, {"constant": "drop"}, {"resize": "crop"}])
def test_values_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ImageConfig(**wrong)  # type: ignore[arg-type]
