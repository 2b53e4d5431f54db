"""One training, one MLflow run: what it holds, and that its status is true."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from dlspark.errors import TrackingError, WorkerFailedError
from dlspark.tracking.facts import DatasetFacts
from dlspark.tracking.journal import JournalTracker
from dlspark.tracking.run import require_reachable, start_run
from dlspark.tracking.server import absolute_tracking_uri, request_limits
from dlspark.tracking.shipper import Shipper
from tests.integration.mlflow_server import MlflowServer, free_port

# MLflow 3.17 uses a loader strategy that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


@pytest.fixture(params=["http", "sqlite"])
def tracking_uri(request: pytest.FixtureRequest, mlflow_server: MlflowServer, sqlite_uri: str) -> str:
    return mlflow_server.uri if request.param == "http" else sqlite_uri


def _arguments(tracking_uri: str, run_dir: Path) -> dict[str, Any]:
    return {
        "tracking_uri": tracking_uri,
        "experiment": "digits / test",
        "run_name": "first",
        "run_dir": str(run_dir),
        "config": {"train": {"epochs": 2}, "note": "n" * 9000, "model": {"hidden": [5, 5]}},
        "tags": {"dlspark.backend": "local", "dlspark.workers": 1},
        "dataset": DatasetFacts(
            name="digits",
            url="/data/digits",
            fingerprint="0123456789abcdef" * 2,
            num_rows={"train": 80, "val": 10, "test": 10},
            classes=("0", "1"),
            image_shape=(8, 8, 1),
        ),
        "system_metrics_seconds": 0.2,
        "close_seconds": 120.0,
    }


def _only_run(tracking_uri: str, run_dir: Path) -> Run:
    client = MlflowClient(tracking_uri)
    experiment = client.get_experiment_by_name("digits / test")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], f"tags.test_dir = '{run_dir}'")
    assert len(runs) == 1
    return client.get_run(runs[0].info.run_id)


def test_a_finished_run_holds_all_that_was_told(tmp_path: Path, tracking_uri: str) -> None:
    run_dir = tmp_path / "run"
    picture = tmp_path / "elsewhere" / "curves.png"
    picture.parent.mkdir()
    picture.write_bytes(b"\x89PNG")
    with start_run(**_arguments(tracking_uri, run_dir)) as run:
        run.set_tags({"test_dir": run_dir, "dlspark.precision": "fp32"})
        with JournalTracker(str(run_dir), "train-0") as tracker:
            tracker.log_metrics({"train_loss": 0.5}, step=10)
        run.log_metrics({"test_accuracy": 0.99}, step=10)
        run.log_artifact(str(picture), "pictures")
        time.sleep(0.5)

    client = MlflowClient(tracking_uri)
    found = _only_run(tracking_uri, run_dir)
    assert found.info.status == "FINISHED"
    assert found.info.end_time >= found.info.start_time
    assert found.info.run_name == "first"
    assert {name: value for name, value in found.data.metrics.items() if "/" not in name} == {
        "train_loss": 0.5,
        "test_accuracy": 0.99,
    }
    assert found.data.metrics["system/cpu_utilization_percentage"] >= 0.0
    assert found.data.params["train.epochs"] == "2"
    assert found.data.params["model.hidden"] == "[5, 5]"
    assert len(found.data.params["note"]) == 6000
    assert found.data.tags["dlspark.backend"] == "local"
    assert found.data.tags["dlspark.precision"] == "fp32"
    assert found.data.tags["dlspark.version"]
    (dataset,) = found.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("digits", "0123456789abcdef" * 2)
    names = [item.path for item in client.list_artifacts(run.run_id)]
    assert names == ["config.yaml", "pictures"]
    config = Path(client.download_artifacts(run.run_id, "config.yaml", str(tmp_path))).read_text()
    assert "n" * 9000 in config
    curves = client.download_artifacts(run.run_id, "pictures/curves.png", str(tmp_path))
    assert Path(curves).read_bytes() == b"\x89PNG"


@pytest.mark.parametrize(
    ("error", "status", "tag"),
    [
        (WorkerFailedError("rank 1 failed\nmore", where="host-b"), "FAILED", "rank 1 failed"),
        (ZeroDivisionError("by zero"), "FAILED", "ZeroDivisionError: by zero"),
        (KeyboardInterrupt(), "KILLED", None),
    ],
)
def test_an_error_ends_the_run_truthfully_and_is_raised_on(
    tmp_path: Path, sqlite_uri: str, error: BaseException, status: str, tag: str | None
) -> None:
    def train() -> None:
        with start_run(**_arguments(sqlite_uri, tmp_path)) as run:
            run.set_tags({"test_dir": tmp_path})
            raise error

    with pytest.raises(type(error)):
        train()

    found = _only_run(sqlite_uri, tmp_path)
    assert found.info.status == status
    assert found.data.tags.get("dlspark.error") == tag


@pytest.mark.faults(scenario=2)
def test_sigterm_ends_the_run_as_killed_with_the_exit_code_of_a_terminated_process(
    tmp_path: Path, sqlite_uri: str
) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def train() -> None:
        with start_run(**_arguments(sqlite_uri, tmp_path)) as run:
            run.set_tags({"test_dir": tmp_path})
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    with pytest.raises(SystemExit) as ended:
        train()

    assert ended.value.code == 143
    assert _only_run(sqlite_uri, tmp_path).info.status == "KILLED"
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.faults(scenario=5)
def test_a_server_that_dies_in_mid_run_stops_nothing_and_sync_completes_the_run(
    tmp_path: Path, mlflow_server: MlflowServer, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = {**_arguments(mlflow_server.uri, tmp_path), "close_seconds": 1.0}
    try:
        with start_run(**arguments) as run:
            mlflow_server.stop()
            run.log_metrics({"test_accuracy": 0.99}, step=10)
            run.log_text("late", "late.txt")
            run.set_tags({"test_dir": tmp_path})
    finally:
        mlflow_server.start()
    assert f"dlspark sync run_dir={tmp_path}" in caplog.text

    shipper = Shipper(str(tmp_path), tracking_uri=run.tracking_uri, run_id=run.run_id)
    assert shipper.ship_all() > 0
    found = _only_run(mlflow_server.uri, tmp_path)
    assert found.info.status == "FINISHED"
    assert found.data.metrics["test_accuracy"] == 0.99
    assert {item.path for item in MlflowClient(mlflow_server.uri).list_artifacts(run.run_id)} == {
        "config.yaml",
        "late.txt",
    }


@pytest.mark.faults(scenario=5)
def test_a_server_that_is_not_there_is_one_error_with_the_fix_within_seconds(tmp_path: Path) -> None:
    started = time.monotonic()
    nobody = f"http://user:secret@127.0.0.1:{free_port()}"
    with (
        pytest.raises(TrackingError, match=re.escape("tracking.uri=sqlite:///mlflow.db")) as error,
        start_run(**_arguments(nobody, tmp_path)),
    ):
        pytest.fail("the block must not be entered")

    assert time.monotonic() - started < 10.0
    assert "does not answer" in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.faults(scenario=5)
@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("mlruns", "cannot be used"),
        ("file:///tmp/mlruns", "cannot be used"),
        ("sqlite:///", "names no file"),
        ("sqlite:////proc/1/dlspark/mlflow.db", "not writable"),
        ("sqlite:///{folder}/text.db", "not a sqlite database"),
    ],
)
def test_a_store_that_cannot_be_written_is_an_error_before_the_run(
    tmp_path: Path, uri: str, problem: str
) -> None:
    (tmp_path / "text.db").write_text("this is not a database")
    with pytest.raises(TrackingError, match=problem) as error:
        require_reachable(uri.format(folder=tmp_path))
    assert "Fix: " in str(error.value)


def test_a_relative_sqlite_path_is_the_same_store_from_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = absolute_tracking_uri("sqlite:///mlflow.db")

    assert uri == f"sqlite:///{tmp_path}/mlflow.db"
    sqlite3.connect(uri.removeprefix("sqlite:///")).close()
    require_reachable("sqlite:///mlflow.db")


def test_limits_of_requests_nest_and_a_limit_of_the_user_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    timeout, retries = "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    monkeypatch.setenv(timeout, "77")
    monkeypatch.delenv(retries, raising=False)
    seen = []
    with request_limits(timeout_seconds=10, num_retries=0):
        seen.append((os.environ[timeout], os.environ[retries]))
        with request_limits(timeout_seconds=120, num_retries=3):
            seen.append((os.environ[timeout], os.environ[retries]))
        seen.append((os.environ[timeout], os.environ[retries]))

    assert seen == [("77", "0"), ("77", "3"), ("77", "0")]
    assert (os.environ[timeout], retries in os.environ) == ("77", False)
