"""Which backend a run uses: the one that was asked for, or with `auto` the best that this machine has."""

from __future__ import annotations

import logging
from typing import Literal

from dlspark.cluster.preflight import require_horovod
from dlspark.errors import ClusterError

_log = logging.getLogger(__name__)

Backend = Literal["horovod", "torch", "local"]


def choose_backend(asked: Backend | Literal["auto"]) -> Backend:
    """Return the backend to use; takes the time of importing Horovod, and touches no cluster.

    Args:
        asked: auto takes horovod where it is built for this torch, else torch; which and why is logged.

    Raises:
        ClusterError: horovod was asked for, and is not usable.
    """
    if asked == "horovod":
        require_horovod()
    if asked != "auto":
        return asked
    try:
        parts = require_horovod()
    except ClusterError as error:
        _log.info("cluster.backend=torch, chosen because of this: %s", error.what)
        return "torch"
    _log.info("cluster.backend=horovod, chosen because it is built here, with %s", parts)
    return "horovod"
