"""The shipper: what the journal holds arrives in MLflow, once, whatever happens to server and driver."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from dlspark.errors import TrackingError
from dlspark.tracking.journal import JournalTracker, metric_history, read_events
from dlspark.tracking.server import find_or_create_experiment, request_limits
from dlspark.tracking.shipper import Shipper
from tests.integration.mlflow_server import MlflowServer, free_port
from tests.integration.recording_proxy import RecordingProxy

# MLflow 3.17 uses a loader strategy that SQLAlchemy 2.1 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
    pytest.mark.faults(scenario=5),
]


@pytest.fixture(params=["http", "sqlite"])
def tracking_uri(request: pytest.FixtureRequest, mlflow_server: MlflowServer, sqlite_uri: str) -> str:
    return mlflow_server.uri if request.param == "http" else sqlite_uri


@pytest.fixture(autouse=True)
def _impatient() -> Iterator[None]:
    with request_limits(timeout_seconds=30, num_retries=0):
        yield


def _new_run(tracking_uri: str) -> str:
    client = MlflowClient(tracking_uri)
    return str(client.create_run(find_or_create_experiment(client, "shipper test")).info.run_id)


def _on_server(tracking_uri: str, run_id: str) -> dict[str, list[tuple[int, float]]]:
    client = MlflowClient(tracking_uri)
    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for name in client.get_run(run_id).data.metrics:
        for metric in client.get_metric_history(run_id, name):
            curves[name].append((metric.step, metric.value))
    return {name: sorted(curve) for name, curve in curves.items()}


def _journal(run_dir: Path, attempt: str, steps: range, *, flush_every: int = 50) -> None:
    with JournalTracker(str(run_dir), attempt, flush_seconds=60) as tracker:
        for step in steps:
            tracker.log_metrics({"step/loss": 1.0 / step, "step/accuracy": step / 1e4}, step=step)
            if step % flush_every == 0:
                tracker.flush()


def _wait(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.05)


def test_more_metrics_than_one_call_takes_arrive_exactly(tmp_path: Path, tracking_uri: str) -> None:
    run_id = _new_run(tracking_uri)
    with Shipper(
        str(tmp_path), tracking_uri=tracking_uri, run_id=run_id, poll_seconds=0.05, close_seconds=120
    ) as shipper:
        _journal(tmp_path, "train-0", range(1, 1301))
        assert shipper.close() == 0

    assert _on_server(tracking_uri, run_id) == metric_history(read_events(str(tmp_path)))
    assert len(_on_server(tracking_uri, run_id)["step/loss"]) == 1300


@pytest.mark.parametrize("lost", ["whole cursor", "last batch"])
def test_a_driver_that_died_before_it_noted_what_it_sent_sends_nothing_twice(
    tmp_path: Path, mlflow_server: MlflowServer, lost: str
) -> None:
    run_id = _new_run(mlflow_server.uri)
    cursor = tmp_path / "journal-shipped.json"
    with RecordingProxy(mlflow_server.uri) as proxy:
        _journal(tmp_path, "train-0", range(1, 101))
        Shipper(str(tmp_path), tracking_uri=proxy.uri, run_id=run_id).ship_all()
        before = cursor.read_bytes()
        _journal(tmp_path, "train-0", range(101, 201))
        Shipper(str(tmp_path), tracking_uri=proxy.uri, run_id=run_id).ship_all()
        if lost == "whole cursor":
            cursor.unlink()
        else:
            cursor.write_bytes(before)
        _journal(tmp_path, "train-0", range(201, 251))

        Shipper(str(tmp_path), tracking_uri=proxy.uri, run_id=run_id).ship_all()

    assert len(proxy.received) == 500
    assert set(proxy.received.values()) == {1}
    assert _on_server(mlflow_server.uri, run_id) == metric_history(read_events(str(tmp_path)))


def test_a_resumed_attempt_that_repeats_steps_adds_only_the_new_ones(
    tmp_path: Path, tracking_uri: str
) -> None:
    run_id = _new_run(tracking_uri)
    _journal(tmp_path, "train-0", range(1, 74))
    Shipper(str(tmp_path), tracking_uri=tracking_uri, run_id=run_id).ship_all()
    _journal(tmp_path, "train-1", range(51, 101))
    Shipper(str(tmp_path), tracking_uri=tracking_uri, run_id=run_id).ship_all()

    steps = [step for step, _ in _on_server(tracking_uri, run_id)["step/loss"]]
    assert steps == list(range(1, 101))


def test_a_server_killed_and_restarted_in_mid_run_loses_and_doubles_nothing(
    tmp_path: Path, mlflow_server: MlflowServer, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = _new_run(mlflow_server.uri)
    shipper = Shipper(
        str(tmp_path), tracking_uri=mlflow_server.uri, run_id=run_id, poll_seconds=0.02, close_seconds=120
    )
    stop = threading.Event()

    def train() -> None:
        with JournalTracker(str(tmp_path), "train-0", flush_seconds=0.02) as tracker:
            step = 0
            while not stop.wait(0.002):
                step += 1
                tracker.log_metrics({"step/loss": 1.0 / step}, step=step)

    training = threading.Thread(target=train)
    with shipper:
        training.start()
        _wait(lambda: bool(_on_server(mlflow_server.uri, run_id)))
        mlflow_server.stop()
        _wait(lambda: any("does not take the run's data" in record.message for record in caplog.records))
        left_during_outage = shipper.count_left()
        mlflow_server.start()
        stop.set()
        training.join()
        assert shipper.close() == 0

    assert left_during_outage > 0
    assert _on_server(mlflow_server.uri, run_id) == metric_history(read_events(str(tmp_path)))
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


def test_a_server_that_stays_away_costs_bounded_time_and_sync_finishes_later(
    tmp_path: Path, mlflow_server: MlflowServer, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = _new_run(mlflow_server.uri)
    nobody = f"http://127.0.0.1:{free_port()}"
    _journal(tmp_path, "train-0", range(1, 11))
    shipper = Shipper(str(tmp_path), tracking_uri=nobody, run_id=run_id, close_seconds=1.0)
    with shipper:
        started = time.monotonic()
        left = shipper.close()
        seconds = time.monotonic() - started

    assert left == 10
    assert seconds < 4.0
    assert f"dlspark sync run_dir={tmp_path}" in caplog.text
    with pytest.raises(TrackingError, match="dlspark sync run_dir="):
        Shipper(str(tmp_path), tracking_uri=nobody, run_id=run_id).ship_all()
    assert Shipper(str(tmp_path), tracking_uri=mlflow_server.uri, run_id=run_id).ship_all() == 10
    assert Shipper(str(tmp_path), tracking_uri=mlflow_server.uri, run_id=run_id).ship_all() == 0
    assert _on_server(mlflow_server.uri, run_id) == metric_history(read_events(str(tmp_path)))


def test_a_server_that_does_the_work_but_answers_with_errors_doubles_nothing(
    tmp_path: Path, mlflow_server: MlflowServer
) -> None:
    run_id = _new_run(mlflow_server.uri)
    _journal(tmp_path, "train-0", range(1, 201))
    with (
        RecordingProxy(mlflow_server.uri, num_lost=3) as proxy,
        Shipper(
            str(tmp_path), tracking_uri=proxy.uri, run_id=run_id, poll_seconds=0.05, close_seconds=120
        ) as shipper,
    ):
        assert shipper.close() == 0

    assert set(proxy.received.values()) == {1}
    assert _on_server(mlflow_server.uri, run_id) == metric_history(read_events(str(tmp_path)))


def test_a_metric_that_the_server_refuses_holds_up_no_other(
    tmp_path: Path, tracking_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = _new_run(tracking_uri)
    with JournalTracker(str(tmp_path), "train-0") as tracker:
        for step in range(1, 6):
            tracker.log_metrics({"good": float(step), "bad\tname": 1.0}, step=step)

    Shipper(str(tmp_path), tracking_uri=tracking_uri, run_id=run_id).ship_all()

    assert _on_server(tracking_uri, run_id) == {"good": [(step, float(step)) for step in range(1, 6)]}
    assert caplog.text.count("refuses the metric bad\tname") == 1


def test_a_deleted_run_takes_all_of_it_after_it_is_restored(tmp_path: Path, tracking_uri: str) -> None:
    run_id = _new_run(tracking_uri)
    _journal(tmp_path, "train-0", range(1, 11))
    client = MlflowClient(tracking_uri)
    client.delete_run(run_id)
    with pytest.raises(TrackingError, match="must be in the 'active' state"):
        Shipper(str(tmp_path), tracking_uri=tracking_uri, run_id=run_id).ship_all()
    client.restore_run(run_id)

    assert Shipper(str(tmp_path), tracking_uri=tracking_uri, run_id=run_id).ship_all() == 10
    assert _on_server(tracking_uri, run_id) == metric_history(read_events(str(tmp_path)))
