"""guarded: what security groups and the connection tracker cost the traffic that they let through."""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from bench.context import Context
from bench.network import _latency, _measured, _ping, _pps, _round_trip_text, _tcp
from bench.pairs import Pair
from bench.report import AtLeast, AtMost, Figure, ReportOnly
from bench.topology import BRIDGED, Side, Topology, pa, rows, topology
from weft.dataplane.ebpf import layout, security
from weft.dataplane.ebpf.plane import EbpfDataPlane
from weft.lab import shell
from weft.policy.connections import State
from weft.policy.rows import Direction, Port, Record, Row, SecurityGroup, SecurityRule

RULES = 1_000
MEMBERS = 10_000
FEW = 10
GROUP, REMOTE = 1, 2
NAMES = ("guarded", "no groups")

#: Connects and closes for so many seconds, from one thread; prints how often.
CONNECT = """
import socket, struct, sys, time
target, seconds = sys.argv[1], float(sys.argv[2])
end, count = time.monotonic() + seconds, 0
while time.monotonic() < end:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.connect((target, 7007))
        count += 1
print(count)
"""
ACCEPT = """
import socket, sys
with socket.socket() as listening:
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("", 7007))
    listening.listen(1024)
    print("ready", flush=True)
    while True:
        try:
            listening.accept()[0].close()
        except ConnectionError:
            pass
"""


def run(context: Context) -> list[Figure]:
    """Two topologies at once: one whose ports have groups, and one whose have none."""
    quick = context.settings.quick
    members, many = (500, 1_000) if quick else (MEMBERS, 100_000)
    with topology() as guarded, topology() as plain:
        for number, plane in enumerate(guarded.planes, 1):
            plane.update(list(guarded_rows(number, members)))
        sides = guarded.side("weft"), plain.side("weft")
        bar = AtLeast(0.95)
        figures = [
            *_tcp(context, *sides, "guarded_tcp", bar, NAMES)[:1],
            *_pps(context, *sides, "guarded_pps", bar, NAMES)[:1],
            *_turned(context, sides, "guarded_latency", "none_vs_groups", NAMES),
            *_connections(context, *sides),
        ]
        for number, plane in enumerate(plain.planes, 1):
            plane.update(list(guarded_rows(number, members)))
        context.progress(f"guarded: {many:,} connections into each host of one topology, {FEW} into the other's")
        for up, count in ((guarded, many), (plain, FEW)):
            _fill(up, count)
        names = (f"{many:,} connections", f"{FEW} connections")
        figures += [
            *_tcp(context, *sides, "tracked_tcp", bar, names)[:1],
            *_pps(context, *sides, "tracked_pps", bar, names)[:1],
            *_turned(context, sides, "tracked_latency", "few_vs_many", names),
            _memory(),
        ]
    return figures


def guarded_rows(number: int, members: int) -> Iterator[Row]:
    """A stateful group of RULES rules, of which one lets traffic in, by a remote group of so many members."""
    fillers = (
        SecurityRule(
            1000 + each,
            f"filler-{each}",
            Direction.INGRESS,
            4,
            6,
            each,
            each + 3,
            remote_prefix=f"10.{each % 200}.0.0/16",
        )
        for each in range(1, RULES - 1)
    )
    yield SecurityGroup(
        GROUP,
        "tenants/bench/security-groups/large",
        rules=(
            SecurityRule(1, "out", Direction.EGRESS, 4),
            SecurityRule(2, "in", Direction.INGRESS, 4, remote_group=REMOTE),
            *fillers,
        ),
    )
    for row in rows(number):
        if isinstance(row, Record) and row.vsid == BRIDGED:
            yield replace(row, groups=(REMOTE,))
    first = int(ipaddress.ip_address("10.1.128.0"))
    for each in range(members):
        yield Record(BRIDGED, str(ipaddress.ip_address(first + each)), pa(2), "02:00:00:01:00:02", groups=(REMOTE,))
    for row in rows(number):
        if isinstance(row, Port) and row.vsid == BRIDGED:
            yield replace(row, groups=(GROUP,), port_security=True)


def _turned(context: Context, sides: tuple[Side, Side], name: str, suffix: str, names: tuple[str, str]) -> list[Figure]:
    """The bar is on how good the first is: of a latency, the other's over its."""
    pairs = _measured(context, name, _ping(context), *sides, _round_trip_text)
    turned = [Pair(pair.theirs, pair.ours) for pair in pairs]
    return _latency(turned, name, suffix, AtLeast(0.95), (names[1], names[0]))[:2]


def _fill(up: Topology, count: int) -> None:
    """Established connections of the port and of another, with addresses that nobody uses."""
    value = layout.CONNECTION.pack(
        int(State.ESTABLISHED), 0, 3, 2**62, 0, 1, 1, 100, 100, *([1] * 8), 0, 1, 0, 0, 0, 0, 0, 0
    )
    local, first = layout.address("10.1.0.2"), int(ipaddress.ip_address("10.90.0.0"))
    for number, plane in enumerate(up.planes, 1):
        owners = [security.port_number(f"tenants/bench/ports/{name}") for name in (f"weft-{number}", "another")]
        entries = {}
        for each in range(count):
            remote = layout.address(str(ipaddress.ip_address(first + each)))
            entries[layout.CONNECTION_KEY.pack(owners[each % 2], local, remote, b"\1\1", b"\0\x50", 6, 0, 0)] = value
        made = plane.run(partial(EbpfDataPlane.remember, entries=entries))
        if made < count:
            raise RuntimeError(f"{made} connections could be made, of {count}")


def _connections(context: Context, ours: Side, theirs: Side) -> list[Figure]:
    """TCP connections opened one after another, and reset."""
    seconds = context.settings.seconds

    def rate(side: Side) -> float:
        serving = subprocess.Popen(
            shell.inside(side.server, [sys.executable, "-c", ACCEPT]), stdout=subprocess.PIPE, text=True
        )
        try:
            if serving.stdout is None or serving.stdout.readline() != "ready\n":
                raise RuntimeError("nobody listens")
            command = shell.inside(side.client, [sys.executable, "-c", CONNECT, side.target, str(seconds)])
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            return float(json.loads(done.stdout)) / seconds
        finally:
            serving.kill()
            serving.wait()

    pairs = _measured(context, "guarded_connections", rate, ours, theirs, lambda each: f"{each:,.0f} a second")
    mine, others = (sorted(getattr(pair, which) for pair in pairs)[len(pairs) // 2] for which in ("ours", "theirs"))
    detail = f"one after another, each opened and reset; without groups {others:,.0f} a second"
    return [Figure("guarded_connections_per_second", mine, "1/s", ReportOnly("one thread asks"), detail)]


def _memory() -> Figure:
    """Of a connection in the kernel: key and value, and what its hash table adds."""
    key, value = (-(-size // 8) * 8 for size in (layout.CONNECTION_KEY.size, layout.CONNECTION.size))
    detail = "48 bytes of struct htab_elem, key, value, a bucket of 16 and the allocator's 8 with it"
    return Figure("connection_bytes", 48 + key + value + 16 + 8, "B", AtMost(256), detail)
