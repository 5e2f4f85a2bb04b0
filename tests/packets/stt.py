"""The packet table's rows of STT (draft-davie-stt-08): frames one by one, and what of others' frames is taken."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from packets import build as b
from packets import policy as p
from packets.moving import MOVING, MOVING_OVER_IPV6
from packets.policy import MAIN, OVER_IPV6, Policy
from packets.table import FW_PORT, GW, WEB1_PORT, WEB2_PORT, Case, W, ca, guest, uplink
from packets.tunnels import MALFORMED, PA_1, PA_2, changed, inner, with_rules
from weft.policy.drop import DropReason
from weft.policy.rows import Rule
from weft.reference.verdict import Answer, Copies, Drop, ToPort, ToStack, ToUnderlay

POLICIES = {4: with_rules(MAIN, Rule.STT), 6: with_rules(OVER_IPV6, Rule.STT)}
MOVING_POLICIES = {4: with_rules(MOVING, Rule.STT), 6: with_rules(MOVING_OVER_IPV6, Rule.STT)}
MORE = {4: 72, 6: 92}
CSUM_VERIFIED, CSUM_PARTIAL, IS_IPV4, IS_TCP = 1, 2, 4, 8


def header(vsid: int, flags: int = 0, l4_at: int = 0, mss: int = 0, tag: int = 0, version: int = 0) -> bytes:
    return struct.pack("!BBBBHHQH", version, flags, l4_at, 0, mss, tag, vsid, 0)


@dataclass(frozen=True)
class Wire:
    """Builds what is on the wire, by scapy, which knows TCP."""

    outer: int  # IP version

    def packet(
        self, source: str, to: str, flow: int, body: bytes, ecn: int = 0, ttl: int = 64, seq: int | None = None
    ) -> bytes:
        seq = len(body) << 16 if seq is None else seq
        segment = b.TCP(sport=0xC000 | flow >> 18, dport=7471, seq=seq, ack=flow, flags="PA", window=0xFFFF)
        if self.outer == 6:
            return bytes(b.IPv6(src=source, dst=to, tc=ecn, fl=0, hlim=ttl) / segment / b.Raw(body))
        return bytes(b.IP(src=source, dst=to, tos=ecn, id=0, flags="DF", ttl=ttl) / segment / b.Raw(body))

    def sent(self, vsid: int, flow: int, frame: bytes, ecn: int = 0) -> ToUnderlay:
        to = PA_2[self.outer]
        return ToUnderlay(to, self.packet(PA_1[self.outer], to, flow, header(vsid) + frame, ecn))

    def arriving(self, body: bytes, ecn: int = 0, source: str = "", seq: int | None = None) -> bytes:
        packet = self.packet(source or PA_2[self.outer], PA_1[self.outer], 0x12345678, body, ecn, 61, seq)
        kind = b"\x08\x00" if self.outer == 4 else b"\x86\xdd"
        return bytes.fromhex("02aa0000000102aa00000002") + kind + packet

    @property
    def behind_ip(self) -> int:
        return 34 if self.outer == 4 else 54


def everywhere() -> Iterator[Case]:
    for outer, policy in POLICIES.items():
        wire = Wire(outer)
        for version in (4, 6):
            v = f"STT over IPv{outer}: IPv{version} "
            to, number = ca(version, 1, 20), 1 if version == 4 else 58
            flow = b.flow32(W[version], to, number)
            for size in (0, 1, 2, 3, 470, 471, 472, 473):  # about the piece that a checksum is made of
                frame = b.eth(p.WEB3, b.network(W[version], to, ecn=1) / b.echo(version, size))
                yield guest(
                    v + f"{size} bytes to a remote port", frame, wire.sent(p.BLUE_1, flow, frame, 1), policy=policy
                )
            routed = b.eth(p.ROUTER, b.network(W[version], ca(version, 2, 7)) / b.UDP(sport=40000, dport=53))
            arrived = b.eth(
                p.DB2, b.network(W[version], ca(version, 2, 7), hop_limit=63) / b.UDP(sport=40000, dport=53), p.ROUTER_2
            )
            across = b.flow32(W[version], ca(version, 2, 7), 17, (40000, 53))
            yield guest(v + "routed", routed, wire.sent(p.BLUE_2, across, arrived), policy=policy)
            limit = 1500 - MORE[outer]
            size = limit - (28 if version == 4 else 48)
            fits = b.eth(p.WEB3, b.network(W[version], to) / b.echo(version, size))
            yield guest(v + "what just fits", fits, wire.sent(p.BLUE_1, flow, fits), policy=policy)
            large = b.eth(p.WEB3, b.network(W[version], to) / b.echo(version, size + 1))
            kind, code = (3, 4) if version == 4 else (2, 0)
            error = b.icmp_error(large, kind, code, GW[version], W[version], limit)
            yield guest(v + "a byte more", large, Answer(error, DropReason.TOO_BIG), policy=policy)
            good = inner(version, ecn=1)
            head = header(p.BLUE_1)
            yield uplink(v + "to a port", wire.arriving(head + good), ToPort(WEB1_PORT, good), policy)
            marked = inner(version, ecn=3)
            yield uplink(v + "congestion", wire.arriving(head + good, ecn=3), ToPort(WEB1_PORT, marked), policy)
            yield from unfinished(v, wire, policy, version)
        yield from left_to_a_card(f"STT over IPv{outer}: ", wire, policy)
        yield from to_many(f"STT over IPv{outer}: ", wire, policy)
        yield from refused(f"STT over IPv{outer}: ", wire, policy)


def unfinished(v: str, wire: Wire, policy: Policy, version: int) -> Iterator[Case]:
    """A sender may leave the inner checksum to its network card, and says so: it is made good here."""
    for name, layer, sum_at, flags in (
        ("TCP", b.TCP(sport=1, dport=2), 16, IS_TCP),
        ("UDP", b.UDP(sport=1, dport=2), 6, 0),
    ):
        whole = b.eth(p.WEB1, b.network(ca(version, 1, 20), W[version]) / layer / b.Raw(b"odd"), p.WEB3)
        l4_at = 14 + (20 if version == 4 else 40)
        length = (len(whole) - l4_at).to_bytes(4, "big")
        ends = whole[26:34] if version == 4 else whole[22:54]
        pseudo = ends + length + bytes((0, 0, 0, 6 if flags else 17))
        total = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        partial = changed(whole, l4_at + sum_at, total.to_bytes(2, "big"))
        said = CSUM_PARTIAL | flags | (IS_IPV4 if version == 4 else 0)
        frame = wire.arriving(header(p.BLUE_1, said, l4_at) + partial)
        yield uplink(v + f"{name} whose checksum is unfinished", frame, ToPort(WEB1_PORT, whole), policy)
        wrong = changed(frame, wire.behind_ip + 16, bytes((frame[wire.behind_ip + 16] ^ 1,)))
        yield uplink(v + f"{name} unfinished, and the outer checksum wrong", wrong, MALFORMED, policy)
        for place in (0, 13, len(whole) - sum_at - 1, 255):
            bad = wire.arriving(header(p.BLUE_1, said, place) + partial)
            yield uplink(v + f"{name} unfinished, and to be at {place}", bad, MALFORMED, policy)


def left_to_a_card(v: str, wire: Wire, policy: Policy) -> Iterator[Case]:
    """What a guest's TCP or UDP checksum is, whoever makes it in the end, the outer one is of the right one."""
    for version in (4, 6):
        to = ca(version, 1, 20)
        for name, number, layer, at in (
            ("TCP", 6, b.TCP(sport=1, dport=2, options=[("MSS", 500)]), 16),
            ("UDP", 17, b.UDP(sport=1, dport=2), 6),
        ):
            for payload in (b"", b"odd", b"even"):
                frame = b.eth(p.WEB3, b.network(W[version], to) / layer / b.Raw(payload))
                flow = b.flow32(W[version], to, number, (1, 2))
                place = 14 + (20 if version == 4 else 40) + at
                for trail in (b"", b"t", b"tr"):
                    left = changed(frame, place, b"\x12\x34") + trail
                    right = wire.sent(p.BLUE_1, flow, frame + trail).packet
                    wanted = changed(right, len(right) - len(left) + place, b"\x12\x34")
                    what = f"{v}IPv{version} {name} of {len(payload)} bytes, {len(trail)} behind it, not summed up"
                    yield guest(what, left, ToUnderlay(PA_2[wire.outer], wanted), policy=policy)
            if name == "UDP":
                none = changed(frame, place, bytes(2))
                yield guest(
                    f"{v}IPv{version} UDP without a checksum", none, wire.sent(p.BLUE_1, flow, none), policy=policy
                )


def to_many(v: str, wire: Wire, policy: Policy) -> Iterator[Case]:
    """Each copy has the checksum of its own ends."""
    hosts = (p.PA2, p.PA3) if wire.outer == 4 else (p.PA2_6,)
    for version in (4, 6):
        mac, to = ("01:00:5e:00:00:fb", "224.0.0.251") if version == 4 else ("33:33:00:00:00:fb", "ff02::fb")
        frame = b.eth(mac, b.network(W[version], to) / b.UDP(sport=5353, dport=5353) / b.Raw(b"who"))
        flow = b.flow32(W[version], to, 17, (5353, 5353))
        body = header(p.BLUE_1) + frame
        away = [ToUnderlay(pa, wire.packet(PA_1[wire.outer], pa, flow, body)) for pa in hosts]
        here = [ToPort(port, frame) for port in (WEB2_PORT, FW_PORT)]
        yield guest(f"{v}IPv{version} to many", frame, Copies.of([*here, *away]), policy=policy)


def refused(v: str, wire: Wire, policy: Policy) -> Iterator[Case]:
    good = inner(4)
    head = header(p.BLUE_1)
    frame = wire.arriving(head + good)
    tcp = wire.behind_ip
    forged = "192.0.2.66" if wire.outer == 4 else "2001:db8:f::66"
    yield uplink(v + "forged", wire.arriving(head + good, source=forged), Drop(DropReason.FORGED_SOURCE), policy)
    for vsid in (0, 4095, 0xFFFFFF, 1 << 24, 1 << 32 | p.BLUE_1, 2**64 - 1):
        told = wire.arriving(header(vsid) + good)
        yield uplink(v + f"context {vsid:#x}", told, Drop(DropReason.RESERVED_VSID), policy)
    yield uplink(v + "unknown VSID", wire.arriving(header(p.UNKNOWN) + good), Drop(DropReason.UNKNOWN_VSID), policy)
    yield uplink(v + "cut short", frame[:-1], MALFORMED, policy)
    yield uplink(v + "no inner frame", wire.arriving(head), Drop(DropReason.TRUNCATED), policy)
    yield uplink(v + "no whole header", wire.arriving(head[:-1]), MALFORMED, policy)
    yield uplink(v + "version 1", wire.arriving(header(p.BLUE_1, version=1) + good), MALFORMED, policy)
    yield uplink(v + "TCP options", changed(frame, tcp + 12, b"\x60"), MALFORMED, policy)
    tagged = wire.arriving(header(p.BLUE_1, tag=0x1064) + good)
    yield uplink(v + "a tag beside the frame", tagged, Drop(DropReason.VLAN_TAG), policy)
    body = head + good
    for name, seq in (
        ("the first of several segments", (len(body) + 1000) << 16),
        ("a later segment", (len(body) + 1000) << 16 | 1000),
        ("a segment at an offset", len(body) << 16 | 1),
        ("a frame that is shorter than its segment", (len(body) - 1) << 16),
        ("a length of zero", 0),
    ):
        yield uplink(v + name, wire.arriving(body, seq=seq), Drop(DropReason.REASSEMBLY), policy)
    wrong = changed(frame, tcp + 16, b"\x12\x34")
    yield uplink(v + "the outer checksum is not looked at", wrong, ToPort(WEB1_PORT, good), policy)
    verified = wire.arriving(header(p.BLUE_1, CSUM_VERIFIED | IS_IPV4, 34, 1400) + good)
    yield uplink(v + "what else a sender may say is ignored", verified, ToPort(WEB1_PORT, good), policy)
    other = changed(frame, tcp + 2, b"\x1d\x30")
    yield uplink(v + "another port is the stack's", other, ToStack(), policy)
    alien = with_rules(MAIN if wire.outer == 4 else OVER_IPV6, Rule.NVGRE)
    yield uplink(v + "STT is nothing that this host accepts", frame, ToStack(), alien)


def to_a_moving_port() -> Iterator[Case]:
    """Both hosts' packets have checksums of their own."""
    for outer, policy in MOVING_POLICIES.items():
        wire, there = Wire(outer), (p.PA3 if outer == 4 else "2001:db8:f::13", PA_2[outer])
        for version in (4, 6):
            to = ca(version, 1, 30)
            frame = b.eth(p.FAR, b.network(W[version], to) / b.UDP(sport=1, dport=2) / b.Raw(b"odd"))
            flow = b.flow32(W[version], to, 17, (1, 2))
            body = header(p.BLUE_1) + frame
            both = Copies.of(ToUnderlay(pa, wire.packet(PA_1[outer], pa, flow, body)) for pa in there)
            yield guest(f"STT over IPv{outer}: IPv{version} to a port that is moving", frame, both, policy=policy)


CASES: tuple[Case, ...] = (*everywhere(), *to_a_moving_port())
