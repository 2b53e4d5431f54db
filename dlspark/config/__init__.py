"""The configuration: its types (schema), and how conf/ and the command line become one (compose)."""

from dlspark.config.schema import Config

__all__ = ["Config"]
