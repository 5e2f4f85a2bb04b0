"""guarded: what security groups and the connection tracker cost the traffic that they let through."""

from __future__ import annotations

import ipaddress
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

from bench import trackers
from bench.context import Context
from bench.network import _latency, _measured, _pings, _pps, _tcp
from bench.pairs import Pair, Ratio, ratio
from bench.report import AtLeast, AtMost, Figure, ReportOnly
from bench.topology import BRIDGED, Side, Topology, pa, rows, topology
from bench.traffic import AT_ONCE, Traffic, program
from weft.dataplane.ebpf import layout
from weft.dataplane.ebpf.plane import EbpfDataPlane
from weft.policy.connections import State
from weft.policy.rows import Direction, Port, Record, Row, SecurityGroup, SecurityRule

RULES = 1_000
MEMBERS = 10_000
FEW = 10
GROUP, REMOTE = 1, 2
NAMES = ("guarded", "no groups")

Peers = Callable[[int], AbstractContextManager[Sequence[Side]]]


def run(context: Context, peers: Peers = trackers.peers) -> list[Figure]:
    """Two topologies at once: one whose ports have groups, and one whose have none.

    peers: other trackers beside it, each with so many members.
    """
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
        ]
        with peers(members) as others:
            figures += _connections(context, *sides, others)
            for peer in others:
                figures += _beside(context, sides[0], peer)
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
    pairs = _pings(context, name, *sides)
    turned = [Pair(pair.theirs, pair.ours) for pair in pairs]
    return _latency(turned, name, suffix, AtLeast(0.95), (names[1], names[0]))[:2]


def _fill(up: Topology, count: int) -> None:
    """Established connections of the port and of another, with addresses that nobody uses."""
    value = layout.CONNECTION.pack(
        int(State.ESTABLISHED), 0, 3, 2**62, 0, 1, 1, 100, 100, *([1] * 8), 0, 1, 0, 0, 0, 0, 0, 0
    )
    local, first = layout.address("10.1.0.2"), int(ipaddress.ip_address("10.90.0.0"))
    for number, plane in enumerate(up.planes, 1):
        owners = [layout.port_number(f"tenants/bench/ports/{name}") for name in (f"weft-{number}", "another")]
        entries = {}
        for each in range(count):
            remote = layout.address(str(ipaddress.ip_address(first + each)))
            entries[layout.CONNECTION_KEY.pack(owners[each % 2], local, remote, b"\1\1", b"\0\x50", 6, 0, 0)] = value
        plane.run(_forget_all)  # what was measured before has left some, and a port has a quota
        made = plane.run(partial(_insert, entries=entries))
        if made < count:
            raise RuntimeError(f"{made} connections could be made, of {count}")


def _insert(plane: EbpfDataPlane, entries: Mapping[bytes, bytes]) -> int:
    return plane._connections.insert(entries)  # noqa: SLF001 - nobody else makes connections that no packet began


def _forget_all(plane: EbpfDataPlane) -> int:
    return plane.forget([each.key for each in plane.connections()])


def _connections(context: Context, guarded: Side, plain: Side, peers: Sequence[Side]) -> list[Figure]:
    """New TCP connections a second; beside the same without groups, and beside other trackers with as many rules."""
    traffic, oftener = Traffic(program(context.build)), context.oftener(3)
    seconds = oftener.settings.seconds
    of: dict[str, Ratio] = {}
    for side in (plain, *peers):
        pairs = _measured(
            oftener,
            f"guarded_connections beside {side.name}",
            lambda each: traffic.connections(each, seconds),
            guarded,
            side,
            lambda each: f"{each:,.0f} a second",
        )
        of[side.name] = ratio(pairs, float)
    mine = statistics.median(each.ours for each in of.values())
    without = of[plain.name]
    detail = f"{AT_ONCE} of each client under way, each opened and reset; without groups {without.theirs:,.0f} a second"
    return [
        Figure(
            "guarded_connections_per_second",
            mine,
            "1/s",
            ReportOnly("a client and a server on each of two CPUs"),
            detail,
        ),
        *(
            Figure(
                f"guarded_connections_vs_{side.name}",
                of[side.name].value,
                "ratio",
                AtLeast(1.0),
                f"Weft {of[side.name].ours:,.0f}, {side.name} {of[side.name].theirs:,.0f} a second; "
                f"{of[side.name].spread()}",
            )
            for side in peers
        ),
    ]


def _beside(context: Context, guarded: Side, peer: Side) -> list[Figure]:
    """Established traffic through another tracker: fewer runs, since nothing is held to it."""
    fewer = context.fewer(runs=1)
    pairs = _pings(fewer, f"guarded_latency_{peer.name}", guarded, peer)
    return [
        *_pps(fewer, guarded, peer, f"guarded_pps_vs_{peer.name}", ReportOnly("both guarded"), ("Weft", peer.name))[:1],
        *_latency(pairs, "guarded_latency", f"vs_{peer.name}", ReportOnly("both guarded"), ("Weft", peer.name))[:2],
    ]


def _memory() -> Figure:
    """Of a connection in the kernel: key and value, and what its hash table adds."""
    key, value = (-(-size // 8) * 8 for size in (layout.CONNECTION_KEY.size, layout.CONNECTION.size))
    detail = "48 bytes of struct htab_elem, key, value, a bucket of 16 and the allocator's 8 with it"
    return Figure("connection_bytes", 48 + key + value + 16 + 8, "B", AtMost(256), detail)
