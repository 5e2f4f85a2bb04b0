"""The packet table's rows of VXLAN, Geneve and GRE: what is on the wire, what is taken, and what a host accepts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from scapy.contrib.geneve import GENEVE
from scapy.layers.vxlan import VXLAN

from packets import build as b
from packets import policy as p
from packets.policy import MAIN, OVER_IPV6, Policy
from packets.table import FW_PORT, GW, WEB1_PORT, WEB2_PORT, Case, W, ca, guest, to_many, uplink
from weft.policy.drop import DropReason
from weft.policy.rows import MacRecord, Member, Record, Row, Rule, Subnet
from weft.reference.verdict import Answer, Copies, Drop, ToPort, ToStack, ToUnderlay

PA_1, PA_2 = {4: p.PA1, 6: p.PA1_6}, {4: p.PA2, 6: p.PA2_6}
MALFORMED = Drop(DropReason.OUTER_MALFORMED)
#: Rule -> what it adds, over IPv4 and IPv6: datapath.md, On the wire.
MORE = {Rule.VXLAN: {4: 50, 6: 70}, Rule.GENEVE: {4: 50, 6: 70}, Rule.GRE: {4: 42, 6: 62}}


def with_rules(policy: Policy, sending: Rule, accepts: dict[int, tuple[Rule, ...]] | None = None) -> Policy:
    """The policy with every record sent by a rule, which subnets accept, or what ``accepts`` says of them."""

    def changed(row: Row) -> Row:
        match row:
            case Subnet(vsid=vsid):
                return replace(row, accepts=(accepts or {}).get(vsid, (sending,)))
            case Record() | MacRecord() | Member():
                return replace(row, rule=sending)
            case _:
                return row

    return replace(policy, rows=tuple(map(changed, policy.rows)))


POLICIES = {
    (rule, version): with_rules(policy, rule) for rule in MORE for version, policy in ((4, MAIN), (6, OVER_IPV6))
}


@dataclass(frozen=True)
class Wire:
    """Builds what is on the wire by one rule, by scapy."""

    rule: Rule
    outer: int  # IP version

    def head(self, vsid: int, flow: int, **fields: object) -> b.Packet:
        """What is between the outer IP header and the inner frame."""
        if self.rule is Rule.GRE:
            return b.GRE(key_present=1, proto=0x6558, key=vsid)
        port = 4789 if self.rule is Rule.VXLAN else 6081
        udp = b.UDP(sport=0xC000 | flow >> 18, dport=port, chksum=0)
        if self.rule is Rule.VXLAN:
            return udp / VXLAN(vni=vsid, **{"flags": 8, **fields})
        return udp / GENEVE(vni=vsid, proto=0x6558, **fields)

    def packet(
        self, source: str, to: str, vsid: int, flow: int, inner: bytes, ecn: int = 0, ttl: int = 64, **fields: object
    ) -> bytes:
        payload = self.head(vsid, flow, **fields) / b.Raw(inner)
        protocol = 47 if self.rule is Rule.GRE else 17
        if self.outer == 6:
            packet = b.IPv6(src=source, dst=to, tc=ecn, fl=0, hlim=ttl, nh=protocol) / payload
        else:
            packet = b.IP(src=source, dst=to, tos=ecn, id=0, flags="DF", ttl=ttl, proto=protocol) / payload
        return bytes(packet)

    def sent(self, vsid: int, flow: int, inner: bytes, ecn: int = 0) -> ToUnderlay:
        to = PA_2[self.outer]
        return ToUnderlay(to, self.packet(PA_1[self.outer], to, vsid, flow, inner, ecn))

    def arriving(self, inner: bytes, vsid: int = p.BLUE_1, ecn: int = 0, source: str = "", **fields: object) -> bytes:
        """A frame from the physical network."""
        source = source or PA_2[self.outer]
        packet = self.packet(source, PA_1[self.outer], vsid, 0x12345678, inner, ecn, 61, **fields)
        kind = b"\x08\x00" if self.outer == 4 else b"\x86\xdd"
        return bytes.fromhex("02aa0000000102aa00000002") + kind + packet

    @property
    def behind_ip(self) -> int:
        """Where in a frame the outer IP header ends."""
        return 34 if self.outer == 4 else 54


def inner(version: int, ecn: int = 0, to_mac: str = p.WEB1) -> bytes:
    body = b.network(ca(version, 1, 20), W[version], ecn=ecn) / b.echo(version)
    return b.eth(to_mac, body, p.WEB3)


def changed(frame: bytes, at: int, value: bytes) -> bytes:
    return frame[:at] + value + frame[at + len(value) :]


def everywhere() -> Iterator[Case]:
    for (rule, outer), policy in POLICIES.items():
        wire = Wire(rule, outer)
        for version in (4, 6):
            v = f"{rule} over IPv{outer}: IPv{version} "
            to, number = ca(version, 1, 20), 1 if version == 4 else 58
            flow = b.flow32(W[version], to, number)
            frame = b.eth(p.WEB3, b.network(W[version], to, ecn=1) / b.echo(version))
            yield guest(v + "to a remote port", frame, wire.sent(p.BLUE_1, flow, frame, 1), policy=policy)
            routed = b.eth(p.ROUTER, b.network(W[version], ca(version, 2, 7)) / b.UDP(sport=40000, dport=53))
            arrived = b.eth(
                p.DB2, b.network(W[version], ca(version, 2, 7), hop_limit=63) / b.UDP(sport=40000, dport=53), p.ROUTER_2
            )
            across = b.flow32(W[version], ca(version, 2, 7), 17, (40000, 53))
            yield guest(v + "routed", routed, wire.sent(p.BLUE_2, across, arrived), policy=policy)
            limit = 1500 - MORE[rule][outer]
            size = limit - (28 if version == 4 else 48)
            fits = b.eth(p.WEB3, b.network(W[version], to) / b.echo(version, size))
            yield guest(v + "what just fits", fits, wire.sent(p.BLUE_1, flow, fits), policy=policy)
            large = b.eth(p.WEB3, b.network(W[version], to) / b.echo(version, size + 1))
            kind, code = (3, 4) if version == 4 else (2, 0)
            error = b.icmp_error(large, kind, code, GW[version], W[version], limit)
            yield guest(v + "a byte more", large, Answer(error, DropReason.TOO_BIG), policy=policy)
            good = inner(version, ecn=1)
            yield uplink(v + "to a port", wire.arriving(good), ToPort(WEB1_PORT, good), policy)
            marked = inner(version, ecn=3)
            yield uplink(v + "congestion", wire.arriving(good, ecn=3), ToPort(WEB1_PORT, marked), policy)
            yield uplink(
                v + "bytes behind are cut off", wire.arriving(good) + bytes(5), ToPort(WEB1_PORT, good), policy
            )
            elsewhere = wire.arriving(inner(version, to_mac=p.WEB3))
            yield uplink(v + "no port with the MAC", elsewhere, Drop(DropReason.VSID_ACL), policy)
        yield from refused(f"{rule} over IPv{outer}: ", wire, policy)


def refused(v: str, wire: Wire, policy: Policy) -> Iterator[Case]:
    good = inner(4)
    frame = wire.arriving(good)
    forged = "192.0.2.66" if wire.outer == 4 else "2001:db8:f::66"
    yield uplink(v + "forged", wire.arriving(good, source=forged), Drop(DropReason.FORGED_SOURCE), policy)
    yield uplink(v + "reserved VSID", wire.arriving(good, vsid=4095), Drop(DropReason.RESERVED_VSID), policy)
    yield uplink(v + "unknown VSID", wire.arriving(good, vsid=p.UNKNOWN), Drop(DropReason.UNKNOWN_VSID), policy)
    yield uplink(v + "cut short", frame[:-1], MALFORMED, policy)
    yield uplink(v + "no inner frame", wire.arriving(b""), Drop(DropReason.TRUNCATED), policy)
    stack = frame[: wire.behind_ip + 7]
    yield uplink(v + "too short to say what it is", stack, ToStack(), policy)
    for other, (name, at) in {
        Rule.VXLAN: ("VXLAN", 4789), Rule.GENEVE: ("Geneve", 6081), Rule.GRE: ("GRE", 0),
    }.items():  # fmt: skip
        if other is not wire.rule:
            unknown = Wire(other, wire.outer).arriving(good)
            yield uplink(v + f"{name} ({at}) is nothing that this host accepts", unknown, ToStack(), policy)
    if wire.outer == 4:
        yield from fragments(v, frame, policy)
    if wire.rule is not Rule.GRE:
        yield from datagrams(v, wire, policy)


def fragments(v: str, frame: bytes, policy: Policy) -> Iterator[Case]:
    def with_flags(flags: int) -> bytes:
        head = b.IP(frame[14:34])
        head.flags, head.frag = flags & 7, flags >> 3
        del head.chksum
        return frame[:14] + bytes(head)[:20] + frame[34:]

    yield uplink(v + "the first fragment", with_flags(1), Drop(DropReason.OUTER_FRAGMENT), policy)
    yield uplink(v + "a later fragment is anybody's", with_flags(8 * 8 | 1), ToStack(), policy)


def datagrams(v: str, wire: Wire, policy: Policy) -> Iterator[Case]:
    """What UDP can be, and the header inside it."""
    good = inner(4)
    frame = wire.arriving(good)
    udp, header = wire.behind_ip, wire.behind_ip + 8
    for length in (0, 7, 8, 15, len(frame) - udp + 1, 65535):
        bad = changed(frame, udp + 4, length.to_bytes(2, "big"))
        yield uplink(v + f"UDP length {length}", bad, MALFORMED, policy)
    short = wire.arriving(good + bytes(6))
    short = changed(short, udp + 4, (16 + len(good)).to_bytes(2, "big"))
    yield uplink(v + "bytes behind the UDP length are cut off", short, ToPort(WEB1_PORT, good), policy)
    summed = changed(frame, udp + 6, b"\x12\x34")
    yield uplink(v + "a UDP checksum is not looked at", summed, ToPort(WEB1_PORT, good), policy)
    other = changed(frame, udp + 2, b"\x12\xb6")
    yield uplink(v + "another port is the stack's", other, ToStack(), policy)
    if wire.rule is Rule.VXLAN:
        yield uplink(v + "no I flag", wire.arriving(good, flags=0), MALFORMED, policy)
        reserved = changed(changed(frame, header, b"\xff\xff\xff\xff"), header + 7, b"\xff")
        yield uplink(v + "reserved bits are ignored", reserved, ToPort(WEB1_PORT, good), policy)
        return
    for name, fields in (
        ("version 1", {"version": 1}),
        ("a control packet", {"oam": 1}),
        ("IPv4 inside", {"proto": 0x0800}),
    ):
        told = wire.arriving(good)
        told = changed(told, header, bytes(_geneve(**fields)))
        yield uplink(v + name, told, MALFORMED, policy)
    reserved = changed(changed(frame, header + 1, b"\x3f"), header + 7, b"\xff")
    yield uplink(v + "reserved bits are ignored", reserved, ToPort(WEB1_PORT, good), policy)
    critical = changed(frame, header + 1, b"\x40")
    yield uplink(v + "critical options", critical, Drop(DropReason.CRITICAL_OPTION), policy)
    for words in (1, 2, 5, 63):
        option = bytes.fromhex("0102 03") + bytes((min(words - 1, 31),)) + bytes(range(4 * words - 4))
        optional = wire.arriving(option + good)
        optional = changed(optional, header, bytes((words,)))
        yield uplink(v + f"{4 * words} bytes of options are ignored", optional, ToPort(WEB1_PORT, good), policy)
    beyond = changed(wire.arriving(b""), header, b"\x01")
    yield uplink(v + "options beyond the end", beyond, MALFORMED, policy)


def _geneve(**fields: int) -> bytes:
    return bytes(GENEVE(**{"vni": p.BLUE_1, "proto": 0x6558, **fields}))[:8]


def accepted() -> Iterator[Case]:
    """Each subnet by its own rules, on one host."""
    for outer, base in ((4, MAIN), (6, OVER_IPV6)):
        v = f"over IPv{outer}: "
        mixed = with_rules(
            base, Rule.VXLAN, {p.BLUE_1: (Rule.VXLAN, Rule.NVGRE), p.BLUE_2: (Rule.GENEVE,), p.RED_1: (Rule.GRE,)}
        )
        good = inner(4)
        vxlan, geneve, gre = (Wire(rule, outer) for rule in (Rule.VXLAN, Rule.GENEVE, Rule.GRE))
        not_accepted = Drop(DropReason.RULE_NOT_ACCEPTED)
        yield uplink(v + "while a rule changes: the new one", vxlan.arriving(good), ToPort(WEB1_PORT, good), mixed)
        former = gre.arriving(good, vsid=p.BLUE_1 << 8 | 77)
        yield uplink(v + "while a rule changes: the old one", former, ToPort(WEB1_PORT, good), mixed)
        yield uplink(v + "Geneve, that another subnet accepts", geneve.arriving(good), not_accepted, mixed)
        yield uplink(v + "GRE, that another subnet accepts", gre.arriving(good), Drop(DropReason.RESERVED_VSID), mixed)
        red = inner(4)
        by_red = changed(red, 6, bytes.fromhex(p.RED_WEB5.replace(":", "")))
        body = b.network(ca(4, 1, 50), W[4]) / b.echo(4)
        by_red = b.eth(p.WEB1, body, p.RED_WEB5)
        yield uplink(
            v + "GRE's key is the VSID where the subnet accepts GRE",
            gre.arriving(by_red, vsid=p.RED_1),
            ToPort("tenants/red/ports/web-1", by_red),
            mixed,
        )
        yield uplink(v + "NVGRE to a subnet of GRE", gre.arriving(by_red, vsid=p.RED_1 << 8), not_accepted, mixed)
        only = with_rules(base, Rule.GRE)
        yield uplink(v + "NVGRE where only GRE is accepted", gre.arriving(good, vsid=p.BLUE_1 << 8),
                     Drop(DropReason.UNKNOWN_VSID), only)  # fmt: skip
        yield uplink(
            v + "a GRE key of 32 bits", gre.arriving(good, vsid=0xFFFFFFFF), Drop(DropReason.RESERVED_VSID), only
        )


def changing() -> Iterator[Case]:
    """To many, while the other hosts of the subnet have a rule each: all copies are by one."""
    takes_both = {p.BLUE_1: (Rule.GENEVE, Rule.VXLAN)}
    to = "255.255.255.255"
    frame = b.eth("ff:ff:ff:ff:ff:ff", b.network(W[4], to) / b.UDP(sport=53, dport=53))
    wire, flow = Wire(Rule.VXLAN, 4), b.flow32(W[4], to, 17, (53, 53))
    copies = [ToUnderlay(pa, wire.packet(p.PA1, pa, p.BLUE_1, flow, frame)) for pa in (p.PA2, p.PA3)]
    everybody = Copies.of([ToPort(WEB2_PORT, frame), ToPort(FW_PORT, frame), *copies])
    for host, other in ((p.PA2, p.PA3), (p.PA3, p.PA2)):
        policy = with_rules(MAIN, Rule.GENEVE, takes_both)
        rows = [row for row in policy.rows if row != Member(p.BLUE_1, host, Rule.GENEVE)]
        policy = replace(policy, rows=(*rows, Member(p.BLUE_1, host, Rule.VXLAN)))
        yield guest(f"while a rule changes, to many: {host} is ahead of {other}", frame, everybody, policy=policy)
    last = [row for row in with_rules(MAIN, Rule.VXLAN).rows if row != Member(p.BLUE_1, p.PA3, Rule.VXLAN)]
    policy = replace(MAIN, rows=(*last, Member(p.BLUE_1, p.PA3)))
    by_nvgre = to_many(frame, W[4], to, WEB2_PORT, FW_PORT)
    yield guest("while a rule changes, to many: by NVGRE before any other", frame, by_nvgre, policy=policy)


CASES: tuple[Case, ...] = (*everywhere(), *accepted(), *changing())
