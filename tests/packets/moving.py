"""Rows of the packet table for ports that are moving between hosts: the same policy, with some on their way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from packets import build as b
from packets import policy as p
from packets.policy import DB1, FAR, FW, OFF, ROUTER_2, WEB1, WEB2, WEB3, Policy
from packets.table import (
    FW_PORT,
    GW,
    WEB2_PORT,
    Case,
    W,
    ca,
    guest,
    outer,
    uplink,
)
from weft.policy.drop import DropReason
from weft.policy.rows import Host, MacRecord, Port, Record, Row
from weft.reference.verdict import Answer, Copies, Drop, ToPort, ToUnderlay

WEB3_PORT, WAITING_PORT = "tenants/blue/ports/web-3", "tenants/blue/ports/far"

#: By MAC, in BLUE_1: where each is moving to.
TO: dict[str, str] = {
    WEB2: p.PA2,  # from here
    OFF: p.PA2,  # from here, and disabled
    FW: p.PA_UNREACHABLE,  # from here to where nothing leads
    p.LOST: p.PA_UNREACHABLE,  # the same, and it has no interface here
    WEB3: p.PA1,  # to here, where its port waits
    FAR: p.PA2,  # from another host to a third
    p.ELSE: p.PA2,  # from where nothing leads
    "02:00:00:00:01:41": p.PA2,  # to a PA of the other family
}
#: Where a guest of the packet table is bound that plays no part here.
WAITING = "tapold"


def _moving(row: Row) -> Row:
    if isinstance(row, Record | MacRecord) and row.vsid == p.BLUE_1 and row.mac in TO:
        return replace(row, also=TO[row.mac])
    return row


MOVING = Policy(
    (*map(_moving, p.ROWS), Port(WEB3_PORT, p.BLUE_1, WEB3, ("10.0.1.20", "2001:db8:1::20"))),
    {**{port: name for port, name in p.BINDINGS.items() if name != WAITING}, WEB3_PORT: WAITING},
    p.MAIN.unreachable,
)

_TO_6 = {p.PA1: p.PA1_6, p.PA2: p.PA2_6, p.PA3: "2001:db8:f::13"}


def _over_6(row: Row) -> Row:
    if isinstance(row, Host):
        return replace(row, pas=(p.PA1_6,))
    if isinstance(row, Record | MacRecord):
        also = None if row.also is None else _TO_6.get(row.also, row.also)
        return replace(row, pa=_TO_6.get(row.pa, row.pa), also=also)
    return row


MOVING_OVER_IPV6 = Policy(tuple(map(_over_6, MOVING.rows)), MOVING.bindings, frozenset())


def _echo(to: str, mac: str, version: int, hop_limit: int = 64, size: int = 24) -> tuple[bytes, int]:
    """web-1's, and the FlowID of it."""
    frame = b.eth(mac, b.network(W[version], to, hop_limit) / b.echo(version, size))
    return frame, b.flow(W[version], to, 1 if version == 4 else 58)


def _sent(pa: str, flow: int, frame: bytes) -> ToUnderlay:
    return ToUnderlay(pa, b.nvgre(pa, p.BLUE_1, flow, frame))


def _shut(row: Row) -> Row:
    """web-3 comes here from where nothing leads, fw leaves for there, and both let nothing in."""
    if isinstance(row, Port) and row.mac in (WEB3, FW):
        return replace(row, port_security=True)
    if isinstance(row, Record | MacRecord) and row.vsid == p.BLUE_1 and row.mac == WEB3:
        return replace(row, pa=p.PA_UNREACHABLE)
    return row


SHUT = replace(MOVING, rows=tuple(map(_shut, MOVING.rows)))


def moving(name: str, frame: bytes, expected: Copies | ToPort | ToUnderlay | Answer | Drop, **more: object) -> Case:
    return guest(f"moving: {name}", frame, expected, policy=MOVING, **more)


def to_moving_ports() -> Iterator[Case]:
    for version in (4, 6):
        v = f"IPv{version} "
        far, flow = _echo(ca(version, 1, 30), FAR, version)
        both = Copies.of((_sent(p.PA3, flow, far), _sent(p.PA2, flow, far)))
        yield moving(v + "between two other hosts: to both", far, both)
        away, flow = _echo(ca(version, 1, 5), WEB2, version)
        yield moving(
            v + "away from here: here and there", away, Copies.of((ToPort(WEB2_PORT, away), _sent(p.PA2, flow, away)))
        )
        coming, flow = _echo(ca(version, 1, 20), WEB3, version)
        there = Copies.of((_sent(p.PA2, flow, coming), ToPort(WEB3_PORT, coming)))
        yield moving(v + "to here: there and here", coming, there)
        asked = b.eth(ROUTER_2, b.network(ca(version, 2, 6), ca(version, 1, 30)) / b.echo(version), DB1)
        inner = b.eth(FAR, b.network(ca(version, 2, 6), ca(version, 1, 30), 63) / b.echo(version), p.ROUTER)
        flow = b.flow(ca(version, 2, 6), ca(version, 1, 30), 1 if version == 4 else 58)
        both = Copies.of((_sent(p.PA3, flow, inner), _sent(p.PA2, flow, inner)))
        yield moving(v + "routed: to both", asked, both, interface="tapdb1")
        off, flow = _echo(ca(version, 1, 8), OFF, version)
        yield moving(v + "disabled here: there only", off, _sent(p.PA2, flow, off))
        nowhere, flow = _echo(ca(version, 1, 9), FW, version)
        yield moving(v + "to where nothing leads: here only", nowhere, ToPort(FW_PORT, nowhere))
        size = 1458 - (28 if version == 4 else 48)
        large, flow = _echo(ca(version, 1, 5), WEB2, version, size=size)
        whole = Copies.of((ToPort(WEB2_PORT, large), _sent(p.PA2, flow, large)))
        yield moving(v + "away from here, as large as the underlay takes", large, whole)
        larger, _ = _echo(ca(version, 1, 5), WEB2, version, size=size + 1)
        kind, code = (3, 4) if version == 4 else (2, 0)
        error = b.icmp_error(larger, kind, code, GW[version], W[version], 1458)
        yield moving(v + "away from here, larger", larger, Answer(error, DropReason.TOO_BIG))
        pair, flow = _echo(ca(version, 1, 177), FAR, version)
        both = Copies.of((_sent(p.PA3, flow, pair), _sent(p.PA2, flow, pair)))
        yield moving(v + "found by its MAC: to both", pair, both)
        own = b.eth(WEB2, b.network(ca(version, 1, 5), ca(version, 1, 5)) / b.echo(version), WEB2)
        flow = b.flow(ca(version, 1, 5), ca(version, 1, 5), 1 if version == 4 else 58)
        yield moving(v + "to itself: there only", own, _sent(p.PA2, flow, own), interface="tapweb2")
        syn = b.eth(WEB2, b.network(W[version], ca(version, 1, 5)) / b.syn([("MSS", 1460)]))
        less = b.eth(
            WEB2, b.network(W[version], ca(version, 1, 5)) / b.syn([("MSS", 1458 - (40 if version == 4 else 60))])
        )
        flow = b.flow(W[version], ca(version, 1, 5), 6, (50000, 80))
        both = Copies.of((ToPort(WEB2_PORT, less), _sent(p.PA2, flow, less)))
        yield moving(v + "MSS away from here is what will be left there", syn, both)
    lost, _ = _echo("10.0.1.66", p.LOST, 4)
    yield moving("no interface here and no way there", lost, Drop(DropReason.VSID_ACL))
    apart, flow = _echo("10.0.1.40", p.ELSE, 4)
    yield moving("from where nothing leads: to where it is moving", apart, _sent(p.PA2, flow, apart))
    other, _ = _echo("10.0.1.41", "02:00:00:00:01:41", 4)
    yield moving("to a PA of the other family: no copy", other, Drop(DropReason.NO_UNDERLAY))


def to_nowhere() -> Iterator[Case]:
    """Where neither takes it, the record's PA says why."""
    for version in (4, 6):
        v = f"moving: IPv{version} "
        coming, _ = _echo(ca(version, 1, 20), WEB3, version)
        yield guest(v + "refused here, and no way to where it is", coming, Drop(DropReason.NO_UNDERLAY), policy=SHUT)
        leaving, _ = _echo(ca(version, 1, 9), FW, version)
        yield guest(v + "refused here, where it is", leaving, Drop(DropReason.SECURITY_GROUP), policy=SHUT)


def from_moving_ports() -> Iterator[Case]:
    for version in (4, 6):
        v = f"moving: IPv{version} "
        forged = Drop(DropReason.FORGED_SOURCE)

        def inner(number: int, mac: str, to: str = WEB1, version: int = version) -> bytes:
            return b.eth(to, b.network(ca(version, 1, number), W[version]) / b.echo(version), mac)

        def taken(name: str, frame: bytes, source: str, expected: ToPort | Drop, v: str = v) -> Case:
            return uplink(v + name, outer(frame, source=source), expected, MOVING)

        far = inner(30, FAR)
        port = ToPort("tenants/blue/ports/web-1", far)
        yield taken("from where it is", far, p.PA3, port)
        yield taken("from where it is moving to", far, p.PA2, port)
        yield taken("from where it is not", far, "192.0.2.99", forged)
        yield taken("from this host's own PA", far, p.PA1, forged)
        web2 = inner(5, WEB2)
        yield taken("away from here, from there", web2, p.PA2, ToPort("tenants/blue/ports/web-1", web2))
        yield taken("away from here, from here", web2, p.PA1, forged)
        web3 = inner(20, WEB3)
        yield taken("to here, from there", web3, p.PA2, ToPort("tenants/blue/ports/web-1", web3))
        yield taken("to here, from here", web3, p.PA1, forged)
        to_web2 = inner(30, FAR, to=WEB2)
        yield taken("what comes in for it is not sent on", to_web2, p.PA3, ToPort(WEB2_PORT, to_web2))
        to_web3 = inner(30, FAR, to=WEB3)
        yield taken("what comes in for one that is awaited", to_web3, p.PA3, ToPort(WEB3_PORT, to_web3))


def over_ipv6() -> Iterator[Case]:
    for version in (4, 6):
        v = f"moving: over IPv6: IPv{version} "
        far, flow = _echo(ca(version, 1, 30), FAR, version)
        sent = [ToUnderlay(pa, b.nvgre(pa, p.BLUE_1, flow, far)) for pa in (_TO_6[p.PA3], p.PA2_6)]
        yield guest(v + "to both", far, Copies.of(sent), policy=MOVING_OVER_IPV6)
        away, flow = _echo(ca(version, 1, 5), WEB2, version)
        there = ToUnderlay(p.PA2_6, b.nvgre(p.PA2_6, p.BLUE_1, flow, away))
        yield guest(v + "here and there", away, Copies.of((ToPort(WEB2_PORT, away), there)), policy=MOVING_OVER_IPV6)


MOVES: tuple[Case, ...] = (*to_moving_ports(), *to_nowhere(), *from_moving_ports(), *over_ipv6())
