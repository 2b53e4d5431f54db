"""What a task of Spark does first."""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator

import pytest

from dlspark.data.spark_task import begin_task

pytestmark = pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="there is no TCP_QUICKACK")


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    """One end of a TCP connection on this host."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as one,
        server.accept()[0],
    ):
        yield one
    gc.unfreeze()  # what a task takes out of the collection


@pytest.mark.parametrize("option", ["TCP_QUICKACK", "TCP_NODELAY"])
def test_nothing_waits_for_an_acknowledgement(connection: socket.socket, option: str) -> None:
    number = getattr(socket, option)
    connection.setsockopt(socket.IPPROTO_TCP, number, 0)
    assert not connection.getsockopt(socket.IPPROTO_TCP, number)
    begin_task()
    assert connection.getsockopt(socket.IPPROTO_TCP, number)


def test_sockets_stay_open_and_those_without_tcp_are_left_alone(connection: socket.socket) -> None:
    here, there = socket.socketpair()
    with here, there:
        begin_task()
        here.sendall(b"still open")
        assert there.recv(10) == b"still open"
    connection.sendall(b"still open")
