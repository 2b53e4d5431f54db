"""One training, one MLflow run: begun while the server is there, ended truthfully whatever happened since.

Creating the run is the only step that needs the server, and its failure is an error before any work is done.
From then on the driver reports like a rank: into the journal (attempt `driver`), and the shipper carries
metrics, tags, artifacts and the final status to MLflow, now or when it answers again.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from omegaconf import OmegaConf

from dlspark import storage
from dlspark.errors import DlsparkError, TrackingError
from dlspark.tracking.events import ArtifactEvent, RunStatus, StatusEvent, TagsEvent
from dlspark.tracking.facts import DatasetFacts, code_tags, config_params, dataset_input, shorten
from dlspark.tracking.journal import JournalTracker
from dlspark.tracking.server import (
    absolute_tracking_uri,
    find_or_create_experiment,
    first_line,
    request_limits,
    require_reachable,
)
from dlspark.tracking.shipper import Shipper
from dlspark.tracking.system import sample_system_metrics

__all__ = ["TrackedRun", "reopen_run", "require_reachable", "start_run"]

logger = logging.getLogger(__name__)

_MAX_PARAMS = 100
_MAX_TAG_LENGTH = 5000
# Only the shipper's thread waits so long: a slow server is worth it, and the end of a run has its own bound.
_REQUEST_SECONDS = 30
_TERMINATED = 128 + signal.SIGTERM


class TrackedRun:
    """The driver's hand on a run: what it is told goes into the journal, so no call waits for the server."""

    def __init__(
        self, *, run_dir: str, tracking_uri: str, experiment_id: str, run_id: str, tracker: JournalTracker
    ) -> None:
        """Bind to an MLflow run that exists."""
        self.run_dir, self.tracking_uri = run_dir, tracking_uri
        self.experiment_id, self.run_id = experiment_id, run_id
        self._tracker = tracker

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record values at an optimizer step."""
        self._tracker.log_metrics(metrics, step=step)

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags of the run; values become text of 5,000 characters at most."""
        values = {name: shorten(str(value), _MAX_TAG_LENGTH) for name, value in tags.items()}
        self._tracker.record(TagsEvent(time_ms=_now_ms(), values=values))

    def log_artifact(self, path: str, folder: str = "") -> None:
        """Put a file among the run's artifacts.

        A file outside the run directory is copied to `<run_dir>/artifacts/` first, so that it is still there
        when the server answers again.

        Args:
            path: URL of the file.
            folder: folder among the artifacts; empty for their root.

        Raises:
            OSError: the file cannot be read or copied.
        """
        root = storage.absolute(self.run_dir).rstrip("/") + "/"
        url = storage.absolute(path)
        if url.startswith(root):
            file = url.removeprefix(root)
        else:
            file = storage.join("artifacts", folder, Path(url).name)
            storage.write_bytes(storage.join(self.run_dir, file), storage.read_bytes(url))
        self._tracker.record(ArtifactEvent(time_ms=_now_ms(), file=file, folder=folder))

    def log_text(self, text: str, name: str, folder: str = "") -> None:
        """Put a text file among the run's artifacts, by way of `<run_dir>/artifacts/`."""
        url = storage.join(self.run_dir, "artifacts", folder, name)
        storage.write_bytes(url, text.encode())
        self.log_artifact(url, folder)


@contextmanager
def start_run(
    *,
    tracking_uri: str,
    experiment: str,
    run_name: str | None,
    run_dir: str,
    config: Mapping[str, Any],
    tags: Mapping[str, object],
    dataset: DatasetFacts | None,
    system_metrics_seconds: float | None = 5.0,
    close_seconds: float = 15.0,
) -> Iterator[TrackedRun]:
    """Create an MLflow run, ship the run directory's journal to it during the block, and end it truthfully.

    The status becomes FINISHED; KILLED after Ctrl-C or SIGTERM; FAILED after any other error, with its first
    line as the tag `dlspark.error`. SIGTERM ends the block with SystemExit(143).

    Args:
        tracking_uri: of the MLflow server; a relative sqlite path is made absolute.
        experiment: its name; made if there is none.
        run_name: None lets MLflow choose one.
        run_dir: URL of the run directory, where rank 0 journals too.
        config: the resolved configuration, nested; becomes parameters and the artifact config.yaml.
        tags: further tags of the run.
        dataset: what the run reads; None for no input.
        system_metrics_seconds: sampling interval of the driver's host; None for none.
        close_seconds: how long the end may wait for the server.

    Raises:
        TrackingError: the server is not reachable or refuses the run.
    """
    tracking_uri = absolute_tracking_uri(tracking_uri)
    require_reachable(tracking_uri)
    with ExitStack() as stack:
        stack.enter_context(_sigterm_as_exit())
        stack.enter_context(request_limits(timeout_seconds=_REQUEST_SECONDS, num_retries=0))
        experiment_id, run_id = _create_run(
            tracking_uri=tracking_uri,
            experiment=experiment,
            run_name=run_name,
            tags={**code_tags(), **tags},
            config=config,
            dataset=dataset,
        )
        # Left in reverse: the status is journaled, the journal is flushed, the shipper sends it.
        stack.enter_context(
            Shipper(run_dir, tracking_uri=tracking_uri, run_id=run_id, close_seconds=close_seconds)
        )
        tracker = stack.enter_context(JournalTracker(run_dir, "driver"))
        run = TrackedRun(
            run_dir=run_dir,
            tracking_uri=tracking_uri,
            experiment_id=experiment_id,
            run_id=run_id,
            tracker=tracker,
        )
        with _true_status(run, tracker):
            run.log_text(OmegaConf.to_yaml(OmegaConf.create(dict(config))), "config.yaml")
            if system_metrics_seconds is not None:
                stack.enter_context(
                    sample_system_metrics(
                        tracker,
                        tracking_uri=tracking_uri,
                        run_id=run_id,
                        interval_seconds=system_metrics_seconds,
                    )
                )
            yield run


@contextmanager
def reopen_run(
    *,
    run_dir: str,
    tracking_uri: str,
    experiment_id: str,
    run_id: str,
    attempt: str,
    close_seconds: float = 15.0,
) -> Iterator[TrackedRun]:
    """Report to a run that has ended, through the same journal; its status stays as it is.

    Args:
        run_dir: URL of the run directory.
        tracking_uri: of the MLflow server.
        experiment_id: of the run.
        run_id: the MLflow run.
        attempt: names the writer within the journal.
        close_seconds: how long the end may wait for the server; `dlspark sync` ships what is left then.
    """
    tracking_uri = absolute_tracking_uri(tracking_uri)
    with ExitStack() as stack:
        stack.enter_context(request_limits(timeout_seconds=_REQUEST_SECONDS, num_retries=0))
        stack.enter_context(
            Shipper(run_dir, tracking_uri=tracking_uri, run_id=run_id, close_seconds=close_seconds)
        )
        tracker = stack.enter_context(JournalTracker(run_dir, attempt))
        yield TrackedRun(
            run_dir=run_dir,
            tracking_uri=tracking_uri,
            experiment_id=experiment_id,
            run_id=run_id,
            tracker=tracker,
        )


def _create_run(
    *,
    tracking_uri: str,
    experiment: str,
    run_name: str | None,
    tags: Mapping[str, object],
    config: Mapping[str, Any],
    dataset: DatasetFacts | None,
) -> tuple[str, str]:
    texts = {name: shorten(str(value), _MAX_TAG_LENGTH) for name, value in tags.items()}
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


@contextmanager
def _true_status(run: TrackedRun, tracker: JournalTracker) -> Iterator[None]:
    status: RunStatus = "FAILED"
    try:
        yield
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except SystemExit as error:
        status = "KILLED" if error.code == _TERMINATED else "FAILED"
        raise
    except BaseException as error:
        name = "" if isinstance(error, DlsparkError) else f"{type(error).__name__}: "
        run.set_tags({"dlspark.error": name + first_line(error)})
        raise
    finally:
        tracker.record(StatusEvent(time_ms=_now_ms(), status=status))


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        # Python lets only the main thread set handlers; elsewhere (a notebook) the host decides on SIGTERM.
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(_TERMINATED)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
