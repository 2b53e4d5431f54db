"""What a rank may ask for while it trains, as numbers that are summed: all ranks see the sum and agree.

Only rank 0's clock asks for a checkpoint, and any rank may be told to end (SIGTERM: a cancelled job, a host
that is taken away). A rank alone must not stop: the others would wait for it in the next collective.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SAVE = 1
"""Asked for by one rank at most."""
STOP = 2
"""Save, then end; asked for by any number of ranks, so that a sum of at least 2 means it."""


@contextmanager
def sigterm_as_request() -> Iterator[Callable[[], bool]]:
    """Give a function that tells whether SIGTERM has arrived during the block; it does nothing else then.

    A second SIGTERM does what it did before the block. In a thread that is not the main one, where Python
    lets nobody handle signals, none is ever seen.
    """
    told = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield told.is_set
        return

    def note(number: int, frame: FrameType | None) -> None:
        signal.signal(number, before)
        told.set()

    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, note)
    try:
        yield told.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
