"""Ports on which nobody listens and interfaces that are there, for tests that must name theirs."""

from __future__ import annotations

import itertools
import os
import socket
from contextlib import ExitStack

import psutil

_LOWEST, _HIGHEST = 10_000, 30_000
"""Below those from which the kernel gives connections theirs."""
_ranges = itertools.count(_LOWEST + os.getpid() * 16 % (_HIGHEST - _LOWEST), 16)
"""Other processes of the tests begin elsewhere, and each call goes on: a port is not asked for twice."""


def free_range(num_ports: int) -> tuple[int, int]:
    """Return the first and the last of up to 16 neighbouring ports that are free."""
    for count in _ranges:
        first = _LOWEST + (count - _LOWEST) % (_HIGHEST - _LOWEST)
        with ExitStack() as stack:
            try:
                for port in range(first, first + num_ports):
                    stack.enter_context(socket.create_server(("", port)))
            except OSError:
                continue
            return first, first + num_ports - 1
    raise AssertionError("there are no free ports")


def other_interface() -> tuple[str, str]:
    """Return name and IPv4 address of an interface; of another one than the loopback if there is one."""
    found = [
        (name, str(each.address))
        for name, addresses in psutil.net_if_addrs().items()
        for each in addresses
        if each.family == socket.AF_INET
    ]
    return min(found, key=lambda place: place[1].startswith("127."))
