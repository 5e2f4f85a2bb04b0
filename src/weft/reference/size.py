"""What fits, and TCP's maximum segment size: datapath.md, Size. Never fragments."""

from __future__ import annotations

from weft.model.features import Rule, overhead_bytes
from weft.reference import packet
from weft.reference.lookups import Host, Location, Subnet, Way
from weft.reference.packet import Ip

#: IP and TCP header without options.
HEADERS_BYTES = {4: 40, 6: 60}

TCP_BYTES, TCP_CHECKSUM_AT, SYN = 20, 16, 2
OPTION_END, OPTION_NOTHING, OPTION_MSS, MSS_BYTES = 0, 1, 2, 4
MAX_OPTIONS = 10


def limit(host: Host, target: Subnet, location: Location, way: Way | None) -> int | None:
    """The largest L3 length that reaches the location by this way; None: nothing limits it."""
    limits = []
    overhead = overhead_bytes(location.rule, 4 if len(location.pa) == 4 else 6)
    if target.mtu_bytes:
        limits.append(target.mtu_bytes)
    if location.pa not in host.pas and host.mtu_bytes is not None:
        by_itself = way is None or not way.mtu_bytes or location.rule is Rule.VLAN
        outer = host.mtu_bytes if way is None or by_itself else min(host.mtu_bytes, way.mtu_bytes)
        limits.append(outer - overhead)
    return min(limits, default=None)


def clamped(ip: Ip, limit_bytes: int | None) -> bytes:
    """The frame, a SYN's MSS no larger than what fits."""
    mss = 0 if limit_bytes is None else limit_bytes - HEADERS_BYTES[ip.version]
    segment = ip.payload
    if mss <= 0 or ip.protocol != packet.TCP or ip.fragment or len(segment) < TCP_BYTES:
        return ip.frame
    header_bytes = (segment[12] >> 4) * 4
    if not segment[13] & SYN or not TCP_BYTES <= header_bytes <= len(segment):
        return ip.frame
    at = _mss_at(segment[:header_bytes])
    if at is None or int.from_bytes(segment[at : at + 2], "big") <= mss:
        return ip.frame
    return _with_mss(ip, at, mss)


def _mss_at(header: bytes) -> int | None:
    """Where in the header the MSS is; None when there is none or the options are broken before it."""
    at = TCP_BYTES
    for _ in range(MAX_OPTIONS):
        if at >= len(header) or header[at] == OPTION_END:
            return None
        if header[at] == OPTION_NOTHING:
            at += 1
            continue
        length = header[at + 1] if at + 1 < len(header) else 0
        if length < 2 or at + length > len(header):
            return None
        if header[at] == OPTION_MSS:
            return at + 2 if length == MSS_BYTES else None
        at += length
    return None


def _with_mss(ip: Ip, at: int, mss: int) -> bytes:
    """The frame with the MSS at ``at`` of its segment set; at an odd offset that lies across two checksummed words."""
    start = ip.payload_at
    checksum_at = start + TCP_CHECKSUM_AT
    value = mss.to_bytes(2, "big")
    if at % 2 == 0:
        return packet.with_word(ip.frame, start + at, checksum_at, mss)
    first, last = start + at - 1, start + at + 1
    frame = packet.with_word(ip.frame, first, checksum_at, ip.frame[first] << 8 | value[0])
    return packet.with_word(frame, last, checksum_at, value[1] << 8 | frame[last + 1])
