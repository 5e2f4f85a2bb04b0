"""Who listens to which multicast group: what guests report (IGMP, MLD), what they are asked, and until when it counts.

Pure: the time comes in by argument, and frames go out as bytes. Sources are not told apart.
RFC 2236, RFC 3376, RFC 2710, RFC 3810; how a switch that snoops goes about it: RFC 4541.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from weft.policy.rows import Subnet
from weft.policy.upcall import UpcallKind
from weft.reference import packet

#: RFC 3376 section 8: what a querier asks, how long an answer may take, and how long one holds.
QUERY_S, RESPONSE_S = 125.0, 10.0
MEMBER_S = 2 * QUERY_S + RESPONSE_S
#: RFC 3376 section 8.8: how long who else is there may take to say so when one has left.
LAST_MEMBER_S = 2.0
STARTUP_S, STARTUP_QUERIES = QUERY_S / 4, 2

#: Groups of one port; a guest that asks for more is not heard.
MOST_GROUPS = 256

IGMP_QUERY, IGMP_V1_REPORT, IGMP_V2_REPORT, IGMP_LEAVE, IGMP_V3_REPORT = 0x11, 0x12, 0x16, 0x17, 0x22
MLD_QUERY, MLD_REPORT, MLD_DONE, MLD_V2_REPORT = 130, 131, 132, 143
#: Types of a group record (RFC 3376 section 4.2.12, RFC 3810 section 5.2.12).
IS_INCLUDE, IS_EXCLUDE, TO_INCLUDE, TO_EXCLUDE, ALLOW = 1, 2, 3, 4, 5

ROUTER_ALERT4 = b"\x94\x04\x00\x00"  # RFC 2113
ROUTER_ALERT6 = b"\x3a\x00\x05\x02\x00\x00\x01\x00"  # hop-by-hop, then ICMPv6: RFC 2711
ALL4, ALL6 = b"\xe0\x00\x00\x01", ipaddress.ip_address("ff02::1").packed
IGMP, HOP_BY_HOP = 2, 0


@dataclass(frozen=True, slots=True)
class Joined:
    group: bytes


@dataclass(frozen=True, slots=True)
class Left:
    group: bytes


@dataclass(frozen=True, slots=True)
class Routes:
    """A multicast router speaks, who has to hear every group. group: all zero, of its IP version's length."""

    group: bytes


Report: TypeAlias = Joined | Left | Routes


def reports(kind: UpcallKind, frame: bytes) -> Iterator[Report]:
    """What a guest's frame says; nothing when it is no report, or is damaged. Groups of one link are passed over."""
    parsed = packet.parse(frame)
    if not isinstance(parsed, packet.Ip):
        return
    read = _igmp if kind is UpcallKind.IGMP else _mld
    yield from (each for each in read(parsed) if isinstance(each, Routes) or _may_ask_for(each.group))


def _may_ask_for(group: bytes) -> bool:
    if len(group) == 4:
        return 224 <= group[0] <= 239 and group[:3] != b"\xe0\x00\x00"
    return group[0] == 0xFF and group[1] & 15 > 2


def _igmp(ip: packet.Ip) -> Iterator[Report]:
    message = ip.payload
    if len(message) < 8 or packet.checksum(message) != 0:
        return
    match message[0]:
        # RFC 4541 section 2.1.1: what comes from 0.0.0.0 is a switch's that asks in a router's place.
        case 0x11 if any(ip.source):
            yield Routes(bytes(4))
        case 0x12 | 0x16:
            yield Joined(message[4:8])
        case 0x17:
            yield Left(message[4:8])
        case 0x22:
            yield from _records(message, 4)


def _mld(ip: packet.Ip) -> Iterator[Report]:
    message = ip.payload[len(ROUTER_ALERT6) :]
    # RFC 3810 section 5: from a link-local address, with hop limit 1; what is not is no MLD.
    if len(message) < 8 or ip.hop_limit != 1 or packet.transport_checksum(
        ip.source, ip.destination, packet.ICMPV6, message
    ) not in (0, 0xFFFF):  # fmt: skip
        return
    match message[0]:
        case 130 if len(message) >= 24:
            yield Routes(bytes(16))
        case 131 if len(message) >= 24:
            yield Joined(message[8:24])
        case 132 if len(message) >= 24:
            yield Left(message[8:24])
        case 143:
            yield from _records(message, 16)


def _records(message: bytes, address_bytes: int) -> Iterator[Report]:
    """Group records: eight bytes into the message, one after the other."""
    at = 8
    for _ in range(int.from_bytes(message[6:8], "big")):
        head = message[at : at + 4 + address_bytes]
        if len(head) < 4 + address_bytes:
            return
        sources = int.from_bytes(head[2:4], "big")
        group = head[4:]
        match head[0]:
            case 2 | 4:
                yield Joined(group)
            case 1 | 3 | 5 if sources:
                yield Joined(group)
            case 1 | 3:
                yield Left(group)
        at += 4 + address_bytes + sources * address_bytes + head[1] * 4


def queries(subnet: Subnet, group: bytes | None = None) -> Iterator[bytes]:
    """The frames that ask a guest what it listens to, in each of the subnet's families; group: to that one only."""
    router = packet.mac_bytes(subnet.router_mac)
    for gateway in map(packet.address_bytes, subnet.gateways):
        if group is None or len(group) == len(gateway):
            yield _query4(router, gateway, group) if len(gateway) == 4 else _query6(router, group)


def _query4(router: bytes, gateway: bytes, group: bytes | None) -> bytes:
    tenths = int((LAST_MEMBER_S / 2 if group else RESPONSE_S) * 10)
    body = bytes((IGMP_QUERY, tenths, 0, 0)) + (group or bytes(4)) + bytes((2, int(QUERY_S), 0, 0))
    body = body[:2] + packet.checksum(body).to_bytes(2, "big") + body[4:]
    to = group or ALL4
    head = bytes((0x46, 0xC0)) + (24 + len(body)).to_bytes(2, "big") + b"\0\0\x40\0" + bytes((1, IGMP)) + b"\0\0"
    head += gateway + to + ROUTER_ALERT4
    head = head[:10] + packet.checksum(head).to_bytes(2, "big") + head[12:]
    mac = b"\x01\x00\x5e" + bytes((to[1] & 127,)) + to[2:]
    return packet.ethernet(mac, router, packet.ETH_IPV4, head + body)


def _query6(router: bytes, group: bytes | None) -> bytes:
    source, to = packet.link_local(router), group or ALL6
    milliseconds = int((LAST_MEMBER_S / 2 if group else RESPONSE_S) * 1000)
    rest = milliseconds.to_bytes(2, "big") + b"\0\0"
    body = (group or bytes(16)) + bytes((2, int(QUERY_S), 0, 0))
    message = packet.icmpv6(source, to, MLD_QUERY, 0, rest, body)
    whole = packet.ipv6(source, to, HOP_BY_HOP, ROUTER_ALERT6 + message, hop_limit=1)
    return packet.ethernet(b"\x33\x33" + to[12:], router, packet.ETH_IPV6, whole)


@dataclass(slots=True)
class Members:
    """Ports, their groups, and when each is over. Every change says whether the data plane is to hear of it."""

    until_s: dict[str, dict[bytes, float]] = field(default_factory=dict)
    #: Groups that a guest has left, and until when nobody is asked for them once more: no more than groups.
    asked_until_s: dict[str, dict[bytes, float]] = field(default_factory=dict)

    def hear(self, port: str, report: Report, now_s: float) -> bool:
        """What a guest says. A group that is left is over soon, unless somebody behind the port asks for it again."""
        groups = self.until_s.setdefault(port, {})
        match report:
            case Joined(group) | Routes(group):
                fresh = group not in groups
                if fresh and len(groups) >= MOST_GROUPS:
                    return False
                groups[group] = now_s + MEMBER_S
                return fresh
            case Left(group):
                self.leave(port, group, now_s)
                return False

    def leave(self, port: str, group: bytes, now_s: float) -> bool:
        """A guest leaves a group: whether its port is to be asked if somebody else is there. It is over soon, if so.

        Only for a group that the port has, and once in LAST_MEMBER_S; who comes again meanwhile is kept: he would not
        be asked. A report names hundreds of groups, and each query is work for the whole host.
        """
        groups = self.until_s.get(port, {})
        asked = self.asked_until_s.setdefault(port, {})
        if group not in groups or asked.get(group, now_s) > now_s:
            return False
        groups[group] = min(groups[group], now_s + LAST_MEMBER_S)
        asked[group] = now_s + LAST_MEMBER_S
        return True

    def adopt(self, programmed: Mapping[str, Collection[str]], now_s: float) -> None:
        """What a former agent has left: it holds until its guests have had the time to say it again."""
        for port, texts in programmed.items():
            groups = self.until_s.setdefault(port, {})
            for group in map(packet.address_bytes, texts):
                groups.setdefault(group, now_s + MEMBER_S)

    def keep(self, ports: Collection[str]) -> bool:
        """Only these are there any more."""
        gone = [port for port in self.until_s if port not in ports]
        for port in gone:
            del self.until_s[port]
            self.asked_until_s.pop(port, None)
        return bool(gone)

    def expire(self, now_s: float) -> bool:
        """What nobody has said again in time."""
        over = [(port, group) for port, groups in self.until_s.items() for group, at in groups.items() if at <= now_s]
        for port, group in over:
            del self.until_s[port][group]
        self.asked_until_s = {
            port: left
            for port, asked in self.asked_until_s.items()
            if (left := {group: at for group, at in asked.items() if at > now_s})
        }
        return bool(over)

    def next_s(self) -> float | None:
        """When something is over."""
        return min((at for groups in self.until_s.values() for at in groups.values()), default=None)

    def listeners(self) -> dict[str, frozenset[str]]:
        """As the data plane is told of it."""
        return {port: frozenset(map(packet.address_text, groups)) for port, groups in self.until_s.items() if groups}
