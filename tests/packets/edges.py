"""Where windows, acknowledgements and time-outs end, to the number: conversations that one number more would change.

Beside conversations.py, which says what there is; here each rule of docs/design/conntrack.md is met from both sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6ParamProblem, ICMPv6TimeExceeded, IPv6
from scapy.layers.inet6 import IPv6ExtHdrFragment as Fragment6
from scapy.layers.l2 import Ether
from scapy.layers.sctp import (
    SCTP,
    SCTPChunkAbort,
    SCTPChunkCookieAck,
    SCTPChunkCookieEcho,
    SCTPChunkData,
    SCTPChunkInit,
    SCTPChunkInitAck,
    SCTPChunkShutdown,
    SCTPChunkShutdownAck,
    SCTPChunkShutdownComplete,
)
from scapy.packet import Packet, Raw

from packets.conversations import (
    ADMITTED,
    GUEST,
    INVALID,
    LOCAL,
    OTHER,
    OVERLAP,
    REFUSED,
    ROUTER,
    THREE,
    UNKNOWN,
    Conversation,
    Rows,
    Talk,
    Turn,
    frame,
    network,
    pieces,
    ping,
    udp,
)
from weft.policy.drop import DropReason

NEW = (90_000, 50_000)


def conversations() -> Iterator[Conversation]:
    for each in (
        opens,
        both_open,
        windows,
        acknowledges,
        resets,
        ends,
        waits,
        headers,
        tells,
        fragments,
        sctp,
        rules,
        strangers,
    ):
        for name, turns in each():
            yield Conversation(f"to the number: {each.__name__}: {name}", tuple(turns))
    again = Talk(ports=(22, 80))
    yield Conversation(
        "to the number: a place is whose it was though another opens it anew",
        (
            *again.opened(OTHER),
            again(OTHER, "R", 1),
            again(GUEST, "S", 9000),
            *(Talk(ports=(n, 80))(GUEST, "S", 0) for n in range(2)),
            Talk(ports=(9, 80))(GUEST, "S", 0, dropped=DropReason.CONNECTION_LIMIT),
        ),
        limits={"most_of_port": 2},
    )


def opens() -> Rows:
    talk, inward = Talk(), Talk(ports=(22, 40000))
    yield "another SYN takes the place of one that nobody has answered", [
        talk(GUEST, "S", 0),
        talk(GUEST, "S", 0, base=NEW),
        talk(OTHER, "SA", 0, 1),  # of the first: a challenge
        talk(GUEST, "A", 1, 1, INVALID),
        talk(OTHER, "SA", 0, 1, base=NEW),
        talk(GUEST, "A", 1, 1, base=NEW),
        talk(OTHER, "PA", 1, 1, size=1, after_s=10_000, base=NEW),
    ]  # fmt: skip
    yield "a SYN that is said again to what is open puts nothing off", [
        *talk.opened(), talk(GUEST, "S", 0, after_s=431_990), talk(GUEST, "A", 1, 1, INVALID, after_s=10),
    ]  # fmt: skip
    yield "what acknowledges nothing of a SYN does not open", [
        talk(GUEST, "S", 0), talk(OTHER, "SA", 0, 0), talk(GUEST, "A", 1, 1, INVALID), *talk.opened()[1:],
    ]  # fmt: skip
    yield "a FIN does not open", [talk(GUEST, "S", 0), talk(OTHER, "FA", 0, 1, INVALID), *talk.opened()[1:]]
    yield "a reset that acknowledges nothing refuses nothing, whatever is where an acknowledgement would be", [
        talk(GUEST, "S", 0), talk(OTHER, "R", 0, 1, INVALID), *talk.opened()[1:],
    ]  # fmt: skip
    yield "who has not been challenged resets by the very next number", [
        talk(GUEST, "S", 0), talk(GUEST, "R", -1000, None, INVALID), *talk.opened()[1:],
    ]  # fmt: skip
    yield "what was refused is forgotten after ten seconds", [
        talk(GUEST, "S", 0), talk(OTHER, "RA", 0, 1), talk(OTHER, "A", 1, 1, INVALID, after_s=9),
        talk(OTHER, "A", 1, 1, REFUSED, after_s=1),
    ]  # fmt: skip
    yield "a SYN that is said again puts the end of what is half open off, whatever rules say by now", [
        *inward.opened(OTHER)[:2],
        inward(OTHER, "S", 0, after_s=59, admitted=frozenset({(6, 22)})),
        inward(OTHER, "A", 1, 1, after_s=59),
    ]  # fmt: skip
    yield "an answer that is said again does not open", [
        *talk.opened()[:2], talk(OTHER, "SA", 0, 1, after_s=59), talk(GUEST, "A", 1, 1, REFUSED, after_s=60,
        open=False, admitted=frozenset()),
    ]  # fmt: skip
    yield "another SYN within what is half open waits for an answer of its own", [
        *talk.opened()[:2],
        talk(GUEST, "S", 0, base=NEW),
        talk(OTHER, "SA", 0, 1),
        talk(OTHER, "SA", 0, 1, base=NEW),
        talk(GUEST, "A", 1, 1, INVALID),
        talk(GUEST, "A", 1, 1, base=NEW),
        talk(OTHER, "PA", 1, 1, size=1, after_s=10_000, base=NEW),
    ]  # fmt: skip
    yield "a SYN that was sent with data that was not taken is given up by the number that was acknowledged", [
        talk(GUEST, "S", 0, size=20), talk(OTHER, "SA", 0, 1), talk(GUEST, "R", 1),
        talk(OTHER, "SA", 0, 1, REFUSED, after_s=10),
    ]  # fmt: skip
    for last, passes in ((1000, True), (1001, False)):
        yield f"who answers may send the window that the SYN has offered: byte {last}", [
            *talk.opened()[:2],
            talk(OTHER, "A", 1 + last, 1, None if passes else INVALID, size=1),
        ]  # fmt: skip


def both_open() -> Rows:
    talk = Talk()
    yield "both at once, and each answers the other's before it hears of its own", [
        talk(GUEST, "S", 0),
        talk(OTHER, "S", 0),
        talk(OTHER, "SA", 0, 1),
        talk(GUEST, "SA", 0, 1),
        talk(GUEST, "PA", 1, 1, size=10),
        talk(OTHER, "PA", 1, 11, size=10, after_s=10_000),
    ]  # fmt: skip
    yield "both at once, and one that nobody goes on with is forgotten as half open", [
        talk(GUEST, "S", 0), talk(OTHER, "S", 0), talk(OTHER, "SA", 0, 1), talk(OTHER, "SA", 0, 1, REFUSED, after_s=60),
    ]  # fmt: skip


def windows() -> Rows:
    talk = Talk()
    for begin, passes in ((1001, True), (1002, False)):
        yield f"a segment begins at the window's edge at the latest: {begin}", [
            *talk.opened(), talk(GUEST, "PA", begin, 1, None if passes else INVALID, size=10),
        ]  # fmt: skip
    yield "what reaches beyond the edge is gone on with", [
        *talk.opened(), talk(GUEST, "PA", 1001, 1, size=10), talk(GUEST, "PA", 1011, 1, size=10),
    ]  # fmt: skip
    yield "a window that shrinks takes back nothing of what was offered", [
        *talk.opened(),
        talk(OTHER, "A", 1, 1, window=10),
        talk(GUEST, "PA", 1001, 1, size=10),
        talk(GUEST, "PA", 1100, 1, INVALID, size=10),
    ]  # fmt: skip
    much = [
        *talk.opened(),
        talk(OTHER, "A", 1, 1, window=60_000),
        *(talk(GUEST, "PA", 1 + 1000 * n, 1, size=1000) for n in range(60)),
        talk(OTHER, "A", 1, 60_001, window=1000),
    ]
    for begin, passes in ((0, True), (-1, False)):
        yield f"what ends within the largest window that there has been may come again: {begin}", [
            *much, talk(GUEST, "PA", begin, 1, None if passes else INVALID, size=1),
        ]  # fmt: skip


def acknowledges() -> Rows:
    talk = Talk()
    for back, passes in ((66_000, True), (66_001, False)):
        yield f"what was sent may be acknowledged {back} bytes late", [
            *talk.opened(), talk(GUEST, "A", 1, 1 - back, None if passes else INVALID),
        ]  # fmt: skip
    far = [
        talk(GUEST, "S", 0, scale=8),
        talk(OTHER, "SA", 0, 1, scale=8),
        talk(GUEST, "A", 1, 1, window=1000),
    ]
    for back, passes in ((256_000, True), (256_001, False)):
        yield f"or by the largest window that was offered: {back}", [
            *far, talk(GUEST, "A", 1, 1 - back, None if passes else INVALID),
        ]  # fmt: skip


def resets() -> Rows:
    talk = Talk()
    data = talk(OTHER, "PA", 1, 1, size=100)
    yield "an acknowledgement that comes late takes nothing back", [
        *talk.opened(), data, talk(GUEST, "A", 1, 101), talk(GUEST, "A", 1, 1),
        talk(OTHER, "R", 51, dropped=INVALID), talk(OTHER, "R", 101),
        talk(OTHER, "A", 101, 1, REFUSED, after_s=10),
    ]  # fmt: skip
    for number, passes in ((1001, True), (1002, False)):
        yield f"within the window is up to its edge: {number}", [
            *talk.opened(), talk(OTHER, "R", number, dropped=None if passes else INVALID), data,
        ]  # fmt: skip
    yield "what comes behind a reset passes, and puts nothing off", [
        *talk.opened(), talk(OTHER, "R", 1), talk(GUEST, "A", 1, 1, after_s=9),
        talk(OTHER, "PA", 1, 1, REFUSED, size=1, after_s=1),
    ]  # fmt: skip
    yield "nor does what comes behind it out of the window pass", [
        *talk.opened(), talk(OTHER, "R", 1), talk(GUEST, "A", 5000, 1, INVALID),
    ]  # fmt: skip


def ends() -> Rows:
    talk = Talk()
    fins = [*talk.opened(), talk(GUEST, "FA", 1, 1), talk(OTHER, "FA", 1, 1)]
    for side in (GUEST, OTHER):
        yield f"both at once, of which only {('the guest', 'the other')[side]} has heard, is forgotten after 60 s", [
            *fins, talk(side, "A", 2, 2), talk(1 - side, "FA", 1, 1, after_s=59),
            talk(OTHER, "A", 2, 1, REFUSED, after_s=60),
        ]  # fmt: skip
    yield "in pieces a segment is as long as in one", [
        *talk.opened(),
        *cut(talk(GUEST, "PA", 1, 1, size=900)),
        talk(OTHER, "A", 1, 902, INVALID),
        talk(OTHER, "A", 1, 901),
        talk(GUEST, "PA", 901, 1, size=1),
    ]  # fmt: skip
    yield "in pieces it may reach beyond the window, too", [
        *talk.opened(),
        *cut(talk(GUEST, "PA", 601, 1, size=800)),
        talk(GUEST, "PA", 1401, 1, size=10),
        talk(GUEST, "PA", 1412, 1, INVALID, size=1),
    ]  # fmt: skip


def cut(turn: Turn, at: int = 400) -> list[Turn]:
    """An IPv4 frame as two fragments."""
    head, body = turn.frame[:34], turn.frame[34:]
    found = []
    for begin, data, more in ((0, body[:at], 0x2000), (at, body[at:], 0)):
        words = (20 + len(data)).to_bytes(2, "big") + b"\0\x07" + (more | begin // 8).to_bytes(2, "big")
        found.append(Turn(turn.side, head[:16] + words + head[22:] + data))
    return found


def waits() -> Rows:
    """A SYN within a connection that is there, and what answers it."""
    talk = Talk()
    waiting = [*talk.opened(), talk(GUEST, "S", 0, base=NEW)]
    answers = NEW[0] - talk.BASE[0] + 1  # as of the former numbers
    goes_on = talk(OTHER, "PA", 1, 1, size=10, after_s=10_000)
    yield "it is not the guest's own to answer", [*waiting, talk(GUEST, "SA", 0, NEW[0] + 1 - 5000, INVALID), goes_on]
    yield (
        "an answer to something else is none",
        [*waiting, talk(OTHER, "SA", 0, 7, INVALID, base=(1000, 50_000)), goes_on],
    )
    yield "nor is one that acknowledges a number beside it", [
        *waiting, talk(OTHER, "SA", 0, 2, INVALID, base=NEW), talk(OTHER, "SA", 0, 0, INVALID, base=NEW), goes_on,
    ]  # fmt: skip
    yield "nor one that opens nothing", [*waiting, talk(OTHER, "A", 1, answers, INVALID), goes_on]
    yield "a reset without an acknowledgement is of what is there", [
        *waiting, talk(OTHER, "R", 50_000, answers, INVALID), goes_on,
    ]  # fmt: skip
    scaled = [
        *talk.opened(),
        talk(GUEST, "S", 0, base=NEW, scale=4, window=500),
        talk(OTHER, "SA", 0, 1, base=NEW, scale=2, window=1000),
    ]
    for last, passes in ((500, True), (501, False)):
        yield f"what is begun anew has the windows of its own SYNs: byte {last}", [
            *scaled, talk(OTHER, "A", 1 + last, 1, None if passes else INVALID, size=1, base=NEW),
        ]  # fmt: skip
    for begin, passes in ((16_001, True), (16_002, False)):
        yield f"and scales them as these say: {begin}", [
            *scaled,
            talk(GUEST, "A", 1, 1, base=NEW, window=1000),
            talk(OTHER, "PA", begin, 1, None if passes else INVALID, size=1, base=NEW),
        ]  # fmt: skip
    yield "nothing of how the former ended is its", [
        *talk.opened(),
        talk(GUEST, "FA", 1, 1),
        talk(GUEST, "S", 0, base=NEW),
        talk(OTHER, "SA", 0, 1, base=NEW),
        talk(GUEST, "A", 1, 1, base=NEW),
        talk(OTHER, "SA", 0, 1, base=NEW),  # said again, it begins nothing
        talk(OTHER, "PA", 1, 1, size=10, after_s=10_000, base=NEW),
        talk(OTHER, "FA", 11, 1, base=NEW),
        talk(GUEST, "A", 1, 12, after_s=299, base=NEW),
    ]  # fmt: skip


def headers() -> Rows:
    """Where a packet's headers end."""
    for number in (33, 136):  # DCCP, UDP-Lite
        yield f"protocol {number} has ports", [
            Turn(GUEST, of(4, GUEST, number, (40000, 53))),
            Turn(OTHER, of(4, OTHER, number, (40000, 54)), REFUSED),
            Turn(OTHER, of(4, OTHER, number, (40000, 53))),
        ]  # fmt: skip
    for number in (0, 43, 60, 44):
        yield f"protocol {number} of IPv4 is a protocol as any other", [
            Turn(OTHER, of(4, OTHER, number, (17 << 8, 53)), REFUSED),
            Turn(GUEST, of(4, GUEST, number, (17 << 8, 53))),
            Turn(OTHER, udp(4, OTHER), REFUSED),
            Turn(OTHER, of(4, OTHER, number, (5, 6))),
        ]  # fmt: skip
    init = bytes(SCTP(sport=40000, dport=9, tag=0) / SCTPChunkInit(init_tag=1))
    segment = bytes(TCP(sport=40000, dport=80, flags="S"))
    for name, number, body, whole in (
        ("SCTP", 132, init, 20),
        ("UDP", 17, bytes(UDP(sport=40000, dport=53) / Raw(bytes(4))), 8),
        ("ICMP", 1, bytes(ICMP(type=8)), 8),
        ("TCP", 6, segment, 20),
    ):
        for length in (whole - 1, whole):
            yield f"{name} of {length} bytes", [
                Turn(GUEST, raw(4, GUEST, number, body[:length]), None if length == whole else INVALID),
            ]  # fmt: skip
    longer = bytearray(segment)
    longer[12] = 6 << 4
    shorter = bytearray(segment)
    shorter[12] = 4 << 4
    yield "a header of TCP that is longer than the segment, or too short for one", [
        Turn(GUEST, raw(4, GUEST, 6, bytes(longer)), INVALID),
        Turn(GUEST, raw(4, GUEST, 6, bytes(longer) + bytes(4))),
        Turn(GUEST, raw(4, GUEST, 6, bytes(shorter) + bytes(4)), INVALID),
    ]  # fmt: skip
    for name, options, scaled in (
        ("behind others", b"\2\4\5\xb4\4\2\x08\x0a" + bytes(8) + b"\1\3\3\4", True),
        ("as the tenth", b"\1" * 9 + b"\3\3\4", True),
        ("as the eleventh", b"\1" * 10 + b"\3\3\4\0\0", False),
        ("behind the end of options", b"\0\3\3\4", False),
        ("behind an option of no length", b"\5\0\3\3\4\0\0", False),
        ("of a length that is not its own", b"\3\4\4\0", False),
        ("not whole", b"\1\1\3\3", False),
    ):
        talk = Talk()
        syn, answer = (with_options(talk(side, flags, 0, 1), options) for side, flags in ((GUEST, "S"), (OTHER, "SA")))
        yield f"a window scale {name} {'counts' if scaled else 'does not'}", [
            syn, answer, talk(GUEST, "A", 1, 1), talk(OTHER, "A", 16_001, 1, None if scaled else INVALID),
        ]  # fmt: skip


def raw(version: int, side: int, number: int, body: bytes) -> bytes:
    packet = network(version, side)
    if version == 4:
        packet[IP].proto = number
    else:
        packet[IPv6].nh = number
    return frame(side, packet / Raw(body))


def of(version: int, side: int, number: int, ports: tuple[int, int]) -> bytes:
    source, destination = ports if side == GUEST else ports[::-1]
    return raw(version, side, number, source.to_bytes(2, "big") + destination.to_bytes(2, "big") + bytes(12))


def with_options(turn: Turn, options: bytes) -> Turn:
    """A SYN of IPv4 with these in place of those that it has."""
    options += bytes(-len(options) % 4)
    header = bytearray(turn.frame[34:54])
    header[12] = (5 + len(options) // 4) << 4
    length = (40 + len(options)).to_bytes(2, "big")
    return Turn(turn.side, turn.frame[:16] + length + turn.frame[18:34] + bytes(header) + options)


def tells() -> Rows:
    """Errors: each kind, and what they quote."""

    def told(version: int, kind: int, quoted: Packet | bytes) -> bytes:
        quoted = Raw(quoted) if isinstance(quoted, bytes) else quoted
        if version == 4:
            return frame(OTHER, IP(src=ROUTER[4], dst=LOCAL[4]) / ICMP(type=kind, code=0) / quoted)
        found = {3: ICMPv6TimeExceeded(), 4: ICMPv6ParamProblem()}
        return frame(OTHER, IPv6(src=ROUTER[6], dst=LOCAL[6]) / found[kind] / quoted)

    for version, kinds in ((4, (3, 11, 12)), (6, (3, 4))):
        sent = network(version, GUEST) / UDP(sport=40000, dport=53) / Raw(bytes(20))
        for kind in kinds:
            yield f"type {kind} of IPv{version}", [
                Turn(OTHER, told(version, kind, sent), INVALID),
                Turn(GUEST, udp(version, GUEST)),
                Turn(OTHER, told(version, kind, sent)),
            ]  # fmt: skip
        asked, answered = ping(version, OTHER), ping(version, GUEST, answer=True)
        answer, question = Ether(answered).payload, Ether(ping(version, GUEST)).payload
        yield f"of an answer to a query, IPv{version}", [
            Turn(OTHER, asked),
            Turn(OTHER, told(version, kinds[0], question), INVALID),  # the guest has not asked
            Turn(GUEST, answered),
            Turn(OTHER, told(version, kinds[0], answer)),
            Turn(OTHER, told(version, kinds[0], Ether(ping(version, GUEST, 9, answer=True)).payload), INVALID),
        ]  # fmt: skip
        for which, passes in ((0, True), (1, False)):
            piece = Ether(pieces(version, GUEST, THREE)[which]).payload
            yield f"of fragment {which} of a datagram, IPv{version}", [
                *(Turn(GUEST, each) for each in pieces(version, GUEST, THREE)),
                Turn(OTHER, told(version, kinds[0], piece), None if passes else INVALID),
            ]  # fmt: skip
        other = bytearray(bytes(sent))
        other[0] = other[0] & 15 | (6 if version == 4 else 4) << 4
        yield f"of no packet of IPv{version}", [
            Turn(GUEST, udp(version, GUEST)), Turn(OTHER, told(version, kinds[0], bytes(other)), INVALID),
        ]  # fmt: skip
    short = bytearray(bytes(network(4, GUEST) / UDP(sport=40000, dport=53)))
    short[0] = 0x44
    yield "of a header of IPv4 that is too short for one", [
        Turn(GUEST, udp(4, GUEST)), Turn(OTHER, told(4, 3, bytes(short)), INVALID),
    ]  # fmt: skip
    message = network(4, GUEST) / ICMP(type=9)
    yield "of a message that belongs to nothing", [
        Turn(GUEST, frame(GUEST, message)), Turn(GUEST, ping(4, GUEST)), Turn(OTHER, told(4, 3, message), INVALID),
    ]  # fmt: skip
    sent = network(4, GUEST) / UDP(sport=40000, dport=53)
    yield "of what has been forgotten", [Turn(GUEST, udp(4, GUEST)), Turn(OTHER, told(4, 3, sent), INVALID, 30)]
    talk = Talk()
    stray = network(4, GUEST) / TCP(sport=40000, dport=80, seq=1901)
    yield "of TCP up to what was sent, and no further", [
        *talk.opened(), talk(GUEST, "PA", 1, 1, size=900), Turn(OTHER, told(4, 3, stray)),
        Turn(OTHER, told(4, 3, network(4, GUEST) / TCP(sport=40000, dport=80, seq=1902)), INVALID),
        Turn(OTHER, told(4, 3, network(4, GUEST) / TCP(sport=40000, dport=80, seq=1901 - 66_000 + 2**32))),
        Turn(OTHER, told(4, 3, network(4, GUEST) / TCP(sport=40000, dport=80, seq=1900 - 66_000 + 2**32)), INVALID),
    ]  # fmt: skip


def fragments() -> Rows:
    for version in (4, 6):
        out = [Turn(GUEST, each) for each in pieces(version, GUEST, THREE)]
        # 77 and 332 have one place between them.
        other = [Turn(GUEST, each) for each in pieces(version, GUEST, THREE, identity=332)]
        yield f"of another datagram that has the same place, IPv{version}", [
            out[0],
            Turn(GUEST, other[1].frame, UNKNOWN),
            out[1],
            other[0],
            other[1],
            Turn(GUEST, out[2].frame, UNKNOWN),
            other[2],
        ]  # fmt: skip
        few = [Turn(GUEST, pieces(version, GUEST, [(1008 + 16 * n, 1016 + 16 * n)])[0]) for n in range(7)]
        yield f"with as many gaps as there may be, and what touches one side of one, IPv{version}", [
            out[0],
            *few,
            Turn(GUEST, pieces(version, GUEST, [(1112, 1120)])[0]),
            Turn(GUEST, pieces(version, GUEST, [(1000, 1008)])[0]),
            Turn(GUEST, pieces(version, GUEST, [(1496, 1504)])[0]),
            Turn(GUEST, pieces(version, GUEST, [(1488, 1496)])[0]),
            Turn(GUEST, pieces(version, GUEST, [(1600, 1608)])[0], OVERLAP),
        ]  # fmt: skip
        for end, why in ((65_535, None), (65_536, INVALID)):
            yield f"up to {end} bytes, IPv{version}", [
                out[0], Turn(GUEST, pieces(version, GUEST, [(65_528, end)], total=end)[0], why),
            ]  # fmt: skip
        yield f"a first one that comes again spoils its datagram, IPv{version}", [
            out[0], Turn(GUEST, out[0].frame, OVERLAP), Turn(GUEST, out[1].frame, OVERLAP),
        ]  # fmt: skip
    alone = network(6, OTHER) / Fragment6(id=5, offset=0, m=0, nh=17) / UDP(sport=53, dport=40000)
    yield "one that is the whole is asked of as any other", [Turn(OTHER, frame(OTHER, alone), REFUSED)]


def sctp() -> Rows:
    """RFC 9260: who may say what, by which tag (section 8.5), and for how long it is remembered."""

    def says(side: int, tag: int, chunk: Packet, dropped: DropReason | None = None, after_s: int = 0) -> Turn:
        source, destination = (40000, 9) if side == GUEST else (9, 40000)
        sent = network(4, side) / SCTP(sport=source, dport=destination, tag=tag) / chunk.copy()
        return Turn(side, frame(side, sent), dropped, after_s)

    data = SCTPChunkData(data=b"data")
    init, answer = says(GUEST, 0, SCTPChunkInit(init_tag=0xAA)), says(OTHER, 0xAA, SCTPChunkInitAck(init_tag=0xBB))
    echo, acked = says(GUEST, 0xBB, SCTPChunkCookieEcho()), says(OTHER, 0xAA, SCTPChunkCookieAck())
    opened = [init, answer, echo, acked]
    yield "an INIT has no tag, and what has none is an INIT", [
        says(GUEST, 5, SCTPChunkInit(init_tag=0xAA), INVALID), says(GUEST, 0, data, INVALID),
        says(GUEST, 0, SCTPChunkInitAck(init_tag=0xAA), INVALID),
    ]  # fmt: skip
    yield "nor has one within what opens, and who is called does not call", [
        init, says(GUEST, 0xAA, SCTPChunkInit(init_tag=0xCC), INVALID),
        says(OTHER, 0, SCTPChunkInit(init_tag=1), INVALID), answer,
        says(GUEST, 0xBB, SCTPChunkInit(init_tag=0xCC), INVALID), echo, acked,
    ]  # fmt: skip
    yield "another INIT takes the place of one that nobody has answered", [
        says(GUEST, 0, SCTPChunkInit(init_tag=0xCC)), init, says(OTHER, 0xCC, SCTPChunkInitAck(init_tag=1), INVALID),
        answer, echo, acked,
    ]  # fmt: skip
    yield "another INIT forgets what answered the one before", [
        init, says(OTHER, 0xAA, SCTPChunkInitAck(init_tag=0xEE)), says(GUEST, 0, SCTPChunkInit(init_tag=0xCC)),
        says(GUEST, 0xEE, SCTPChunkCookieEcho(), INVALID), says(OTHER, 0xCC, SCTPChunkInitAck(init_tag=0xBB)), echo,
    ]  # fmt: skip
    yield "who has called does not answer", [init, answer, says(GUEST, 0xBB, SCTPChunkInitAck(init_tag=1), INVALID)]
    yield "nor is an answer one to what is open", [*opened, says(OTHER, 0xAA, SCTPChunkInitAck(init_tag=1), INVALID)]
    yield "what has not been acknowledged is forgotten after 30 s", [
        init, answer, echo, says(GUEST, 0xBB, data, None, 29), says(OTHER, 0xAA, data, REFUSED, 30),
    ]  # fmt: skip
    yield "what is open is forgotten after 300 s", [
        *opened, says(OTHER, 0xAA, data, None, 299), says(OTHER, 0xAA, data, REFUSED, 300),
    ]  # fmt: skip
    for chunk in (SCTPChunkAbort(), SCTPChunkShutdown(), SCTPChunkShutdownAck(), SCTPChunkShutdownComplete()):
        yield f"{chunk.name} ends it", [
            *opened, says(OTHER, 0xAA, chunk), says(OTHER, 0xAA, data, None, 9), says(OTHER, 0xAA, data, REFUSED, 10),
        ]  # fmt: skip
    for chunk in (SCTPChunkAbort(), SCTPChunkShutdownComplete()):
        yield f"who does not know the other's tag gives its own back: {chunk.name}", [
            *opened, says(OTHER, 0xBB, chunk), says(OTHER, 0xAA, data, None, 9), says(OTHER, 0xAA, data, REFUSED, 10),
        ]  # fmt: skip
    yield "which is for these two only, and for nobody who knows neither", [
        *opened, says(OTHER, 0xBB, data, INVALID), says(OTHER, 0xBB, SCTPChunkShutdown(), INVALID),
        says(OTHER, 0xCC, SCTPChunkAbort(), INVALID), says(GUEST, 0xBB, data, None, 299),
    ]  # fmt: skip
    yield "before the other has answered nothing is what its tag would be", [
        init, says(GUEST, 0, SCTPChunkAbort(), INVALID), says(OTHER, 0, SCTPChunkAbort(), INVALID), *opened[1:],
    ]  # fmt: skip
    begun = [
        *opened, says(GUEST, 0, SCTPChunkInit(init_tag=0xDD)), says(OTHER, 0xDD, SCTPChunkInitAck(init_tag=0xEE)),
        says(GUEST, 0xEE, SCTPChunkCookieEcho()),
    ]  # fmt: skip
    yield "what is begun anew is as what was begun", [
        *begun, says(OTHER, 0xDD, SCTPChunkCookieAck()), says(GUEST, 0xBB, data, INVALID),
        says(OTHER, 0xAA, data, INVALID), says(OTHER, 0xDD, data, None, 299), says(GUEST, 0xEE, data, None, 299),
        says(OTHER, 0xDD, SCTPChunkCookieAck()),
    ]  # fmt: skip
    yield "another INIT that waits has the place of the first", [
        *begun, says(GUEST, 0, SCTPChunkInit(init_tag=0xCC)), says(OTHER, 0xDD, SCTPChunkCookieAck(), INVALID),
        says(OTHER, 0xCC, SCTPChunkCookieAck(), INVALID), says(GUEST, 0xBB, data), says(OTHER, 0xAA, data),
    ]  # fmt: skip
    sent = network(4, GUEST) / SCTP(sport=40000, dport=9, tag=0)
    told = frame(OTHER, IP(src=ROUTER[4], dst=LOCAL[4]) / ICMP(type=3, code=1) / sent)
    yield "an INIT is told of though it was answered, until it is open", [
        init, answer, Turn(OTHER, told), echo, acked, Turn(OTHER, told, INVALID),
    ]  # fmt: skip


def rules() -> Rows:
    nothing = frozenset[tuple[int, int | None]]()
    for version in (4, 6):
        tunnel = raw(version, OTHER, 47, b"tunnel")
        answer = raw(version, GUEST, 47, b"tunnel")
        yield f"a protocol without ports is held against them as one, IPv{version}", [
            Turn(OTHER, tunnel),
            Turn(GUEST, answer, admitted=frozenset({(47, None)})),
            Turn(GUEST, answer, REFUSED, admitted=nothing, open=False),
            Turn(OTHER, tunnel, REFUSED),
            Turn(OTHER, tunnel, admitted=ADMITTED),
        ]  # fmt: skip


STRANGER = {4: "10.0.1.6", 6: "2001:db8:1::6"}


def strangers() -> Rows:
    """Who has another address is somebody else, whatever else is the same."""

    def from_another(turn: Turn, dropped: DropReason | None) -> Turn:
        packet = Ether(turn.frame)
        layer = packet[IP] if IP in packet else packet[IPv6]
        layer.src = STRANGER[4 if IP in packet else 6]
        for each, sum_of in ((IP, "chksum"), (TCP, "chksum"), (UDP, "chksum"), (ICMP, "chksum")):
            if each in packet:
                setattr(packet[each], sum_of, None)
        return replace(turn, frame=bytes(packet), dropped=dropped)

    for version in (4, 6):
        talk = Talk(version)
        data = talk(OTHER, "PA", 1, 1, size=10)
        yield f"TCP, IPv{version}", [
            *talk.opened(), from_another(data, REFUSED), from_another(talk(OTHER, "R", 1), REFUSED), data,
        ]  # fmt: skip
        yield f"an answer to a SYN, IPv{version}", [
            talk(GUEST, "S", 0), from_another(talk(OTHER, "SA", 0, 1), REFUSED), *talk.opened()[1:],
        ]  # fmt: skip
        for name, ask, answer in (
            ("UDP", udp(version, GUEST), udp(version, OTHER)),
            ("a ping", ping(version, GUEST), ping(version, OTHER, answer=True)),
            ("a protocol without ports", raw(version, GUEST, 50, b"secret"), raw(version, OTHER, 50, b"secret")),
        ):
            yield f"{name}, IPv{version}", [
                Turn(GUEST, ask), from_another(Turn(OTHER, answer), REFUSED), Turn(OTHER, answer),
            ]  # fmt: skip
        asked = [Turn(OTHER, each) for each in pieces(version, OTHER, THREE, sport=40000, dport=53)]
        yield f"fragments with one identification, IPv{version}", [
            asked[0], from_another(asked[1], UNKNOWN), asked[1], replace(asked[2], port="b", dropped=UNKNOWN), asked[2],
        ]  # fmt: skip
        yield f"fragments of the guest, to two with one identification, IPv{version}", [
            Turn(GUEST, pieces(version, GUEST, THREE)[0]),
            to_another(Turn(GUEST, pieces(version, GUEST, THREE)[1]), version),
            Turn(GUEST, pieces(version, GUEST, THREE)[1]),
        ]  # fmt: skip
        of_tcp = bytearray(pieces(version, GUEST, THREE)[1])
        of_tcp[23 if version == 4 else 54] = 6
        yield f"fragments of another protocol with one identification, IPv{version}", [
            Turn(GUEST, pieces(version, GUEST, THREE)[0]), Turn(GUEST, bytes(of_tcp), UNKNOWN),
            Turn(GUEST, pieces(version, GUEST, THREE)[1]),
        ]  # fmt: skip


def to_another(turn: Turn, version: int) -> Turn:
    packet = Ether(turn.frame)
    layer = packet[IP] if version == 4 else packet[IPv6]
    layer.dst = STRANGER[version]
    if version == 4:
        layer.chksum = None
    return replace(turn, frame=bytes(packet), dropped=UNKNOWN)
