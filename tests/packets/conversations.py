"""Whole conversations of a port, and what the connection tracker lets pass of them. Every tracker runs each.

The guest may open anything; to it may come what ``ADMITTED`` says, and what belongs to a connection. A bug adds a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
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
)
from scapy.packet import Packet, Raw

from weft.policy.drop import DropReason

GUEST, OTHER = 0, 1
#: Ports of one tenant; all others are of one of their own each.
RED = ("tenants/red/ports/1", "tenants/red/ports/2")
LOCAL = {4: "10.0.1.4", 6: "2001:db8:1::4"}
REMOTE = {4: "10.0.1.5", 6: "2001:db8:1::5"}
ROUTER = {4: "10.0.9.1", 6: "2001:db8:9::1"}
MACS = ("02:00:00:00:01:04", "02:00:00:00:01:05")
#: What may come to the guest: (protocol, port or type << 8 | code; None: any).
ADMITTED = frozenset({(6, 22), (17, 53), (132, 9), (1, 8 << 8), (58, 128 << 8), (47, None)})

INVALID, REFUSED = DropReason.CONNECTION_INVALID, DropReason.SECURITY_GROUP
OVERLAP, UNKNOWN = DropReason.FRAGMENT_OVERLAP, DropReason.UNKNOWN_FRAGMENT
MOVING = DropReason.MOVING
LIMIT, FULL = DropReason.CONNECTION_LIMIT, DropReason.CONNECTION_TABLE_FULL


@dataclass(frozen=True)
class Turn:
    """side sends the frame, after_s behind the turn before; dropped: why, or None."""

    side: int
    frame: bytes
    dropped: DropReason | None = None
    after_s: int = 0
    admitted: frozenset[tuple[int, int | None]] | None = None  # rules change before it; None: they do not
    open: bool = True  # the guest may open anything
    open_port: int | None = None  # or, where it may not, TCP to this port
    port: str = "a"


@dataclass(frozen=True)
class Conversation:
    name: str
    turns: tuple[Turn, ...]
    keep: bool = False
    arriving: int = 0  # during so many turns, the first ones, the port is on its way here
    leaving: bool = False
    limits: dict[str, int] = field(default_factory=dict)


def network(version: int, side: int) -> Packet:
    source, destination = (LOCAL, REMOTE) if side == GUEST else (REMOTE, LOCAL)
    ip = IP if version == 4 else IPv6
    return ip(src=source[version], dst=destination[version])


def frame(side: int, packet: Packet) -> bytes:
    return bytes(Ether(src=MACS[side], dst=MACS[1 - side]) / packet)


class Talk:
    """Builds a TCP conversation, turn by turn: who speaks, flags, and numbers counted from each side's first."""

    BASE = (1000, 5000)

    def __init__(self, version: int = 4, ports: tuple[int, int] = (40000, 80)) -> None:
        self.version, self.ports = version, ports

    def __call__(
        self,
        side: int,
        flags: str,
        seq: int,
        ack: int | None = None,
        dropped: DropReason | None = None,
        *,
        size: int = 0,
        text: bytes | None = None,
        window: int = 1000,
        scale: int | None = None,
        after_s: int = 0,
        base: tuple[int, int] | None = None,
        **more: object,
    ) -> Turn:
        mine, theirs = (base or self.BASE)[side], (base or self.BASE)[1 - side]
        source, destination = self.ports if side == GUEST else self.ports[::-1]
        segment = TCP(
            sport=source,
            dport=destination,
            flags=flags,
            seq=(mine + seq) % 2**32,
            ack=0 if ack is None else (theirs + ack) % 2**32,
            window=window,
            options=[] if scale is None else [("NOP", None), ("WScale", scale)],
        )
        packet = network(self.version, side) / segment / Raw(bytes(size) if text is None else text)
        return Turn(side, frame(side, packet), dropped, after_s, **more)

    def opened(self, by: int = GUEST, **more: int) -> list[Turn]:
        """A handshake; the opener's next number is 1, and the other's."""
        other = 1 - by
        return [
            self(by, "S", 0, **more),
            self(other, "SA", 0, 1, **more),
            self(by, "A", 1, 1),
        ]


def conversations() -> Iterator[Conversation]:
    for each in (tcp_opens, tcp_goes_on, tcp_resets, tcp_ends, tcp_again, datagrams, queries, others, sctp, errors):
        for name, turns in each():
            yield Conversation(f"{each.__name__}: {name}", tuple(turns))
    yield from fragments()
    yield from extensions()
    yield from rules_change()
    yield from bounds()
    yield from moves()


Rows = Iterator[tuple[str, list[Turn]]]


def tcp_opens() -> Rows:
    for version in (4, 6):
        talk = Talk(version)
        yield (
            f"by the guest, IPv{version}",
            [*talk.opened(), talk(OTHER, "PA", 1, 1, size=100), talk(GUEST, "A", 1, 101)],
        )
        inward = Talk(version, (22, 40000))
        yield f"to a port that may be reached, IPv{version}", [*inward.opened(OTHER), inward(GUEST, "PA", 1, 1, size=9)]
        yield f"to another is refused, IPv{version}", [Talk(version, (23, 40000))(OTHER, "S", 0, dropped=REFUSED)]
    talk, inward = Talk(), Talk(ports=(22, 40000))
    yield (
        "not by what is in the midst of one",
        [talk(GUEST, "A", 1, 1, INVALID), talk(GUEST, "PA", 1, 1, INVALID, size=5)],
    )
    yield "not by an answer", [talk(GUEST, "SA", 0, 1, INVALID), inward(OTHER, "SA", 0, 1, INVALID)]
    yield "not by a reset", [talk(GUEST, "R", 0, None, INVALID), inward(OTHER, "RA", 0, 1, INVALID)]
    yield (
        "not with flags that cannot be",
        [
            *(talk(GUEST, flags, 0, None, INVALID) for flags in ("SF", "SR", "", "F", "P", "SRA", "FR")),
        ],
    )
    yield "the SYN comes again", [talk(GUEST, "S", 0), talk(GUEST, "S", 0, after_s=1), *talk.opened()]
    yield "the answer comes again", [*talk.opened()[:2], talk(OTHER, "SA", 0, 1), talk(GUEST, "A", 1, 1)]
    yield (
        "an answer to another SYN is a challenge, which only its reset answers",
        [
            talk(GUEST, "S", 0),
            talk(OTHER, "SA", 0, 7),
            talk(GUEST, "R", 8, None, INVALID),
            talk(GUEST, "R", 7),
            talk(GUEST, "S", 0),
            *talk.opened()[1:],
        ],
    )
    yield (
        "both at once",
        [
            talk(GUEST, "S", 0),
            talk(OTHER, "S", 0),
            talk(GUEST, "SA", 0, 1),
            talk(OTHER, "SA", 0, 1),
            talk(GUEST, "PA", 1, 1, size=10),
            talk(OTHER, "A", 1, 11),
        ],
    )
    yield (
        "half-open: who has forgotten resets what the other has",
        [
            talk(GUEST, "S", 0),
            talk(OTHER, "A", 77, 3000),
            talk(GUEST, "R", 3000),
            *talk.opened(),
        ],
    )
    yield "refused", [talk(GUEST, "S", 0), talk(OTHER, "RA", 0, 1), talk(OTHER, "RA", 0, 2, INVALID)]
    yield (
        "a forged refusal refuses nothing",
        [talk(GUEST, "S", 0), talk(OTHER, "RA", 0, 2, INVALID), *talk.opened()[1:]],
    )
    yield "given up", [talk(GUEST, "S", 0), talk(GUEST, "R", 1), talk(OTHER, "SA", 0, 1, INVALID)]
    yield (
        "data before it is open",
        [talk(GUEST, "S", 0), talk(OTHER, "PA", 1, 1, INVALID, size=4), talk(GUEST, "PA", 1, 1, INVALID)],
    )
    yield (
        "with data in the SYN",
        [
            talk(GUEST, "S", 0, size=20),
            talk(OTHER, "SA", 0, 21),
            talk(GUEST, "PA", 21, 1, size=5),
        ],
    )
    yield (
        "with data in the SYN that is not taken",
        [
            talk(GUEST, "S", 0, size=20),
            talk(OTHER, "SA", 0, 1),
            talk(GUEST, "PA", 1, 1, size=20),
        ],
    )
    yield (
        "a wrong acknowledgement does not open",
        [*talk.opened()[:2], talk(GUEST, "A", 1, 0, INVALID), talk(GUEST, "A", 1, 1)],
    )
    yield "the SYN is forgotten", [talk(GUEST, "S", 0), talk(OTHER, "SA", 0, 1, REFUSED, after_s=30)]
    yield "half open is forgotten", [*talk.opened()[:2], talk(GUEST, "A", 1, 1, INVALID, after_s=60)]


def tcp_goes_on() -> Rows:
    talk = Talk()
    yield (
        "beyond the window",
        [
            *talk.opened(),
            talk(GUEST, "PA", 1001, 1, size=10),  # begins within it
            talk(GUEST, "PA", 1200, 1, INVALID, size=10),
        ],
    )
    yield (
        "long before the window",
        [
            *talk.opened(),
            talk(OTHER, "A", 1, 1, window=65535),
            *(talk(GUEST, "PA", 1 + 1000 * n, 1, size=1000) for n in range(60)),
            talk(OTHER, "A", 1, 60001, window=1000),
            talk(GUEST, "A", -6000, 1, INVALID),
        ],
    )
    yield "an acknowledgement of what was not sent", [*talk.opened(), talk(GUEST, "A", 1, 2, INVALID)]
    yield "an acknowledgement that is far too old", [*talk.opened(), talk(GUEST, "A", 1, -70000, INVALID)]
    yield (
        "a keepalive",
        [*talk.opened(), talk(GUEST, "A", 0, 1), talk(OTHER, "A", 1, 1), talk(GUEST, "A", 0, 1, size=1)],
    )
    yield (
        "a probe of a window that is shut",
        [
            *talk.opened(),
            talk(GUEST, "PA", 1, 1, size=1000),
            talk(OTHER, "A", 1, 1001, window=0),
            talk(GUEST, "A", 1001, 1, size=1),
            talk(OTHER, "A", 1, 1001, window=0),
        ],
    )
    for mine, theirs, reach in (
        (4, 2, 16000),
        (4, None, 1000),
        (None, 3, 1000),
        (14, 14, 16_384_000),
        (15, 0, 16_384_000),
    ):
        yield (
            f"windows scaled by {mine} and {theirs}",
            [
                talk(GUEST, "S", 0, scale=mine),
                talk(OTHER, "SA", 0, 1, scale=theirs),
                talk(GUEST, "A", 1, 1),
                talk(OTHER, "PA", 1 + min(reach, 16000), 1, size=10),
                talk(OTHER, "PA", 1 + reach + 20, 1, INVALID, size=10),
            ],
        )
    yield (
        "numbers go round",
        [
            *(
                Talk()(side, flags, seq, ack, base=(2**32 - 3, 2**32 - 1), size=size)
                for side, flags, seq, ack, size in (
                    (GUEST, "S", 0, None, 0),
                    (OTHER, "SA", 0, 1, 0),
                    (GUEST, "A", 1, 1, 0),
                    (GUEST, "PA", 1, 1, 100),
                    (OTHER, "PA", 1, 101, 100),
                    (GUEST, "A", 101, 101, 0),
                )
            ),
            Talk()(GUEST, "A", 3000, 101, INVALID, base=(2**32 - 3, 2**32 - 1)),
        ],
    )
    yield "is kept for five days of silence", [*talk.opened(), talk(GUEST, "PA", 1, 1, size=1, after_s=432_000 - 1)]
    yield "and not for longer", [*talk.opened(), talk(GUEST, "PA", 1, 1, INVALID, size=1, after_s=432_000)]
    yield (
        "what is out of the window is no sign of life",
        [
            *talk.opened(),
            talk(GUEST, "PA", 5000, 1, INVALID, size=10, after_s=431_990),
            talk(GUEST, "PA", 1, 1, INVALID, size=1, after_s=10),
        ],
    )
    for gap in range(0, 12, 11):
        header = TCP(sport=40000, dport=80, flags="A", seq=1001, ack=5001, window=1000)
        cut = bytes(network(4, GUEST) / header)[: 20 + gap]
        cut = cut[:2] + len(cut).to_bytes(2, "big") + cut[4:]
        yield (
            f"a header of {gap} bytes",
            [*talk.opened(), Turn(GUEST, frame(GUEST, Raw(cut))[:12] + b"\x08\x00" + cut, INVALID)],
        )


def tcp_resets() -> Rows:
    talk = Talk()
    dead = talk(GUEST, "S", 0, base=(9000, 5000))
    yield (
        "the next number resets",
        [*talk.opened(), talk(OTHER, "R", 1), talk(OTHER, "PA", 1, 1, REFUSED, size=1, after_s=10)],
    )
    yield (
        "another within the window is for the end to question",
        [
            *talk.opened(),
            talk(OTHER, "R", 500),
            talk(GUEST, "A", 1, 1),
            talk(OTHER, "PA", 1, 1, size=10, after_s=100),
        ],
    )
    yield (
        "one outside does not get through",
        [
            *talk.opened(),
            talk(OTHER, "R", 0, None, INVALID),
            talk(OTHER, "R", 1500, None, INVALID),
            talk(OTHER, "R", 2**31, None, INVALID),
            talk(OTHER, "PA", 1, 1, size=10, after_s=100),
        ],
    )
    yield (
        "of what is under way",
        [*talk.opened(), talk(OTHER, "PA", 1, 1, size=100), talk(OTHER, "R", 101), talk(GUEST, "A", 1, 101)],
    )
    yield "and it can be opened again at once", [*talk.opened(), talk(OTHER, "R", 1), dead]


def tcp_ends() -> Rows:
    talk = Talk()
    both = [
        *talk.opened(),
        talk(GUEST, "FA", 1, 1),
        talk(OTHER, "A", 1, 2),
        talk(OTHER, "FA", 1, 2),
        talk(GUEST, "A", 2, 2),
    ]
    yield "both sides", [*both, talk(OTHER, "FA", 1, 2, after_s=119), talk(GUEST, "A", 2, 2)]
    yield "and it is forgotten", [*both, talk(OTHER, "FA", 1, 2, REFUSED, after_s=120)]
    yield (
        "one side, and the other goes on for long",
        [
            *talk.opened(),
            talk(GUEST, "FA", 1, 1),
            *(talk(OTHER, "PA", 1 + 100 * n, 2, size=100, after_s=299) for n in range(9)),
            talk(GUEST, "A", 2, 901),
            talk(OTHER, "FA", 901, 2),
            talk(GUEST, "A", 2, 902),
        ],
    )
    yield (
        "both at once",
        [
            *talk.opened(),
            talk(GUEST, "FA", 1, 1),
            talk(OTHER, "FA", 1, 1),
            talk(GUEST, "A", 2, 2),
            talk(OTHER, "A", 2, 2, after_s=59),
            talk(GUEST, "A", 2, 2, after_s=119),
        ],
    )
    yield "a reset does not shorten its end", [*both, talk(OTHER, "R", 2), talk(OTHER, "FA", 1, 2, after_s=100)]


def tcp_again() -> Rows:
    talk = Talk()
    over = next(turns for name, turns in tcp_ends() if name == "both sides")[:7]
    new = {"base": (90000, 50000)}
    yield (
        "the same ports, while the former is hardly over",
        [
            *over,
            talk(GUEST, "S", 0, **new),
            talk(OTHER, "SA", 0, 1, **new),
            talk(GUEST, "A", 1, 1, **new),
            talk(OTHER, "PA", 1, 1, size=10, after_s=10_000, **new),
        ],
    )
    yield "by the other side rules are asked", [*over, talk(OTHER, "S", 0, dropped=REFUSED, base=(90000, 50000))]
    yield (
        "the guest has forgotten: a challenge, a reset, and anew",
        [
            *talk.opened(),
            talk(GUEST, "S", 0, base=(90000, 5000)),
            talk(OTHER, "A", 1, 1),
            talk(GUEST, "R", 1),
            talk(GUEST, "S", 0, base=(90000, 5000)),
            talk(OTHER, "SA", 0, 1, **new),
            talk(GUEST, "A", 1, 1, **new),
        ],
    )
    yield (
        "both have forgotten",
        [
            *talk.opened(),
            talk(GUEST, "S", 0, **new),
            talk(OTHER, "SA", 0, 1, **new),
            talk(GUEST, "A", 1, 1, **new),
            talk(GUEST, "PA", 1, 1, INVALID, size=1),
            talk(OTHER, "PA", 1, 1, size=10, after_s=10_000, **new),
        ],
    )
    yield (
        "refused, and the former goes on",
        [
            *talk.opened(),
            talk(GUEST, "S", 0, **new),
            talk(OTHER, "RA", 0, 1, base=(90000, 0)),
            talk(OTHER, "PA", 1, 1, size=10),
        ],
    )
    yield "a SYN within it that no rule lets pass", [*talk.opened(), talk(OTHER, "S", 100, dropped=REFUSED)]


def udp(version: int, side: int, ports: tuple[int, int] = (40000, 53), size: int = 10) -> bytes:
    source, destination = ports if side == GUEST else ports[::-1]
    return frame(side, network(version, side) / UDP(sport=source, dport=destination) / Raw(bytes(size)))


def datagrams() -> Rows:
    for version in (4, 6):
        yield (
            f"and answers, IPv{version}",
            [
                Turn(OTHER, udp(version, OTHER), REFUSED),
                Turn(GUEST, udp(version, GUEST)),
                Turn(OTHER, udp(version, OTHER)),
                Turn(OTHER, udp(version, OTHER), after_s=179),
                Turn(OTHER, udp(version, OTHER), REFUSED, after_s=180),
            ],
        )
    yield (
        "without an answer are remembered for less",
        [
            Turn(GUEST, udp(4, GUEST)),
            Turn(GUEST, udp(4, GUEST), after_s=29),
            Turn(OTHER, udp(4, OTHER), REFUSED, after_s=30),
        ],
    )
    yield (
        "from where the guest has not sent to",
        [Turn(GUEST, udp(4, GUEST)), Turn(OTHER, udp(4, OTHER, (40000, 54)), REFUSED)],
    )
    yield (
        "to a port that may be reached",
        [Turn(OTHER, udp(4, OTHER, (53, 40000))), Turn(GUEST, udp(4, GUEST, (53, 40000)))],
    )
    cut = bytes(network(4, GUEST) / Raw(bytes(7)))
    cut = cut[:9] + b"\x11" + cut[10:]
    yield "cut short", [Turn(GUEST, frame(GUEST, Raw(cut))[:12] + b"\x08\x00" + cut, INVALID)]
    yield (
        "of another tenant's port are another connection",
        [
            Turn(GUEST, udp(4, GUEST)),
            Turn(OTHER, udp(4, OTHER), REFUSED, port="b"),
            Turn(OTHER, udp(4, OTHER)),
        ],
    )


def ping(version: int, side: int, number: int = 7, *, answer: bool = False) -> bytes:
    if version == 4:
        return frame(side, network(4, side) / ICMP(type=0 if answer else 8, id=number, seq=1) / Raw(b"ping"))
    kind = ICMPv6EchoReply if answer else ICMPv6EchoRequest
    return frame(side, network(6, side) / kind(id=number, seq=1, data=b"ping"))


def queries() -> Rows:
    for version in (4, 6):
        yield (
            f"of the guest, IPv{version}",
            [
                Turn(OTHER, ping(version, OTHER, answer=True), REFUSED),
                Turn(GUEST, ping(version, GUEST)),
                Turn(OTHER, ping(version, OTHER, answer=True)),
                Turn(OTHER, ping(version, OTHER, 8, answer=True), REFUSED),
                Turn(GUEST, ping(version, GUEST, answer=True), INVALID),
                Turn(OTHER, ping(version, OTHER, answer=True), REFUSED, after_s=30),
            ],
        )
        yield (
            f"of the guest and to it with one number, IPv{version}",
            [
                Turn(GUEST, ping(version, GUEST)),
                Turn(OTHER, ping(version, OTHER)),
                Turn(GUEST, ping(version, GUEST, answer=True)),
                Turn(OTHER, ping(version, OTHER, answer=True)),
            ],
        )
        yield (
            f"an answer that nobody asked for, IPv{version}",
            [Turn(GUEST, ping(version, GUEST, answer=True), INVALID)],
        )
    for asks, answers in ((13, 14), (15, 16), (17, 18)):
        yield (
            f"type {asks}",
            [
                Turn(OTHER, frame(OTHER, network(4, OTHER) / ICMP(type=asks, id=3)), REFUSED),
                Turn(GUEST, frame(GUEST, network(4, GUEST) / ICMP(type=asks, id=3))),
                Turn(OTHER, frame(OTHER, network(4, OTHER) / ICMP(type=answers, id=3))),
                Turn(OTHER, frame(OTHER, network(4, OTHER) / ICMP(type=0, id=3)), REFUSED),
            ],
        )
    yield (
        "other messages are each by themselves",
        [
            Turn(GUEST, frame(GUEST, network(4, GUEST) / ICMP(type=9))),
            Turn(OTHER, frame(OTHER, network(4, OTHER) / ICMP(type=9)), REFUSED),
            Turn(OTHER, frame(OTHER, network(4, OTHER) / ICMP(type=5)), REFUSED),
        ],
    )


def others() -> Rows:
    def of(version: int, side: int, protocol: int = 50) -> bytes:
        packet = network(version, side) / Raw(b"secret")
        if version == 4:
            packet[IP].proto = protocol
        else:
            packet[IPv6].nh = protocol
        return frame(side, packet)

    for version in (4, 6):
        yield (
            f"and answers, IPv{version}",
            [
                Turn(OTHER, of(version, OTHER), REFUSED),
                Turn(GUEST, of(version, GUEST)),
                Turn(OTHER, of(version, OTHER, 51), REFUSED),
                Turn(OTHER, of(version, OTHER)),
                Turn(OTHER, of(version, OTHER), after_s=599),
                Turn(OTHER, of(version, OTHER), REFUSED, after_s=600),
            ],
        )
        yield (
            f"that rules admit, IPv{version}",
            [Turn(OTHER, of(version, OTHER, 47)), Turn(GUEST, of(version, GUEST, 47))],
        )


def sctp() -> Rows:
    def of(side: int, tag: int, chunk: Packet, ports: tuple[int, int] = (40000, 9)) -> bytes:
        source, destination = ports if side == GUEST else ports[::-1]
        return frame(side, network(4, side) / SCTP(sport=source, dport=destination, tag=tag) / chunk)

    init = Turn(GUEST, of(GUEST, 0, SCTPChunkInit(init_tag=0xAAAA)))
    opened = [
        init,
        Turn(OTHER, of(OTHER, 0xAAAA, SCTPChunkInitAck(init_tag=0xBBBB))),
        Turn(GUEST, of(GUEST, 0xBBBB, SCTPChunkCookieEcho())),
        Turn(OTHER, of(OTHER, 0xAAAA, SCTPChunkCookieAck())),
        Turn(GUEST, of(GUEST, 0xBBBB, SCTPChunkData(data=b"data"))),
    ]
    yield "opens", [*opened, Turn(OTHER, of(OTHER, 0xAAAA, SCTPChunkData(data=b"data")), after_s=299)]
    yield "not by data", [Turn(GUEST, of(GUEST, 0xBBBB, SCTPChunkData(data=b"data")), INVALID)]
    yield "not from outside", [Turn(OTHER, of(OTHER, 0, SCTPChunkInit(init_tag=1)), REFUSED)]
    yield (
        "to a port that may be reached",
        [
            Turn(OTHER, of(OTHER, 0, SCTPChunkInit(init_tag=1), (9, 40000))),
            Turn(GUEST, of(GUEST, 1, SCTPChunkInitAck(init_tag=2), (9, 40000))),
        ],
    )
    yield (
        "who does not know the tag does not close",
        [
            *opened,
            Turn(OTHER, of(OTHER, 0xCCCC, SCTPChunkAbort()), INVALID),
            Turn(OTHER, of(OTHER, 0, SCTPChunkAbort()), INVALID),
            Turn(OTHER, of(OTHER, 0xAAAA, SCTPChunkData(data=b"data")), after_s=100),
        ],
    )
    yield (
        "aborted",
        [
            *opened,
            Turn(OTHER, of(OTHER, 0xAAAA, SCTPChunkAbort())),
            Turn(GUEST, of(GUEST, 0xBBBB, SCTPChunkData()), INVALID, 10),
        ],
    )
    yield "shut down", [*opened, Turn(OTHER, of(OTHER, 0xAAAA, SCTPChunkShutdown())), init]
    goes_on = [
        Turn(GUEST, of(GUEST, 0xBBBB, SCTPChunkData(data=b"data"))),
        Turn(OTHER, of(OTHER, 0xAAAA, SCTPChunkData(data=b"data")), after_s=100),
    ]
    late, forged = (Turn(GUEST, of(GUEST, 0, SCTPChunkInit(init_tag=tag))) for tag in (0xAAAA, 0xDDDD))
    yield "an INIT that comes again, late, ends nothing", [
        *opened, late, Turn(OTHER, of(OTHER, 0xAAAA, SCTPChunkInitAck(init_tag=0xEEEE)), INVALID), *goes_on,
    ]  # fmt: skip
    yield (
        "an INIT of who knows no tag ends nothing",
        [
            *opened,
            forged,
            Turn(OTHER, of(OTHER, 0xDDDD, SCTPChunkInitAck(init_tag=0xEEEE))),
            Turn(GUEST, of(GUEST, 0xEEEE, SCTPChunkData(data=b"data")), INVALID),
            Turn(OTHER, of(OTHER, 0xDDDD, SCTPChunkData(data=b"data")), INVALID),
            *goes_on,
            Turn(OTHER, of(OTHER, 0xDDDD, SCTPChunkAbort())),
            *goes_on,
        ],
    )
    yield (
        "an end that has forgotten begins anew",
        [
            *opened,
            forged,
            Turn(OTHER, of(OTHER, 0xDDDD, SCTPChunkCookieAck()), INVALID),
            Turn(OTHER, of(OTHER, 0xDDDD, SCTPChunkInitAck(init_tag=0xEEEE))),
            Turn(GUEST, of(GUEST, 0xEEEE, SCTPChunkCookieEcho())),
            Turn(OTHER, of(OTHER, 0xDDDD, SCTPChunkCookieAck())),
            Turn(GUEST, of(GUEST, 0xBBBB, SCTPChunkData(data=b"data")), INVALID),
            Turn(GUEST, of(GUEST, 0xEEEE, SCTPChunkData(data=b"data"))),
            Turn(OTHER, of(OTHER, 0xDDDD, SCTPChunkData(data=b"data")), after_s=100),
        ],
    )
    yield "where rules let no other begin, nobody begins anew", [
        *opened, replace(forged, open=False, admitted=frozenset(), dropped=REFUSED),
    ]  # fmt: skip
    for chosen in (0xBBBB, 0xEEEE):
        yield (
            f"an INIT that is said twice has two answers, of which {chosen:x} is taken",
            [
                init,
                init,
                Turn(OTHER, of(OTHER, 0xAAAA, SCTPChunkInitAck(init_tag=0xBBBB))),
                init,
                Turn(OTHER, of(OTHER, 0xAAAA, SCTPChunkInitAck(init_tag=0xEEEE))),
                Turn(GUEST, of(GUEST, 0xEEEE, SCTPChunkData(data=b"data")), INVALID),
                Turn(GUEST, of(GUEST, chosen, SCTPChunkCookieEcho())),
                Turn(OTHER, of(OTHER, 0xAAAA, SCTPChunkCookieAck())),
                Turn(GUEST, of(GUEST, chosen, SCTPChunkData(data=b"data"))),
            ],
        )
    quoted = network(4, GUEST) / SCTP(sport=40000, dport=9, tag=0xBBBB)
    yield (
        "an error is of what has the other's tag",
        [
            init,
            Turn(OTHER, error(4, OTHER, network(4, GUEST) / SCTP(sport=40000, dport=9, tag=0))),
            *opened[1:],
            Turn(OTHER, error(4, OTHER, quoted)),
            Turn(OTHER, error(4, OTHER, network(4, GUEST) / SCTP(sport=40000, dport=9, tag=0)), INVALID),
            Turn(OTHER, error(4, OTHER, network(4, GUEST) / SCTP(sport=40000, dport=9, tag=0xAAAA)), INVALID),
        ],
    )


def error(version: int, side: int, quoted: Packet, kind: int = 3, code: int = 1, to: str = "") -> bytes:
    """From a router on the way, to the side that did not send it."""
    to = to or (REMOTE if side == GUEST else LOCAL)[version]
    if version == 4:
        return frame(side, IP(src=ROUTER[4], dst=to) / ICMP(type=kind, code=code) / quoted)
    of = ICMPv6PacketTooBig(mtu=1280) if kind == 2 else ICMPv6DestUnreach(code=code)
    return frame(side, IPv6(src=ROUTER[6], dst=to) / of / quoted)


def errors() -> Rows:
    for version in (4, 6):
        sent = network(version, GUEST) / UDP(sport=40000, dport=53) / Raw(bytes(20))
        yield (
            f"of a datagram, IPv{version}",
            [
                Turn(OTHER, error(version, OTHER, sent), INVALID),
                Turn(GUEST, udp(version, GUEST)),
                Turn(OTHER, error(version, OTHER, sent)),
                Turn(OTHER, error(version, OTHER, network(version, GUEST) / UDP(sport=40001, dport=53)), INVALID),
                Turn(OTHER, error(version, OTHER, network(version, OTHER) / UDP(sport=53, dport=40000)), INVALID),
            ],
        )
        yield (
            f"of the guest, of what came to it, IPv{version}",
            [
                Turn(GUEST, udp(version, GUEST)),
                Turn(OTHER, udp(version, OTHER)),
                Turn(GUEST, error(version, GUEST, network(version, OTHER) / UDP(sport=53, dport=40000))),
                Turn(GUEST, error(version, GUEST, network(version, GUEST) / UDP(sport=40000, dport=53)), INVALID),
            ],
        )
        came = network(version, OTHER) / UDP(sport=53, dport=40000)
        yield (
            f"of the guest, to somebody who has not sent what it quotes, IPv{version}",
            [
                Turn(GUEST, udp(version, GUEST)),
                Turn(OTHER, udp(version, OTHER)),
                Turn(GUEST, error(version, GUEST, came, to=ROUTER[version]), INVALID),
                Turn(OTHER, error(version, OTHER, sent, to=ROUTER[version]), INVALID),
                Turn(GUEST, error(version, GUEST, came)),
            ],
        )
        talk = Talk(version)
        segment = network(version, GUEST) / TCP(sport=40000, dport=80, seq=1001, ack=5001)
        stray = network(version, GUEST) / TCP(sport=40000, dport=80, seq=900_000, ack=5001)
        yield (
            f"too big, of what is under way, IPv{version}",
            [
                *talk.opened(),
                talk(GUEST, "PA", 1, 1, size=900),
                Turn(OTHER, error(version, OTHER, segment, 3 if version == 4 else 2, 4 if version == 4 else 0)),
                Turn(OTHER, error(version, OTHER, stray, 3 if version == 4 else 2, 4 if version == 4 else 0), INVALID),
            ],
        )
        yield (
            f"time exceeded, of a ping, IPv{version}",
            [
                Turn(GUEST, ping(version, GUEST)),
                Turn(OTHER, error(version, OTHER, Ether(ping(version, GUEST)).payload, 11 if version == 4 else 1, 0)),
                Turn(
                    OTHER,
                    error(version, OTHER, Ether(ping(version, GUEST, 9)).payload, 11 if version == 4 else 1, 0),
                    INVALID,
                ),
            ],
        )
    sent = network(4, GUEST) / UDP(sport=40000, dport=53)
    yield (
        "that quote too little",
        [
            Turn(GUEST, udp(4, GUEST)),
            Turn(OTHER, error(4, OTHER, Raw(bytes(sent)[:27])), INVALID),
            Turn(OTHER, error(4, OTHER, Raw(b"")), INVALID),
            Turn(OTHER, error(4, OTHER, Raw(bytes(sent)[:28]))),
        ],
    )
    yield (
        "are no sign of life",
        [
            Turn(GUEST, udp(4, GUEST)),
            Turn(OTHER, error(4, OTHER, sent), after_s=20),
            Turn(OTHER, udp(4, OTHER), REFUSED, after_s=10),
        ],
    )


def pieces(
    version: int, side: int, spans: list[tuple[int, int]], identity: int = 77, total: int = 3000, **ports: int
) -> list[bytes]:
    """Fragments of a UDP datagram, as spans of bytes behind the IP header."""
    way = {"sport": 40000, "dport": 53} if side == GUEST else {"sport": 53, "dport": 40000}
    whole = bytes(UDP(len=min(total, 65_535), chksum=0, **{**way, **ports}) / Raw(bytes(total - 8)))
    found = []
    for begin, end in spans:
        more, data = end < total, Raw(whole[begin:end])
        if version == 4:
            packet = network(4, side)
            packet.id, packet.frag, packet.flags, packet.proto = identity, begin // 8, "MF" if more else 0, 17
            found.append(frame(side, packet / data))
        else:
            header = Fragment6(id=identity, offset=begin // 8, m=int(more), nh=17)
            found.append(frame(side, network(6, side) / header / data))
    return found


THREE = [(0, 1000), (1000, 2000), (2000, 3000)]


def fragments() -> Iterator[Conversation]:
    for version in (4, 6):
        of: Callable[..., list[bytes]] = partial(pieces, version)

        def say(name: str, turns: list[Turn], version: int = version) -> Conversation:
            return Conversation(f"fragments: {name}, IPv{version}", tuple(turns))

        out = [Turn(GUEST, each) for each in of(GUEST, THREE)]
        yield say("in order", [*out, *(Turn(OTHER, each) for each in of(OTHER, THREE))])
        yield say("out of order, behind the first", [out[0], out[2], out[1]])
        yield say("none passes before the first", [Turn(GUEST, out[1].frame, UNKNOWN), *out])
        yield say("a later one of what was refused", [
            Turn(OTHER, each, REFUSED if not rank else UNKNOWN) for rank, each in enumerate(of(OTHER, THREE))
        ])  # fmt: skip
        yield say("that overlap spoil their datagram", [
            out[0],
            Turn(GUEST, of(GUEST, [(992, 2000)])[0], OVERLAP),
            Turn(GUEST, out[1].frame, OVERLAP),
            Turn(GUEST, out[0].frame, OVERLAP),
        ])  # fmt: skip
        yield say("twice the same", [out[0], out[1], Turn(GUEST, out[1].frame, OVERLAP)])
        yield say("and the next datagram with the same number", [*out, *out, *out])
        yield say("with too many gaps", [
            out[0],
            *(Turn(GUEST, of(GUEST, [(1008 + 16 * n, 1016 + 16 * n)])[0]) for n in range(7)),
            Turn(GUEST, of(GUEST, [(1208, 1216)])[0], OVERLAP),
        ])  # fmt: skip
        yield say("gaps are filled", [
            out[0],
            *(Turn(GUEST, of(GUEST, [(1008 + 16 * n, 1016 + 16 * n)])[0]) for n in range(7)),
            *(Turn(GUEST, of(GUEST, [(1000 + 16 * n, 1008 + 16 * n)])[0]) for n in range(8)),
            Turn(GUEST, of(GUEST, [(1120, 3000)])[0]),
            Turn(GUEST, out[2].frame, UNKNOWN),
        ])  # fmt: skip
        yield say("too late", [out[0], Turn(GUEST, out[1].frame, UNKNOWN, after_s=30)])
        yield say("of another datagram", [out[0], Turn(GUEST, of(GUEST, THREE, identity=78)[1], UNKNOWN), out[1]])
        yield say("of the other direction", [out[0], Turn(OTHER, of(OTHER, THREE)[1], UNKNOWN)])
        yield say("the first without its header", [Turn(GUEST, of(GUEST, [(0, 0)])[0], INVALID)])
        yield say("of a length that is none", [Turn(GUEST, of(GUEST, [(0, 1001)])[0], INVALID)])
        yield say("beyond what a datagram can be", [
            out[0],
            Turn(GUEST, of(GUEST, [(65528, 65560)], total=65560)[0], INVALID),
        ])  # fmt: skip
    alone = network(6, GUEST) / Fragment6(id=5, offset=0, m=0, nh=17) / UDP(sport=40000, dport=53) / Raw(b"alone")
    yield Conversation("fragments: one that is the whole", (
        Turn(GUEST, frame(GUEST, alone)), Turn(GUEST, frame(GUEST, alone)), Turn(OTHER, udp(6, OTHER)),
    ))  # fmt: skip


def extensions() -> Iterator[Conversation]:
    """IPv6's headers before the transport's hide nothing of it."""
    hop, options, routing = IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt(), IPv6ExtHdrRouting(type=4)
    chains = {
        "hop-by-hop": (hop,),
        "options": (options,),
        "routing": (routing,),
        "all": (hop, options, routing, options),
    }

    def behind(side: int, chain: tuple[Packet, ...], *layers: Packet) -> bytes:
        packet = network(6, side)
        for each in (*chain, *layers):
            packet = packet / each.copy()
        return frame(side, packet)

    def segment(side: int, flags: str, seq: int, ack: int, ports: tuple[int, int]) -> Packet:
        source, destination = ports if side == GUEST else ports[::-1]
        return TCP(sport=source, dport=destination, flags=flags, seq=seq, ack=ack, window=1000)

    def say(name: str, *turns: Turn) -> Conversation:
        return Conversation(f"extension headers: {name}", turns)

    for name, chain in chains.items():
        ports = (22, 40000)
        yield say(
            f"a connection behind {name} is what it is without",
            Turn(OTHER, behind(OTHER, chain, segment(OTHER, "S", 5000, 0, ports))),
            Turn(GUEST, behind(GUEST, (), segment(GUEST, "SA", 1000, 5001, ports))),
            Turn(OTHER, behind(OTHER, (), segment(OTHER, "A", 5001, 1001, ports))),
            Turn(OTHER, behind(OTHER, chain, segment(OTHER, "R", 900_000, 0, ports)), INVALID),
            Turn(GUEST, behind(GUEST, chain, segment(GUEST, "PA", 1001, 5001, ports), Raw(b"data"))),
        )
        yield say(
            f"what rules do not let come does not come behind {name}",
            Turn(OTHER, behind(OTHER, chain, segment(OTHER, "S", 5000, 0, (23, 40000))), REFUSED),
            # Nor in answer to what the guest has said by the same header.
            Turn(GUEST, behind(GUEST, chain, UDP(sport=40000, dport=53))),
            Turn(OTHER, behind(OTHER, chain, segment(OTHER, "S", 5000, 0, (23, 40000))), REFUSED),
            Turn(OTHER, behind(OTHER, chain, UDP(sport=53, dport=40000))),
        )
        yield say(
            f"a guest that may open one port only opens no other behind {name}",
            Turn(GUEST, behind(GUEST, chain, segment(GUEST, "S", 1000, 0, (40000, 25))), REFUSED, open=False,
                 open_port=80, admitted=ADMITTED),
            Turn(GUEST, behind(GUEST, chain, segment(GUEST, "S", 1000, 0, (40000, 80)))),
        )  # fmt: skip
    whole = bytes(options / UDP(sport=40000, dport=53, len=3000, chksum=0) / Raw(bytes(2992)))[:3008]
    whole = bytes([17]) + whole[1:]
    spans = ((0, 1000), (1000, 2000), (2000, 3008))

    def piece(rank: int, carries: int = 60) -> Turn:
        begin, end = spans[rank]
        header = Fragment6(id=7, offset=begin // 8, m=int(end < 3008), nh=carries)
        return Turn(GUEST, behind(GUEST, (hop,), header, Raw(whole[begin:end])))

    yield say("of fragments, before and behind", *map(piece, range(3)), Turn(OTHER, udp(6, OTHER)))
    yield say(
        "in the first fragment only in part",
        Turn(GUEST, behind(GUEST, (), Fragment6(id=7, m=1, nh=60), Raw(whole[:8])), INVALID),
    )
    within = Fragment6(id=8, m=0, nh=17) / UDP(sport=40000, dport=53)
    yield say(
        "a fragment in a fragment is nobody's",
        Turn(GUEST, behind(GUEST, (), Fragment6(id=7, m=0, nh=44), within), INVALID),
        Turn(GUEST, behind(GUEST, (Fragment6(id=7, m=0, nh=60), options), within), INVALID),
    )
    yield say(
        "eight, and no more",
        Turn(GUEST, behind(GUEST, (options,) * 8, UDP(sport=40000, dport=53))),
        Turn(GUEST, behind(GUEST, (options,) * 9, UDP(sport=40000, dport=53)), INVALID),
    )
    cut = network(6, GUEST)
    cut.nh = 60
    yield say(
        "that are cut short",
        Turn(GUEST, frame(GUEST, cut / Raw(bytes([17, 1]) + bytes(6))), INVALID),
        Turn(GUEST, frame(GUEST, cut / Raw(bytes([17, 0]) + bytes(4))), INVALID),
    )
    sent = network(6, GUEST) / options / UDP(sport=40000, dport=53) / Raw(bytes(20))
    yield say(
        "in what an error quotes",
        Turn(GUEST, udp(6, GUEST)),
        Turn(OTHER, error(6, OTHER, sent)),
        Turn(OTHER, error(6, OTHER, network(6, GUEST) / options / UDP(sport=40001, dport=53)), INVALID),
        Turn(
            OTHER, error(6, OTHER, Raw(bytes(network(6, GUEST) / options / UDP(sport=40000, dport=53))[:48])), INVALID
        ),
    )


def rules_change() -> Iterator[Conversation]:
    talk, nothing = Talk(ports=(22, 40000)), frozenset[tuple[int, int | None]]()
    data = talk(OTHER, "PA", 1, 1, size=10)
    cut = talk(OTHER, "PA", 1, 1, REFUSED, size=10, admitted=nothing)
    yield Conversation("rules change: a connection whose rule is gone is cut, both ways", (
        *talk.opened(OTHER), data, cut, talk(GUEST, "A", 1, 1, REFUSED), talk(GUEST, "A", 1, 1, REFUSED),
    ))  # fmt: skip
    yield Conversation(
        "rules change: or is kept",
        (*talk.opened(OTHER), data, talk(OTHER, "PA", 1, 1, size=10, admitted=nothing)),
        keep=True,
    )
    yield Conversation(
        "rules change: or is kept through many",
        (
            *talk.opened(OTHER),
            data,
            talk(OTHER, "PA", 1, 1, size=10, admitted=nothing),
            talk(OTHER, "PA", 1, 1, size=10, admitted=ADMITTED),
            talk(GUEST, "A", 1, 11, admitted=nothing),
            talk(OTHER, "PA", 1, 1, size=10),
        ),
        keep=True,
    )
    yield Conversation("rules change: and goes on when there is one again", (
        *talk.opened(OTHER), cut, talk(OTHER, "PA", 1, 1, size=10, admitted=ADMITTED),
    ))  # fmt: skip
    yield Conversation("rules change: what they still let begin goes on", (
        *talk.opened(OTHER), talk(OTHER, "PA", 1, 1, size=10, admitted=frozenset({(6, 22)})),
    ))  # fmt: skip
    yield Conversation("rules change: a ping", (
        Turn(OTHER, ping(4, OTHER)),
        Turn(GUEST, ping(4, GUEST, answer=True), admitted=frozenset({(1, 8 << 8)})),
        Turn(GUEST, ping(4, GUEST, answer=True), REFUSED, admitted=nothing),
    ))  # fmt: skip
    for version in (4, 6):
        asked, answered = (udp(version, side, (53, 40000)) for side in (OTHER, GUEST))
        told = error(version, OTHER, network(version, GUEST) / UDP(sport=53, dport=40000))
        yield Conversation(f"rules change: an error tells of no connection whose rule is gone, IPv{version}", (
            Turn(OTHER, asked),
            Turn(GUEST, answered),
            Turn(OTHER, told, INVALID, admitted=nothing),
            Turn(OTHER, told, admitted=ADMITTED),
            Turn(OTHER, told, INVALID, admitted=nothing),
            Turn(OTHER, asked, REFUSED),
        ))  # fmt: skip
        yield Conversation(
            f"rules change: an error tells of one that is kept, IPv{version}",
            (Turn(OTHER, asked), Turn(GUEST, answered), Turn(OTHER, told, admitted=nothing)),
            keep=True,
        )
    yield Conversation("rules change: what the guest has begun", (
        *Talk().opened(),
        Talk()(GUEST, "PA", 1, 1, size=10, admitted=nothing),
        Talk()(GUEST, "PA", 11, 1, REFUSED, size=10, admitted=nothing, open=False),
    ))  # fmt: skip


def moves() -> Iterator[Conversation]:
    """A port that is on its way here: what is for it comes, too; its guest speaks elsewhere, and then here."""

    def say(name: str, turns: list[Turn], arriving: int | None = None) -> Conversation:
        return Conversation(f"moves: {name}", tuple(turns), arriving=len(turns) if arriving is None else arriving)

    for version in (4, 6):
        talk, inward = Talk(version), Talk(version, (22, 40000))
        yield say(f"of what the guest has begun elsewhere, nothing is known before it speaks, IPv{version}", [
            talk(OTHER, "SA", 0, 1, MOVING),
            talk(OTHER, "PA", 1, 1, MOVING, size=10),
            talk(GUEST, "PA", 5001, 90_001, size=10),
            talk(OTHER, "A", 90_001, 5011),
            talk(OTHER, "PA", 90_001, 5011, size=100),
            talk(GUEST, "A", 5011, 90_101),
        ])  # fmt: skip
        yield say(f"what is begun to it is known, though it answers elsewhere, IPv{version}", [
            inward(OTHER, "S", 0),
            inward(OTHER, "A", 1, 1),
            *(inward(OTHER, "PA", 1 + 70_000 * n, 1 + 100_000 * n, size=100) for n in range(4)),
            inward(GUEST, "PA", 300_001, 210_101, size=10),
            inward(OTHER, "A", 210_101, 300_011),
        ])  # fmt: skip
    inward = Talk(ports=(22, 40000))
    yield say("it answers here what was begun before it was here", [
        inward(OTHER, "S", 0), inward(GUEST, "SA", 0, 1), inward(OTHER, "A", 1, 1), inward(GUEST, "PA", 1, 1, size=10),
    ])  # fmt: skip
    yield say("a connection that may be begun to it is taken up in its midst", [
        inward(OTHER, "PA", 700, 900, size=10), inward(GUEST, "A", 900, 710), inward(OTHER, "PA", 710, 900, size=10),
    ])  # fmt: skip
    yield say("but not by a reset, or the answer to a SYN", [
        inward(OTHER, "R", 700, dropped=MOVING), inward(OTHER, "SA", 700, 900, MOVING),
        inward(GUEST, "R", 700, dropped=INVALID),
    ])  # fmt: skip
    yield say("once both have spoken here, windows are asked of again", [
        inward(OTHER, "PA", 700, 900, size=10, window=1),
        inward(GUEST, "A", 900, 710, window=1),
        inward(OTHER, "A", 710, 900, window=1),
        inward(OTHER, "PA", 710 + (1 << 21), 900, MOVING, size=10),
        inward(OTHER, "PA", 710, 900, size=10),
    ])  # fmt: skip
    yield say("when it has arrived nothing more is taken up, and what was goes on", [
        inward(OTHER, "PA", 700, 900, size=10),
        Talk(ports=(22, 40001))(OTHER, "PA", 700, 900, INVALID, size=10),
        Talk()(GUEST, "PA", 700, 900, INVALID, size=10),
        Talk()(OTHER, "PA", 700, 900, REFUSED, size=10),
        inward(GUEST, "A", 90_000, 80_000),
        inward(OTHER, "PA", 80_000, 90_000, size=10),
    ], arriving=1)  # fmt: skip
    yield say("the other end cannot end what is on its way here by a reset, the guest can", [
        inward(OTHER, "PA", 700, 900, size=10),
        inward(OTHER, "R", 710),
        inward(GUEST, "A", 900, 710),
        inward(GUEST, "R", 900),
        inward(OTHER, "S", 0),
    ], arriving=1)  # fmt: skip
    yield say("a SYN that is sent again, and answered elsewhere", [
        inward(OTHER, "S", 0), inward(OTHER, "S", 0), inward(OTHER, "PA", 1, 1, size=10), inward(GUEST, "A", 1, 11),
    ])  # fmt: skip
    yield say("what the guest begins here is known from its beginning", [
        *Talk().opened(), Talk()(OTHER, "PA", 100_000, 1, MOVING, size=10),
        Talk()(OTHER, "R", 70_000, dropped=MOVING),
    ])  # fmt: skip
    yield say("datagrams", [
        Turn(OTHER, udp(4, OTHER, ports=(53, 40000))), Turn(OTHER, udp(4, OTHER), MOVING), Turn(GUEST, udp(4, GUEST)),
        Turn(OTHER, udp(4, OTHER)),
    ])  # fmt: skip
    pieces_of = [Turn(OTHER, each) for each in pieces(4, OTHER, THREE)]
    yield Conversation("moves: away, what is as it should not be may be as it should where it goes", (
        *Talk().opened(), Talk()(OTHER, "PA", 1, 1, size=10), Talk()(OTHER, "PA", 100_000, 1, MOVING, size=10),
        Talk()(OTHER, "PA", 11, 1, size=10), Talk(ports=(1, 2))(OTHER, "SA", 0, 1, MOVING),
        Talk(ports=(1, 2))(GUEST, "A", 5, 1, INVALID), inward(OTHER, "PA", 7, 9, MOVING, size=10),
    ), leaving=True)  # fmt: skip
    yield say("later fragments of what came before", [Turn(OTHER, pieces_of[1].frame, MOVING)])


def bounds() -> Iterator[Conversation]:
    def syn(port: int, of: str = "a", **more: Any) -> Turn:
        return Talk(ports=(port, 80))(GUEST, "S", 0, port=of, **more)

    def enters(port: int, version: int = 4, of: str = "a", **more: Any) -> Turn:
        return Talk(version, ports=(22, 1000 + port))(OTHER, "S", 0, port=of, **more)

    yield Conversation(
        "bounds: a port has so many and no more, and harms no other",
        (*(syn(n) for n in range(4)), syn(9, dropped=LIMIT), syn(9, dropped=LIMIT), syn(9, of="b"), syn(0)),
        limits={"most_of_port": 4},
    )
    yield Conversation(
        "bounds: what another guest begins is no more than half of what others may, and leaves the port its own",
        (
            *(enters(n) for n in range(4)),
            enters(9, dropped=LIMIT),
            *(enters(n, 6) for n in range(4)),
            enters(9, 6, dropped=LIMIT),
            *(syn(n) for n in range(4)),
            syn(9, dropped=LIMIT),
        ),
        limits={"most_of_port": 4},
    )
    yield Conversation(
        "bounds: nor does it begin more with several ports than with one",
        (
            *(enters(n, of="a") for n in range(3)),
            enters(0, of="b"),
            enters(1, of="b", dropped=LIMIT),
            enters(4, of="a", dropped=LIMIT),
            *(enters(n, 6, of="b") for n in range(4)),
            *(enters(n, of="b", after_s=30 if n == 1 else 0) for n in range(1, 4)),
        ),
        limits={"most_of_port": 4},
    )
    yield Conversation(
        "bounds: who opens it anew takes no place that is another's",
        (
            *(syn(n) for n in range(3)),
            *Talk(ports=(22, 80)).opened(),
            Talk(ports=(22, 80))(OTHER, "RA", 1, 1),
            Talk(ports=(22, 80))(OTHER, "S", 9000),
            syn(9, dropped=LIMIT),
            *(enters(n) for n in range(4)),
            enters(9, dropped=LIMIT),
        ),
        limits={"most_of_port": 4},
    )
    yield Conversation(
        "bounds: nor has the host; of what it has a tenant leaves a part to others, and each port has its own",
        (
            *(syn(n) for n in range(7)),
            syn(9, dropped=LIMIT),
            *(syn(n, of="b") for n in range(3)),
            syn(9, of="b", dropped=FULL),
            syn(9, dropped=FULL),
            *Talk(ports=(2, 80)).opened()[1:],
            syn(1, of="c"),
            syn(9, of="c", dropped=FULL),
            enters(1, of="c"),
            enters(9, of="c", dropped=FULL),
            enters(1, of="b"),
            # With what they had beyond their own the others go, and all is as it was.
            *(syn(n, of="c", after_s=30 if n == 2 else 0) for n in range(2, 8)),
            syn(9, of="c"),
            syn(10, of="c", dropped=LIMIT),
        ),
        limits={"most_of_port": 9, "most": 8, "own_of_port": 1},
    )
    yield Conversation(
        "bounds: a tenant has no more of it with several ports than with one, nor what is another port's own",
        (
            *(syn(n, of=RED[n % 2]) for n in range(8)),
            *(syn(9, of=red, dropped=LIMIT) for red in RED),
            *(enters(n, of=red) for n, red in enumerate(RED)),
            *(enters(9, of=red, dropped=LIMIT) for red in RED),
            *(syn(n) for n in range(3)),
            syn(9, dropped=FULL),
        ),
        limits={"most_of_port": 9, "most": 8, "own_of_port": 1},
    )
    yield Conversation(
        "bounds: what has expired makes room",
        (*(syn(n) for n in range(4)), syn(9, after_s=30), *(syn(n) for n in range(3)), syn(8, dropped=LIMIT)),
        limits={"most_of_port": 4},
    )


CONVERSATIONS = tuple(conversations())
