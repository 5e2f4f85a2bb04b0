"""NVGRE, both ways (RFC 7637): datapath.md, From the uplink and NVGRE on the wire. Never chooses where to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from weft.policy.drop import DropReason
from weft.reference import packet
from weft.reference.lookups import VSID_FIRST, VSID_LAST, Host


@dataclass(frozen=True, slots=True)
class Tunnelled:
    """An NVGRE packet for one of this host's PAs, sound up to the inner frame."""

    source: bytes
    vsid: int
    flow: int
    ecn: int
    inner: bytes


@dataclass(frozen=True, slots=True)
class NotOurs:
    """For the host's own stack."""


@dataclass(frozen=True, slots=True)
class Bad:
    """Taken, and dropped."""

    reason: DropReason


Outer: TypeAlias = Tunnelled | NotOurs | Bad

NOT_OURS = NotOurs()


def encapsulate(source: bytes, pa: bytes, vsid: int, frame: bytes, dscp: int | None = 0) -> tuple[bytes, int]:
    """The outer packet from its IP header on, and the FlowID in it. frame: a sound IP frame; dscp None: as inside."""
    ip = packet.parse(frame)
    if not isinstance(ip, packet.Ip):
        raise TypeError("only IP frames that were parsed before are encapsulated")
    flow = packet.flow_id(ip)
    payload = packet.nvgre(vsid, flow, frame)
    tos = (ip.dscp if dscp is None else dscp) << 2 | ip.ecn
    if len(pa) == 4:
        return packet.ipv4(source, pa, packet.GRE, payload, tos=tos), flow
    return packet.ipv6(source, pa, packet.GRE, payload, tclass=tos), flow


def take(host: Host, frame: bytes) -> Outer:
    """What a frame from the uplink is."""
    ethertype = frame[12:14]
    if ethertype == b"\x08\x00":
        return _take4(host, frame)
    if ethertype == b"\x86\xdd":
        return _take6(host, frame)
    return NOT_OURS


def _take4(host: Host, frame: bytes) -> Outer:
    head = frame[packet.ETHERNET_BYTES : packet.ETHERNET_BYTES + packet.IPV4_BYTES]
    if len(head) < packet.IPV4_BYTES or head[0] >> 4 != 4 or head[0] & 15 < 5:
        return NOT_OURS
    gre = frame[packet.ETHERNET_BYTES + (head[0] & 15) * 4 :]
    if head[16:20] not in host.pas or head[9] != packet.GRE or not _is_nvgre(gre):
        return NOT_OURS
    total = int.from_bytes(head[2:4], "big")
    if (
        head[0] & 15 != 5
        or not packet.IPV4_BYTES + packet.GRE_BYTES <= total <= len(frame) - packet.ETHERNET_BYTES
        or packet.checksum(head) != 0
    ):
        return Bad(DropReason.OUTER_MALFORMED)
    if int.from_bytes(head[6:8], "big") & 0x3FFF:
        return Bad(DropReason.OUTER_FRAGMENT)
    return _tunnelled(head[12:16], head[1] & 3, gre[: total - packet.IPV4_BYTES])


def _take6(host: Host, frame: bytes) -> Outer:
    head = frame[packet.ETHERNET_BYTES : packet.ETHERNET_BYTES + packet.IPV6_BYTES]
    if len(head) < packet.IPV6_BYTES or head[0] >> 4 != 6:
        return NOT_OURS
    gre = frame[packet.ETHERNET_BYTES + packet.IPV6_BYTES :]
    if head[24:40] not in host.pas or head[6] != packet.GRE or not _is_nvgre(gre):
        return NOT_OURS
    length = int.from_bytes(head[4:6], "big")
    if not packet.GRE_BYTES <= length <= len(gre):
        return Bad(DropReason.OUTER_MALFORMED)
    return _tunnelled(head[8:24], head[1] >> 4 & 3, gre[:length])


def _is_nvgre(gre: bytes) -> bool:
    return len(gre) >= packet.GRE_BYTES and gre[:4] == packet.NVGRE_WORD


def _tunnelled(source: bytes, ecn: int, gre: bytes) -> Outer:
    vsid = int.from_bytes(gre[4:7], "big")
    if not VSID_FIRST <= vsid <= VSID_LAST:
        return Bad(DropReason.RESERVED_VSID)
    return Tunnelled(source, vsid, gre[7], ecn, gre[packet.GRE_BYTES :])
