"""The first door: the README's commands for a laptop, and what MLflow holds after them."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from tests.e2e.commands import DLSPARK, REPOSITORY, run_command

pytestmark = [pytest.mark.e2e, pytest.mark.spark, pytest.mark.horovod, pytest.mark.timeout(1200)]

Results = dict[str, dict[str, Any]]


@pytest.fixture
def client(checkout: Path) -> MlflowClient:
    """The store that the commands of the checkout write to."""
    return MlflowClient(f"sqlite:///{checkout}/mlflow.db")


def test_results_hold_what_scripts_rely_on(laptop: Results) -> None:
    ingested, trained = laptop["ingest"], laptop["train"]
    counts = {"listed", "written", "quarantined", "deduplicated"}
    assert {"dataset", "fingerprint", "splits"} | counts <= ingested.keys()
    assert ingested["listed"] == sum(ingested["splits"].values()) == 1797
    assert ingested["splits"].keys() == {"train", "val", "test"}
    keys = {"run_id", "run_dir", "steps", "epochs", "val_accuracy", "fingerprint", "images_per_second"}
    assert keys <= trained.keys()
    assert trained["fingerprint"] == ingested["fingerprint"]
    assert trained["steps"] == 4 * -(-ingested["splits"]["train"] // 128)
    assert laptop["evaluate"]["num_rows"] == ingested["splits"]["test"]
    assert laptop["predict"]["images"] == 1797
    assert laptop["doctor"]["errors"] == 0


def test_everything_is_in_one_finished_run(laptop: Results, client: MlflowClient) -> None:
    experiment = client.get_experiment_by_name("dlspark")
    runs = client.search_runs([experiment.experiment_id])
    (run,) = [run for run in runs if run.data.params["model.name"] == "lenet5"]
    assert run.info.run_id == laptop["train"]["run_id"]
    assert run.info.status == "FINISHED"
    assert run.data.params["optimizer.lr"] == "0.002"
    assert run.data.params["train.global_batch_size"] == "128"
    tags = run.data.tags
    assert tags["dlspark.fingerprint"] == laptop["ingest"]["fingerprint"]
    assert tags["dlspark.backend"] == "local"
    assert tags["dlspark.workers"] == "1"
    assert tags["dlspark.precision"] in {"fp32", "bf16"}
    assert {"mlflow.source.git.commit", "dlspark.git_dirty"} <= tags.keys()
    (dataset_input,) = run.inputs.dataset_inputs
    assert dataset_input.dataset.digest == laptop["ingest"]["fingerprint"]
    assert any(name.startswith("system/") for name in run.data.metrics)


def test_metrics_per_step_and_per_epoch(laptop: Results, client: MlflowClient) -> None:
    run_id, steps = laptop["train"]["run_id"], laptop["train"]["steps"]
    shares = ("data_wait_seconds", "copy_seconds", "compute_seconds", "communication_seconds")
    for name in ("loss", "accuracy", "learning_rate", "images_per_second", *shares):
        history = client.get_metric_history(run_id, f"step/{name}")
        assert [metric.step for metric in history] == list(range(1, steps + 1)), name
    for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "images_per_second", "epoch"):
        history = client.get_metric_history(run_id, name)
        assert [metric.step for metric in history] == [steps // 4 * epoch for epoch in (1, 2, 3, 4)], name
    (tested,) = client.get_metric_history(run_id, "test_accuracy")
    assert tested.value == laptop["evaluate"]["accuracy"]


def test_pictures_and_configuration_are_artifacts(
    laptop: Results, client: MlflowClient, tmp_path: Path
) -> None:
    run_id = laptop["train"]["run_id"]
    pictures = {"learning_curves.png", "confusion_matrix_val.png", "confusion_matrix_test.png"}
    assert pictures | {"config.yaml"} <= {artifact.path for artifact in client.list_artifacts(run_id)}
    for name in pictures:
        local = client.download_artifacts(run_id, name, str(tmp_path))
        assert Path(local).read_bytes().startswith(b"\x89PNG")


_CLEAN_PROCESS = """
import importlib.util, json, pathlib, sys
# An own path entry runs no .pth file, so that the editable installation of dlspark is out of sight.
sys.path.append(sys.argv.pop(1))
assert importlib.util.find_spec("dlspark") is None, "dlspark must not be importable here"
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/mine@champion")
paths = sys.argv[2:]
answer = model.predict(pandas.DataFrame({"image": [pathlib.Path(p).read_bytes() for p in paths]}))
probabilities = [list(map(float, row)) for row in answer["probabilities"]]
print(json.dumps({"label": list(answer["label"]), "probabilities": probabilities}))
"""


def test_the_model_answers_the_same_in_a_clean_process_as_on_spark(
    laptop: Results, checkout: Path, tmp_path: Path
) -> None:
    rows = pq.read_table(laptop["predict"]["output"]).to_pylist()[:50]
    script = tmp_path / "clean.py"
    script.write_text(_CLEAN_PROCESS)
    words = [
        *(sys.executable, "-I", "-S", str(script), sysconfig.get_paths()["purelib"]),
        f"sqlite:///{checkout}/mlflow.db",
        *(row["path"] for row in rows),
    ]
    finished = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
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
