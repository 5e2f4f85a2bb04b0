"""What the connection tracker reads of a packet. Judges nothing: who may talk to whom is not asked here.

A packet is of the protocol that whoever gets it finds: behind IPv6's extension headers, in fragments and out of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from weft.reference import packet, tcp
from weft.reference.packet import ICMP, ICMPV6, TCP, UDP, Ip

DCCP, SCTP, UDP_LITE = 33, 132, 136
#: Whose first four bytes are two ports, and nothing else of them counts.
DATAGRAMS = frozenset({UDP, DCCP, UDP_LITE})
TCP_BYTES, UDP_BYTES, SCTP_BYTES, ICMP_BYTES = 20, 8, 16, 8
#: ICMP queries: what asks -> what answers (RFC 792, 950, 4443).
QUERIES = {4: {8: 0, 13: 14, 15: 16, 17: 18}, 6: {128: 129}}
ANSWERS = {version: {answer: query for query, answer in of.items()} for version, of in QUERIES.items()}
#: Those that tell of a packet, and quote it: unreachable, too big, time exceeded, parameter problem.
ERRORS = {4: frozenset({3, 11, 12}), 6: frozenset({1, 2, 3, 4})}
MOST_DATAGRAM_BYTES = 65_535
#: Headers of IPv6 that whoever gets them reads on behind: hop-by-hop options, routing, destination options.
EXTENSIONS = frozenset({0, 43, 60})
MOST_EXTENSIONS = 8
#: SCTP's first kind of chunk; of a quoted packet the kind is not known.
DATA = 0


class Kind(Enum):
    """What a packet is to the tracker."""

    TCP = 0
    UDP = 1
    SCTP = 2
    QUERY = 3  # asks, in ICMP
    ANSWER = 4
    ERROR = 5  # of a packet, which it quotes
    MESSAGE = 6  # any other ICMP: it belongs to nothing
    OTHER = 7  # of another protocol
    LATER = 8  # a fragment that has no transport header


@dataclass(frozen=True, slots=True)
class Piece:
    """What a fragment is of its datagram, in bytes behind the header that all have. carries: what that header names."""

    carries: int
    identity: int
    begin: int
    end: int
    last: bool


@dataclass(frozen=True, slots=True)
class Chunk:
    """The first chunk of an SCTP packet (RFC 9260). initiate: the tag that an INIT or its acknowledgement asks for."""

    kind: int
    tag: int
    initiate: int = 0


@dataclass(frozen=True, slots=True)
class Flow:
    """Who talks to whom, and what of it counts. ports: source's and destination's; of ICMP identifier and type."""

    kind: Kind
    protocol: int
    source: bytes
    destination: bytes
    ports: tuple[int, int] = (0, 0)
    code: int = 0  # of ICMP
    segment: tcp.Segment | None = None
    chunk: Chunk | None = None
    piece: Piece | None = None
    quoted: Flow | None = None  # in an error; its segment has a number only, its chunk a tag
    text: bytes = b""  # of a TCP segment that is no fragment: behind its header


def read(ip: Ip) -> Flow | None:
    """The packet's flow; None: its headers are none that a connection could have."""
    protocol, at, piece = ip.protocol, ip.header_bytes, None
    offset, more, identity = 0, False, 0
    if ip.version == 4:
        word = int.from_bytes(ip.frame[20:22], "big")
        offset, more, identity = (word & 0x1FFF) * 8, bool(word & 0x2000), int.from_bytes(ip.frame[18:20], "big")
    else:
        behind = behind_extensions(ip.packet, protocol, at)
        if behind is None:
            return None
        protocol, at = behind
        if protocol == packet.IPV6_FRAGMENT:
            header = ip.packet[at : at + 8]
            if len(header) < 8:
                return None
            protocol, at = header[0], at + 8
            word = int.from_bytes(header[2:4], "big")
            offset, more, identity = word & 0xFFF8, bool(word & 1), int.from_bytes(header[4:8], "big")
    if offset or more:
        length = ip.ip_length - at
        if length < 1 or (more and length % 8) or offset + length > MOST_DATAGRAM_BYTES:
            return None
        piece = Piece(protocol, identity, offset, offset + length, not more)
        if offset:
            return Flow(Kind.LATER, protocol, ip.source, ip.destination, piece=piece)
    if ip.version == 6:
        behind = behind_extensions(ip.packet, protocol, at)
        if behind is None or behind[0] == packet.IPV6_FRAGMENT:  # a fragment in a fragment is nobody's to send
            return None
        protocol, at = behind
    return _transport(ip.version, protocol, ip.source, ip.destination, ip.packet[at:], piece)


def behind_extensions(body: bytes, protocol: int, at: int) -> tuple[int, int] | None:
    """The protocol, and where it begins; None: a header is not whole, or there are too many."""
    for _ in range(MOST_EXTENSIONS):
        if protocol not in EXTENSIONS:
            break
        if len(body) < at + 8:
            return None
        protocol, at = body[at], at + (body[at + 1] + 1) * 8
        if len(body) < at:
            return None
    return None if protocol in EXTENSIONS else (protocol, at)


def _transport(
    version: int, protocol: int, source: bytes, destination: bytes, body: bytes, piece: Piece | None
) -> Flow | None:
    def flow(kind: Kind, ports: tuple[int, int] = (0, 0), **more: object) -> Flow:
        return Flow(kind, protocol, source, destination, ports, piece=piece, **more)  # type: ignore[arg-type]

    if protocol == TCP:
        segment = _segment(body)
        if segment is None:
            return None
        text = b"" if piece is not None else body[len(body) - segment.data_bytes :]
        return flow(Kind.TCP, _ports(body), segment=segment, text=text)
    if protocol in DATAGRAMS:
        return flow(Kind.UDP, _ports(body)) if len(body) >= UDP_BYTES else None
    if protocol == SCTP:
        chunk = _chunk(body)
        return None if chunk is None else flow(Kind.SCTP, _ports(body), chunk=chunk)
    if protocol != (ICMP if version == 4 else ICMPV6):
        return flow(Kind.OTHER)
    if len(body) < ICMP_BYTES:
        return None
    kind, code = body[:2]
    identifier = int.from_bytes(body[4:6], "big")
    if kind in QUERIES[version]:
        return flow(Kind.QUERY, (identifier, kind), code=code)
    if kind in ANSWERS[version]:
        return flow(Kind.ANSWER, (identifier, ANSWERS[version][kind]), code=code)
    if kind in ERRORS[version]:
        quoted = _quoted(version, body[ICMP_BYTES:])
        # Whose packet it was is told of it, and nobody else: what is quoted is no way to say anything to anybody.
        return flow(
            Kind.ERROR, (0, kind), code=code, quoted=quoted if quoted and quoted.source == destination else None
        )
    return flow(Kind.MESSAGE, (0, kind), code=code)


def _ports(body: bytes) -> tuple[int, int]:
    return int.from_bytes(body[:2], "big"), int.from_bytes(body[2:4], "big")


def _segment(body: bytes) -> tcp.Segment | None:
    if len(body) < TCP_BYTES:
        return None
    header_bytes = (body[12] >> 4) * 4
    flags = body[13]
    if not TCP_BYTES <= header_bytes <= len(body) or not tcp.sound(flags):
        return None
    return tcp.Segment(
        int.from_bytes(body[4:8], "big"),
        int.from_bytes(body[8:12], "big"),
        flags & (tcp.FIN | tcp.SYN | tcp.RST | tcp.ACK),
        int.from_bytes(body[14:16], "big"),
        len(body) - header_bytes,
        _scale(body[TCP_BYTES:header_bytes]) if flags & tcp.SYN else tcp.NO_SCALE,
    )


def _scale(options: bytes) -> int:
    """The window scale (RFC 7323 section 2.2), among the first ten options; NO_SCALE: there is none."""
    at = 0
    for _ in range(10):
        if at >= len(options) or options[at] == 0:
            break
        if options[at] == 1:
            at += 1
            continue
        if at + 2 > len(options) or options[at + 1] < 2 or at + options[at + 1] > len(options):
            break
        if options[at] == 3 and options[at + 1] == 3:
            return min(options[at + 2], tcp.MOST_SCALE)
        at += options[at + 1]
    return tcp.NO_SCALE


def _chunk(body: bytes) -> Chunk | None:
    if len(body) < SCTP_BYTES:
        return None
    kind, tag = body[12], int.from_bytes(body[4:8], "big")
    if kind not in (1, 2):
        return Chunk(kind, tag)
    return Chunk(kind, tag, int.from_bytes(body[16:20], "big")) if len(body) >= SCTP_BYTES + 4 else None


def _quoted(version: int, body: bytes) -> Flow | None:
    """Whose packet an error is of; None: not to be told. Read is what is quoted for sure: 8 bytes behind the header."""
    if version == 4:
        if len(body) < packet.IPV4_BYTES or body[0] >> 4 != 4 or int.from_bytes(body[6:8], "big") & 0x1FFF:
            return None
        at, protocol, source, destination = (body[0] & 15) * 4, body[9], body[12:16], body[16:20]
        if at < packet.IPV4_BYTES:
            return None
    else:
        if len(body) < packet.IPV6_BYTES or body[0] >> 4 != 6:
            return None
        source, destination = body[8:24], body[24:40]
        behind = behind_extensions(body, body[6], packet.IPV6_BYTES)
        if behind is not None and behind[0] == packet.IPV6_FRAGMENT:
            at = behind[1]
            if len(body) < at + 8 or int.from_bytes(body[at + 2 : at + 4], "big") & 0xFFF8:
                return None
            behind = behind_extensions(body, body[at], at + 8)
        if behind is None:
            return None
        protocol, at = behind
    head = body[at : at + 8]
    if len(head) < 8:
        return None
    if protocol == TCP:
        segment = tcp.Segment(int.from_bytes(head[4:8], "big"), 0, 0, 0, 0)
        return Flow(Kind.TCP, protocol, source, destination, _ports(head), segment=segment)
    if protocol == SCTP:
        chunk = Chunk(DATA, int.from_bytes(head[4:8], "big"))
        return Flow(Kind.SCTP, protocol, source, destination, _ports(head), chunk=chunk)
    if protocol in DATAGRAMS:
        return Flow(Kind.UDP, protocol, source, destination, _ports(head))
    if protocol != (ICMP if version == 4 else ICMPV6):
        return Flow(Kind.OTHER, protocol, source, destination)
    identifier = int.from_bytes(head[4:6], "big")
    if head[0] in QUERIES[version]:
        return Flow(Kind.QUERY, protocol, source, destination, (identifier, head[0]))
    if head[0] in ANSWERS[version]:
        return Flow(Kind.ANSWER, protocol, source, destination, (identifier, ANSWERS[version][head[0]]))
    return None
