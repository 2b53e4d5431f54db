"""What all stages ask of their configuration."""

from __future__ import annotations

from dlspark.errors import ConfigError


def required(value: str | None, key: str, stage: str) -> str:
    """Return a value that a stage cannot do without.

    Raises:
        ConfigError: it is not set.
    """
    if not value:
        raise ConfigError(
            f"`{stage}` needs {key}", got="nothing", where="the command line", fix=f"add {key}=..."
        )
    return value
