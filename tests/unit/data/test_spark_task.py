"""What a task of Spark does first."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from dlspark.data.spark_task import begin_task

pytestmark = pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="of Linux alone")


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    """One end of a TCP connection on this host."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as one,
        server.accept()[0],
    ):
        yield one


def test_what_came_is_acknowledged_at_once(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK) == 0
    begin_task()
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK) == 1


def test_sockets_stay_open_and_those_without_tcp_are_left_alone(connection: socket.socket) -> None:
    here, there = socket.socketpair()
    with here, there:
        begin_task()
        here.sendall(b"still open")
        assert there.recv(10) == b"still open"
    connection.sendall(b"still open")
