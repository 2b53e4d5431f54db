"""The place of one rank in a job, and where the ranks meet to find each other: Horovod's or torch's way."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

from dlspark.cluster.connections import Ports, bind_in, listen

Joined = Literal["horovod", "torch"]
"""What joins the ranks of a job."""
_SECONDS_BETWEEN_LOOKS = 0.1
"""At whether the rendezvous is to end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seat:
    """The place of one rank in a job."""

    rank: int
    hosts: tuple[str, ...]
    """Of each rank, in their order; ranks of one host follow each other."""
    gpus: tuple[str, ...]
    """Addresses of the GPUs that Spark gave to its task."""
    meeting_host: str
    """The name or address of rank 0's host at which the ranks find each other."""
    meeting_port: int
    """Where rank 0's task or process listens there."""
    meeting_socket: int | None
    """On rank 0 with torch, the file descriptor that listens already: no other process can take the port."""

    @property
    def size(self) -> int:
        """Ranks of the job."""
        return len(self.hosts)

    @property
    def host(self) -> str:
        """Of this rank, as Spark calls it."""
        return self.hosts[self.rank]

    @property
    def local_rank(self) -> int:
        """Rank among those on the same host."""
        return self.hosts[: self.rank].count(self.host)

    @property
    def local_size(self) -> int:
        """Ranks on the same host."""
        return self.hosts.count(self.host)

    @property
    def cross_hosts(self) -> tuple[str, ...]:
        """The hosts that have a rank of the same local rank, in order."""
        names = dict.fromkeys(self.hosts)
        return tuple(name for name in names if self.hosts.count(name) > self.local_rank)


def tasks_by_host(hosts: Sequence[str]) -> list[int]:
    """Return the tasks of a stage in the order of their ranks: those of one host follow each other.

    Args:
        hosts: of each task, by its number.
    """
    return sorted(range(len(hosts)), key=lambda task: (hosts.index(hosts[task]), task))


def horovod_environment(seat: Seat, *, timeout_seconds: float) -> dict[str, str]:
    """Return the variables by which Horovod knows its place, as its own launchers set them for Gloo.

    Args:
        seat: of the rank.
        timeout_seconds: how long the ranks may take to find each other.
    """
    return {
        "HOROVOD_HOSTNAME": seat.host,
        "HOROVOD_RANK": str(seat.rank),
        "HOROVOD_SIZE": str(seat.size),
        "HOROVOD_LOCAL_RANK": str(seat.local_rank),
        "HOROVOD_LOCAL_SIZE": str(seat.local_size),
        "HOROVOD_CROSS_RANK": str(seat.cross_hosts.index(seat.host)),
        "HOROVOD_CROSS_SIZE": str(len(seat.cross_hosts)),
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": socket.gethostbyname(seat.meeting_host),
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(seat.meeting_port),
        "HOROVOD_GLOO_TIMEOUT_SECONDS": str(math.ceil(timeout_seconds)),
        "HOROVOD_LOG_LEVEL": "error",
    }


@contextmanager
def meeting_place(
    joined: Joined, *, is_first: bool, ports: Ports | None = None
) -> Iterator[tuple[int, int | None]]:
    """Yield the port, and the file descriptor if there is one, at which the ranks of a job meet.

    Args:
        joined: what joins the ranks. torch's store listens in the process of rank 0, on a socket that is
            opened here; Horovod's rendezvous server is a thread of this process.
        is_first: whether this is the task of rank 0; the others yield 0 and None.
        ports: of which one is taken; None: any.

    Raises:
        CannotListenError: no port of the range is free.
    """
    if not is_first:
        yield 0, None
    elif joined == "torch":
        with listen(ports) as listener:
            yield listener.getsockname()[1], listener.fileno()
    else:
        with _rendezvous(ports) as port:
            yield port, None


@contextmanager
def _rendezvous(ports: Ports | None) -> Iterator[int]:
    """Serve Horovod's rendezvous during the block; yield its port. Its RendezvousServer takes no range."""
    # Imported here: Horovod is not installed where only torch is used.
    from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

    with bind_in(ports, lambda port: RendezvousHTTPServer(("", port), RendezvousHandler, 0)) as server:
        # A connection of a rank that hangs is not waited for.
        server.daemon_threads = True
        serve = partial(server.serve_forever, _SECONDS_BETWEEN_LOOKS)
        thread = threading.Thread(target=serve, name="dlspark-rendezvous", daemon=True)
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()
