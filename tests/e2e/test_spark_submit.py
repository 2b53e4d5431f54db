"""The second door: spark-submit on a real standalone cluster, with the built wheel."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.e2e.commands import REPOSITORY, result_of, run_command
from tests.e2e.standalone_cluster import standalone_cluster

pytestmark = [pytest.mark.e2e, pytest.mark.spark, pytest.mark.horovod, pytest.mark.timeout(600)]

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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as a wheel, built from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            folder,
            ".",
        ],
        cwd=REPOSITORY,
        check=True,
        timeout=120,
    )
    (built,) = folder.glob("dlspark-*.whl")
    return built


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster of one master and two workers of one core each."""
    with standalone_cluster(tmp_path_factory.mktemp("cluster"), num_workers=2) as url:
        yield url


def _submit(master: str, wheel: Path, script: Path, *words: str, folder: Path) -> Any:
    return run_command(
        [
            str(Path(sys.executable).with_name("spark-submit")),
            *("--master", master, "--py-files", str(wheel)),
            *("--conf", "spark.driver.host=127.0.0.1", "--conf", "spark.driver.bindAddress=127.0.0.1"),
            str(script),
            *words,
        ],
        folder=folder,
        environment={"PYSPARK_PYTHON": sys.executable},
    )


def test_the_wheel_is_what_driver_and_executors_run(master: str, wheel: Path, tmp_path: Path) -> None:
    script = tmp_path / "where_am_i.py"
    script.write_text(_WHERE_AM_I)
    finished = _submit(master, wheel, script, master, folder=tmp_path)
    assert finished.returncode == 0, finished.stderr
    origins = finished.stdout.strip().splitlines()[-1]
    assert origins.count(wheel.name) == origins.count("dlspark/__init__.py") >= 1, origins


def test_ingest_train_evaluate_predict(master: str, wheel: Path, tmp_path: Path) -> None:
    jobs = REPOSITORY / "jobs"
    dataset, run_dir, labels = tmp_path / "dataset", tmp_path / "run", tmp_path / "labels"
    tracking = f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"

    ingested = result_of(
        _submit(
            master, wheel, jobs / "ingest.py", "source=builtin:digits", f"dataset={dataset}", folder=tmp_path
        )
    )
    assert ingested["listed"] == ingested["written"] == 1797
    assert sum(ingested["splits"].values()) == 1797

    trained = result_of(
        _submit(
            master,
            wheel,
            jobs / "train.py",
            *(f"dataset={dataset}", f"run_dir={run_dir}", "train.epochs=3", "cluster.workers=2", tracking),
            folder=tmp_path,
        )
    )
    assert trained["fingerprint"] == ingested["fingerprint"]
    assert trained["epochs"] == 3
    assert trained["val_accuracy"] > 0.8

    evaluated = result_of(
        _submit(master, wheel, jobs / "evaluate.py", f"run_dir={run_dir}", tracking, folder=tmp_path)
    )
    assert evaluated["num_rows"] == ingested["splits"]["test"]
    assert evaluated["accuracy"] > 0.8

    predicted = result_of(
        _submit(
            master,
            wheel,
            jobs / "predict.py",
            *(f"source={ingested['source']}", f"predict.model={run_dir}", f"predict.output={labels}"),
            folder=tmp_path,
        )
    )
    assert predicted["images"] == 1797
    table = pq.read_table(labels)
    right = [
        path.split("/")[-2] == label
        for path, label in zip(*(table[c].to_pylist() for c in ("path", "label")), strict=True)
    ]
    assert sum(right) / len(right) > 0.8
