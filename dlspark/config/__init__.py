"""The configuration: its types (schema) and how the files of conf/ and the command line become one (compose)."""

from dlspark.config.schema import Config

__all__ = ["Config"]
