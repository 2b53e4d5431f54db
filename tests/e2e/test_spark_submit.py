"""The second door: spark-submit on a real standalone cluster, with the built wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from tests.e2e.commands import run_command

pytestmark = [pytest.mark.e2e, pytest.mark.spark, pytest.mark.horovod, pytest.mark.timeout(1200)]

_WHERE_AM_I = """
import sys
import dlspark
from dlspark.cluster.session import spark_session

def origin(_):
    import dlspark
    return dlspark.__file__

with spark_session("local[1]", "where am I") as spark:
    context = spark.sparkContext
    assert context.master == sys.argv[1], context.master
    origins = {dlspark.__file__, *context.parallelize(range(2), 2).map(origin).collect()}
    print(sorted(origins))
"""


def test_stages_on_the_cluster_give_what_they_give_on_a_laptop(
    checkout: Path, demo: dict[str, Any], submitted: dict[str, dict[str, Any]]
) -> None:
    ingested, trained = submitted["ingest"], submitted["train"]
    assert ingested["listed"] == ingested["written"] == 1797
    assert sum(ingested["splits"].values()) == 1797
    assert trained["fingerprint"] == ingested["fingerprint"]
    assert (trained["backend"], trained["workers"]) == ("horovod", 2)
    assert trained["val_accuracy"] > 0.8
    assert submitted["evaluate"]["num_rows"] == ingested["splits"]["test"]
    assert submitted["evaluate"]["accuracy"] > 0.8
    assert submitted["predict"]["images"] == 1797
    table = pq.read_table(submitted["predict"]["output"])
    paths, labels = (table[column].to_pylist() for column in ("path", "label"))
    right = [path.split("/")[-2] == label for path, label in zip(paths, labels, strict=True)]
    assert sum(right) / len(right) > 0.8


def test_the_session_of_spark_submit_is_the_one_that_trains(
    checkout: Path, master: str, submitted: dict[str, dict[str, Any]]
) -> None:
    client = MlflowClient(f"sqlite:///{checkout}/mlflow.db")
    tags = client.get_run(submitted["train"]["run_id"]).data.tags
    assert tags["dlspark.spark_application_id"].startswith("app-"), "local masters name theirs local-..."


def test_the_wheel_is_what_driver_and_executors_run(
    checkout: Path,
    master: str,
    submit_environment: dict[str, str],
    submitted: dict[str, dict[str, Any]],
    tmp_path: Path,
) -> None:
    script = tmp_path / "where_am_i.py"
    script.write_text(_WHERE_AM_I)
    (wheel,) = (checkout / "dist").glob("dlspark-*.whl")
    finished = run_command(
        ["spark-submit", "--master", master, "--py-files", str(wheel), str(script), master],
        folder=tmp_path,
        environment=submit_environment,
    )
    assert finished.returncode == 0, finished.stderr
    origins = finished.stdout.strip().splitlines()[-1]
    assert origins.count(wheel.name) == origins.count("dlspark/__init__.py") >= 1, origins
