"""On which ports and interface a host listens, and whether the others come through to it.

This file is shipped by value, as `host_checks` is, and needs the standard library only (psutil where an
interface is named). Ports that dlspark opens come from `cluster.port_range`. Those over which gloo and NCCL
then join each pair of ranks cannot be set: the kernel takes them from net.ipv4.ip_local_port_range. So where
a range is named, hosts try to reach each other on a port of it and on one of the kernel's.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from dlspark.errors import ClusterError

CONNECT_SECONDS = 3.0
LONGEST_MEETING_SECONDS = 20.0
_MOST_CONNECTIONS_AT_ONCE = 32

Ports = tuple[int, int]
"""The first and the last port of a range."""
Bound = TypeVar("Bound")

REFUSALS = {
    "cluster.port_range": (
        "no port of cluster.port_range is free",
        "name a larger or another range in cluster.port_range, or end what listens there (`ss -ltnp` tells)",
    ),
    "cluster.network_interface": (
        "there is no network of the name in cluster.network_interface",
        "name an interface with an IPv4 address that every executor's host has (`ip -4 address` lists them), "
        "or set cluster.network_interface=null",
    ),
}
"""Key of the configuration -> what is wrong where a host cannot do as it says, and what repairs it."""


def bind_in(ports: Ports | None, bind: Callable[[int], Bound]) -> Bound:
    """Return what `bind` makes of the first port of a range that is free.

    Args:
        ports: the range; None: the kernel chooses a port, and `bind` is given 0.
        bind: takes a port, and raises OSError if it is taken.

    Raises:
        CannotListenError: no port of the range is free.
    """
    if ports is None:
        return bind(0)
    first, last = ports
    reason: OSError | None = None
    for port in range(first, last + 1):
        try:
            return bind(port)
        except OSError as error:
            reason = error
    raise CannotListenError("cluster.port_range", f"{first}-{last}, {reason}") from reason


def listen(ports: Ports | None, backlog: int = 128) -> socket.socket:
    """Return a socket that listens on all interfaces of this host.

    Args:
        ports: of which one is taken; None: any port.
        backlog: connections that may wait to be accepted.

    Raises:
        CannotListenError: no port of the range is free.
    """
    return bind_in(ports, lambda port: socket.create_server(("", port), backlog=backlog))


@contextmanager
def listening(
    ranges: Iterable[Ports | None], interface: str | None, address: str, *, backlog: int
) -> Iterator[tuple[str, list[int], tuple[str, str] | None]]:
    """Listen on a port of each range; yield the address, the ports, and the refusal (key, value and reason).

    Args:
        ranges: of ports; None: any port.
        interface: whose address the others are told; None: `address`.
        address: of this host.
        backlog: connections that may wait to be accepted.
    """
    with ExitStack() as stack:
        ports: list[int] = []
        refusal: tuple[str, str] | None = None
        try:
            address = address if interface is None else interface_address(interface)
            for each in ranges:
                ports.append(stack.enter_context(listen(each, backlog)).getsockname()[1])
        except CannotListenError as error:
            refusal = (error.key, error.got)
        yield address, ports, refusal


def interface_address(name: str) -> str:
    """Return the IPv4 address of a network interface of this host.

    Raises:
        CannotListenError: there is no such interface, or it has no IPv4 address.
    """
    try:
        import psutil
    except ImportError as error:
        raise CannotListenError("cluster.network_interface", f"{name}, and {error}") from error
    addresses = psutil.net_if_addrs()
    for each in addresses.get(name, []):
        if each.family == socket.AF_INET:
            return str(each.address)
    what = "without an IPv4 address" if name in addresses else f"of {', '.join(addresses)}"
    raise CannotListenError("cluster.network_interface", f"{name}, {what}")


def meet_others(
    meeting: tuple[tuple[str, ...], int, str], task: int, address: str, ports: Sequence[int]
) -> dict[str, Any]:
    """Tell the other tasks where this one listens, connect to them, and compare clocks.

    Args:
        meeting: with the other tasks; see `dlspark.cluster.meeting`.
        task: number of this task.
        address: of this host, for the others to connect to.
        ports: on which this task listens; none where another task of the host does.

    Returns:
        Those that do not answer, why the driver does not, where they meet, and between which seconds this
        clock is ahead of the driver's: what is received has been sent before, on either side.
    """
    driver_addresses, driver_port, word = meeting
    error = ""
    for driver in driver_addresses:
        try:
            with socket.create_connection((driver, driver_port), timeout=CONNECT_SECONDS) as connection:
                connection.settimeout(LONGEST_MEETING_SECONDS)
                lines = connection.makefile("rw", newline="\n")
                lines.write(f"{' '.join((word, str(task), address, *map(str, ports)))}\n")
                lines.flush()
                told = json.loads(lines.readline())
                high = time.time() - told["now"]
                places = {int(other): (where, found) for other, (where, found) in told["places"].items()}
                unreachable = connect_to_others(task, places)
                sent = time.time()
                lines.write("done\n")
                lines.flush()
                # Who listens must go on with it until the last one has tried to connect.
                low = sent - float(lines.readline())
                return {"unreachable": unreachable, "driver_error": None, "clock_seconds": (low, high)}
        except (OSError, ValueError) as caught:
            error = error or f"{source_towards(driver)} -> {driver}:{driver_port}: {caught}"
    return {"unreachable": [], "driver_error": error, "clock_seconds": None}


def connect_to_others(task: int, places: Mapping[int, tuple[str, Sequence[int]]]) -> list[dict[str, Any]]:
    """Connect to every port on which another task listens, and return those that do not answer.

    Args:
        task: number of this task.
        places: task -> the address and the ports on which it listens.
    """
    others = [
        (other, address, port)
        for other, (address, ports) in sorted(places.items())
        for port in ports
        if other != task
    ]

    def connect(place: tuple[int, str, int]) -> dict[str, Any] | None:
        other, address, port = place
        try:
            socket.create_connection((address, port), timeout=CONNECT_SECONDS).close()
        except OSError as error:
            where = {"to_task": other, "port": port, "source": source_towards(address)}
            return {**where, "error": str(error) or type(error).__name__}
        return None

    if not others:
        return []
    with ThreadPoolExecutor(min(len(others), _MOST_CONNECTIONS_AT_ONCE)) as pool:
        return [failed for failed in pool.map(connect, others) if failed is not None]


def source_towards(address: str) -> str:
    """Return the own address from which packets go to a host, `no route` where there is none."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            # A datagram socket that is connected has a route, and has sent nothing.
            probe.connect((address, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return "no route"


class CannotListenError(OSError):
    """This host cannot listen as a key of the configuration says."""

    def __init__(self, key: str, got: str) -> None:
        """Take the reason.

        Args:
            key: of `REFUSALS`.
            got: its value, and what is wrong with it here.
        """
        super().__init__(f"{key}={got}")
        self.key, self.got = key, got

    def as_cluster_error(self) -> ClusterError:
        """Return the error for the user, which names this host."""
        from dlspark.errors import ClusterError

        what, fix = REFUSALS[self.key]
        return ClusterError(what, got=self.got, where=f"host {socket.gethostname()}", fix=fix)
