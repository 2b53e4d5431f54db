"""The first door, as on a laptop without a cluster: the stages, and what MLflow holds after them."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from tests.e2e.commands import DLSPARK, REPOSITORY, result_of, run_command

pytestmark = [pytest.mark.e2e, pytest.mark.spark, pytest.mark.timeout(600)]

_SPARK = "cluster.master=local[2]"


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """What the stages made, one after the other, in one folder."""

    folder: Path
    tracking_uri: str
    ingested: dict[str, Any]
    trained: dict[str, Any]
    evaluated: dict[str, Any]
    registered: dict[str, Any]
    predicted: dict[str, Any]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Run ingest, train, evaluate, register and predict once, in one local process and on Spark local[2]."""
    folder = tmp_path_factory.mktemp("workspace")
    tracking_uri = f"sqlite:///{folder}/mlflow.db"
    run = lambda *words: result_of(run_command([*DLSPARK, *words], folder=folder))  # noqa: E731
    ingested = run("ingest", "source=builtin:digits", "dataset=dataset", _SPARK)
    trained = run(
        *("train", "dataset=dataset", "run_dir=run", "cluster.backend=local", "train.epochs=4"),
        *("model=mnist_cnn", "optimizer=adam", "optimizer.lr=0.002", "train.precision=fp32"),
        *(f"tracking.uri={tracking_uri}", "tracking.experiment=laptop"),
    )
    evaluated = run("evaluate", "run_dir=run", "cluster.backend=local")
    registered = run("register", "run_dir=run", "tracking.registered_model=digits")
    predicted = run(
        *("predict", f"source={ingested['source']}", "predict.model=models:/digits@champion", _SPARK),
        *("predict.output=labels", f"tracking.uri={tracking_uri}"),
    )
    return Workspace(
        folder=folder,
        tracking_uri=tracking_uri,
        ingested=ingested,
        trained=trained,
        evaluated=evaluated,
        registered=registered,
        predicted=predicted,
    )


def test_results_hold_what_scripts_rely_on(workspace: Workspace) -> None:
    assert {"dataset", "fingerprint", "listed", "written", "quarantined", "deduplicated", "splits"} <= set(
        workspace.ingested
    )
    assert workspace.ingested["listed"] == 1797
    assert set(workspace.ingested["splits"]) == {"train", "val", "test"}
    keys = {"run_id", "run_dir", "steps", "epochs", "val_accuracy", "fingerprint", "images_per_second"}
    assert keys <= set(workspace.trained)
    assert workspace.trained["fingerprint"] == workspace.ingested["fingerprint"]
    train_rows = workspace.ingested["splits"]["train"]
    assert workspace.trained["steps"] == 4 * -(-train_rows // 128)
    assert workspace.evaluated["num_rows"] == workspace.ingested["splits"]["test"]
    assert workspace.predicted["images"] == 1797


def test_everything_is_in_one_finished_run(workspace: Workspace) -> None:
    client = MlflowClient(workspace.tracking_uri)
    experiment = client.get_experiment_by_name("laptop")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == workspace.trained["run_id"]
    assert run.info.status == "FINISHED"
    parameters = run.data.params
    assert parameters["optimizer.lr"] == "0.002"
    assert parameters["train.global_batch_size"] == "128"
    tags = run.data.tags
    assert tags["dlspark.fingerprint"] == workspace.ingested["fingerprint"]
    assert tags["dlspark.backend"] == "local"
    assert tags["dlspark.workers"] == "1"
    assert tags["dlspark.precision"] == "fp32"
    assert "mlflow.source.git.commit" in tags
    assert "dlspark.git_dirty" in tags
    (dataset_input,) = run.inputs.dataset_inputs
    assert dataset_input.dataset.digest == workspace.ingested["fingerprint"]
    assert any(name.startswith("system/") for name in run.data.metrics)


def test_metrics_per_step_and_per_epoch(workspace: Workspace) -> None:
    client = MlflowClient(workspace.tracking_uri)
    run_id = workspace.trained["run_id"]
    steps = workspace.trained["steps"]
    per_step = (
        "loss",
        "accuracy",
        "learning_rate",
        "images_per_second",
        "data_wait_seconds",
        "compute_seconds",
    )
    for name in (*per_step, "communication_seconds"):
        history = client.get_metric_history(run_id, f"step/{name}")
        assert [metric.step for metric in history] == list(range(1, steps + 1)), name
    for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "images_per_second", "epoch"):
        history = client.get_metric_history(run_id, name)
        assert [metric.step for metric in history] == [steps // 4 * epoch for epoch in (1, 2, 3, 4)], name
    (tested,) = client.get_metric_history(run_id, "test_accuracy")
    assert tested.value == workspace.evaluated["accuracy"]


def test_pictures_configuration_and_model_are_artifacts(workspace: Workspace) -> None:
    client = MlflowClient(workspace.tracking_uri)
    run_id = workspace.trained["run_id"]
    names = {artifact.path for artifact in client.list_artifacts(run_id)}
    assert {
        "config.yaml",
        "learning_curves.png",
        "confusion_matrix_val.png",
        "confusion_matrix_test.png",
    } <= names
    local = client.download_artifacts(run_id, "learning_curves.png", str(workspace.folder))
    assert Path(local).read_bytes().startswith(b"\x89PNG")


_CLEAN_PROCESS = """
import importlib.util, json, pathlib, sys
# An own path entry runs no .pth file, so that the editable installation of dlspark is out of sight.
sys.path.append(sys.argv.pop(1))
assert importlib.util.find_spec("dlspark") is None, "dlspark must not be importable here"
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/digits@champion")
paths = sys.argv[2:]
answer = model.predict(pandas.DataFrame({"image": [pathlib.Path(p).read_bytes() for p in paths]}))
probabilities = [list(map(float, row)) for row in answer["probabilities"]]
print(json.dumps({"label": list(answer["label"]), "probabilities": probabilities}))
"""


def test_the_model_answers_the_same_in_a_clean_process_as_on_spark(
    workspace: Workspace, tmp_path: Path
) -> None:
    rows = pq.read_table(workspace.folder / "labels").to_pylist()[:50]
    site_packages = sysconfig.get_paths()["purelib"]
    script = tmp_path / "clean.py"
    script.write_text(_CLEAN_PROCESS)
    finished = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            script,
            site_packages,
            workspace.tracking_uri,
            *(row["path"] for row in rows),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    answer = json.loads(finished.stdout.strip().splitlines()[-1])
    assert answer["label"] == [row["label"] for row in rows]
    for served, scored in zip(answer["probabilities"], rows, strict=True):
        assert served == pytest.approx(scored["probabilities"], abs=1e-5)


def test_python_minus_m_and_the_script_are_the_same_command() -> None:
    module = run_command([*DLSPARK, "--help"], folder=REPOSITORY)
    script = run_command(["dlspark", "--help"], folder=REPOSITORY)
    assert module.returncode == script.returncode == 0
    assert module.stdout == script.stdout
    for stage in ("ingest", "train", "evaluate", "predict", "full", "doctor"):
        assert stage in module.stdout
