"""Runs traffic.c between two guests and reads what it measured. Knows no ratio and no bar.

Client and server are each held to a CPU, the same ones for every contender: where the scheduler puts them decides more
than any data plane does. Packets cross every namespace in the sender's context, so the client's CPU carries the path.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.topology import Side
from weft.lab import shell

SOURCE = Path(__file__).with_name("traffic.c")
#: A frame of 64 bytes as RFC 2544 counts: 14 Ethernet + 20 IPv4 + 8 UDP + this + 4 FCS (which veth does not carry).
PAYLOAD_64 = 18
CONNECT_PORT = 7007
AT_ONCE = 64  # connections of a client under way


def cpus() -> tuple[int, int]:
    """The client's and the server's."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[min(1, len(allowed) - 1)]


class Unconnected(RuntimeError):
    """Connections were refused, or timed out: more than would be chance."""


@dataclass(frozen=True, slots=True)
class Packets:
    per_second: list[float]  # of each turn
    lost: float  # share of what was sent


@dataclass(frozen=True, slots=True)
class RoundTrip:
    p50_us: float
    p99_us: float


def program(build: Path) -> Path:
    """Compiled when it is not there or older than its source."""
    binary = build / "traffic"
    if not binary.exists() or binary.stat().st_mtime < SOURCE.stat().st_mtime:
        build.mkdir(parents=True, exist_ok=True)
        beside = build / f"traffic.{os.getpid()}"
        subprocess.run(["clang", "-O2", "-Wall", "-o", str(beside), str(SOURCE)], check=True)
        beside.replace(binary)
    return binary


@dataclass(frozen=True, slots=True)
class Traffic:
    """binary: what ``program`` gave."""

    binary: Path

    def tcp_bits_s(self, sides: Sequence[Side], turn_s: float, turns: int) -> list[list[float]]:
        """One stream for each side, received: by side, of each turn."""
        found: list[list[float]] = self._turns("tcp", sides, turn_s, turns, cpus())["values"]
        return found

    def udp(self, sides: Sequence[Side], turn_s: float, turns: int, destinations: int = 1) -> list[Packets]:
        """64-byte frames as fast as they go, those that were received. destinations: addresses from the target on."""
        got = self._turns("udp", sides, turn_s, turns, cpus(), PAYLOAD_64, destinations)
        return [
            Packets(values, max(0.0, 1 - received / max(1, sent)))
            for values, sent, received in zip(got["values"], got["sent"], got["received"], strict=True)
        ]

    def ping_pong(self, sides: Sequence[Side], turn_s: float, turns: int) -> list[list[RoundTrip]]:
        """A byte to and fro, both ends on one CPU: no wake-up of another CPU hides what the path costs."""
        here = cpus()[0]
        got = self._turns("ping", sides, turn_s, turns, (here, here))
        return [
            [RoundTrip(p50_ns / 1000, p99_ns / 1000) for p50_ns, p99_ns in zip(*each, strict=True)]
            for each in zip(got["values"], got["others"], strict=True)
        ]

    def connections(self, side: Side, seconds: float) -> float:
        """New TCP connections a second: opened, several under way at a time, and reset.

        A client and a server on each CPU, so that nobody's path is carried by a CPU that would have been idle. Always
        to the same ports, so that the clients' come again and again and no tracker fills up. 0: none came about.
        """
        with ThreadPoolExecutor(len(cpus())) as threads:
            found = list(threads.map(partial(self._connections, side, seconds), range(len(cpus()))))
        return sum(found)

    def _connections(self, side: Side, seconds: float, turn: int) -> float:
        made = self._connect(side, str(CONNECT_PORT + turn), cpus()[turn], seconds)
        if made["failed"] > made["connections"] / 100:
            raise Unconnected(f"{side.name}: {made['failed']} connections failed, {made['connections']} came about")
        return float(made["connections"] / made["seconds"])

    def _connect(self, side: Side, port: str, cpu: int, seconds: float) -> dict[str, Any]:
        """What the client says, whose server is there until it has said it."""
        accept = self._words(side.server, cpu, ["accept", port])
        with subprocess.Popen(accept, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                if server.stdout.readline().strip() != "ready":
                    raise RuntimeError(f"{side.name}: the server did not start: {' '.join(accept)}")
                connect = self._words(side.client, cpu, ["connect", side.target, port, str(seconds), str(AT_ONCE)])
                client = subprocess.run(connect, stdout=subprocess.PIPE, text=True, check=False)
                if client.returncode:
                    raise RuntimeError(f"{side.name}: {' '.join(connect)} failed")
                server.communicate(timeout=30)
                if server.returncode:
                    raise RuntimeError(f"{side.name}: {' '.join(accept)} failed")
                found: dict[str, Any] = json.loads(client.stdout)
                return found
            finally:
                server.kill()  # no more than the end of its input, where that has been

    def _turns(
        self, kind: str, sides: Sequence[Side], turn_s: float, turns: int, where: tuple[int, int], *more: int
    ) -> dict[str, Any]:
        words = [kind, *map(str, where), str(turn_s * 1000), str(turns), *map(str, more)]
        words += [f"{side.client}/{side.server}/{side.target}" for side in sides]
        done = subprocess.run([str(self.binary), *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)} failed: {done.stderr.strip()}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def _words(self, namespace: str, cpu: int, arguments: Sequence[str]) -> list[str]:
        return ["taskset", "-c", str(cpu), *shell.inside(namespace, [str(self.binary), *arguments])]
