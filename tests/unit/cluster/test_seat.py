"""Where a rank sits among the hosts, and what Horovod is told of it."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from dlspark.cluster.connections import CannotListenError
from dlspark.cluster.rank_task import _environment
from dlspark.cluster.seat import Joined, Seat, horovod_environment, meeting_place, tasks_by_host
from tests.free_ports import free_range

HOSTS = ("a", "a", "b", "c", "c", "c")


def seat(rank: int, hosts: tuple[str, ...] = HOSTS) -> Seat:
    return Seat(
        rank=rank, hosts=hosts, gpus=(), meeting_host=hosts[0], meeting_port=7000, meeting_socket=None
    )


def test_tasks_of_one_host_have_ranks_that_follow_each_other() -> None:
    assert tasks_by_host(["b", "a", "b", "c", "a"]) == [0, 2, 1, 4, 3]


@pytest.mark.parametrize(
    ("rank", "local", "cross"),
    [(0, (0, 2), (0, 3)), (1, (1, 2), (0, 2)), (2, (0, 1), (1, 3)), (4, (1, 3), (1, 2)), (5, (2, 3), (0, 1))],
)
def test_horovod_is_told_its_places(rank: int, local: tuple[int, int], cross: tuple[int, int]) -> None:
    localhost = tuple({"a": "localhost"}.get(host, host) for host in HOSTS)
    told = horovod_environment(seat(rank, localhost), timeout_seconds=4.2)
    found = {name.removeprefix("HOROVOD_"): value for name, value in told.items()}
    assert (int(found["RANK"]), int(found["SIZE"])) == (rank, 6)
    assert (int(found["LOCAL_RANK"]), int(found["LOCAL_SIZE"])) == local
    assert (int(found["CROSS_RANK"]), int(found["CROSS_SIZE"])) == cross
    assert (found["GLOO_RENDEZVOUS_ADDR"], found["GLOO_RENDEZVOUS_PORT"]) == ("127.0.0.1", "7000")
    assert found["GLOO_TIMEOUT_SECONDS"] == "5"


def test_only_the_first_rank_opens_the_meeting_place() -> None:
    with meeting_place("torch", is_first=False) as place:
        assert place == (0, None)
    with meeting_place("torch", is_first=True) as (port, listener):
        assert port > 0
        assert listener is not None


def test_the_ranks_meet_on_the_network_that_was_named() -> None:
    told = horovod_environment(
        replace(seat(3, ("no-such-host.invalid",) * 4), meeting_host="127.0.0.5"), timeout_seconds=1
    )
    assert told["HOROVOD_GLOO_RENDEZVOUS_ADDR"] == "127.0.0.5"


def test_they_meet_on_a_port_of_the_range_that_is_free_again_afterwards() -> None:
    ports = free_range(1)
    backends: tuple[Joined, ...] = ("torch", "horovod", "horovod", "torch")
    for joined in backends:
        with meeting_place(joined, is_first=True, ports=ports) as (port, _):
            assert (port, port) == ports
            socket.create_connection(("127.0.0.1", port), timeout=3).close()
            with pytest.raises(CannotListenError), meeting_place(joined, is_first=True, ports=ports):
                pass
            with meeting_place(joined, is_first=False, ports=ports) as place:
                assert place == (0, None)


@pytest.mark.parametrize("joined", ["torch", "horovod"])
def test_a_rank_is_told_the_interface_and_nothing_else_wins(
    joined: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = "HOROVOD_GLOO_IFACE" if joined == "horovod" else "GLOO_SOCKET_IFNAME"
    monkeypatch.setenv(mine, "ib0")
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    place = seat(0, ("127.0.0.1", "127.0.0.2"))
    told = _environment(place, joined, 5.0, "eth1")
    assert (told[mine], told["NCCL_SOCKET_IFNAME"]) == ("eth1", "=eth1")
    told = _environment(place, joined, 5.0, None)
    assert (told[mine], told.get("NCCL_SOCKET_IFNAME")) == ("ib0", None)
    monkeypatch.delenv(mine)
    assert _environment(place, joined, 5.0, None)[mine] == "lo"


def test_horovods_thread_rests_longer_where_it_shares_the_cores_with_the_computing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = seat(0, ("127.0.0.1", "127.0.0.2"))
    monkeypatch.delenv("HOROVOD_CYCLE_TIME", raising=False)
    assert float(_environment(here, "horovod", 5.0, None)["HOROVOD_CYCLE_TIME"]) > 1
    assert "HOROVOD_CYCLE_TIME" not in _environment(replace(here, gpus=("0",)), "horovod", 5.0, None)
    monkeypatch.setenv("HOROVOD_CYCLE_TIME", "7")
    assert _environment(here, "horovod", 5.0, None)["HOROVOD_CYCLE_TIME"] == "7"
