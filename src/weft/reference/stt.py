"""STT frames, both ways (draft-davie-stt-08): datapath.md, STT. Joins no segments, and never asks which subnet it is.

What looks like TCP is none: the sequence number is the frame's length and the segment's place in it, the
acknowledgement number the frame's id. One frame is one segment here.
"""

from __future__ import annotations

from weft.policy.drop import DropReason
from weft.reference import packet

PORT = 7471
TCP_BYTES, STT_BYTES = 20, 18
HEADERS_BYTES = TCP_BYTES + STT_BYTES
#: A header of 5 words, ACK and PSH, the largest window.
FLAGS_WINDOW = bytes.fromhex("5018ffff")
#: Of the header's flags: the sum in the inner transport header is of the pseudo-header only; it is IPv4; it is TCP.
PARTIAL, IS_IPV4, IS_TCP = 0x02, 0x04, 0x08
TAG_PRESENT = 0x10  # the V bit, in the first byte behind the maximum segment size
SUM_AT = {True: 16, False: 6}  # in a TCP, in a UDP header
#: Where a checksum is, and the least header.
SUM_OF = {packet.TCP: (16, 20), packet.UDP: (6, 8)}


def around(source: bytes, pa: bytes, vsid: int, flow: int, frame: bytes) -> bytes:
    """What the outer IP header carries. source, pa: the outer addresses, of which TCP's checksum is made, too."""
    header = bytes(8) + vsid.to_bytes(8, "big") + bytes(2)
    body = header + frame
    head = (
        (0xC000 | flow >> 18).to_bytes(2, "big")
        + PORT.to_bytes(2, "big")
        + len(body).to_bytes(2, "big")
        + bytes(2)  # the segment is the frame's first, and only one
        + flow.to_bytes(4, "big")
        + FLAGS_WINDOW
    )
    total = packet.transport_checksum(source, pa, packet.TCP, head + bytes(4) + header + _as_if_right(frame))
    return head + total.to_bytes(2, "big") + bytes(2) + body


def _as_if_right(frame: bytes) -> bytes:
    """The frame with the right TCP or UDP checksum: one that is left to a network card is made after the outer one."""
    ip = packet.parse(frame)
    if not isinstance(ip, packet.Ip) or ip.fragment or ip.protocol not in SUM_OF:
        return frame
    sum_at, least_bytes = SUM_OF[ip.protocol]
    length, at = len(ip.payload), ip.payload_at + sum_at
    if length < least_bytes or (ip.protocol == packet.UDP and frame[at : at + 2] == bytes(2)):
        return frame
    bare = ip.payload[:sum_at] + bytes(2) + ip.payload[sum_at + 2 :]
    total = packet.transport_checksum(ip.source, ip.destination, ip.protocol, bare)
    return frame[:at] + total.to_bytes(2, "big") + frame[at + 2 :]


def read(source: bytes, pa: bytes, segment: bytes) -> tuple[int, bytes] | DropReason:
    """The context id and the inner frame of what an outer IP header carried, which is for our port."""
    if len(segment) < HEADERS_BYTES or segment[12] >> 4 != TCP_BYTES // 4:
        return DropReason.OUTER_MALFORMED
    length, place = int.from_bytes(segment[4:6], "big"), int.from_bytes(segment[6:8], "big")
    if place or length != len(segment) - TCP_BYTES:
        return DropReason.REASSEMBLY
    header, frame = segment[TCP_BYTES:HEADERS_BYTES], segment[HEADERS_BYTES:]
    if header[0]:  # version
        return DropReason.OUTER_MALFORMED
    if header[6] & TAG_PRESENT:
        return DropReason.VLAN_TAG
    if header[1] & PARTIAL:
        if packet.transport_checksum(source, pa, packet.TCP, segment) not in (0, 0xFFFF):
            return DropReason.OUTER_MALFORMED  # nothing else speaks for the bytes
        finished = _finished(frame, header[2], SUM_AT[bool(header[1] & IS_TCP)])
        if finished is None:
            return DropReason.OUTER_MALFORMED
        frame = finished
    return int.from_bytes(header[8:16], "big"), frame


def _finished(frame: bytes, transport_at: int, sum_at: int) -> bytes | None:
    """The frame with its transport checksum, which the sender left to its network card; None: there is none."""
    if transport_at < packet.ETHERNET_BYTES or transport_at + sum_at + 2 > len(frame):
        return None
    total = packet.checksum(frame[transport_at:])
    # RFC 768: a sum of zero is sent as ones in UDP, where zero means that there is none. TCP takes either.
    at = transport_at + sum_at
    return frame[:at] + (total or 0xFFFF).to_bytes(2, "big") + frame[at + 2 :]
