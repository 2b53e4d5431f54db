"""Promises 4 and 7 on real parts: a run that was killed goes on, and ends as one that never stopped."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from dlspark.config.compose import compose
from dlspark.errors import ConfigError, LostWorkerError, OutputExistsError, WorkerFailedError
from dlspark.tracking.journal import metric_history, read_events
from dlspark.training.checkpoint import load_checkpoint
from dlspark.training.snapshots import checkpoints_folder, list_snapshots
from pipelines import ingest, train
from pipelines.train import TrainStageResult
from tests import recording_worker

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [
    pytest.mark.spark,
    pytest.mark.horovod,
    pytest.mark.timeout(300),
    pytest.mark.faults(scenario=7),
]

_STEPS_OF_EPOCH = 15


@pytest.fixture(scope="module")
def dataset(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digits, published."""
    url = str(tmp_path_factory.mktemp("digits") / "dataset")
    ingest.run(compose(["source=builtin:digits", f"dataset={url}"]), spark)
    return url


@pytest.fixture(autouse=True, scope="module")
def _ship_by_value() -> None:
    cloudpickle.register_pickle_by_value(recording_worker)


def _train(
    dataset: str, run_dir: Path, spark: SparkSession | None, *words: str, backend: str = "horovod"
) -> TrainStageResult:
    workers = 1 if backend == "local" else 2
    config = compose(
        [
            *(
                f"dataset={dataset}",
                f"run_dir={run_dir}",
                f"tracking.uri=sqlite:///{run_dir.parent}/mlflow.db",
            ),
            *(f"tracking.experiment={run_dir.name}", "train.epochs=3", "train.global_batch_size=100"),
            *("train.precision=fp32", "optimizer=sgd", "optimizer.lr=0.02", "optimizer.momentum=0.9"),
            *("augment.crop_padding=1", "checkpoint.every_steps=4", "cluster.threads_per_worker=1"),
            *(f"cluster.backend={backend}", f"cluster.workers={workers}", *words),
        ]
    )
    return train.run(config, spark)


def _weights(run_dir: Path) -> dict[str, Any]:
    return load_checkpoint(str(run_dir / "checkpoints" / "final"))[0].state_dict()


def _only_run(run_dir: Path) -> tuple[MlflowClient, Run]:
    client = MlflowClient(f"sqlite:///{run_dir.parent}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name(run_dir.name).experiment_id])
    return client, run


def _losses(run_dir: Path) -> list[float]:
    return [value for _, value in metric_history(read_events(str(run_dir)))["step/loss"]]


def test_killed_and_run_again_is_the_run_that_never_stopped(
    spark: SparkSession, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    expected = _train(dataset, straight, spark)
    with monkeypatch.context() as patched:
        patched.setattr(train, "run_training", recording_worker.die_in_the_second_epoch)
        with pytest.raises(WorkerFailedError, match=r"rank 1 of 2 .*SIGKILL"):
            _train(dataset, killed, spark, "cluster.max_restarts=0")
    assert _only_run(killed)[1].info.status == "FAILED"
    assert list_snapshots(checkpoints_folder(str(killed)))[-1].description.step == _STEPS_OF_EPOCH + 5
    with pytest.raises(OutputExistsError, match="resume=auto"):
        _train(dataset, killed, spark, "resume=never")
    with pytest.raises(ConfigError, match=r"optimizer\.lr=0\.5, train\.epochs=4.*optimizer\.lr=0\.02"):
        _train(dataset, killed, spark, "optimizer.lr=0.5", "train.epochs=4")

    done = _train(dataset, killed, spark)
    assert (done.steps, done.val_loss) == (expected.steps, expected.val_loss)
    weights = _weights(straight)
    for name, tensor in _weights(killed).items():
        assert torch.equal(tensor, weights[name]), name
    assert _losses(killed) == _losses(straight)

    client, run = _only_run(killed)
    assert (run.info.run_id, run.info.status) == (done.run_id, "FINISHED")
    assert (run.data.tags["dlspark.attempt"], run.data.tags["dlspark.error"]) == ("2", "")
    for name in run.data.metrics:
        steps = Counter(metric.step for metric in client.get_metric_history(run.info.run_id, name))
        assert max(steps.values()) == 1, name
    history = client.get_metric_history(run.info.run_id, "step/loss")
    assert sorted(metric.step for metric in history) == list(range(1, expected.steps + 1))

    assert _train(dataset, killed, spark) == done, "a complete run was not left as it is"


def test_told_to_stop_at_two_ranks_and_resumed_at_one(
    spark: SparkSession, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without momentum: at its larger steps a rounding that flips one ReLU is blown up.
    words = ("model.dropout_features=0", "model.dropout_dense=0", "optimizer.momentum=0")
    stopped, straight = tmp_path / "stopped", tmp_path / "straight"
    with monkeypatch.context() as patched:
        patched.setattr(train, "run_training", recording_worker.be_told_to_stop_in_the_second_epoch)
        with pytest.raises(SystemExit) as ended:
            _train(dataset, stopped, spark, *words)
    assert ended.value.code == 143
    assert _only_run(stopped)[1].info.status == "KILLED"
    last = list_snapshots(checkpoints_folder(str(stopped)))[-1].description.step
    assert _STEPS_OF_EPOCH + 7 <= last <= _STEPS_OF_EPOCH + 9

    _train(dataset, stopped, None, *words, backend="local")
    _train(dataset, straight, None, *words, backend="local")
    assert _losses(stopped) == pytest.approx(_losses(straight), rel=1e-5)
    assert _only_run(stopped)[1].info.status == "FINISHED"


@pytest.mark.parametrize("backend", ["torch", "horovod"])
def test_a_training_that_lost_a_worker_goes_on_by_itself(
    spark: SparkSession, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    straight, lost = tmp_path / "straight", tmp_path / "lost"
    expected = _train(dataset, straight, spark, backend=backend)
    with monkeypatch.context() as patched:
        patched.setattr(train, "run_training", recording_worker.die_once_in_the_second_epoch)
        done = _train(dataset, lost, spark, backend=backend)
    assert (done.steps, done.val_loss) == (expected.steps, expected.val_loss)
    weights = _weights(straight)
    for name, tensor in _weights(lost).items():
        assert torch.equal(tensor, weights[name]), name
    assert _losses(lost) == _losses(straight)
    client, run = _only_run(lost)
    assert (run.info.run_id, run.info.status) == (done.run_id, "FINISHED")
    assert (run.data.tags["dlspark.restarts"], run.data.tags["dlspark.attempt"]) == ("1", "2")
    assert "SIGKILL" in run.data.tags["dlspark.last_restart"]
    assert run.data.metrics["restart/lost_seconds"] >= 0
    history = client.get_metric_history(run.info.run_id, "step/loss")
    assert sorted(metric.step for metric in history) == list(range(1, expected.steps + 1))


def test_a_crash_that_repeats_at_its_step_stops_the_restarts(
    spark: SparkSession, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "run_training", recording_worker.die_in_the_second_epoch)
    with pytest.raises(LostWorkerError, match=r"rank 1 of 2 .*not started again: it has failed twice"):
        _train(dataset, tmp_path / "run", spark, "cluster.max_restarts=5", backend="torch")
    assert _only_run(tmp_path / "run")[1].info.status == "FAILED"
