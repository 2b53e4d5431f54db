"""What all stages ask of their configuration."""

from __future__ import annotations

from dlspark.cluster.backends import choose_backend
from dlspark.config import Config
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


def with_backend(config: Config) -> Config:
    """Return the configuration with the backend that its workers use: cluster.backend=auto is decided here.

    Raises:
        ClusterError: Horovod was asked for and is not usable.
    """
    backend = choose_backend(config.cluster.backend)
    return config.model_copy(update={"cluster": config.cluster.model_copy(update={"backend": backend})})
