"""Trainings that differ in a few words, as child runs of one, and again after one of them was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient

from dlspark.config.compose import compose
from dlspark.errors import ConfigError
from pipelines import compare, ingest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [pytest.mark.spark, pytest.mark.timeout(300)]

RUNS = ("optimizer=sgd optimizer.lr=0.05", "optimizer=adam", "optimizer=sgd optimizer.lr=1e30")


@pytest.fixture(scope="module")
def dataset(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("compare") / "dataset")
    ingest.run(compose(["source=builtin:digits", f"dataset={path}"]), spark)
    return path


def words_of(dataset: str, folder: Path, uri: str) -> list[str]:
    return [
        *(f"dataset={dataset}", f"run_dir={folder}/all", f"tracking.uri={uri}", "cluster.backend=local"),
        *("experiment=quick", "train.epochs=2", f"compare.runs={json.dumps(RUNS)}"),
    ]


def test_each_training_is_a_child_run_and_one_picture_has_them_all(
    dataset: str, tmp_path: Path, sqlite_uri: str
) -> None:
    config = compose(words_of(dataset, tmp_path, sqlite_uri))
    result = compare.run(config, None)
    sgd, adam, diverged = result.runs
    assert result.best == max((sgd, adam), key=lambda run: run.val_accuracy or 0).words
    assert diverged.error is not None
    assert "not finite" in diverged.error
    client = MlflowClient(sqlite_uri)
    for run in (sgd, adam):
        child = client.get_run(run.run_id or "")
        assert child.data.tags["mlflow.parentRunId"] == result.run_id
        assert child.data.tags["mlflow.runName"] == run.words
        assert child.data.metrics["val_accuracy"] == run.val_accuracy
    assert client.get_run(sgd.run_id or "").data.params["optimizer.name"] == "sgd"
    assert client.get_run(sgd.run_id or "").data.params["optimizer.lr"] == "0.05"
    parent = client.get_run(result.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["val_accuracy/optimizer-adam"] == adam.val_accuracy
    assert {file.path for file in client.list_artifacts(result.run_id)} >= {
        "comparison.png",
        "comparison.json",
    }
    assert Path(result.picture).read_bytes().startswith(b"\x89PNG")

    again = compare.run(config, None)
    assert again.run_id == result.run_id
    assert again.runs[:2] == result.runs[:2]


@pytest.mark.parametrize("runs", ["[]", '["optimizer=sgd"]', '["optimizer=sgd", " optimizer=sgd"]'])
def test_trainings_that_do_not_differ_are_refused(
    runs: str, dataset: str, tmp_path: Path, sqlite_uri: str
) -> None:
    words = [*words_of(dataset, tmp_path, sqlite_uri), f"compare.runs={runs}"]
    with pytest.raises(ConfigError, match=r"trainings that differ.*compare\.runs"):
        compare.run(compose(words), None)
    assert not (tmp_path / "all").exists()
