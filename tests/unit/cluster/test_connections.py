"""Where a host listens and whom it reaches, with real sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import psutil
import pytest

from dlspark.cluster.connections import (
    CannotListenError,
    bind_in,
    connect_to_others,
    interface_address,
    listen,
    listening,
    meet_others,
)
from dlspark.cluster.meeting import open_meeting
from dlspark.errors import ClusterError
from tests.free_ports import free_range

pytestmark = pytest.mark.faults(scenario=8)


@contextmanager
def taken(*ports: int) -> Iterator[None]:
    """Listen on ports during the block."""
    with ExitStack() as stack:
        for port in ports:
            stack.enter_context(socket.create_server(("", port)))
        yield


def test_the_first_port_that_is_free_is_taken() -> None:
    first, last = ports = free_range(3)
    with taken(first), listen(ports) as one, listen(ports) as other:
        assert [each.getsockname()[1] for each in (one, other)] == [first + 1, last]
    with listen(None) as any_port:
        assert any_port.getsockname()[1] > 0


def test_a_range_that_is_taken_is_an_error_with_the_range_and_the_repair() -> None:
    first, last = ports = free_range(2)
    with taken(first, last), pytest.raises(CannotListenError) as caught:
        listen(ports)
    told = str(caught.value.as_cluster_error())
    for part in (f"{first}-{last}", "in use", f"host {socket.gethostname()}", "cluster.port_range", "Fix: "):
        assert part in told


def test_an_error_of_any_port_is_not_about_the_range() -> None:
    def refuse(port: int) -> None:
        raise PermissionError(port)

    with pytest.raises(PermissionError, match="0"):
        bind_in(None, refuse)


def test_an_interface_has_the_address_of_the_host_there() -> None:
    assert interface_address("lo") == "127.0.0.1"


def test_an_interface_that_is_not_there_is_an_error_that_names_those_that_are() -> None:
    with pytest.raises(CannotListenError) as caught:
        interface_address("ib7")
    told = str(caught.value.as_cluster_error())
    assert f"ib7, of {', '.join(psutil.net_if_addrs())}" in told
    assert f"host {socket.gethostname()}" in told
    assert "cluster.network_interface=null" in told


def test_who_listens_tells_the_address_of_the_interface_and_a_port_of_each_range() -> None:
    first, last = ports = free_range(1)
    with listening((ports, None), "lo", "10.9.8.7", backlog=5) as (address, found, refusal):
        assert (address, found[0], refusal) == ("127.0.0.1", first, None)
        assert found[1] not in {0, first}
        for port in found:
            socket.create_connection((address, port), timeout=3).close()
    with taken(last), listening((ports, None), None, "10.9.8.7", backlog=5) as (address, found, refusal):
        assert (address, found) == ("10.9.8.7", [])
        assert refusal is not None
        assert (refusal[0], refusal[1].split(",")[0]) == ("cluster.port_range", f"{first}-{last}")


def test_a_port_that_nobody_listens_on_is_told_with_both_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as closed:
        closed.bind(("127.0.0.2", 0))
        open_port, closed_port = (each.getsockname()[1] for each in (listener, closed))
        places = {
            0: ("127.0.0.3", [1]),
            1: ("127.0.0.1", [open_port]),
            2: ("127.0.0.2", [closed_port]),
            3: ("127.0.0.1", [open_port, 1]),
        }
        failed, other = connect_to_others(0, places)
    assert (failed["to_task"], failed["port"]) == (2, closed_port)
    assert failed["source"].startswith("127.0.0.")
    assert "refused" in failed["error"]
    assert (other["to_task"], other["port"]) == (3, 1)


def test_tasks_connect_to_those_who_listen_and_never_to_themselves() -> None:
    # Nobody listens on port 1: what is tried fails, and is listed.
    places = {0: ("127.0.0.1", [1]), 1: ("127.0.0.1", []), 2: ("127.0.0.2", [1]), 3: ("127.0.0.2", [])}
    tried = {task: connect_to_others(task, places) for task in range(4)}
    targets = {task: [failed["to_task"] for failed in failures] for task, failures in tried.items()}
    assert targets == {0: [2], 1: [0, 2], 2: [0], 3: [0, 2]}
    assert connect_to_others(0, {0: ("127.0.0.1", [1])}) == []


def test_a_name_that_does_not_resolve_is_an_answer_too() -> None:
    (failed,) = connect_to_others(0, {0: ("127.0.0.1", [1]), 1: ("no-such-host.invalid", [1])})
    assert (failed["to_task"], failed["source"]) == (1, "no route")


def test_tasks_meet_through_the_driver_and_stay_until_the_last_has_connected() -> None:
    ports = free_range(1)
    with open_meeting("127.0.0.1", 3, ports) as meeting, ThreadPoolExecutor(3) as pool:
        assert meeting[1] == ports[0]
        listeners = [socket.create_server((f"127.0.0.{task + 1}", 0)) for task in range(3)]
        addresses = [listener.getsockname()[0] for listener in listeners]
        # What the last one listens on is not what it says.
        said = [[listeners[0].getsockname()[1]], [listeners[1].getsockname()[1]], [1]]
        answers = list(
            pool.map(lambda task: meet_others(meeting, task, addresses[task], said[task]), range(3))
        )
        for listener in listeners:
            listener.close()
    assert [answer["driver_error"] for answer in answers] == [None] * 3
    assert [[each["to_task"] for each in answer["unreachable"]] for answer in answers] == [[2], [2], []]
    for low, high in (answer["clock_seconds"] for answer in answers):
        assert -5 < low <= 0 <= high < 5, "it is the same clock"
    # The connections of the meeting that has just ended do not take the only port of the range.
    with open_meeting("127.0.0.1", 1, ports) as again:
        assert again[1] == ports[0]


def test_a_driver_without_a_free_port_says_so() -> None:
    first, last = ports = free_range(1)
    with (
        taken(first),
        pytest.raises(ClusterError, match=f"no port of .* {first}-{last}, "),
        open_meeting("", 1, ports),
    ):
        pass


def test_a_driver_that_is_not_reached_or_does_not_know_the_word_is_told() -> None:
    with open_meeting("127.0.0.1", 1) as (addresses, port, _):
        refused = meet_others((("127.0.0.1",), port, "another"), 0, "127.0.0.1", [1])
    closed = meet_others((("127.0.0.1",), 1, "word"), 0, "127.0.0.1", [1])
    assert addresses[0] == "127.0.0.1"
    for answer in (refused, closed):
        assert (answer["unreachable"], answer["clock_seconds"]) == ([], None)
        assert answer["driver_error"].startswith("127.0.0.1 -> 127.0.0.1:")
