"""Fixtures that several kinds of test share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from xdist.scheduler.loadscope import LoadScopeScheduling

from tests.integration.mlflow_server import MlflowServer

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# No deadlines: how long an example takes says more about the machine than about the code.
settings.register_profile("dlspark", deadline=None)
settings.load_profile("dlspark")


class _SharedFixtures(LoadScopeScheduling):
    """Tests side by side: what shares costly fixtures stays together, a file and all of e2e."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "tests/e2e" if file.startswith("tests/e2e/") else file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Write the scenarios of a fault into the report, from which tests/faults/table.py makes its table."""
    for item in items:
        scenarios = {mark.kwargs["scenario"] for mark in item.iter_markers("faults")}
        item.user_properties += [("scenario", scenario) for scenario in sorted(scenarios)]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _SharedFixtures:
    """Deal the tests out in this way; xdist's own groups do not work with pytest 9."""
    return _SharedFixtures(config, log)


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """A real Spark session with two task slots in this process's JVM."""
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    session = (
        SparkSession.builder.master("local[2]")
        .appName("dlspark tests")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.extraJavaOptions", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .getOrCreate()
    )
    yield session
    session.stop()


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A real MLflow server over HTTP; a test that stops it starts it again."""
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.stop()
