"""Speaking to an MLflow server: is it there, how long do we wait, and which errors are worth another try.

MLflow's client retries a dead server seven times over some four minutes and waits 120 s for each reply.
Around a training that is too patient: here a request is tried once, with a short timeout, and the shipper
retries.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from dlspark.errors import TrackingError

logger = logging.getLogger(__name__)

_REACH_SECONDS = 4
_SQLITE_HEADER = b"SQLite format 3\x00"
_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}
_DENIALS = {"UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED"}
# What `request_limits` has put into the environment, to tell it from what the user has put there.
_limits_set: dict[str, str] = {}
_DATABASES = {"postgresql", "mysql", "mssql", "oracle"}


@contextmanager
def request_limits(*, timeout_seconds: int, num_retries: int) -> Iterator[None]:
    """Bound MLflow's HTTP requests during the block; a limit that the user set in the environment is kept.

    MLflow reads these limits from the environment at each request and has no other way to give them. Of two
    nested blocks the inner one holds.

    Args:
        timeout_seconds: to connect, and for each reply.
        num_retries: further tries that MLflow's own client makes, 0 for none.
    """
    limits = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout_seconds),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(num_retries),
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }
    before = {name: os.environ.get(name) for name in limits}
    ours = {name: limits[name] for name, value in before.items() if value == _limits_set.get(name)}
    outer = dict(_limits_set)
    os.environ.update(ours)
    _limits_set.update(ours)
    try:
        yield
    finally:
        _limits_set.clear()
        _limits_set.update(outer)
        for name in ours:
            value = before[name]
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def absolute_tracking_uri(tracking_uri: str) -> str:
    """Return the URI in a form that means the same in every working directory: sqlite paths made absolute."""
    scheme, path = _split_sqlite(tracking_uri)
    return f"{scheme}:///{Path(path).absolute()}" if path else tracking_uri


def require_reachable(tracking_uri: str) -> None:
    """Check within seconds that runs can be recorded there.

    Raises:
        TrackingError: it does not answer, refuses us, or is of a kind that MLflow no longer writes to.
    """
    scheme = urlsplit(tracking_uri).scheme.split("+")[0]
    if scheme == "sqlite":
        _require_sqlite(tracking_uri)
    elif scheme in {"http", "https", "databricks", *_DATABASES} or tracking_uri == "databricks":
        _require_answer(tracking_uri)
    else:
        raise TrackingError(
            "this kind of tracking store cannot be used",
            got=repr(tracking_uri),
            allowed="http(s)://host:port, databricks, sqlite:///file.db, or a database URI",
            where="tracking.uri",
            fix="set tracking.uri=sqlite:///mlflow.db (MLflow 3 no longer writes runs to a plain folder)",
        )


def find_or_create_experiment(client: MlflowClient, name: str) -> str:
    """Return the id of the experiment, made if there is none.

    With a sqlite store the artifacts go to `mlartifacts/` beside the database file: MLflow's own default is
    relative to the working directory, so that two shells would scatter them.

    Raises:
        TrackingError: the experiment was deleted.
        MlflowException: the server fails.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        _, path = _split_sqlite(client.tracking_uri)
        folder = re.sub(r"[^A-Za-z0-9._-]", "_", name)
        location = (Path(path).parent / "mlartifacts" / folder).as_uri() if path else None
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            "the experiment was deleted in MLflow",
            got=repr(name),
            where=f"tracking.experiment at {client.tracking_uri}",
            fix="set another tracking.experiment, or run: "
            f"mlflow experiments restore -x {experiment.experiment_id}",
        )
    return str(experiment.experiment_id)


@contextmanager
def fluent_tracking_uri(tracking_uri: str) -> Iterator[None]:
    """Point MLflow's global tracking URI at a server for the block, and leave no trace of it after.

    Some MLflow functions take no client. MLflow copies its global into MLFLOW_TRACKING_URI, and removes a
    user's own value of it when the global is reset; hence the restoring of both.
    """
    before, variable = mlflow.get_tracking_uri(), os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(tracking_uri)
    try:
        yield
    finally:
        # No global is needed where the environment says the same, and none was set where it says nothing.
        global_differs = variable is not None and before != variable
        mlflow.set_tracking_uri(before if global_differs else cast(str, None))
        if variable is not None:
            os.environ["MLFLOW_TRACKING_URI"] = variable


def is_refusal(error: Exception) -> bool:
    """Tell whether the server understood and said no, so that the same request will never succeed."""
    return isinstance(error, MlflowException) and error.error_code in _REFUSALS


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _split_sqlite(tracking_uri: str) -> tuple[str, str]:
    scheme, separator, path = tracking_uri.partition(":///")
    return (scheme, path) if separator and scheme.split("+")[0] == "sqlite" else (scheme, "")


def _require_answer(tracking_uri: str) -> None:
    try:
        with request_limits(timeout_seconds=_REACH_SECONDS, num_retries=0):
            MlflowClient(tracking_uri).search_experiments(max_results=1)
    except Exception as error:
        denied = isinstance(error, MlflowException) and error.error_code in _DENIALS
        raise TrackingError(
            "the MLflow server refuses us" if denied else "the MLflow server does not answer",
            got=_without_password(first_line(error))[:500],
            where=f"tracking.uri={_without_password(tracking_uri)}",
            fix="set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            if denied
            else "start the server (mlflow server --host HOST --port PORT), correct tracking.uri, "
            "or record locally with tracking.uri=sqlite:///mlflow.db",
        ) from error


def _require_sqlite(tracking_uri: str) -> None:
    _, path = _split_sqlite(tracking_uri)
    file = Path(path).absolute()
    folder = next(parent for parent in file.parents if parent.exists())
    problem = None
    if not path:
        problem = "the URI names no file"
    elif not folder.is_dir() or not os.access(folder, os.W_OK):
        problem = f"the folder {folder} is not writable"
    elif file.is_dir() or (file.exists() and not os.access(file, os.W_OK)):
        problem = f"{file} is not a writable file"
    elif file.exists() and file.stat().st_size and _first_bytes(file) != _SQLITE_HEADER:
        problem = f"{file} is not a sqlite database"
    if problem is not None:
        raise TrackingError(
            "the tracking store cannot be written",
            got=problem,
            where=f"tracking.uri={tracking_uri}",
            fix="set tracking.uri=sqlite:////absolute/path/mlflow.db in a folder that you can write",
        )
    file.parent.mkdir(parents=True, exist_ok=True)


def _first_bytes(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(len(_SQLITE_HEADER))


def _without_password(uri: str) -> str:
    return re.sub(r"//[^/@]*@", "//***@", uri)
