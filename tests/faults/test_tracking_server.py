"""An MLflow server that fails before a training, in its middle, or at its end, in each way in which it can.

Before: one error, and nothing is written. Later: the training ends with the weights that it has without any
fault, and once the server is back `dlspark sync` brings it all that it has missed, into the same run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from dlspark.config import Config
from dlspark.config.compose import compose
from dlspark.errors import TrackingError
from dlspark.tracking.journal import metric_history, read_events
from pipelines import register, sync, train
from pipelines.train import TrainStageResult
from tests.faults.conftest import Weights, assert_same, final_weights, words_of
from tests.faults.faulty_proxy import Fault, FaultyProxy
from tests.integration.mlflow_server import MlflowServer

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [
    pytest.mark.spark,
    pytest.mark.horovod,
    pytest.mark.timeout(600),
    pytest.mark.faults(scenario=5),
]

_EPOCHS = 4
_WORDS = (f"train.epochs={_EPOCHS}", "train.accumulate_steps=50")
"""Slow enough for the shipper to send its metrics in several batches."""


def _config(dataset: str, folder: Path, proxy: FaultyProxy) -> Config:
    where = (f"tracking.uri={proxy.uri}", f"tracking.experiment={folder.name}")
    return compose([*words_of(dataset, folder, "torch"), *where, *_WORDS])


def _runs(server: MlflowServer, folder: Path) -> list[Run]:
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name(folder.name)
    return [] if experiment is None else list(client.search_runs([experiment.experiment_id]))


def _from_second_losses() -> Callable[[str, bytes], bool]:
    """Begin once the server has some losses of steps, and gets more."""
    num_seen = 0

    def begins(path: str, body: bytes) -> bool:
        nonlocal num_seen
        if path.endswith("/log-batch") and any(
            metric["key"] == "step/loss" for metric in json.loads(body).get("metrics", ())
        ):
            num_seen += 1
        return num_seen == 2

    return begins


def _from_model() -> Callable[[str, bytes], bool]:
    """Begin when the training is done and its model is to be logged."""
    return lambda path, body: "/logged-models" in path


def _from_artifacts() -> Callable[[str, bytes], bool]:
    return lambda path, body: "/mlflow-artifacts/" in path


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("refuses", "the MLflow server does not answer"),
        ("500", "the MLflow server does not answer"),
        ("hangs", "the MLflow server does not answer"),
        ("401", "the MLflow server refuses us"),
    ],
)
def test_a_server_that_fails_at_the_start_is_one_error_and_nothing_is_written(
    fault: Fault, said: str, dataset: str, tmp_path: Path, mlflow_server: MlflowServer
) -> None:
    with FaultyProxy(mlflow_server.uri, fault, begins=lambda path, body: True) as proxy:
        config = _config(dataset, tmp_path, proxy)
        started = time.monotonic()
        with pytest.raises(TrackingError, match=said) as caught:
            train.run(config, None)
        assert time.monotonic() - started < 15
    assert proxy.uri in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
    assert _runs(mlflow_server, tmp_path) == []


@pytest.mark.slow
def test_a_server_that_fails_as_the_run_is_created_leaves_the_command_to_be_repeated(
    dataset: str, spark: SparkSession, tmp_path: Path, mlflow_server: MlflowServer
) -> None:
    with FaultyProxy(mlflow_server.uri, "500", begins=lambda path, body: "/runs/create" in path) as proxy:
        config = _config(dataset, tmp_path, proxy)
        with pytest.raises(TrackingError, match="the MLflow run cannot be created"):
            train.run(config, spark)
        assert [file.name for file in (tmp_path / "run").iterdir()] == ["config.yaml"]
        proxy.heal()
        done = train.run(config, spark)
    (run,) = _runs(mlflow_server, tmp_path)
    assert (run.info.run_id, run.info.status) == (done.run_id, "FINISHED")


_LATER: dict[str, tuple[Callable[[], Callable[[str, bytes], bool]], str]] = {
    "middle": (_from_second_losses, ""),
    "end": (_from_model, ""),
    "artifacts": (_from_artifacts, "/mlflow-artifacts/"),
}
"""Place -> from which request on, and which requests."""


def _later_cases() -> list[object]:
    every = [(fault, place) for place in ("middle", "end") for fault in ("500", "401", "hangs", "refuses")]
    return [pytest.param(case, id="-".join(case)) for case in [*every, ("cuts", "artifacts")]]


Trained = tuple[TrainStageResult, str]


@pytest.fixture
def train_behind(
    dataset: str,
    spark: SparkSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> Callable[[FaultyProxy], Trained]:
    """Train with a proxy as the server; return the result and what was said."""
    # A user's own limits, which are kept: with those of MLflow a server that hangs is waited for minutes.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    return lambda proxy: (train.run(_config(dataset, tmp_path, proxy), spark), caplog.text)


@pytest.mark.slow
@pytest.mark.parametrize("case", _later_cases())
def test_a_server_that_fails_later_changes_nothing_and_sync_completes_its_run(
    case: tuple[Fault, str],
    tmp_path: Path,
    mlflow_server: MlflowServer,
    undisturbed: Callable[..., Weights],
    train_behind: Callable[[FaultyProxy], Trained],
) -> None:
    fault, place = case
    begins, only = _LATER[place]
    expected = undisturbed("torch", *_WORDS)
    run_dir = f"{tmp_path}/run"
    with FaultyProxy(mlflow_server.uri, fault, begins=begins(), only=only) as proxy:
        done, said = train_behind(proxy)
        assert proxy.has_begun.is_set()
        assert (done.steps, done.model_uri) == (15 * _EPOCHS, None)
        assert_same(final_weights(tmp_path), expected)
        assert f"dlspark sync run_dir={run_dir}" in said
        assert f"dlspark register run_dir={run_dir}" in said
        (before,) = _runs(mlflow_server, tmp_path)
        assert before.info.status == "RUNNING"
        assert place != "middle" or "step/loss" in before.data.metrics

        proxy.heal()
        assert sync.run(compose([f"run_dir={run_dir}"]), None).events > 0
        assert sync.run(compose([f"run_dir={run_dir}"]), None).events == 0
        register.run(compose([f"run_dir={run_dir}", f"tracking.registered_model={tmp_path.name}"]), None)
    _assert_complete(mlflow_server, tmp_path, done.run_id)


def _assert_complete(server: MlflowServer, folder: Path, run_id: str) -> None:
    """The server's one run has all that the journal has, each step once, and its end."""
    (run,) = _runs(server, folder)
    assert (run.info.run_id, run.info.status) == (run_id, "FINISHED")
    assert run.info.end_time is not None
    client = MlflowClient(server.uri)
    journal = metric_history(read_events(str(folder / "run")))
    assert set(run.data.metrics) == set(journal)
    for name, curve in journal.items():
        history = client.get_metric_history(run_id, name)
        assert sorted((metric.step, metric.value) for metric in history) == curve, name
    assert [step for step, _ in journal["step/loss"]] == list(range(1, 15 * _EPOCHS + 1))
    artifacts = {item.path for item in client.list_artifacts(run_id)}
    assert {"config.yaml", "dataset", "learning_curves.png", "confusion_matrix_val.png"} <= artifacts
    assert client.search_model_versions(f"name = '{folder.name}'")
