"""Ports of the loopback on which the servers of a bench or a test may listen."""

from __future__ import annotations

import contextlib
import random
import socket

#: Below what the kernel gives to whoever does not say a port (net.ipv4.ip_local_port_range, from 32768 on): a port of
#: that range that is free now may be the near end of somebody's connection when the server comes to listen on it.
_FROM, _TO = 10_000, 32_768

# Not the tests' own random numbers: two processes with the same seed would find the same ports.
_random = random.SystemRandom()


def free_ports(count: int, address: str = "127.0.0.1") -> list[int]:
    """count ports, all different, on which nobody listens at address."""
    with contextlib.ExitStack() as held:
        found: list[int] = []
        while len(found) < count:
            number = _random.randrange(_FROM, _TO)
            listening = held.enter_context(contextlib.closing(socket.socket()))
            with contextlib.suppress(OSError):
                listening.bind((address, number))
                found.append(number)
        return found


def free_port(address: str = "127.0.0.1") -> int:
    return free_ports(1, address)[0]
