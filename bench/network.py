"""tcp, vxlan, pps, latency and scale: guest to guest over two hosts, Weft beside what Linux does without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bench.context import Context
from bench.openvswitch import KINDS, peers
from bench.pairs import Pair, Ratio, alternate, ratio
from bench.report import AtLeast, AtMost, Figure, ReportOnly
from bench.topology import BY_RULE, MTU_BYTES, OWN_RECORDS, ROOMY_MTU_BYTES, Side, topology
from bench.traffic import RoundTrip, Traffic, program
from weft.model.features import Rule

T = TypeVar("T")

FEW = 10
_THREE = ("weft", "routed", "plain")


def tcp(context: Context) -> list[Figure]:
    with topology() as up:
        weft, routed, plain = _in_turn(context, "tcp", _stream(context), [up.side(each) for each in _THREE])
        return [
            *_tcp_figures(weft, plain, "tcp_vs_plain", AtLeast(1.0)),
            *_tcp_figures(routed, plain, "tcp_routed_vs_plain", ReportOnly("two subnets"))[:1],
        ]


def vxlan(context: Context) -> list[Figure]:
    with topology() as up:
        return _tcp(context, up.side("weft"), up.side("vxlan"), "tcp_vs_vxlan", AtLeast(1.1))


def pps(context: Context) -> list[Figure]:
    with topology() as up:
        weft, routed, plain = _in_turn(context, "pps", _datagrams(context), [up.side(each) for each in _THREE])
        return [
            *_pps_figures(weft, plain, "pps_vs_plain", AtLeast(0.9)),
            *_pps_figures(routed, plain, "pps_routed_vs_plain", ReportOnly("two subnets"))[:1],
        ]


def rules(context: Context) -> list[Figure]:
    """Each encapsulation beside NVGRE, which tcp and pps measure; all of them, and plain routing, in one run."""
    figures = []
    with topology(rules=tuple(BY_RULE)) as up:
        sides = [*(up.ruled(rule) for rule in BY_RULE), up.side("plain")]
        *ours, plain = _in_turn(context, "rules, tcp", _stream(context), sides)
        for rule, got in zip(BY_RULE, ours, strict=True):
            figures += _tcp_figures(got, plain, f"tcp_{rule}_vs_plain", AtLeast(1.0))[:1]
        *ours, plain = _in_turn(context, "rules, pps", _datagrams(context), sides)
        for rule, got in zip(BY_RULE, ours, strict=True):
            figures += _pps_figures(got, plain, f"pps_{rule}_vs_plain", AtLeast(0.9))[:1]
    with topology(rules=tuple(BY_RULE), uplink_mtu_bytes=ROOMY_MTU_BYTES) as up:
        sides = [up.side("weft"), *(up.ruled(rule) for rule in BY_RULE), up.side("plain")]
        *ours, plain = _in_turn(context, "rules, roomy uplinks", _stream(context), sides)
        roomy = ReportOnly(f"guests keep {MTU_BYTES}, uplinks have {ROOMY_MTU_BYTES}")
        for each, got in zip((Rule.NVGRE, *BY_RULE), ours, strict=True):
            figures += _tcp_figures(got, plain, f"tcp_{each}_roomy_vs_plain", roomy)[:1]
    return figures


def openvswitch(context: Context) -> list[Figure]:
    """Each encapsulation against Open vSwitch's userspace datapath with the same."""
    context = context.fewer(runs=1)
    with topology(rules=tuple(KINDS)) as up, peers(up) as others:
        figures = []
        for rule in KINDS:
            ours, theirs = up.ruled(rule), others.side(rule)
            figures += _tcp(context, ours, theirs, f"ovs_tcp_{rule}", AtLeast(5.0))[:1]
            figures += _pps(context, ours, theirs, f"ovs_pps_{rule}", AtLeast(1.0))[:1]
            name = f"ovs_latency_{rule}"
            figures += _latency(
                _pings(context, name, ours, theirs), name, "vs_ovs", AtMost(1.0), (ours.name, theirs.name)
            )[:2]
        return figures


def latency(context: Context) -> list[Figure]:
    with topology() as up:
        pairs = _pings(context, "latency", up.side("weft"), up.side("plain"))
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
        pairs = _pings(context, "scale_latency", full.side("weft"), empty.side("weft"))
    # The bar is on how good the full map is: of a latency, the empty one's over the full one's.
    turned = [Pair(pair.theirs, pair.ours) for pair in pairs]
    return figures + _latency(turned, "scale_latency", f"{FEW}_vs_many", bar, (names[1], names[0]))[:2]


@dataclass(frozen=True, slots=True)
class _Taken:
    """What one side did in its turns. lost: share of what was sent, the worst of the runs."""

    name: str
    values: list[float]
    lost: float = 0.0


def _tcp(
    context: Context,
    ours: Side,
    theirs: Side,
    name: str,
    bar: AtLeast | ReportOnly,
    names: tuple[str, str] | None = None,
) -> list[Figure]:
    left, right = _in_turn(context, name, _stream(context), [ours, theirs])
    return _tcp_figures(left, right, name, bar, names)


def _pps(
    context: Context,
    ours: Side,
    theirs: Side,
    name: str,
    bar: AtLeast | ReportOnly,
    names: tuple[str, str] | None = None,
    destinations: int = 1,
) -> list[Figure]:
    left, right = _in_turn(context, name, _datagrams(context, destinations), [ours, theirs])
    return _pps_figures(left, right, name, bar, names, destinations)


def _tcp_figures(
    ours: _Taken, theirs: _Taken, name: str, bar: AtLeast | ReportOnly, names: tuple[str, str] | None = None
) -> list[Figure]:
    found = _ratio(ours, theirs)
    left, right = names or (ours.name, theirs.name)
    detail = f"{left} {found.ours / 1e9:.2f}, {right} {found.theirs / 1e9:.2f} Gbit/s; {found.spread()}"
    return [
        Figure(name, found.value, "ratio", bar, detail),
        Figure(f"{name}_weft_side", found.ours / 1e9, "Gbit/s"),
        Figure(f"{name}_other_side", found.theirs / 1e9, "Gbit/s"),
    ]


def _pps_figures(
    ours: _Taken,
    theirs: _Taken,
    name: str,
    bar: AtLeast | ReportOnly,
    names: tuple[str, str] | None = None,
    destinations: int = 1,
) -> list[Figure]:
    found = _ratio(ours, theirs)
    left, right = names or (ours.name, theirs.name)
    detail = (
        f"{left} {_mpps(found.ours)}, {right} {_mpps(found.theirs)}; {found.spread()}; "
        f"at most {max(ours.lost, theirs.lost):.1%} of what was sent was not received"
        + (f"; each packet to another of {destinations:,} addresses" if destinations > 1 else "")
    )
    return [
        Figure(name, found.value, "ratio", bar, detail),
        Figure(f"{name}_weft_side", found.ours, "packets/s"),
        Figure(f"{name}_other_side", found.theirs, "packets/s"),
    ]


def _ratio(ours: _Taken, theirs: _Taken) -> Ratio:
    return ratio([Pair(*each) for each in zip(ours.values, theirs.values, strict=True)], float)


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


def _stream(context: Context) -> Callable[[Sequence[Side]], list[_Taken]]:
    settings = context.settings

    def run(sides: Sequence[Side]) -> list[_Taken]:
        got = _traffic(context).tcp_bits_s(sides, settings.turn_s, settings.turns)
        return [_Taken(side.name, values) for side, values in zip(sides, got, strict=True)]

    return run


def _datagrams(context: Context, destinations: int = 1) -> Callable[[Sequence[Side]], list[_Taken]]:
    settings = context.settings

    def run(sides: Sequence[Side]) -> list[_Taken]:
        got = _traffic(context).udp(sides, settings.turn_s, settings.turns, destinations)
        return [_Taken(side.name, each.per_second, each.lost) for side, each in zip(sides, got, strict=True)]

    return run


def _in_turn(
    context: Context, what: str, run: Callable[[Sequence[Side]], list[_Taken]], sides: Sequence[Side]
) -> list[_Taken]:
    """All sides in turn, in some runs with sockets of their own: where a connection's buffers lie is chance, too."""
    found = [_Taken(side.name, []) for side in sides]
    for number in range(context.settings.runs):
        got = _twice(context, what, lambda: run(sides))
        found = [_Taken(a.name, a.values + b.values, max(a.lost, b.lost)) for a, b in zip(found, got, strict=True)]
        medians = ", ".join(f"{each.name} {_ratio(each, got[-1]).value:.3f}" for each in got[:-1])
        context.progress(f"{what} {number + 1}/{context.settings.runs}: {medians} of {got[-1].name}")
    return found


def _pings(context: Context, what: str, ours: Side, theirs: Side) -> list[Pair[RoundTrip]]:
    settings, pairs = context.settings, list[Pair[RoundTrip]]()
    for number in range(settings.runs):
        left, right = _twice(
            context, what, lambda: _traffic(context).ping_pong([ours, theirs], settings.turn_s, settings.turns)
        )
        pairs += [Pair(*each) for each in zip(left, right, strict=True)]
        last = f"{_round_trip_text(left[-1])} against {_round_trip_text(right[-1])}"
        context.progress(f"{what} {number + 1}/{settings.runs}: the last {last}")
    return pairs


def _twice(context: Context, what: str, measure: Callable[[], T]) -> T:
    try:
        return measure()
    except RuntimeError as error:  # a machine that was busy elsewhere at the wrong moment; twice is no accident
        context.progress(f"{what}: {error}; once more")
        return measure()


def _measured(
    context: Context, what: str, measure: Callable[[Side], T], ours: Side, theirs: Side, show: Callable[[T], str]
) -> list[Pair[T]]:
    """What is not measured in turns of one process: a run of one side, then one of the other."""
    context.progress(f"{what}: {context.settings.pairs} pairs")
    return alternate(
        lambda: _twice(context, what, lambda: measure(ours)),
        lambda: _twice(context, what, lambda: measure(theirs)),
        context.settings.pairs,
        lambda line: context.progress(f"{what} {line}"),
        show,
    )


def _traffic(context: Context) -> Traffic:
    return Traffic(program(context.build))


def _mpps(per_second: float) -> str:
    return f"{per_second / 1e3:,.0f} kpps"


def _round_trip_text(each: RoundTrip) -> str:
    return f"{each.p50_us:.1f}/{each.p99_us:.1f} us"
