"""The MLflow run of a training, made with all that is known of it before it begins."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

from dlspark.errors import DlsparkError, TrackingError
from dlspark.tracking.facts import DatasetFacts, config_params, dataset_input, shorten
from dlspark.tracking.server import find_or_create_experiment, first_line

logger = logging.getLogger(__name__)

MAX_TAG_LENGTH = 5000
_MAX_PARAMS = 100


def create_run(
    *,
    tracking_uri: str,
    experiment: str,
    run_name: str | None,
    tags: Mapping[str, object],
    config: Mapping[str, Any],
    dataset: DatasetFacts | None,
) -> tuple[str, str]:
    """Create a run with its tags, parameters and input; return the ids of its experiment and of itself.

    Args:
        tracking_uri: of the MLflow server, absolute.
        experiment: its name; made if there is none.
        run_name: None lets MLflow choose one.
        tags: of the run.
        config: the resolved configuration, nested; becomes parameters.
        dataset: what the run reads; None for no input.

    Raises:
        TrackingError: the server does not take it; a run that is incomplete is ended as FAILED.
    """
    texts = {name: shorten(str(value), MAX_TAG_LENGTH) for name, value in tags.items()}
    run_id: str | None = None
    try:
        client = MlflowClient(tracking_uri)
        experiment_id = find_or_create_experiment(client, experiment)
        run_id = client.create_run(experiment_id, run_name=run_name, tags=resolve_tags(texts)).info.run_id
        params = config_params(config)
        for start in range(0, len(params), _MAX_PARAMS):
            client.log_batch(run_id, params=params[start : start + _MAX_PARAMS])
        if dataset is not None:
            client.log_inputs(run_id, datasets=[dataset_input(dataset)])
    except DlsparkError:
        raise
    except Exception as error:
        if run_id is not None:
            _end_incomplete(tracking_uri, run_id)
        raise TrackingError(
            "the MLflow run cannot be created",
            got=first_line(error)[:500],
            where=f"experiment {experiment!r} at {tracking_uri}",
            fix="look at the server's log, or set another tracking.uri or tracking.experiment",
        ) from error
    return experiment_id, run_id


def _end_incomplete(tracking_uri: str, run_id: str) -> None:
    try:
        MlflowClient(tracking_uri).set_terminated(run_id, "FAILED")
    except MlflowException as error:
        logger.warning("the MLflow run %s was begun, is incomplete and stays open: %s", run_id, error)
