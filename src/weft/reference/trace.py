"""Follows one packet from a port across hosts to its end. Never sends one.

The planes count what is traced through them, so a trace is given planes of its own, made of rows.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias, assert_never

from weft.kit.errors import Missing, Rejected
from weft.policy import delta
from weft.policy.drop import DropReason
from weft.policy.rows import Port, Row
from weft.policy.rows import Subnet as SubnetRow
from weft.policy.upcall import UpcallKind
from weft.reference import packet
from weft.reference.lookups import Port as BoundPort
from weft.reference.lookups import Wire
from weft.reference.plane import ReferenceDataPlane
from weft.reference.trunk import vlan_of
from weft.reference.verdict import (
    Announcing,
    Answer,
    Copies,
    Delivery,
    Drop,
    ToAgent,
    ToPort,
    ToStack,
    ToUnderlay,
    ToWire,
)

#: A port of a probe's own choice (RFC 6335: dynamic), and where it goes when nobody says.
SOURCE_PORT, DEFAULT_PORT = 49_152, 80


class Protocol(StrEnum):
    """What a probe is made of."""

    ICMP = "icmp"  # an echo request of the address's family
    TCP = "tcp"  # a SYN
    UDP = "udp"


@dataclass(frozen=True, slots=True)
class Step:
    host: str
    text: str


@dataclass(frozen=True, slots=True)
class Delivered:
    host: str
    port: str
    frame: bytes


@dataclass(frozen=True, slots=True)
class Answered:
    """Something came back to the port; dropped: and the packet itself was dropped for this."""

    host: str
    frame: bytes
    dropped: DropReason | None


@dataclass(frozen=True, slots=True)
class Dropped:
    host: str
    reason: DropReason


@dataclass(frozen=True, slots=True)
class LeftToStack:
    """The host that has the PA does not take the packet for Weft's."""

    host: str


@dataclass(frozen=True, slots=True)
class LeftForPa:
    """None of the hosts has the PA, or the one that has it no uplink."""

    host: str
    pa: str


@dataclass(frozen=True, slots=True)
class LeftToAgent:
    """The agent of the host answers, or decides."""

    host: str
    kind: UpcallKind


@dataclass(frozen=True, slots=True)
class LeftForWire:
    """It is out by an uplink, in a VLAN: for a machine behind the physical switch, as far as policy knows."""

    host: str
    interface: str
    vlan: int


Outcome: TypeAlias = Delivered | Answered | Dropped | LeftToStack | LeftForPa | LeftForWire | LeftToAgent


@dataclass(frozen=True, slots=True)
class Trace:
    """outcome: of what is delivered, where there are copies; copies: of the others."""

    steps: tuple[Step, ...]
    outcome: Outcome
    copies: tuple[Outcome, ...] = ()


def plane_of(host: str, rows: Iterable[Row]) -> ReferenceDataPlane:
    """A plane of its own for a host's rows, every port bound to an interface of the port's name."""
    plane = ReferenceDataPlane(host)
    ordered = delta.ordered(rows, ()).puts
    for failure in plane.update(ordered):
        raise Rejected(f"row {failure.key}: {failure.reason}")
    plane.bind({row.port: row.port for row in ordered if isinstance(row, Port) and row.parent is None})
    return plane


def trace(planes: Mapping[str, ReferenceDataPlane], host: str, port: str, frame: bytes) -> Trace:
    """What becomes of a frame that the port's guest sends (a sub-port's: without the tag). The planes count it."""
    plane = _plane(planes, host)
    interface = plane.interface_of(port)
    if interface is None:
        raise Missing(f"{port} is not bound on {host}")
    result = plane.from_port(interface, plane.as_sent(port, frame))
    steps = tuple(Step(host, text) for text in result.steps)
    found = result.verdict
    match found.verdict if isinstance(found, Announcing) else found:
        case ToPort(to, delivered):
            return Trace(steps, Delivered(host, to, delivered))
        case Copies(copies):
            return _all(planes, host, copies, steps)
        case ToWire(uplink, tagged):
            return _behind(planes, host, uplink, tagged, steps)
        case Answer(answer, reason):
            return Trace(steps, Answered(host, answer, reason))
        case Drop(reason):
            return Trace(steps, Dropped(host, reason))
        case ToStack():
            return Trace(steps, LeftToStack(host))
        case ToAgent(kind):
            return Trace(steps, LeftToAgent(host, kind))
        case ToUnderlay(pa, outer):
            return _beyond(planes, host, pa, outer, steps)
        case _ as never:
            assert_never(never)


def _all(
    planes: Mapping[str, ReferenceDataPlane],
    host: str,
    copies: tuple[Delivery, ...],
    steps: tuple[Step, ...],
) -> Trace:
    """Every copy to its end."""
    outcomes: list[Outcome] = []
    for delivery in copies:
        match delivery:
            case ToPort(to, delivered):
                outcomes.append(Delivered(host, to, delivered))
            case ToUnderlay(pa, outer):
                found = _beyond(planes, host, pa, outer, steps)
                steps = found.steps
                outcomes.append(found.outcome)
            case ToWire(uplink, tagged):
                found = _behind(planes, host, uplink, tagged, steps)
                steps = found.steps
                outcomes.append(found.outcome)
            case _:
                assert_never(delivery)
    outcomes.sort(key=lambda outcome: not isinstance(outcome, Delivered))
    return Trace(steps, outcomes[0], tuple(outcomes[1:]))


def _beyond(
    planes: Mapping[str, ReferenceDataPlane], sender: str, pa: str, outer: bytes, steps: tuple[Step, ...]
) -> Trace:
    """The packet has left the sender for a PA: what the host that has it does."""
    host = next((name for name, plane in planes.items() if plane.has_pa(pa) and plane.uplinks), None)
    if host is None:
        return Trace((*steps, Step(sender, f"no host here has the PA {pa}")), LeftForPa(sender, pa))
    plane = planes[host]
    return _arrived(planes, host, *plane.on_wire(outer), steps)


def _behind(
    planes: Mapping[str, ReferenceDataPlane], sender: str, interface: str, tagged: bytes, steps: tuple[Step, ...]
) -> Trace:
    """The frame has left the sender in a VLAN: what the host does that policy places its destination at."""
    vlan, lookups = vlan_of(tagged), planes[sender].lookups
    subnet = lookups.segment(Wire(interface, vlan))
    place = None if subnet is None else lookups.mac_record(subnet.vsid, tagged[:6])
    if subnet is None or place is None:
        return Trace(steps, LeftForWire(sender, interface, vlan))
    pa = packet.address_text(place.pa)
    host = next((name for name, plane in planes.items() if plane.has_pa(pa)), None)
    there = None if host is None else planes[host].lookups.wire(subnet)
    if host is None or there is None:
        return Trace((*steps, Step(sender, f"policy places it at PA {pa}")), LeftForPa(sender, pa))
    return _arrived(planes, host, there.interface, tagged, steps)


def _arrived(
    planes: Mapping[str, ReferenceDataPlane], host: str, interface: str, frame: bytes, steps: tuple[Step, ...]
) -> Trace:
    result = planes[host].from_uplink(interface, frame)
    steps += tuple(Step(host, text) for text in result.steps)
    match result.verdict:
        case ToPort(to, delivered):
            return Trace(steps, Delivered(host, to, delivered))
        case Drop(reason):
            return Trace(steps, Dropped(host, reason))
        case ToStack():
            return Trace(steps, LeftToStack(host))
        case Copies(copies):
            return _all(planes, host, copies, steps)
        case Answer() | ToUnderlay() | ToWire() | ToAgent() | Announcing():
            raise TypeError("nothing goes back to the underlay")
        case _:
            assert_never(result.verdict)


def probe(
    plane: ReferenceDataPlane, port: str, to: str, protocol: Protocol = Protocol.ICMP, to_port: int | None = None
) -> bytes:
    """The frame that the port's guest would send first to reach ``to``, as guests do.

    For an address of its own subnet that nobody has, that is the ARP request or neighbour solicitation.
    """
    rows = plane.lookups
    me = rows.port(port)
    subnet = None if me is None else rows.subnets.get(me.vsid)
    if me is None or subnet is None:
        raise Missing(f"{port} is not on {plane.host}")
    destination = _unicast(to)
    version = 4 if len(destination) == 4 else 6
    source = _source(me, destination)
    body = _body(protocol, source, destination, to_port)
    on_link = any(prefix.covers(destination) for prefix in subnet.prefixes)
    router = not on_link or destination == subnet.gateway(version)
    location = rows.record(subnet.vsid, destination)
    if not router and location is None:
        if version == 4:
            return packet.arp_request(me.mac, source, destination)
        return packet.neighbour_solicitation(me.mac, source, destination)
    if router and packet.is_group(subnet.router_mac):  # a machine in the VLAN: the guest asks for it first
        gateway = next((each for each in _gateways(rows.rows["subnets", me.vsid]) if len(each) == len(source)), None)
        if gateway is None:
            raise Rejected(f"{port} has no gateway of the family of {to}", "to")
        ask = packet.arp_request if version == 4 else packet.neighbour_solicitation
        return ask(me.mac, source, gateway)
    mac = subnet.router_mac if router or location is None else location.mac
    return packet.ethernet(mac, me.mac, packet.ETH_IPV4 if version == 4 else packet.ETH_IPV6, body)


def _gateways(row: Row) -> list[bytes]:
    return [packet.address_bytes(gateway) for gateway in row.gateways] if isinstance(row, SubnetRow) else []


def _plane(planes: Mapping[str, ReferenceDataPlane], host: str) -> ReferenceDataPlane:
    try:
        return planes[host]
    except KeyError:
        raise Missing(f"there is no {host} among {', '.join(sorted(planes)) or 'no hosts at all'}") from None


def _unicast(to: str) -> bytes:
    try:
        address = ipaddress.ip_address(to)
    except ValueError:
        raise Rejected(f"{to!r} is not an IP address such as 10.0.1.5 or 2001:db8::5", "to") from None
    if address.is_multicast or address.is_unspecified or address.is_link_local or packet.is_mapped(address.packed):
        raise Rejected(f"{to} is not an address to trace to: give one machine's, such as 10.0.1.5", "to")
    return address.packed


def _source(port: BoundPort, destination: bytes) -> bytes:
    """The port's first CA of the destination's family."""
    source = next((ca for ca in port.cas if len(ca) == len(destination)), None)
    if source is None:
        raise Rejected(f"{port.name} has no address of the family of {packet.address_text(destination)}", "to")
    return source


def _body(protocol: Protocol, source: bytes, destination: bytes, to_port: int | None) -> bytes:
    """The IP packet of a probe."""
    number = DEFAULT_PORT if to_port is None else to_port
    if not 0 < number <= 0xFFFF:
        raise Rejected(f"port {number} is outside 1..65535", "port")
    ends = SOURCE_PORT.to_bytes(2, "big") + number.to_bytes(2, "big")
    build = packet.ipv4 if len(source) == 4 else packet.ipv6
    match protocol:
        case Protocol.ICMP:
            if len(source) == 4:
                return packet.ipv4(source, destination, packet.ICMP, packet.icmp(8, 0, bytes(4), b"weft trace"))
            echo = packet.icmpv6(source, destination, packet.ECHO_REQUEST6, 0, bytes(4), b"weft trace")
            return packet.ipv6(source, destination, packet.ICMPV6, echo)
        case Protocol.TCP:
            syn = ends + bytes(8) + b"\x50\x02\xff\xff" + bytes(4)
            check = packet.transport_checksum(source, destination, packet.TCP, syn)
            return build(source, destination, packet.TCP, syn[:16] + check.to_bytes(2, "big") + syn[18:])
        case Protocol.UDP:
            datagram = ends + b"\x00\x08\x00\x00"
            # RFC 768: a computed zero is sent as all ones.
            check = packet.transport_checksum(source, destination, packet.UDP, datagram) or 0xFFFF
            return build(source, destination, packet.UDP, datagram[:6] + check.to_bytes(2, "big"))
        case _:
            assert_never(protocol)
