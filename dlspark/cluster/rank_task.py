"""What runs in one task of the Spark barrier stage: it seats its rank, starts its process, and sees its end.

The rank is a fresh process, not a fork of Spark's Python worker: that one may be reused, with torch imported,
its threads running or a GPU in use since an earlier job. A task whose rank fails ends without an error, with
the failure recorded: of a failed task Spark keeps a Java trace, and kills the others before they can tell.
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import psutil

from dlspark.cluster.connections import CannotListenError, Ports, interface_address, source_towards
from dlspark.cluster.rank import note_end, share_of_cores
from dlspark.cluster.seat import Joined, Seat, horovod_environment, meeting_place, tasks_by_host
from dlspark.cluster.supervise import as_shell_code
from dlspark.cluster.watch import RankWatch
from dlspark.cluster.whereabouts import Board
from dlspark.errors import ClusterError

if TYPE_CHECKING:
    from pyspark import BarrierTaskContext

_NUM_LAST_LINES = 40
_MAX_OUTPUT_BYTES = 65536
_CYCLE_MILLISECONDS = "5"
"""Between the moments at which Horovod's thread asks the ranks what is to be sent. Its own 1 ms costs ranks
that compute on the CPU a tenth of their speed; at 20 ms the waiting costs as much (benchmarks/scaling.py)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankOrder:
    """All that the process of a rank is told, through its standard input."""

    call: bytes
    """cloudpickle of (function, task)."""
    joined: Joined
    seat: Seat
    failures: str
    num_threads: int
    timeout_seconds: float
    result_file: int
    """File descriptor that takes what the function returns."""
    board: int
    """File descriptor of the board on which the rank writes where it is."""
    parent: int
    """Process that the rank must not outlive."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankEnd:
    """What a task gives back to the driver."""

    rank: int
    result: bytes | None
    """cloudpickle of what the function returned; None if the rank failed, and has a record of that."""
    output: tuple[str, ...]
    """The last lines that the rank wrote."""
    refusal: ClusterError | None = None
    """Why no rank was started: the host of this one cannot listen as it should."""


def run_task(
    rows: Iterator[int],
    *,
    joined: Joined,
    call: bytes,
    failures: str,
    threads: int | None,
    timeout_seconds: float,
    stall_timeout_seconds: float,
    ports: Ports | None,
    interface: str | None,
) -> Iterator[RankEnd]:
    """Run one rank, in a task of a barrier stage.

    Args:
        rows: of the task's partition; not looked at.
        joined: what joins the ranks.
        call: cloudpickle of (function, task).
        failures: folder for the records of failures.
        threads: torch threads of the rank; None shares the cores of a host among its ranks.
        timeout_seconds: how long the ranks may take to find each other.
        stall_timeout_seconds: see `RankWatch`.
        ports: of which one is for the ranks to meet; None: any.
        interface: over which the ranks meet and talk; None: the one that leads to another rank's host.

    Yields:
        How the rank ended.
    """
    from pyspark import BarrierTaskContext

    with ExitStack() as stack:
        seat = _take_seat(stack, BarrierTaskContext.get(), joined, ports=ports, interface=interface)
        if isinstance(seat, RankEnd):
            yield seat
            return
        yield _run_process(
            *(call, seat, joined),
            failures=failures,
            threads=threads,
            timeout_seconds=timeout_seconds,
            stall_timeout_seconds=stall_timeout_seconds,
            interface=interface,
        )


def _take_seat(
    stack: ExitStack,
    context: BarrierTaskContext,
    joined: Joined,
    *,
    ports: Ports | None,
    interface: str | None,
) -> Seat | RankEnd:
    """Return the seat of this task's rank, after all tasks have theirs; or why there is none.

    Args:
        stack: closes the meeting place of the ranks.
        context: of the task.
        joined: what joins the ranks.
        ports: of which one is for the ranks to meet; None: any.
        interface: whose address the ranks meet at; None: the one that Spark knows.
    """
    found = [info.address.rpartition(":")[0] for info in context.getTaskInfos()]
    tasks = tasks_by_host(found)
    rank = tasks.index(context.partitionId())
    place, listener, refusal = "", None, None
    try:
        address = found[context.partitionId()] if interface is None else interface_address(interface)
        port, listener = stack.enter_context(meeting_place(joined, is_first=rank == 0, ports=ports))
        place = f"{address}:{port}"
    except CannotListenError as error:
        refusal = error.as_cluster_error()
    # A task that has no place says so here too, since the others wait for its word.
    places = context.allGather(place)
    if not all(places):
        return RankEnd(rank=rank, result=None, output=(), refusal=refusal)
    meeting_host, _, meeting_port = places[tasks[0]].rpartition(":")
    gpus = context.resources().get("gpu")
    return Seat(
        rank=rank,
        hosts=tuple(found[task] for task in tasks),
        gpus=tuple(gpus.addresses) if gpus else (),
        meeting_host=meeting_host,
        meeting_port=int(meeting_port),
        meeting_socket=listener,
    )


def _run_process(
    call: bytes,
    seat: Seat,
    joined: Joined,
    *,
    failures: str,
    threads: int | None,
    timeout_seconds: float,
    stall_timeout_seconds: float,
    interface: str | None,
) -> RankEnd:
    # Files without a name: whatever ends this process, nothing of them stays on the disk.
    with tempfile.TemporaryFile() as result, tempfile.TemporaryFile() as output, Board() as board:
        order = RankOrder(
            call=call,
            joined=joined,
            seat=seat,
            failures=failures,
            num_threads=threads or share_of_cores(seat.local_size),
            timeout_seconds=timeout_seconds,
            result_file=result.fileno(),
            board=board.file,
            parent=os.getpid(),
        )
        sockets = [] if seat.meeting_socket is None else [seat.meeting_socket]
        kept = [result.fileno(), board.file, *sockets]
        watch = RankWatch(
            board,
            failures,
            rank=seat.rank,
            num_ranks=seat.size,
            host=socket.gethostname(),
            timeout_seconds=stall_timeout_seconds,
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "dlspark.cluster.rank_process"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=kept,
            env=_environment(seat, joined, timeout_seconds, interface),
        )
        with watch.over(process.pid):
            process.communicate(pickle.dumps(order))
        lines = _last_lines(output)
        if process.returncode == 0:
            result.seek(0)
            return RankEnd(rank=seat.rank, result=result.read(), output=lines)
        note_end(
            failures,
            as_shell_code(process.returncode),
            rank=seat.rank,
            num_ranks=seat.size,
            output=lines,
            place=board.read(),
        )
        return RankEnd(rank=seat.rank, result=None, output=lines)


def _environment(seat: Seat, joined: Joined, timeout_seconds: float, interface: str | None) -> dict[str, str]:
    """Return the variables of the rank's process, which imports what Spark shipped for this one."""
    values = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    gloo = "HOROVOD_GLOO_IFACE" if joined == "horovod" else "GLOO_SOCKET_IFNAME"
    others = [host for host in seat.hosts if host != seat.host]
    if interface is not None:
        # NCCL takes each name that begins so, unless it is told that this is all of it.
        values |= {gloo: interface, "NCCL_SOCKET_IFNAME": f"={interface}"}
    elif others and (found := interface_towards(others[0])) is not None:
        # Gloo would take the one that the name of the host leads to, which is often the loopback.
        values.setdefault(gloo, found)
    if joined == "horovod":
        values |= horovod_environment(seat, timeout_seconds=timeout_seconds)
        if not seat.gpus:
            values.setdefault("HOROVOD_CYCLE_TIME", _CYCLE_MILLISECONDS)
    return values


def interface_towards(host: str) -> str | None:
    """Return the name of the network interface that leads to a host; None if that cannot be told."""
    own = source_towards(host)
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == own for address in addresses):
            return str(name)
    return None


def _last_lines(output: IO[bytes]) -> tuple[str, ...]:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - _MAX_OUTPUT_BYTES))
    return tuple(output.read().decode(errors="replace").splitlines()[-_NUM_LAST_LINES:])
