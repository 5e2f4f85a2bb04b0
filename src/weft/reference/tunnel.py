"""Encapsulations, both ways: datapath.md, From the uplink and On the wire. Never chooses where to.

NVGRE is RFC 7637, GRE with a key RFC 2890, VXLAN RFC 7348, Geneve RFC 8926; STT is
next door.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, assert_never

from weft.policy.drop import DropReason
from weft.policy.rows import Rule
from weft.reference import packet, stt
from weft.reference.lookups import VSID_FIRST, VSID_LAST, Host, Subnet

UDP_BYTES = 8
VXLAN_PORT, GENEVE_PORT = 4789, 6081
VXLAN_BYTES, GENEVE_BYTES = 8, 8
VXLAN_VNI_GIVEN = 0x08
GENEVE_VERSION, GENEVE_OPTIONS = 0xC0, 0x3F
GENEVE_CONTROL, GENEVE_CRITICAL = 0x80, 0x40
ETHERNET_INSIDE = b"\x65\x58"  # Transparent Ethernet Bridging

_GRE_RULES = frozenset({Rule.NVGRE, Rule.GRE})
_UDP_RULES: Mapping[int, Rule] = {VXLAN_PORT: Rule.VXLAN, GENEVE_PORT: Rule.GENEVE}


@dataclass(frozen=True, slots=True)
class Tunnelled:
    """A packet for one of this host's PAs, sound up to the inner frame."""

    source: bytes
    rule: Rule
    vsid: int
    ecn: int
    inner: bytes
    group: bytes | None = None  #: of the underlay, that it came to


@dataclass(frozen=True, slots=True)
class NotOurs:
    """For the host's own stack."""


@dataclass(frozen=True, slots=True)
class Bad:
    """Taken, and dropped."""

    reason: DropReason


Outer: TypeAlias = Tunnelled | NotOurs | Bad

#: What is said of the outer headers' payload, by its own header: the rule, the VSID, the inner frame.
_Said: TypeAlias = tuple[Rule, int, bytes] | DropReason

NOT_OURS = NotOurs()
MALFORMED = DropReason.OUTER_MALFORMED


def encapsulate(source: bytes, pa: bytes, rule: Rule, vsid: int, frame: bytes, dscp: int | None = 0) -> bytes:
    """The outer packet from its IP header on. frame: a sound IP frame; dscp None: as inside."""
    ip = packet.parse(frame)
    if not isinstance(ip, packet.Ip):
        raise TypeError("only IP frames that were parsed before are encapsulated")
    tos = (ip.dscp if dscp is None else dscp) << 2 | ip.ecn
    protocol, payload = _around(source, pa, rule, vsid, packet.flow_hash(ip), frame)
    if len(pa) == 4:
        return packet.ipv4(source, pa, protocol, payload, tos=tos)
    return packet.ipv6(source, pa, protocol, payload, tclass=tos)


def _around(source: bytes, pa: bytes, rule: Rule, vsid: int, flow: int, frame: bytes) -> tuple[int, bytes]:
    """The outer IP protocol, and what it carries."""
    vni = vsid.to_bytes(3, "big") + b"\0"
    match rule:
        case Rule.NVGRE:
            return packet.GRE, packet.GRE_WORD + (vsid << 8 | flow >> 24).to_bytes(4, "big") + frame
        case Rule.GRE:
            return packet.GRE, packet.GRE_WORD + vsid.to_bytes(4, "big") + frame
        case Rule.VXLAN:
            return packet.UDP, _datagram(flow, VXLAN_PORT, bytes((VXLAN_VNI_GIVEN, 0, 0, 0)) + vni + frame)
        case Rule.GENEVE:
            return packet.UDP, _datagram(flow, GENEVE_PORT, b"\0\0" + ETHERNET_INSIDE + vni + frame)
        case Rule.STT:
            return packet.TCP, stt.around(source, pa, vsid, flow, frame)
        case Rule.REWRITE | Rule.VLAN:
            raise TypeError(f"what travels by {rule} is not encapsulated")
        case _:
            assert_never(rule)


def _datagram(flow: int, port: int, payload: bytes) -> bytes:
    """From a port of the flow's own, without a checksum: RFC 7348 5, RFC 8926 3.3, RFC 6935."""
    source = 0xC000 | flow >> 18
    head = (source, port, UDP_BYTES + len(payload), 0)
    return b"".join(word.to_bytes(2, "big") for word in head) + payload


def take(
    host: Host, subnets: Mapping[int, Subnet], accepts: Collection[Rule], groups: Collection[bytes], frame: bytes
) -> Outer:
    """What a frame from the uplink is. accepts, groups: of all subnets here, and of those with ports."""
    ethertype = frame[12:14]
    read = Reading(host, subnets, accepts, groups)
    if ethertype == b"\x08\x00":
        return _take4(read, frame)
    if ethertype == b"\x86\xdd":
        return _take6(read, frame)
    return NOT_OURS


@dataclass(frozen=True, slots=True)
class Reading:
    """How to read what is behind an outer IP header."""

    host: Host
    subnets: Mapping[int, Subnet]
    accepts: Collection[Rule]
    groups: Collection[bytes]

    def is_here(self, destination: bytes) -> bool:
        """Whether it is a PA of this host, or a group of the underlay that a subnet with ports here has."""
        return destination in self.host.pas or destination in self.groups

    def of(self, protocol: int, payload: bytes, source: bytes, pa: bytes) -> Callable[[bytes], _Said] | None:
        """Who reads such a payload; None: it is not ours. Looks at no more than its first 8 bytes."""
        if len(payload) < 8:
            return None
        if protocol == packet.GRE:
            return self._gre if payload[:4] == packet.GRE_WORD and not _GRE_RULES.isdisjoint(self.accepts) else None
        if protocol == packet.UDP:
            match _UDP_RULES.get(int.from_bytes(payload[2:4], "big")):
                case Rule.VXLAN if Rule.VXLAN in self.accepts:
                    return self._vxlan
                case Rule.GENEVE if Rule.GENEVE in self.accepts:
                    return self._geneve
        if protocol == packet.TCP and payload[2:4] == stt.PORT.to_bytes(2, "big") and Rule.STT in self.accepts:
            return partial(_stt, source, pa)
        return None

    def _gre(self, gre: bytes) -> _Said:
        """NVGRE's key is a VSID and a FlowID, GRE's a VSID: which it is, the subnet that takes it says."""
        key, frame = int.from_bytes(gre[4:8], "big"), gre[packet.GRE_BYTES :]
        readings = ((Rule.NVGRE, key >> 8), (Rule.GRE, key))
        for rule, vsid in readings:
            subnet = self.subnets.get(vsid)
            if subnet is not None and rule in subnet.accepts:
                return rule, vsid, frame
        rule, vsid = readings[0 if Rule.NVGRE in self.accepts else 1]
        return rule, vsid, frame

    def _vxlan(self, datagram: bytes) -> _Said:
        payload = _udp_payload(datagram)
        if payload is None or len(payload) < VXLAN_BYTES or not payload[0] & VXLAN_VNI_GIVEN:
            return MALFORMED
        return Rule.VXLAN, int.from_bytes(payload[4:7], "big"), payload[VXLAN_BYTES:]

    def _geneve(self, datagram: bytes) -> _Said:
        payload = _udp_payload(datagram)
        if payload is None or len(payload) < GENEVE_BYTES:
            return MALFORMED
        behind = GENEVE_BYTES + (payload[0] & GENEVE_OPTIONS) * 4
        ethernet = payload[2:4] == ETHERNET_INSIDE
        if payload[0] & GENEVE_VERSION or not ethernet or payload[1] & GENEVE_CONTROL or behind > len(payload):
            return MALFORMED
        if payload[1] & GENEVE_CRITICAL:
            return DropReason.CRITICAL_OPTION
        return Rule.GENEVE, int.from_bytes(payload[4:7], "big"), payload[behind:]


def _stt(source: bytes, pa: bytes, segment: bytes) -> _Said:
    said = stt.read(source, pa, segment)
    return said if isinstance(said, DropReason) else (Rule.STT, *said)


def _udp_payload(datagram: bytes) -> bytes | None:
    length = int.from_bytes(datagram[4:6], "big")
    return datagram[UDP_BYTES:length] if UDP_BYTES <= length <= len(datagram) else None


def _take4(read: Reading, frame: bytes) -> Outer:
    head = frame[packet.ETHERNET_BYTES : packet.ETHERNET_BYTES + packet.IPV4_BYTES]
    if len(head) < packet.IPV4_BYTES or head[0] >> 4 != 4 or head[0] & 15 < 5:
        return NOT_OURS
    fragment = int.from_bytes(head[6:8], "big")
    behind = frame[packet.ETHERNET_BYTES + (head[0] & 15) * 4 :]
    # A later fragment begins with no header of anybody's.
    reader = None if fragment & 0x1FFF else read.of(head[9], behind, head[12:16], head[16:20])
    if reader is None or not read.is_here(head[16:20]):
        return NOT_OURS
    total = int.from_bytes(head[2:4], "big")
    if (
        head[0] & 15 != 5
        or not packet.IPV4_BYTES + 8 <= total <= len(frame) - packet.ETHERNET_BYTES
        or packet.checksum(head) != 0
    ):
        return Bad(MALFORMED)
    if fragment & 0x2000:
        return Bad(DropReason.OUTER_FRAGMENT)
    return _tunnelled(head[12:16], head[16:20], head[1] & 3, reader(behind[: total - packet.IPV4_BYTES]))


def _take6(read: Reading, frame: bytes) -> Outer:
    head = frame[packet.ETHERNET_BYTES : packet.ETHERNET_BYTES + packet.IPV6_BYTES]
    if len(head) < packet.IPV6_BYTES or head[0] >> 4 != 6:
        return NOT_OURS
    behind = frame[packet.ETHERNET_BYTES + packet.IPV6_BYTES :]
    reader = read.of(head[6], behind, head[8:24], head[24:40])
    if reader is None or not read.is_here(head[24:40]):
        return NOT_OURS
    length = int.from_bytes(head[4:6], "big")
    if not 8 <= length <= len(behind):
        return Bad(MALFORMED)
    return _tunnelled(head[8:24], head[24:40], head[1] >> 4 & 3, reader(behind[:length]))


def _tunnelled(source: bytes, destination: bytes, ecn: int, said: _Said) -> Outer:
    if isinstance(said, DropReason):
        return Bad(said)
    rule, vsid, inner = said
    if not VSID_FIRST <= vsid <= VSID_LAST:
        return Bad(DropReason.RESERVED_VSID)
    return Tunnelled(source, rule, vsid, ecn, inner, destination if packet.is_multicast(destination) else None)
