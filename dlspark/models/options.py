"""The checks of a network's options, which also hold where no configuration has checked them before."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from dlspark.errors import ModelError


def require_choice(key: str, value: str, allowed: Iterable[str]) -> None:
    """Refuse a name that is none of the allowed ones.

    Args:
        key: of the configuration group `model`.
        value: what was given.
        allowed: all names.

    Raises:
        ModelError: it is another one; the fix is the nearest name.
    """
    names = list(allowed)
    if value not in names:
        raise ModelError(
            f"unknown {key}",
            got=repr(value),
            allowed=", ".join(names),
            where=f"model.{key}",
            fix=nearest(value, names),
        )


def require_share(key: str, value: float) -> None:
    """Refuse a share outside [0, 1).

    Raises:
        ModelError: it is outside.
    """
    if not 0.0 <= value < 1.0:
        raise ModelError(f"{key} is a share of units", got=value, allowed="[0, 1)", where=f"model.{key}")


def require_at_least(key: str, value: int, least: int) -> None:
    """Refuse a number that is too small.

    Raises:
        ModelError: it is below `least`.
    """
    if value < least:
        raise ModelError(f"{key} is too small", got=value, allowed=f">= {least}", where=f"model.{key}")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return "use X" with the known word that is written most like `word`, or None if none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"use {near[0]}" if near else None
