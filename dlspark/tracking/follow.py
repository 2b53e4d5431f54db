"""The progress bar of a training: the driver reads rank 0's journal and shows where it is.

Apart from the shipper on purpose: a tracking server that hangs must not freeze the bar.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from dlspark.contracts import Progress
from dlspark.tracking.events import ProgressEvent
from dlspark.tracking.journal import list_segments, read_segments

logger = logging.getLogger(__name__)

_LISTING_SHARE = 20.0


@contextmanager
def follow_progress(run_dir: str, progress: Progress, *, poll_seconds: float = 0.25) -> Iterator[None]:
    """Show the progress events that are journaled during the block; at its end, the last one.

    Args:
        run_dir: URL of the run directory; what its journal holds already is not shown again.
        progress: what is updated, from a thread.
        poll_seconds: time between two looks; longer by itself where listing the journal is slow.
    """
    seen: dict[str, int] = dict(list_segments(run_dir))
    stop = threading.Event()

    def follow() -> None:
        failing = False
        while True:
            stopping = stop.is_set()
            started = time.monotonic()
            try:
                _show_new(run_dir, seen, progress)
                failing = False
            except Exception as error:  # noqa: BLE001 - storage of any kind; logged
                if not failing:
                    logger.warning("the journal of %s cannot be read, trying again: %s", run_dir, error)
                failing = True
            if stopping:
                return
            stop.wait(max(poll_seconds, _LISTING_SHARE * (time.monotonic() - started)))

    thread = threading.Thread(target=follow, name="dlspark-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _show_new(run_dir: str, seen: dict[str, int], progress: Progress) -> None:
    last: ProgressEvent | None = None
    for segment in read_segments(run_dir, seen):
        seen[segment.attempt] = segment.sequence
        for event in segment.events:
            if isinstance(event, ProgressEvent):
                last = event
    if last is not None:
        fields: Mapping[str, float] = last.fields
        progress.update(last.step, last.num_steps, fields)
