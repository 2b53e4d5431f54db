"""Where tasks that look at their hosts meet: a server on the driver that tells each where the others listen.

Spark's own `BarrierTaskContext.allGather` sleeps a whole second in all tasks but the last that comes.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import secrets
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import psutil

from dlspark.cluster.connections import CannotListenError, Ports, bind_in

_log = logging.getLogger(__name__)

MEET_SECONDS = 10.0
"""How long those that came wait for the others."""
_LONGEST_LINE = 256

Meeting = tuple[tuple[str, ...], int, str]
"""Addresses of the driver, the first that answers is right; its port; and the word that lets a task in."""


@contextlib.contextmanager
def open_meeting(driver_host: str, num_tasks: int, ports: Ports | None = None) -> Iterator[Meeting]:
    """Serve a meeting of tasks during the block, and give what they need to come.

    Args:
        driver_host: under which executors know the driver; the addresses of its interfaces are tried after.
        num_tasks: that are to come.
        ports: of which the server takes one; None: any.

    Raises:
        ClusterError: none of them is free.
    """
    word = secrets.token_hex(16)
    try:
        bound = bind_in(ports, lambda port: _Server(num_tasks, word, port))
    except CannotListenError as error:
        raise error.as_cluster_error() from error
    with bound as server:
        threading.Thread(
            target=server.serve_forever, args=(0.05,), name="dlspark-meeting", daemon=True
        ).start()
        try:
            yield (driver_host, *_own_addresses()), int(server.server_address[1]), word
        finally:
            server.shutdown()


def _own_addresses() -> list[str]:
    found = [address for addresses in psutil.net_if_addrs().values() for address in addresses]
    ipv4 = [str(each.address) for each in found if each.family == socket.AF_INET]
    return [address for address in ipv4 if not address.startswith("127.")]


class _Server(socketserver.ThreadingTCPServer):
    # Connections of the meeting before, which the kernel still remembers, do not take its port.
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, num_tasks: int, word: str, port: int) -> None:
        super().__init__(("", port), _Guest)
        self.word = word
        self.places: dict[int, tuple[str, list[int]]] = {}
        self.all_came = threading.Barrier(num_tasks, timeout=MEET_SECONDS)
        self.all_done = threading.Barrier(num_tasks, timeout=MEET_SECONDS)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Note what went wrong with a connection; the task's own record tells of it."""
        _log.debug("the meeting with %s broke off", client_address, exc_info=True)


class _Guest(socketserver.StreamRequestHandler):
    timeout = 2 * MEET_SECONDS

    def handle(self) -> None:
        """Take where a task listens, tell it where all do and the time, and let it go when all have tried."""
        server = cast("_Server", self.server)
        word, task, address, *ports = self.rfile.readline(_LONGEST_LINE).decode().split()
        if not hmac.compare_digest(word, server.word):
            return
        server.places[int(task)] = (address, [int(port) for port in ports])
        _wait(server.all_came)
        self.wfile.write(f"{json.dumps({'places': server.places, 'now': time.time()})}\n".encode())
        self.rfile.readline(_LONGEST_LINE)
        done = time.time()
        _wait(server.all_done)
        self.wfile.write(f"{done}\n".encode())


def _wait(barrier: threading.Barrier) -> None:
    """Wait for all, or till it is known that not all come."""
    with contextlib.suppress(threading.BrokenBarrierError):
        barrier.wait()
