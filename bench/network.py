"""tcp, vxlan, pps, latency and scale: guest to guest over two hosts, Weft beside what Linux does without it."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from bench.context import Context
from bench.openvswitch import KINDS, peers
from bench.pairs import Pair, Ratio, ratio
from bench.report import AtLeast, AtMost, Figure, ReportOnly
from bench.topology import BY_RULE, MTU_BYTES, OWN_RECORDS, ROOMY_MTU_BYTES, Side, Topology, topology
from bench.traffic import RoundTrip, Traffic, program
from weft.model.features import Rule

T = TypeVar("T")

FEW = 10
_THREE = ("weft", "routed", "plain")


def tcp(context: Context) -> list[Figure]:
    def once(few: Context, up: Topology) -> list[Taken]:
        return in_turn(few, "tcp", stream(few), up.sides(*_THREE))

    weft, routed, plain = together(_anew(context, once))
    return [
        *tcp_figures(weft, plain, "tcp_vs_plain", AtLeast(1.0)),
        *tcp_figures(routed, plain, "tcp_routed_vs_plain", ReportOnly("two subnets"))[:1],
    ]


def vxlan(context: Context) -> list[Figure]:
    def once(few: Context, up: Topology) -> list[Taken]:
        return in_turn(few, "vxlan", stream(few), up.sides("weft", "vxlan"))

    weft, other = together(_anew(context, once))
    return tcp_figures(weft, other, "tcp_vs_vxlan", AtLeast(1.1))


def pps(context: Context) -> list[Figure]:
    def once(few: Context, up: Topology) -> list[Taken]:
        return in_turn(few, "pps", datagrams(few), up.sides(*_THREE))

    weft, routed, plain = together(_anew(context, once))
    return [
        *pps_figures(weft, plain, "pps_vs_plain", AtLeast(0.9)),
        *pps_figures(routed, plain, "pps_routed_vs_plain", ReportOnly("two subnets"))[:1],
    ]


def rules(context: Context) -> list[Figure]:
    """Each encapsulation beside NVGRE, which tcp and pps measure; all of them, and plain routing, in one run."""
    figures = []
    known = tuple(BY_RULE)

    def once(few: Context, up: Topology) -> tuple[list[Taken], list[Taken]]:
        sides = [*(up.ruled(rule) for rule in known), *up.sides("plain")]
        return in_turn(few, "rules, tcp", stream(few), sides), in_turn(few, "rules, pps", datagrams(few), sides)

    streams, packets = zip(*_anew(context, once, known), strict=True)
    *ours, plain = together(streams)
    for rule, got in zip(known, ours, strict=True):
        figures += tcp_figures(got, plain, f"tcp_{rule}_vs_plain", AtLeast(1.0))[:1]
    *ours, plain = together(packets)
    for rule, got in zip(known, ours, strict=True):
        figures += pps_figures(got, plain, f"pps_{rule}_vs_plain", AtLeast(0.9))[:1]

    def once_roomy(few: Context, up: Topology) -> list[Taken]:
        sides = [*up.sides("weft"), *(up.ruled(rule) for rule in known), *up.sides("plain")]
        return in_turn(few, "rules, roomy uplinks", stream(few), sides)

    *ours, plain = together(_anew(context, once_roomy, known, ROOMY_MTU_BYTES))
    roomy = ReportOnly(f"guests keep {MTU_BYTES}, uplinks have {ROOMY_MTU_BYTES}")
    for each, got in zip((Rule.NVGRE, *known), ours, strict=True):
        figures += tcp_figures(got, plain, f"tcp_{each}_roomy_vs_plain", roomy)[:1]
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
            figures += latency_figures(
                [pings(context, name, ours, theirs)], name, "vs_ovs", AtMost(1.0), (ours.name, theirs.name)
            )[:2]
        return figures


def latency(context: Context) -> list[Figure]:
    def once(few: Context, up: Topology) -> list[Pair[RoundTrip]]:
        return pings(few, "latency", up.side("weft"), up.side("plain"))

    return latency_figures(_anew(context, once), "latency", "vs_plain", AtMost(1.1), ("weft", "plain"))


def scale(context: Context) -> list[Figure]:
    """Two topologies at once, with maps of the same size, filled differently."""
    many = context.settings.records
    filled = many - OWN_RECORDS
    measured, few = Measured(), context.fewer(runs=1)
    for number in range(context.settings.runs):
        context.progress(f"scale: {many:,} records into each host of one topology, {FEW} into the other's")
        with side_by_side(lambda: topology(filled), lambda: topology(FEW - OWN_RECORDS, one_route=True), number) as (
            full,
            empty,
        ):
            measured.tcp(few, "scale_tcp", full.side("weft"), empty.side("weft"))
            measured.tcp(few, "scale_tcp_routed", full.side("routed"), empty.side("routed"))
            measured.pps(few, "scale_pps", full.side("weft"), empty.side("weft"))
            measured.pps(few, "scale_pps_spread", full.many(), empty.many(), filled)
            measured.latency(few, f"scale_latency_{FEW}_vs_many", full.side("weft"), empty.side("weft"))
    bar = AtLeast(0.97)
    names = (f"{many:,} records", f"{FEW} records")
    return [
        measured.tcp_figure("scale_tcp", bar, names),
        measured.tcp_figure("scale_tcp_routed", bar, names),
        measured.pps_figure("scale_pps", bar, names),
        measured.pps_figure("scale_pps_spread", bar, names, filled),
        *measured.turned_figures("scale_latency", f"{FEW}_vs_many", bar, names),
    ]


@contextmanager
def side_by_side(
    ours: Callable[[], AbstractContextManager[Topology]],
    theirs: Callable[[], AbstractContextManager[Topology]],
    number: int,
) -> Iterator[tuple[Topology, Topology]]:
    """Two topologies at once, of which either is set up first as often, when numbers go on from 0 to an even one.

    Which comes first tells: of two with the same programs the second was the faster one in most set-ups, by up to 5 %.
    """
    with ExitStack() as stack:
        if number % 2 == 0:
            mine = stack.enter_context(ours())
            yield mine, stack.enter_context(theirs())
        else:
            other = stack.enter_context(theirs())
            yield stack.enter_context(ours()), other


@dataclass(frozen=True, slots=True)
class Taken:
    """What one side did in its turns, of each topology in which it has had some. lost: of what was sent, at worst."""

    name: str
    values: list[list[float]]
    lost: float = 0.0


def together(taken: Iterable[Sequence[Taken]]) -> list[Taken]:
    """By side, of what the same sides did in some topologies."""
    return [
        Taken(of[0].name, [values for each in of for values in each.values], max(each.lost for each in of))
        for of in zip(*taken, strict=True)
    ]


class Measured:
    """What was measured of two sides that are set up anew again and again, by name. Decides nothing."""

    def __init__(self) -> None:
        self._taken: defaultdict[str, list[list[Taken]]] = defaultdict(list)
        self._round_trips: defaultdict[str, list[list[Pair[RoundTrip]]]] = defaultdict(list)

    def tcp(self, context: Context, name: str, ours: Side, theirs: Side) -> None:
        self._taken[name].append(in_turn(context, name, stream(context), [ours, theirs]))

    def pps(self, context: Context, name: str, ours: Side, theirs: Side, destinations: int = 1) -> None:
        self._taken[name].append(in_turn(context, name, datagrams(context, destinations), [ours, theirs]))

    def latency(self, context: Context, name: str, ours: Side, theirs: Side) -> None:
        """name: the figures', but for the share of the round trips, which stands before what it is compared with."""
        self._round_trips[name].append(pings(context, name, ours, theirs))

    def tcp_figure(self, name: str, bar: AtLeast | ReportOnly, names: tuple[str, str]) -> Figure:
        ours, theirs = together(self._taken[name])
        return tcp_figures(ours, theirs, name, bar, names)[0]

    def pps_figure(self, name: str, bar: AtLeast | ReportOnly, names: tuple[str, str], destinations: int = 1) -> Figure:
        ours, theirs = together(self._taken[name])
        return pps_figures(ours, theirs, name, bar, names, destinations)[0]

    def latency_figures(self, name: str, suffix: str, bar: ReportOnly, names: tuple[str, str]) -> list[Figure]:
        return latency_figures(self._round_trips[f"{name}_{suffix}"], name, suffix, bar, names)[:2]

    def turned_figures(self, name: str, suffix: str, bar: AtLeast, names: tuple[str, str]) -> list[Figure]:
        """The bar is on how good ours is: of a latency, theirs over ours."""
        turned = [[Pair(pair.theirs, pair.ours) for pair in pairs] for pairs in self._round_trips[f"{name}_{suffix}"]]
        return latency_figures(turned, name, suffix, bar, (names[1], names[0]))[:2]


def _anew(
    context: Context,
    measure: Callable[[Context, Topology], T],
    rules: Sequence[Rule] = (),
    uplink_mtu_bytes: int = MTU_BYTES,
) -> list[T]:
    """Each run in a topology of its own: where its memory lies is luck, which it has for as long as it stands."""
    found = []
    for number in range(context.settings.runs):
        with topology(rules=rules, uplink_mtu_bytes=uplink_mtu_bytes) as up:
            context.progress(f"topology {number + 1}/{context.settings.runs}")
            found.append(measure(context.fewer(runs=1), up))
    return found


def _tcp(
    context: Context,
    ours: Side,
    theirs: Side,
    name: str,
    bar: AtLeast | ReportOnly,
    names: tuple[str, str] | None = None,
) -> list[Figure]:
    left, right = in_turn(context, name, stream(context), [ours, theirs])
    return tcp_figures(left, right, name, bar, names)


def _pps(
    context: Context,
    ours: Side,
    theirs: Side,
    name: str,
    bar: AtLeast | ReportOnly,
    names: tuple[str, str] | None = None,
    destinations: int = 1,
) -> list[Figure]:
    left, right = in_turn(context, name, datagrams(context, destinations), [ours, theirs])
    return pps_figures(left, right, name, bar, names, destinations)


def tcp_figures(
    ours: Taken, theirs: Taken, name: str, bar: AtLeast | ReportOnly, names: tuple[str, str] | None = None
) -> list[Figure]:
    found = _ratio(ours, theirs)
    left, right = names or (ours.name, theirs.name)
    detail = f"{left} {found.ours / 1e9:.2f}, {right} {found.theirs / 1e9:.2f} Gbit/s; {found.spread()}"
    return [
        Figure(name, found.value, "ratio", bar, detail),
        Figure(f"{name}_weft_side", found.ours / 1e9, "Gbit/s"),
        Figure(f"{name}_other_side", found.theirs / 1e9, "Gbit/s"),
    ]


def pps_figures(
    ours: Taken,
    theirs: Taken,
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


def _ratio(ours: Taken, theirs: Taken) -> Ratio:
    set_ups = zip(ours.values, theirs.values, strict=True)
    return ratio([[Pair(*each) for each in zip(*values, strict=True)] for values in set_ups], float)


def latency_figures(
    set_ups: Sequence[Sequence[Pair[RoundTrip]]],
    name: str,
    suffix: str,
    bar: AtLeast | AtMost | ReportOnly,
    names: tuple[str, str],
) -> list[Figure]:
    """set_ups: the pairs of each."""
    figures = []
    sides = []
    of: dict[str, Callable[[RoundTrip], float]] = {"p50": lambda each: each.p50_us, "p99": lambda each: each.p99_us}
    for share, number in of.items():
        found = ratio(set_ups, number)
        detail = f"{names[0]} {found.ours:.1f}, {names[1]} {found.theirs:.1f} us; {found.spread()}"
        figures.append(Figure(f"{name}_{share}_{suffix}", found.value, "ratio", bar, detail))
        sides += [
            Figure(f"{name}_{share}_weft_side", found.ours, "us"),
            Figure(f"{name}_{share}_other_side", found.theirs, "us"),
        ]
    return figures + sides


def stream(context: Context) -> Callable[[Sequence[Side]], list[Taken]]:
    settings = context.settings

    def run(sides: Sequence[Side]) -> list[Taken]:
        got = _traffic(context).tcp_bits_s(sides, settings.turn_s, settings.turns)
        return [Taken(side.name, [values]) for side, values in zip(sides, got, strict=True)]

    return run


def datagrams(context: Context, destinations: int = 1) -> Callable[[Sequence[Side]], list[Taken]]:
    settings = context.settings

    def run(sides: Sequence[Side]) -> list[Taken]:
        got = _traffic(context).udp(sides, settings.turn_s, settings.turns, destinations)
        return [Taken(side.name, [each.per_second], each.lost) for side, each in zip(sides, got, strict=True)]

    return run


def in_turn(
    context: Context, what: str, run: Callable[[Sequence[Side]], list[Taken]], sides: Sequence[Side]
) -> list[Taken]:
    """All sides in turn, in some runs with sockets of their own: where a connection's buffers lie is chance, too."""
    runs = []
    for number in range(context.settings.runs):
        got = twice(context, what, lambda: run(sides))
        runs.append(got)
        medians = ", ".join(f"{each.name} {_ratio(each, got[-1]).value:.3f}" for each in got[:-1])
        context.progress(f"{what} {number + 1}/{context.settings.runs}: {medians} of {got[-1].name}")
    # One topology, however many the runs.
    return [Taken(each.name, [list(itertools.chain(*each.values))], each.lost) for each in together(runs)]


def pings(context: Context, what: str, ours: Side, theirs: Side) -> list[Pair[RoundTrip]]:
    settings, pairs = context.settings, list[Pair[RoundTrip]]()
    for number in range(settings.runs):
        left, right = twice(
            context, what, lambda: _traffic(context).ping_pong([ours, theirs], settings.turn_s, settings.turns)
        )
        pairs += [Pair(*each) for each in zip(left, right, strict=True)]
        last = f"{_round_trip_text(left[-1])} against {_round_trip_text(right[-1])}"
        context.progress(f"{what} {number + 1}/{settings.runs}: the last {last}")
    return pairs


def twice(context: Context, what: str, measure: Callable[[], T]) -> T:
    try:
        return measure()
    except RuntimeError as error:  # a machine that was busy elsewhere at the wrong moment; twice is no accident
        context.progress(f"{what}: {error}; once more")
        return measure()


def _traffic(context: Context) -> Traffic:
    return Traffic(program(context.build))


def _mpps(per_second: float) -> str:
    return f"{per_second / 1e3:,.0f} kpps"


def _round_trip_text(each: RoundTrip) -> str:
    return f"{each.p50_us:.1f}/{each.p99_us:.1f} us"
