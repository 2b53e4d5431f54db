"""A configuration with a few words changed, as if they had stood on the command line that made it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from dlspark.config.compose import compose
from dlspark.config.describe import VARIANT_GROUPS
from dlspark.config.schema import Config
from dlspark.config.words import parse_words
from dlspark.errors import ConfigError


def vary(config: Config, overrides: Sequence[str]) -> Config:
    """Return a configuration that differs from another one in some words.

    A choice of a group (`optimizer=sgd`) takes the whole section from its file, without what the other
    configuration had set there; a value changes its own key only.

    Args:
        config: that the words are laid over.
        overrides: words `key=value`, as `compose` takes them; no experiment.

    Raises:
        ConfigError: the words are wrong by themselves, or do not go with the rest.
    """
    words = parse_words(overrides)
    if "experiment" in words.choices:
        raise ConfigError(
            "an experiment is no variation of another configuration",
            got=" ".join(overrides),
            fix="write the words in which the experiments differ",
        )
    known = [f"{group}={getattr(config, group).name}" for group in VARIANT_GROUPS]
    asked = compose([*known, *overrides]).model_dump()
    values = config.model_dump()
    for group in words.choices:
        values[group] = asked[group]
    for key in words.values:
        _copy(key.split("."), asked, values)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(
            "words do not go with the rest of the configuration",
            got=error.errors()[0]["msg"],
            where=" ".join(overrides),
        ) from error


def _copy(path: Sequence[str], source: dict[str, Any], target: dict[str, Any]) -> None:
    for name in path[:-1]:
        source, target = source[name], target[name]
    target[path[-1]] = source[path[-1]]
