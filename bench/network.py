"""tcp, vxlan, pps, latency and scale: guest to guest over two hosts, Weft beside what Linux does without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from bench.context import Context
from bench.openvswitch import KINDS, peers
from bench.pairs import Pair, alternate, ratio
from bench.report import AtLeast, AtMost, Figure, ReportOnly
from bench.topology import BY_RULE, OWN_RECORDS, Side, topology
from bench.traffic import Packets, RoundTrip, Traffic, program

T = TypeVar("T")

FEW = 10
MANY_CONTENDERS = 9  # pairs, where there are many contenders


def tcp(context: Context) -> list[Figure]:
    with topology() as up:
        return [
            *_tcp(context, up.side("weft"), up.side("plain"), "tcp_vs_plain", AtLeast(1.0)),
            *_tcp(context, up.side("routed"), up.side("plain"), "tcp_routed_vs_plain", ReportOnly("two subnets"))[:1],
        ]


def vxlan(context: Context) -> list[Figure]:
    with topology() as up:
        return _tcp(context, up.side("weft"), up.side("vxlan"), "tcp_vs_vxlan", AtLeast(1.1))


def pps(context: Context) -> list[Figure]:
    with topology() as up:
        return [
            *_pps(context, up.side("weft"), up.side("plain"), "pps_vs_plain", AtLeast(0.9)),
            *_pps(context, up.side("routed"), up.side("plain"), "pps_routed_vs_plain", ReportOnly("two subnets"))[:1],
        ]


def rules(context: Context) -> list[Figure]:
    """Each encapsulation beside NVGRE, which tcp and pps measure."""
    context = context.fewer(MANY_CONTENDERS)
    with topology(rules=tuple(BY_RULE)) as up:
        figures = []
        for rule in BY_RULE:
            side, plain = up.ruled(rule), up.side("plain")
            figures += _tcp(context, side, plain, f"tcp_{rule}_vs_plain", AtLeast(1.0))[:1]
            figures += _pps(context, side, plain, f"pps_{rule}_vs_plain", AtLeast(0.9))[:1]
        return figures


def openvswitch(context: Context) -> list[Figure]:
    """Each encapsulation against Open vSwitch's userspace datapath with the same."""
    context = context.fewer(MANY_CONTENDERS)
    with topology(rules=tuple(KINDS)) as up, peers(up) as others:
        figures = []
        for rule in KINDS:
            ours, theirs = up.ruled(rule), others.side(rule)
            figures += _tcp(context, ours, theirs, f"ovs_tcp_{rule}", AtLeast(5.0))[:1]
            figures += _pps(context, ours, theirs, f"ovs_pps_{rule}", AtLeast(1.0))[:1]
            name = f"ovs_latency_{rule}"
            pairs = _measured(context, name, _ping(context), ours, theirs, _round_trip_text)
            figures += _latency(pairs, name, "vs_ovs", AtMost(1.0), (ours.name, theirs.name))[:2]
        return figures


def latency(context: Context) -> list[Figure]:
    with topology() as up:
        pairs = _measured(context, "latency", _ping(context), up.side("weft"), up.side("plain"), _round_trip_text)
    return _latency(pairs, "latency", "vs_plain", AtMost(1.1), ("weft", "plain"))


def scale(context: Context) -> list[Figure]:
    """Two topologies at once, with maps of the same size, filled differently."""
    many = context.settings.records
    context.progress(f"scale: {many:,} records into each host of one topology, {FEW} into the other's")
    with topology(many - OWN_RECORDS) as full, topology(FEW - OWN_RECORDS, one_route=True) as empty:
        bar = AtLeast(0.97)
        names = (f"{many:,} records", f"{FEW} records")
        figures = [
            *_tcp(context, full.side("weft"), empty.side("weft"), "scale_tcp", bar, names)[:1],
            *_tcp(context, full.side("routed"), empty.side("routed"), "scale_tcp_routed", bar, names)[:1],
            *_pps(context, full.side("weft"), empty.side("weft"), "scale_pps", bar, names)[:1],
            *_pps(context, full.many(), empty.many(), "scale_pps_spread", bar, names, many - OWN_RECORDS)[:1],
        ]
        pairs = _measured(
            context, "scale_latency", _ping(context), full.side("weft"), empty.side("weft"), _round_trip_text
        )
    # The bar is on how good the full map is: of a latency, the empty one's over the full one's.
    turned = [Pair(pair.theirs, pair.ours) for pair in pairs]
    return figures + _latency(turned, "scale_latency", f"{FEW}_vs_many", bar, (names[1], names[0]))[:2]


def _tcp(
    context: Context,
    ours: Side,
    theirs: Side,
    name: str,
    bar: AtLeast | ReportOnly,
    names: tuple[str, str] | None = None,
) -> list[Figure]:
    traffic, seconds = _traffic(context), context.settings.seconds
    pairs = _measured(
        context, name, lambda side: traffic.tcp_bits_s(side, seconds), ours, theirs, lambda each: f"{each / 1e9:.2f} G"
    )
    found = ratio(pairs, float)
    left, right = names or (ours.name, theirs.name)
    detail = f"{left} {found.ours / 1e9:.2f}, {right} {found.theirs / 1e9:.2f} Gbit/s; {found.spread()}"
    return [
        Figure(name, found.value, "ratio", bar, detail),
        Figure(f"{name}_weft_side", found.ours / 1e9, "Gbit/s"),
        Figure(f"{name}_other_side", found.theirs / 1e9, "Gbit/s"),
    ]


def _pps(
    context: Context,
    ours: Side,
    theirs: Side,
    name: str,
    bar: AtLeast | ReportOnly,
    names: tuple[str, str] | None = None,
    destinations: int = 1,
) -> list[Figure]:
    traffic, seconds = _traffic(context), context.settings.seconds
    pairs = _measured(context, name, lambda side: traffic.udp(side, seconds, destinations), ours, theirs, _packets_text)
    found = ratio(pairs, lambda each: each.per_second)
    left, right = names or (ours.name, theirs.name)
    lost = max(each.lost for pair in pairs for each in (pair.ours, pair.theirs))
    detail = (
        f"{left} {_mpps(found.ours)}, {right} {_mpps(found.theirs)}; {found.spread()}; "
        f"at most {lost:.1%} of what was sent was not received"
        + (f"; each packet to another of {destinations:,} addresses" if destinations > 1 else "")
    )
    return [
        Figure(name, found.value, "ratio", bar, detail),
        Figure(f"{name}_weft_side", found.ours, "packets/s"),
        Figure(f"{name}_other_side", found.theirs, "packets/s"),
    ]


def _latency(
    pairs: list[Pair[RoundTrip]], name: str, suffix: str, bar: AtLeast | AtMost | ReportOnly, names: tuple[str, str]
) -> list[Figure]:
    figures = []
    sides = []
    of: dict[str, Callable[[RoundTrip], float]] = {"p50": lambda each: each.p50_us, "p99": lambda each: each.p99_us}
    for share, number in of.items():
        found = ratio(pairs, number)
        detail = f"{names[0]} {found.ours:.1f}, {names[1]} {found.theirs:.1f} us; {found.spread()}"
        figures.append(Figure(f"{name}_{share}_{suffix}", found.value, "ratio", bar, detail))
        sides += [
            Figure(f"{name}_{share}_weft_side", found.ours, "us"),
            Figure(f"{name}_{share}_other_side", found.theirs, "us"),
        ]
    return figures + sides


def _measured(
    context: Context, what: str, measure: Callable[[Side], T], ours: Side, theirs: Side, show: Callable[[T], str]
) -> list[Pair[T]]:
    def measured(side: Side) -> T:
        try:
            return measure(side)
        except RuntimeError as error:  # a machine that was busy elsewhere at the wrong moment; twice is no accident
            context.progress(f"{what}, {side.name}: {error}; once more")
            return measure(side)

    context.progress(f"{what}: {context.settings.pairs} pairs")
    return alternate(
        lambda: measured(ours),
        lambda: measured(theirs),
        context.settings.pairs,
        lambda line: context.progress(f"{what} {line}"),
        show,
    )


def _ping(context: Context) -> Callable[[Side], RoundTrip]:
    traffic, seconds = _traffic(context), context.settings.seconds
    return lambda side: traffic.ping_pong(side, seconds)


def _traffic(context: Context) -> Traffic:
    return Traffic(program(context.build))


def _packets_text(each: Packets) -> str:
    return _mpps(each.per_second)


def _mpps(per_second: float) -> str:
    return f"{per_second / 1e3:,.0f} kpps"


def _round_trip_text(each: RoundTrip) -> str:
    return f"{each.p50_us:.1f}/{each.p99_us:.1f} us"
