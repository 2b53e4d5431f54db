"""Promises 1, 3 and 7 on real parts: Horovod with two processes on Spark, Parquet, and an MLflow store."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import cloudpickle
import pytest
import torch
from mlflow import MlflowClient

from dlspark.cluster.launch import launch
from dlspark.config import Config
from dlspark.config.compose import compose
from dlspark.contracts import WorkerTask
from dlspark.data.manifest import read_manifest
from dlspark.data.normalise import normalise
from dlspark.errors import WorkerFailedError
from dlspark.replay import replay_step
from dlspark.tracking.journal import metric_history, read_events
from pipelines import ingest, train
from tests import recording_worker

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [pytest.mark.spark, pytest.mark.horovod, pytest.mark.timeout(300)]

_EXACT = ("model.dropout_features=0", "model.dropout_dense=0", "train.precision=fp32", "optimizer=sgd")


@pytest.fixture(scope="module")
def dataset(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digits, published."""
    url = str(tmp_path_factory.mktemp("digits") / "dataset")
    ingest.run(compose(["source=builtin:digits", f"dataset={url}"]), spark)
    return url


@pytest.fixture(autouse=True, scope="module")
def _ship_by_value() -> None:
    cloudpickle.register_pickle_by_value(recording_worker)


def _losses(run_dir: Path) -> list[float]:
    return [value for _, value in metric_history(read_events(str(run_dir)))["step/loss"]]


def test_two_horovod_ranks_give_the_loss_curve_of_one_process(
    spark: SparkSession, dataset: str, tmp_path: Path
) -> None:
    common = (
        # At a learning rate of 0.1 the loss jumps, and a rounding that flips one ReLU is blown up in 5 steps.
        *(f"dataset={dataset}", "train.epochs=8", "train.global_batch_size=100", "optimizer.lr=0.05"),
        *(f"tracking.uri=sqlite:///{tmp_path}/mlflow.db", "augment.crop_padding=1", *_EXACT),
    )
    one = train.run(compose([*common, "cluster.backend=local", f"run_dir={tmp_path}/one"]), None)
    two = train.run(compose([*common, "cluster.workers=2", f"run_dir={tmp_path}/two"]), spark)
    assert (one.workers, two.workers) == (1, 2)
    curve = _losses(tmp_path / "one")
    assert len(curve) == one.steps == two.steps
    assert curve[-1] < 0.5 * curve[0], "nothing was learned, so equal curves would prove little"
    assert _losses(tmp_path / "two") == pytest.approx(curve, rel=1e-5)
    assert two.val_loss == pytest.approx(one.val_loss, rel=1e-4)


def _task(dataset: str, run_dir: Path, *words: str) -> WorkerTask:
    config = compose([f"dataset={dataset}", f"run_dir={run_dir}", *_EXACT, *words])
    return WorkerTask(
        dataset=dataset,
        fingerprint=read_manifest(dataset).fingerprint,
        run_dir=str(run_dir),
        config=config.model_dump(mode="json"),
    )


@pytest.mark.faults(scenario=3)
def test_every_training_row_is_seen_exactly_once_an_epoch(
    spark: SparkSession, dataset: str, tmp_path: Path
) -> None:
    task = _task(dataset, tmp_path, "train.epochs=2", "augment=mirror_crop")
    recorded = launch(
        recording_worker.train_and_record,
        task,
        backend="horovod",
        num_workers=2,
        spark=spark,
        start_timeout_seconds=120,
        threads_per_worker=1,
    )
    by_rank = [seen for seen, _ in recorded]
    num_rows = read_manifest(dataset).splits["train"].rows
    sequences = []
    for epoch in (0, 1):
        ids = [row_id for seen in by_rank for step in seen[epoch] for row_id in step]
        assert len(ids) == len(set(ids)) == num_rows
        assert all(len(seen[epoch]) == len(by_rank[0][epoch]) for seen in by_rank)
        assert all(sum(map(len, seen[epoch])) > num_rows / 4 for seen in by_rank), "one rank did all the work"
        sequences.append(
            [frozenset(a) | frozenset(b) for a, b in zip(*(s[epoch] for s in by_rank), strict=True)]
        )
    assert sequences[0] != sequences[1], "two epochs had the same batches"
    for step in (1, len(sequences[0]), len(sequences[0]) + 3):
        _require_the_same_replayed(task, step, recorded)


def _require_the_same_replayed(
    task: WorkerTask, step: int, recorded: Sequence[recording_worker.Recorded]
) -> None:
    """A step that is made again in one process holds the rows and the pixels that the two ranks had."""
    manifest = read_manifest(task.dataset)
    config = Config.model_validate(task.config)
    replayed = replay_step(config, task.dataset, manifest, task.run_dir, step)
    images = normalise(torch.from_numpy(replayed.pixels), manifest.preprocessing).numpy()
    start, place = 0, (replayed.epoch - 1, (step - 1) % len(recorded[0][0][0]))
    for seen, digests in recorded:
        ids = seen[place[0]][place[1]]
        end = start + len(ids)
        assert replayed.row_ids[start:end].tolist() == ids
        assert sha256(images[start:end].tobytes()).hexdigest() == digests[place[0]][place[1]]
        start = end
    assert start == len(replayed.row_ids)


@pytest.mark.faults(scenario=1)
def test_a_raising_rank_is_named_and_the_run_is_failed(
    spark: SparkSession, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "run_training", recording_worker.fail_on_rank_one)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    config = compose(
        [f"dataset={dataset}", f"run_dir={tmp_path}/run", "cluster.workers=2", f"tracking.uri={uri}"]
    )
    with pytest.raises(WorkerFailedError) as caught:
        train.run(config, spark)
    first_line = str(caught.value).splitlines()[0]
    for part in ("rank 1", "ValueError", "boom at step 3"):
        assert part in first_line
    assert "in run_training" in str(caught.value), "the remote traceback is missing"
    assert list(spark.sparkContext.statusTracker().getActiveJobsIds()) == []
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("dlspark").experiment_id])
    assert run.info.status == "FAILED"
    assert "boom at step 3" in run.data.tags["dlspark.error"]
