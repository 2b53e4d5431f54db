"""The logged model: loads where dlspark is not installed, answers as the classifier does, gets registered."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from dlspark.config import Config
from dlspark.errors import ConfigError, TrackingError
from dlspark.predict.classifier import Classifier
from dlspark.tracking.registry import fetch_checkpoint, logged_model, register_model
from dlspark.tracking.server import find_or_create_experiment, fluent_tracking_uri
from pipelines import register
from pipelines.run_directory import RunDescription, write_run_description
from pipelines.run_model import log_run_model
from tests.integration.mlflow_server import MlflowServer
from tests.unit.predict.checkpoints import example_images, save_example

pytestmark = [
    # MLflow 3.17 uses a loader strategy that SQLAlchemy 2.1 deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
    # And warns of its own type hints when mlflow.pyfunc is imported first.
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),
]

_CLEAN_PROCESS = """
import json, pathlib, sys
assert sys.flags.isolated and sys.flags.no_site
sys.path.append(sys.argv[1])
try:
    import dlspark
except ModuleNotFoundError:
    pass
else:
    raise SystemExit(f"dlspark is importable: {dlspark.__file__}")
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[2])
model = mlflow.pyfunc.load_model(sys.argv[3])
images = [file.read_bytes() for file in sorted(pathlib.Path(sys.argv[4]).iterdir())]
answer = model.predict(pandas.DataFrame({"image": images}))
print(json.dumps({
    "columns": list(answer.columns),
    "label": list(answer["label"]),
    "probabilities": list(answer["probabilities"]),
    "error": list(answer["error"]),
    "where": sys.modules["dlspark"].__file__,
}))
"""


@pytest.fixture(params=["http", "sqlite"])
def tracking_uri(request: pytest.FixtureRequest, mlflow_server: MlflowServer, sqlite_uri: str) -> str:
    return mlflow_server.uri if request.param == "http" else sqlite_uri


def _finished_run(tmp_path: Path, tracking_uri: str) -> tuple[str, str]:
    """Make a run directory with a checkpoint and its ended MLflow run; return (run_dir, run_id)."""
    client = MlflowClient(tracking_uri)
    experiment_id = find_or_create_experiment(client, "registry test")
    run_id = client.create_run(experiment_id).info.run_id
    client.set_terminated(run_id, "FAILED", end_time=1_700_000_000_000)
    run_dir = tmp_path / "run"
    save_example(str(run_dir / "checkpoints" / "final"))
    description = RunDescription(
        run_id=run_id,
        experiment_id=experiment_id,
        tracking_uri=tracking_uri,
        dataset="/data/example",
        fingerprint="f" * 32,
    )
    write_run_description(str(run_dir), description)
    return str(run_dir), run_id


def _config(run_dir: str, name: str) -> Config:
    return Config.model_validate({"run_dir": run_dir, "tracking": {"registered_model": name}})


def test_the_model_answers_in_a_clean_process_as_the_classifier_does(
    tmp_path: Path, tracking_uri: str
) -> None:
    run_dir, _ = _finished_run(tmp_path, tracking_uri)
    result = register.run(_config(run_dir, "clean"), None)
    images = [*example_images(5), b"no image"]
    folder = tmp_path / "images"
    folder.mkdir()
    for number, data in enumerate(images):
        (folder / f"{number}.png").write_bytes(data)

    done = subprocess.run(
        [
            *(sys.executable, "-I", "-S", "-c", _CLEAN_PROCESS, sysconfig.get_path("purelib")),
            *(tracking_uri, "models:/clean@champion", str(folder)),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    expected = Classifier.load(f"{run_dir}/checkpoints/final").predict(images)

    assert result.version == 1
    assert answer["columns"] == ["label", "probabilities", "error"]
    assert answer["label"] == expected.labels
    assert answer["label"][-1] is None
    assert answer["probabilities"][-1] is None
    assert answer["error"] == expected.errors
    np.testing.assert_allclose(answer["probabilities"][:-1], expected.probabilities[:-1], rtol=0, atol=1e-12)
    assert "code" in Path(answer["where"]).parts


def test_the_model_carries_signature_example_classes_and_requirements_and_no_pickle(
    tmp_path: Path, sqlite_uri: str
) -> None:
    run_dir, run_id = _finished_run(tmp_path, sqlite_uri)
    uri = log_run_model(run_dir, tracking_uri=sqlite_uri, run_id=run_id, example_image=example_images(1)[0])
    with fluent_tracking_uri(sqlite_uri):
        folder = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(tmp_path / "model"))
        info = mlflow.models.get_model_info(folder)
        example = mlflow.models.Model.load(folder).load_input_example(folder)

    assert [column.name for column in info.signature.inputs] == ["image"]
    assert str(info.signature.inputs.inputs[0].type) == "DataType.binary"
    assert [column.name for column in info.signature.outputs] == ["label", "probabilities", "error"]
    assert info.metadata["classes"] == ["even", "odd", "other"]
    assert info.metadata["preprocessing"]["image"]["height"] == 8
    assert example["image"][0] == example_images(1)[0]
    requirements = (Path(folder) / "requirements.txt").read_text().split()
    assert "torch==2.11.0" in requirements
    assert not [line for line in requirements if line.startswith(("pyspark", "petastorm", "horovod"))]
    names = [file.name for file in Path(folder).rglob("*")]
    assert not [name for name in names if name.endswith((".pkl", ".pyc", ".pt", ".pth"))]
    assert "model.safetensors" in names


def test_registering_leaves_the_run_as_it_was_and_repeating_it_makes_no_second_version(
    tmp_path: Path, tracking_uri: str
) -> None:
    run_dir, run_id = _finished_run(tmp_path, tracking_uri)

    first = register.run(_config(run_dir, "twice"), None)
    second = register.run(_config(run_dir, "twice"), None)

    assert first == second
    client = MlflowClient(tracking_uri)
    info = client.get_run(run_id).info
    assert (info.status, info.end_time) == ("FAILED", 1_700_000_000_000)
    assert logged_model(tracking_uri=tracking_uri, run_id=run_id) == first.model_uri
    assert len(client.search_model_versions("name = 'twice'")) == 1


def test_the_alias_moves_to_the_version_of_the_next_run(tmp_path: Path, sqlite_uri: str) -> None:
    versions = []
    for number in (1, 2):
        run_dir, _ = _finished_run(tmp_path / str(number), sqlite_uri)
        versions.append(register.run(_config(run_dir, "moving"), None).version)

    assert versions == [1, 2]
    champion = MlflowClient(sqlite_uri).get_model_version_by_alias("moving", "champion")
    assert int(champion.version) == 2


def test_the_checkpoint_of_a_registered_model_is_fetched_whole(tmp_path: Path, tracking_uri: str) -> None:
    run_dir, _ = _finished_run(tmp_path, tracking_uri)
    register.run(_config(run_dir, "fetched"), None)
    fetched = fetch_checkpoint(
        tracking_uri=tracking_uri, model_uri="models:/fetched@champion", folder=str(tmp_path / "copy")
    )

    original = Path(run_dir) / "checkpoints" / "final"
    assert {file.name: file.read_bytes() for file in Path(fetched).iterdir()} == {
        file.name: file.read_bytes() for file in original.iterdir()
    }


def test_what_is_not_there_is_named(tmp_path: Path, sqlite_uri: str) -> None:
    with pytest.raises(TrackingError, match="models:/nobody@champion"):
        fetch_checkpoint(tracking_uri=sqlite_uri, model_uri="models:/nobody@champion", folder=str(tmp_path))
    with pytest.raises(TrackingError, match="'again'"):
        register_model(tracking_uri=sqlite_uri, model_uri="models:/m-0", name="again", alias="champion")
    with pytest.raises(ConfigError, match="no run in"):
        register.run(_config(str(tmp_path), "again"), None)


def test_the_global_tracking_uri_of_the_user_is_left_as_it_was(
    tmp_path: Path, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://the.user.s.own")
    run_dir, _ = _finished_run(tmp_path, sqlite_uri)
    register.run(_config(run_dir, "polite"), None)

    state: dict[str, Any] = {"uri": mlflow.get_tracking_uri(), "run": mlflow.active_run()}
    assert state == {"uri": "http://the.user.s.own", "run": None}
