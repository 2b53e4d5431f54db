"""Processor, memory, disk, network and GPU of the driver's host during a run, by MLflow's own monitors.

MLflow's SystemMetricsMonitor sends its samples itself and gives up at the first failed request. Here only its
sampling is used: the values go into the journal like all others, so an outage costs none of them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from dlspark.contracts import Tracker

logger = logging.getLogger(__name__)

# MLflow's class is untyped.
_Monitor: Any = SystemMetricsMonitor


@contextmanager
def sample_system_metrics(
    tracker: Tracker, *, tracking_uri: str, run_id: str, interval_seconds: float, first_sample: int = 0
) -> Iterator[None]:
    """Record `system/...` metrics during the block; a monitor that fails is logged and harms nothing.

    Args:
        tracker: takes the samples; their step is the number of the sample.
        tracking_uri: where the run is; the monitor wants it and nothing is sent there.
        run_id: the run; likewise.
        interval_seconds: time between two samples.
        first_sample: number of the first; above 0 where earlier attempts of the run have taken some.
    """
    stop = threading.Event()

    def sample() -> None:
        try:
            monitor: Any = _Monitor(run_id, sampling_interval=interval_seconds, tracking_uri=tracking_uri)
            number = first_sample
            while True:
                monitor.collect_metrics()
                values = monitor.aggregate_metrics()
                tracker.log_metrics({f"system/{name}": value for name, value in values.items()}, step=number)
                for source in monitor.monitors:
                    source.clear_metrics()
                number += 1
                if stop.wait(interval_seconds):
                    return
        except Exception as error:  # noqa: BLE001 - a monitor never harms the run
            logger.warning("system metrics are not recorded: %s", error)

    thread = threading.Thread(target=sample, name="dlspark-system-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        # A sample takes milliseconds, but a hung GPU driver must not hold up the end of a run.
        thread.join(timeout=5.0)
