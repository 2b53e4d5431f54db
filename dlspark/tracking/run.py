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
from types import FrameType
from typing import Any

from omegaconf import OmegaConf

from dlspark.errors import DlsparkError
from dlspark.tracking.create import create_run
from dlspark.tracking.events import RunStatus, StatusEvent
from dlspark.tracking.facts import DatasetFacts, code_tags
from dlspark.tracking.journal import JournalTracker, metric_history, read_events
from dlspark.tracking.server import (
    absolute_tracking_uri,
    first_line,
    request_limits,
    require_reachable,
)
from dlspark.tracking.shipper import Shipper
from dlspark.tracking.system import sample_system_metrics
from dlspark.tracking.tracked_run import TrackedRun

__all__ = ["TrackedRun", "continue_run", "reopen_run", "require_reachable", "start_run"]

logger = logging.getLogger(__name__)

# Only the shipper's thread waits so long: a slow server is worth it, and the end of a run has its own bound.
_REQUEST_SECONDS = 30
_TERMINATED = 128 + signal.SIGTERM


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
    with _sigterm_as_exit(), request_limits(timeout_seconds=_REQUEST_SECONDS, num_retries=0):
        experiment_id, run_id = create_run(
            tracking_uri=tracking_uri,
            experiment=experiment,
            run_name=run_name,
            tags={**code_tags(), **tags},
            config=config,
            dataset=dataset,
        )
        with _tracked(
            run_dir=run_dir,
            tracking_uri=tracking_uri,
            experiment_id=experiment_id,
            run_id=run_id,
            attempt=1,
            config=config,
            system_metrics_seconds=system_metrics_seconds,
            close_seconds=close_seconds,
        ) as run:
            yield run


@contextmanager
def continue_run(
    *,
    run_dir: str,
    tracking_uri: str,
    experiment_id: str,
    run_id: str,
    attempt: int,
    config: Mapping[str, Any],
    tags: Mapping[str, object],
    system_metrics_seconds: float | None = 5.0,
    close_seconds: float = 15.0,
) -> Iterator[TrackedRun]:
    """Go on with an MLflow run that was begun earlier, as `start_run` does with a new one.

    Its status becomes RUNNING again, and true at the end. The server need not answer now: the journal keeps
    what it is told. A step that the server has already is not sent again.

    Args:
        run_dir: URL of the run directory.
        tracking_uri: of the MLflow server.
        experiment_id: of the run.
        run_id: the MLflow run.
        attempt: the how-manieth start of this run, >= 2.
        config: the resolved configuration, nested; becomes the artifact config.yaml.
        tags: tags to set; the error of an earlier end is cleared.
        system_metrics_seconds: see `start_run`.
        close_seconds: see `start_run`.
    """
    with (
        _sigterm_as_exit(),
        request_limits(timeout_seconds=_REQUEST_SECONDS, num_retries=0),
        _tracked(
            run_dir=run_dir,
            tracking_uri=absolute_tracking_uri(tracking_uri),
            experiment_id=experiment_id,
            run_id=run_id,
            attempt=attempt,
            config=config,
            system_metrics_seconds=system_metrics_seconds,
            close_seconds=close_seconds,
        ) as run,
    ):
        run.set_tags({"dlspark.attempt": attempt, "dlspark.error": "", **tags})
        yield run


@contextmanager
def _tracked(
    *,
    run_dir: str,
    tracking_uri: str,
    experiment_id: str,
    run_id: str,
    attempt: int,
    config: Mapping[str, Any],
    system_metrics_seconds: float | None,
    close_seconds: float,
) -> Iterator[TrackedRun]:
    first_sample = _next_sample(run_dir) if attempt > 1 else 0
    with ExitStack() as stack:
        # Left in reverse: the status is journaled, the journal is flushed, the shipper sends it.
        stack.enter_context(
            Shipper(run_dir, tracking_uri=tracking_uri, run_id=run_id, close_seconds=close_seconds)
        )
        tracker = stack.enter_context(JournalTracker(run_dir, f"driver-{attempt:03d}"))
        run = TrackedRun(
            run_dir=run_dir,
            tracking_uri=tracking_uri,
            experiment_id=experiment_id,
            run_id=run_id,
            tracker=tracker,
        )
        if attempt > 1:
            tracker.record(StatusEvent(time_ms=_now_ms(), status="RUNNING"))
        with _true_status(run, tracker):
            run.log_text(OmegaConf.to_yaml(OmegaConf.create(dict(config))), "config.yaml")
            if system_metrics_seconds is not None:
                stack.enter_context(
                    sample_system_metrics(
                        tracker,
                        tracking_uri=tracking_uri,
                        run_id=run_id,
                        interval_seconds=system_metrics_seconds,
                        first_sample=first_sample,
                    )
                )
            yield run


def _next_sample(run_dir: str) -> int:
    """Return the number after the last sample of the system metrics that earlier attempts have journaled."""
    curves = metric_history(read_events(run_dir))
    return max((curve[-1][0] + 1 for name, curve in curves.items() if name.startswith("system/")), default=0)


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
