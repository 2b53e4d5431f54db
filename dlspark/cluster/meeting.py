"""Where tasks that look at their hosts meet: a server on the driver that tells each the ports of the others.

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

_log = logging.getLogger(__name__)

MEET_SECONDS = 10.0
"""How long those that came wait for the others."""
_LONGEST_LINE = 256

Meeting = tuple[tuple[str, ...], int, str]
"""Addresses of the driver, the first that answers is right; its port; and the word that lets a task in."""


@contextlib.contextmanager
def open_meeting(driver_host: str, num_tasks: int) -> Iterator[Meeting]:
    """Serve a meeting of tasks during the block, and give what they need to come.

    Args:
        driver_host: under which executors know the driver; the addresses of its interfaces are tried after.
        num_tasks: that are to come.
    """
    word = secrets.token_hex(16)
    with _Server(num_tasks, word) as server:
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
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, num_tasks: int, word: str) -> None:
        super().__init__(("", 0), _Guest)
        self.word = word
        self.ports: dict[int, int] = {}
        self.all_came = threading.Barrier(num_tasks, timeout=MEET_SECONDS)
        self.all_done = threading.Barrier(num_tasks, timeout=MEET_SECONDS)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Note what went wrong with a connection; the task's own record tells of it."""
        _log.debug("the meeting with %s broke off", client_address, exc_info=True)


class _Guest(socketserver.StreamRequestHandler):
    timeout = 2 * MEET_SECONDS

    def handle(self) -> None:
        """Take a task's port, tell it those of all and the time, and let it go when all have used them."""
        server = cast("_Server", self.server)
        word, task, port = self.rfile.readline(_LONGEST_LINE).decode().split()
        if not hmac.compare_digest(word, server.word):
            return
        server.ports[int(task)] = int(port)
        _wait(server.all_came)
        self.wfile.write(f"{json.dumps({'ports': server.ports, 'now': time.time()})}\n".encode())
        self.rfile.readline(_LONGEST_LINE)
        done = time.time()
        _wait(server.all_done)
        self.wfile.write(f"{done}\n".encode())


def _wait(barrier: threading.Barrier) -> None:
    """Wait for all, or till it is known that not all come."""
    with contextlib.suppress(threading.BrokenBarrierError):
        barrier.wait()
