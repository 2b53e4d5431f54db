"""The trained classifier in MLflow: a pyfunc that carries all it needs, under a name and an alias.

The model is code (dlspark's own sources and a small script), weights (the checkpoint folder: safetensors and
JSON) and a signature; nothing is pickled. It is logged through the client, since MLflow's fluent `log_model`
needs an active run, and leaving that run would overwrite its true status and end time.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array

from dlspark import storage
from dlspark.errors import TrackingError
from dlspark.tracking.package import copy_package, loading_requirements
from dlspark.tracking.server import absolute_tracking_uri, first_line, fluent_tracking_uri, request_limits

logger = logging.getLogger(__name__)

CHECKPOINT_ARTIFACT = "checkpoint"
_MODEL_CODE = "predict/serve.py"
_FOR_WORDS = {"timeout_seconds": 30, "num_retries": 1}
"""A server that hangs holds the end of a training up for a minute, not for many."""
_FOR_FILES = {"timeout_seconds": 120, "num_retries": 3}
_SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.binary, "image")]),
    outputs=Schema(
        [
            ColSpec(DataType.string, "label", required=False),
            ColSpec(Array(DataType.double), "probabilities", required=False),
            ColSpec(DataType.string, "error", required=False),
        ]
    ),
)


def log_classifier(
    *,
    tracking_uri: str,
    run_id: str,
    checkpoint_url: str,
    example_image: bytes,
    metadata: Mapping[str, Any],
    step: int,
    name: str = "model",
) -> str:
    """Log a checkpoint as the model of a run.

    The model takes a DataFrame with one binary column `image` (encoded files) and returns `label` (null where
    an image cannot be decoded), `probabilities` (in the order of the classes) and `error` (null or why).

    Args:
        tracking_uri: of the MLflow server.
        run_id: the run that made the model; its status is left as it is.
        checkpoint_url: folder of the checkpoint.
        example_image: an encoded image, stored as the input example.
        metadata: plain values stored with the model: classes, preprocessing, fingerprint.
        step: the optimizer step of the checkpoint.
        name: of the model within the run.

    Returns:
        The model's URI, models:/<model id>.

    Raises:
        TrackingError: the server does not take it.
    """
    tracking_uri = absolute_tracking_uri(tracking_uri)
    with _as_tracking_error("the model cannot be logged", tracking_uri), ExitStack() as stack:
        stack.enter_context(request_limits(**_FOR_WORDS))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dlspark-model-")))
        client = MlflowClient(tracking_uri)
        experiment_id = client.get_run(run_id).info.experiment_id
        logged = client.create_logged_model(
            experiment_id, name=name, source_run_id=run_id, model_type="classifier"
        )
        description = Model(
            artifact_path=logged.artifact_location,
            run_id=run_id,
            model_uuid=logged.model_id,
            model_id=logged.model_id,
            metadata=dict(metadata),
        )
        with fluent_tracking_uri(tracking_uri):
            _save(folder, checkpoint_url, example_image, description)
        with request_limits(**_FOR_FILES):
            client.log_model_artifacts(logged.model_id, str(folder / "model"))
        client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
        # Last, so that a run only ever points at a model that is there as a whole.
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=step)])
    return f"models:/{logged.model_id}"


def logged_model(*, tracking_uri: str, run_id: str) -> str | None:
    """Return the URI of the model that was logged last for a run; None if there is none.

    Raises:
        TrackingError: the server does not answer, or has no such run.
    """
    tracking_uri = absolute_tracking_uri(tracking_uri)
    with _as_tracking_error(f"the run {run_id} cannot be read", tracking_uri):
        outputs = MlflowClient(tracking_uri).get_run(run_id).outputs
    models = outputs.model_outputs if outputs is not None else []
    return f"models:/{models[-1].model_id}" if models else None


def register_model(*, tracking_uri: str, model_uri: str, name: str, alias: str) -> int:
    """Register a logged model and move the alias to it; a model that is registered already keeps its version.

    Args:
        tracking_uri: of the MLflow server, which holds the registry too.
        model_uri: models:/<model id>, as `log_classifier` returns it.
        name: of the registered model; made if there is none.
        alias: moved to this version.

    Returns:
        The version.

    Raises:
        TrackingError: the registry does not take it.
    """
    tracking_uri = absolute_tracking_uri(tracking_uri)
    model_id = model_uri.removeprefix("models:/")
    with _as_tracking_error(f"the model cannot be registered as {name!r}", tracking_uri):
        client = MlflowClient(tracking_uri)
        if not any(model.name == name for model in client.search_registered_models(f"name = '{name}'")):
            _create_registered_model(client, name)
        versions = client.search_model_versions(f"name = '{name}'")
        known = [int(version.version) for version in versions if version.source == model_uri]
        if known:
            version = max(known)
        else:
            logged = client.get_logged_model(model_id)
            # With a database as registry MLflow looks the source up through its global tracking URI.
            with fluent_tracking_uri(tracking_uri):
                created = client.create_model_version(
                    name, source=model_uri, run_id=logged.source_run_id, model_id=model_id
                )
            version = int(created.version)
        client.set_registered_model_alias(name, alias, str(version))
    return version


def fetch_checkpoint(*, tracking_uri: str, model_uri: str, folder: str) -> str:
    """Download the checkpoint that a logged model carries.

    Args:
        tracking_uri: of the MLflow server.
        model_uri: models:/name@alias, models:/name/version, models:/<model id> or runs:/<run id>/model.
        folder: local folder to download into.

    Returns:
        The local folder of the checkpoint.

    Raises:
        TrackingError: there is no such model, it is not one of dlspark, or the server does not answer.
    """
    tracking_uri = absolute_tracking_uri(tracking_uri)
    what = f"the model {model_uri} cannot be fetched"
    with _as_tracking_error(what, tracking_uri), request_limits(timeout_seconds=60, num_retries=3):
        with fluent_tracking_uri(tracking_uri):
            local = download_artifacts(artifact_uri=model_uri, dst_path=folder)
        checkpoint = Path(local) / "artifacts" / CHECKPOINT_ARTIFACT
        if not checkpoint.is_dir():
            raise TrackingError(
                "the model was not logged by dlspark",
                got=f"no folder artifacts/{CHECKPOINT_ARTIFACT} in it",
                where=model_uri,
                fix="name a model that `dlspark train` or `dlspark register` has logged",
            )
    return str(checkpoint)


def _save(folder: Path, checkpoint_url: str, example_image: bytes, description: Model) -> None:
    # Imported here for its 2 s: only logging a model needs it, scoring and registering do not.
    from mlflow.pyfunc import save_model

    checkpoint = folder / CHECKPOINT_ARTIFACT
    checkpoint.mkdir()
    for name in storage.list_names(checkpoint_url):
        (checkpoint / name).write_bytes(storage.read_bytes(storage.join(checkpoint_url, name)))
    package = copy_package(folder / "code")
    save_model(
        str(folder / "model"),
        mlflow_model=description,
        python_model=str(package / _MODEL_CODE),
        artifacts={CHECKPOINT_ARTIFACT: str(checkpoint)},
        code_paths=[str(package)],
        signature=_SIGNATURE,
        input_example=pd.DataFrame({"image": [example_image]}),
        pip_requirements=loading_requirements(),
    )


def _create_registered_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


@contextmanager
def _as_tracking_error(what: str, tracking_uri: str) -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        missing = error.error_code in {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}
        raise TrackingError(
            what,
            got=first_line(error)[:500],
            where=tracking_uri,
            fix="look up the names, versions and aliases in the MLflow UI"
            if missing
            else "check that the server answers and that its log shows no error, then repeat",
        ) from error
