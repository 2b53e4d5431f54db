"""Fixtures of the integration tests: a store that is slow to make, once for all tests."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def sqlite_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tracking URI of a local sqlite store."""
    return f"sqlite:///{tmp_path_factory.mktemp('sqlite')}/mlflow.db"
