"""guarded: what security groups and the connection tracker cost the traffic that they let through."""

from __future__ import annotations

import ipaddress
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

from bench import network, trackers
from bench.context import Context
from bench.network import Measured
from bench.pairs import Pair, in_turn, ratio
from bench.report import AtLeast, AtMost, Figure, ReportOnly
from bench.topology import BRIDGED, Side, Topology, pa, rows, topology
from bench.trackers import Tracker
from bench.traffic import AT_ONCE, Traffic, Unconnected, program
from weft.dataplane.ebpf import layout
from weft.dataplane.ebpf.plane import EbpfDataPlane
from weft.policy.connections import State
from weft.policy.rows import Direction, Port, Record, Row, SecurityGroup, SecurityRule

RULES = 1_000
MEMBERS = 10_000
FEW = 10
GROUP, REMOTE = 1, 2
NAMES = ("guarded", "no groups")
#: Of a turn of connections, after the tenth of a second that is not counted. Both ends and, beside some peers, two
#: switches share the two CPUs: shorter, some time slices of the scheduler decide how many connections a turn has.
LEAST_CONNECTING_S = 0.2

Peers = Callable[[int], AbstractContextManager[Sequence[Tracker]]]

#: By name of the other side, what was measured beside it in each pair of topologies.
Connections = defaultdict[str, list[list[Pair[float]]]]


def run(context: Context, peers: Peers = trackers.peers) -> list[Figure]:
    """Two topologies at once, again and again set up anew: one whose ports have groups, and one whose have none.

    peers: other trackers beside it, each with so many members. They come up once all else was measured that is to be
    without them: what they ask of the kernel, every namespace pays for.
    """
    settings = context.settings
    many = 1_000 if settings.quick else 100_000
    measured, connections, bar = Measured(), Connections(list), AtLeast(0.95)
    for number in range(settings.set_ups):
        context.progress(f"guarded: pair of topologies {number + 1}/{settings.set_ups}")
        with network.side_by_side(topology, topology, number) as (guarded, plain):
            _measure(context.fewer(runs=1), measured, connections, (guarded, plain), peers, many)
    _, *others = connections
    names = (f"{many:,} connections", f"{FEW} connections")
    return [
        measured.tcp_figure("guarded_tcp", bar, NAMES),
        measured.pps_figure("guarded_pps", bar, NAMES),
        *measured.turned_figures("guarded_latency", "none_vs_groups", bar, NAMES),
        *_connection_figures(connections),
        *(figure for name in others for figure in _beside_figures(measured, name)),
        measured.tcp_figure("tracked_tcp", bar, names),
        measured.pps_figure("tracked_pps", bar, names),
        *measured.turned_figures("tracked_latency", "few_vs_many", bar, names),
        _memory(),
    ]


def _measure(
    context: Context,
    measured: Measured,
    connections: Connections,
    pair: tuple[Topology, Topology],
    peers: Peers,
    many: int,
) -> None:
    guarded, plain = pair
    members = 500 if context.settings.quick else MEMBERS
    sides = guarded.side("weft"), plain.side("weft")
    _guard(guarded, members)
    measured.tcp(context, "guarded_tcp", *sides)
    measured.pps(context, "guarded_pps", *sides)
    measured.latency(context, "guarded_latency_none_vs_groups", *sides)
    with peers(members) as others:
        _connect(context, connections, *sides, others)
        # Of all set-ups together as many turns as others have in one, since nothing is held to it.
        fewer = context.fewer(runs=1, turns=-(-context.settings.turns // context.settings.set_ups))
        for peer in others:
            measured.pps(fewer, f"guarded_pps_vs_{peer.side.name}", sides[0], peer.side)
            measured.latency(fewer, f"guarded_latency_vs_{peer.side.name}", sides[0], peer.side)
    _guard(plain, members)
    context.progress(f"guarded: {many:,} connections into each host of one topology, {FEW} into the other's")
    _fill(guarded, many)
    _fill(plain, FEW)
    measured.tcp(context, "tracked_tcp", *sides)
    measured.pps(context, "tracked_pps", *sides)
    measured.latency(context, "tracked_latency_few_vs_many", *sides)


def _guard(up: Topology, members: int) -> None:
    for number, plane in enumerate(up.planes, 1):
        plane.update(list(guarded_rows(number, members)))


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


def _connect(context: Context, connections: Connections, guarded: Side, plain: Side, peers: Sequence[Tracker]) -> None:
    """New TCP connections a second; beside the same without groups, and beside other trackers with as many rules."""
    traffic = Traffic(program(context.build))
    seconds = max(LEAST_CONNECTING_S, context.settings.seconds / 3)
    rounds = -(-context.settings.pairs // 2)
    what = "guarded_connections"

    def connect(side: Side) -> float:
        return network.twice(context, what, lambda: traffic.connections(side, seconds))

    def beside(peer: Tracker) -> float:
        peer.forget()
        try:
            return connect(peer.side)
        except Unconnected as error:  # another's bad turn is a turn, and no reason not to measure the rest
            context.progress(f"{what}: {error}; counted as none")
            return 0.0

    names = [*NAMES, *(peer.side.name for peer in peers)]
    measures = [partial(connect, guarded), partial(connect, plain), *(partial(beside, peer) for peer in peers)]
    found = []
    for number, made in enumerate(in_turn(measures, rounds), 1):
        shown = ", ".join(f"{name} {each:,.0f}" for name, each in zip(names, made, strict=True))
        context.progress(f"{what} {number}/{rounds}: {shown} a second")
        found.append(made)
    for place, name in enumerate(names[1:], 1):
        connections[name].append([Pair(made[0], made[place]) for made in found])


def _connection_figures(connections: Mapping[str, Sequence[Sequence[Pair[float]]]]) -> list[Figure]:
    """connections: beside the same without groups, which comes first, and beside others."""
    of = {name: ratio(set_ups, float) for name, set_ups in connections.items()}
    without, *others = of
    rate, detail = of[without].ours, f"{AT_ONCE} of each client under way, each opened and reset; "
    detail += f"{without} {of[without].theirs:,.0f} a second"
    bar = ReportOnly("a client and a server on each of two CPUs")
    figures = [Figure("guarded_connections_per_second", rate, "1/s", bar, detail)]
    for name in others:
        found, turns = of[name], [pair.theirs for pairs in connections[name] for pair in pairs]
        detail = f"Weft {found.ours:,.0f}, {name} {found.theirs:,.0f} a second; {found.spread()}"
        if none := turns.count(0):
            detail += f"; {name} made none in {none} of its {len(turns)} turns"
        value = found.value if found.value < math.inf else None
        figures.append(Figure(f"guarded_connections_vs_{name}", value, "ratio", AtLeast(1.0), detail))
    return figures


def _beside_figures(measured: Measured, peer: str) -> list[Figure]:
    """Established traffic through another tracker."""
    bar, names = ReportOnly("both guarded"), ("Weft", peer)
    return [
        measured.pps_figure(f"guarded_pps_vs_{peer}", bar, names),
        *measured.latency_figures("guarded_latency", f"vs_{peer}", bar, names),
    ]


def _memory() -> Figure:
    """Of a connection in the kernel: key and value, and what its hash table adds."""
    key, value = (-(-size // 8) * 8 for size in (layout.CONNECTION_KEY.size, layout.CONNECTION.size))
    detail = "48 bytes of struct htab_elem, key, value, a bucket of 16 and the allocator's 8 with it"
    return Figure("connection_bytes", 48 + key + value + 16 + 8, "B", AtMost(256), detail)
