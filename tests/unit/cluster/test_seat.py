"""Where a rank sits among the hosts, and what Horovod is told of it."""

from __future__ import annotations

import pytest

from dlspark.cluster.seat import Seat, horovod_environment, meeting_place, tasks_by_host

HOSTS = ("a", "a", "b", "c", "c", "c")


def seat(rank: int, hosts: tuple[str, ...] = HOSTS) -> Seat:
    return Seat(rank=rank, hosts=hosts, gpus=(), meeting_port=7000, meeting_socket=None)


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
