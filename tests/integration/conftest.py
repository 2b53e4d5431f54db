"""Fixtures of the integration tests: servers and stores that are slow to make, once for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.mlflow_server import MlflowServer


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A real MLflow server over HTTP; a test that stops it starts it again."""
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def sqlite_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tracking URI of a local sqlite store."""
    return f"sqlite:///{tmp_path_factory.mktemp('sqlite')}/mlflow.db"
