"""The packet table's rows of IP rewrite: addresses on the wire are PAs, and every checksum is right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from scapy.layers.inet6 import in6_chksum
from scapy.utils import checksum

from packets import build as b
from packets import policy as p
from packets.policy import MAIN, UPLINK, Policy
from packets.table import FW_PORT, GW, WEB1_PORT, WEB2_PORT, Case, W, ca, guest, in_vlan, outer, to_many, uplink
from weft.policy.drop import DropReason
from weft.policy.rows import Host, MacRecord, Record, Rewrite, Row, Rule, Subnet
from weft.reference.verdict import Answer, Copies, Drop, ToPort, ToStack, ToUnderlay

#: (VSID, address) -> PA
PAS: dict[tuple[int, str], str] = {}
for number, (vsid, last) in enumerate(
    ((p.BLUE_1, 4), (p.BLUE_1, 8), (p.BLUE_1, 66), (p.BLUE_2, 6), (p.RED_1, 4),
     (p.BLUE_1, 20), (p.BLUE_2, 7), (p.RED_1, 20), (p.BLUE_1, 40))
):  # fmt: skip
    for version in (4, 6):
        subnet = vsid % 1000
        PAS[vsid, ca(version, subnet, last)] = (
            f"192.0.2.{200 + number}" if version == 4 else f"2001:db8:a::{number + 1:x}"
        )
UNREACHABLE = PAS[p.BLUE_1, "10.0.1.40"]


def _rewritten(row: Row) -> Row:
    match row:
        case Subnet(vsid=p.RED_2):
            return row
        case Subnet():
            return replace(row, accepts=(Rule.NVGRE, Rule.REWRITE))
        case Record():
            return replace(row, rule=Rule.REWRITE)
        case MacRecord():
            return replace(row, rule=Rule.NVGRE)
        case _:
            return row


POLICY = Policy(
    (*map(_rewritten, MAIN.rows), *(Rewrite(pa, vsid, address) for (vsid, address), pa in PAS.items())),
    MAIN.bindings,
    MAIN.unreachable | {UNREACHABLE},
)


#: The uplink's PAs, those of guests too, are in a VLAN.
TAGGED = replace(
    POLICY,
    rows=tuple(
        replace(row, uplinks=tuple(replace(up, vlan=p.VLAN) for up in row.uplinks)) if isinstance(row, Host) else row
        for row in POLICY.rows
    ),
)


def pa(vsid: int, address: str) -> str:
    return PAS[vsid, address]


def network(source: str, to: str, **fields: object) -> b.Packet:
    return b.network(source, to, **fields)


def payloads(version: int) -> Iterator[tuple[str, b.Packet]]:
    yield "TCP", b.TCP(sport=40000, dport=80, flags="A", seq=7) / b.Raw(b"hello")
    yield "UDP", b.UDP(sport=40000, dport=53) / b.Raw(b"question")
    yield "ICMP", b.echo(version)
    yield "SCTP", b.Raw(bytes(range(32)))


def out() -> Iterator[Case]:
    for version in (4, 6):
        v = f"rewritten: IPv{version} "
        mine, to = W[version], ca(version, 1, 20)
        mine_pa, to_pa = pa(p.BLUE_1, mine), pa(p.BLUE_1, to)
        for name, body in payloads(version):
            protocol = {"proto" if version == 4 else "nh": 132} if name == "SCTP" else {}
            frame = b.eth(p.WEB3, _ip(version, mine, to, 64, **protocol) / body)
            sent = bytes(_ip(version, mine_pa, to_pa, 64, **protocol) / body)
            yield guest(v + name, frame, ToUnderlay(to_pa, sent), policy=POLICY)
            trailing = frame + bytes(5)
            yield guest(v + name + " with bytes behind", trailing, ToUnderlay(to_pa, sent + bytes(5)), policy=POLICY)
        far = ca(version, 2, 7)
        routed = b.eth(p.ROUTER, _ip(version, mine, far, 64) / b.UDP(sport=1, dport=2))
        across = bytes(_ip(version, mine_pa, pa(p.BLUE_2, far), 63) / b.UDP(sport=1, dport=2))
        yield guest(v + "routed", routed, ToUnderlay(pa(p.BLUE_2, far), across), policy=POLICY)
        red = b.eth(p.RED_WEB3, _ip(version, mine, to, 64) / b.echo(version))
        theirs = pa(p.RED_1, to)
        other = ToUnderlay(theirs, bytes(_ip(version, pa(p.RED_1, mine), theirs, 64) / b.echo(version)))
        yield guest(v + "the same addresses in the other tenant are other PAs", red, other, "tapred1", POLICY)
        size = 1500 - (28 if version == 4 else 48)
        fits = b.eth(p.WEB3, b.network(mine, to) / b.echo(version, size))
        whole = bytes(b.network(mine_pa, to_pa) / b.echo(version, size))
        yield guest(v + "the whole MTU is the guest's", fits, ToUnderlay(to_pa, whole), policy=POLICY)
        large = b.eth(p.WEB3, b.network(mine, to) / b.echo(version, size + 1))
        kind, code = (3, 4) if version == 4 else (2, 0)
        error = b.icmp_error(large, kind, code, GW[version], mine, 1500)
        yield guest(v + "a byte more", large, Answer(error, DropReason.TOO_BIG), policy=POLICY)
        local = b.eth(p.WEB2, b.network(mine, ca(version, 1, 5)) / b.echo(version))
        yield guest(v + "on this host nothing is", local, ToPort("tenants/blue/ports/web-2", local), policy=POLICY)
        none = b.eth(p.FAR, b.network(mine, ca(version, 1, 30)) / b.echo(version))
        flow = b.flow(mine, ca(version, 1, 30), 1 if version == 4 else 58)
        fallback = ToUnderlay(p.PA3, b.nvgre(p.PA3, p.BLUE_1, flow, none))
        yield guest(v + "to an address without a PA: by NVGRE", none, fallback, policy=POLICY)
        pair = ca(version, 1, 98)
        shared = b.eth(p.WEB3, b.network(pair, to) / b.echo(version), p.WEB2)
        flow = b.flow(pair, to, 1 if version == 4 else 58)
        fallback = ToUnderlay(p.PA2, b.nvgre(p.PA2, p.BLUE_1, flow, shared))
        yield guest(v + "from an address without a PA: by NVGRE", shared, fallback, "tapweb2", POLICY)
    for to in ("255.255.255.255", "224.0.0.251"):
        mac = "ff:ff:ff:ff:ff:ff" if to == "255.255.255.255" else "01:00:5e:00:00:fb"
        frame = b.eth(mac, b.network(W[4], to) / b.UDP(sport=53, dport=53))
        copies = to_many(frame, W[4], to, WEB2_PORT, FW_PORT)
        yield guest(f"rewritten: {to}: a copy to each host by NVGRE", frame, copies, policy=POLICY)
    lost = b.eth(p.ELSE, b.network(W[4], "10.0.1.40") / b.echo(4))
    yield guest("rewritten: no route to the PA", lost, Drop(DropReason.NO_UNDERLAY), policy=POLICY)
    yield from _special()


def _special() -> Iterator[Case]:
    mine, to = W[4], "10.0.1.20"
    pas = pa(p.BLUE_1, mine), pa(p.BLUE_1, to)

    def both(name: str, make: b.Packet, made: b.Packet) -> Case:
        frame = b.eth(p.WEB3, make)
        return guest(f"rewritten: {name}", frame, ToUnderlay(pas[1], bytes(made)), policy=POLICY)

    quiet = b.UDP(sport=1, dport=2, chksum=0) / b.Raw(b"none")
    yield both("UDP without a checksum keeps none", b.network(mine, to) / quiet, b.network(*pas) / quiet)
    options = {"options": b"\x01\x01\x01\x00"}
    whole = b.UDP(sport=1, dport=2) / b.Raw(b"option")
    yield both(
        "IPv4 options",
        b.IP(src=mine, dst=to, id=1, **options) / whole,
        b.IP(src=pas[0], dst=pas[1], id=1, **options) / whole,
    )
    # What is in fragments is summed over the whole: here as over what each holds of it.
    segment = bytes(b.IP(src=mine, dst=to) / b.UDP(sport=1, dport=2, len=1008) / bytes(16))[20:]
    first = b.IP(src=mine, dst=to, id=9, flags="MF", proto=17)
    then = b.IP(src=pas[0], dst=pas[1], id=9, flags="MF", proto=17)
    yield both("a first fragment", first / b.Raw(segment), then / b.Raw(_udp_updated(segment, (mine, to), pas)))
    later = b.IP(src=mine, dst=to, id=9, frag=3, proto=17)
    after = b.IP(src=pas[0], dst=pas[1], id=9, frag=3, proto=17)
    yield both("a later fragment", later / b.Raw(bytes(24)), after / b.Raw(bytes(24)))


def _udp_updated(segment: bytes, before: tuple[str, str], after: tuple[str, str]) -> bytes:
    """RFC 1624, over the pseudo-header's addresses."""
    total = ~int.from_bytes(segment[6:8], "big") & 0xFFFF
    for addresses, sign in ((before, -1), (after, 1)):
        for address in addresses:
            packed = bytes(map(int, address.split(".")))
            for word in (int.from_bytes(packed[:2], "big"), int.from_bytes(packed[2:], "big")):
                total += word if sign > 0 else ~word & 0xFFFF
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return segment[:6] + (~total & 0xFFFF).to_bytes(2, "big") + segment[8:]


def _ip(version: int, source: str, to: str, hop_limit: int, **fields: object) -> b.Packet:
    if version == 4:
        return b.IP(src=source, dst=to, ttl=hop_limit, id=77, **fields)
    return b.IPv6(src=source, dst=to, hlim=hop_limit, **fields)


def wire(frame_of: bytes, kind: int, to_mac: str = "02:aa:00:00:00:01") -> bytes:
    head = bytes.fromhex(to_mac.replace(":", "") + "02aa00000002")
    return head + (b"\x08\x00" if kind == 4 else b"\x86\xdd") + frame_of


def into() -> Iterator[Case]:
    for version in (4, 6):
        v = f"rewritten back: IPv{version} "
        mine, peer = W[version], ca(version, 1, 20)
        mine_pa, peer_pa = pa(p.BLUE_1, mine), pa(p.BLUE_1, peer)

        def arrives(name: str, frame: bytes, expected: object, v: str = v, version: int = version) -> Case:
            return uplink(v + name, wire(frame, version), expected, POLICY)

        for name, body in payloads(version):
            protocol = {"proto" if version == 4 else "nh": 132} if name == "SCTP" else {}
            sent = bytes(_ip(version, peer_pa, mine_pa, 61, **protocol) / body)
            frame = b.eth(p.WEB1, _ip(version, peer, mine, 61, **protocol) / body, p.WEB3)
            yield arrives(name, sent, ToPort(WEB1_PORT, frame))
        far = ca(version, 2, 7)
        routed = bytes(_ip(version, pa(p.BLUE_2, far), mine_pa, 61) / b.UDP(sport=1, dport=2))
        frame = b.eth(p.WEB1, _ip(version, far, mine, 61) / b.UDP(sport=1, dport=2), p.ROUTER)
        yield arrives("from another subnet, by the router's MAC", routed, ToPort(WEB1_PORT, frame))
        echo = b.echo(version)
        red = bytes(_ip(version, pa(p.RED_1, peer), pa(p.RED_1, mine), 61) / echo)
        frame = b.eth(p.WEB1, _ip(version, peer, mine, 61) / echo, p.RED_WEB3)
        yield arrives("the other tenant's", red, ToPort("tenants/red/ports/web-1", frame))
        forged = Drop(DropReason.FORGED_SOURCE)
        cross = bytes(_ip(version, pa(p.RED_1, peer), mine_pa, 61) / echo)
        yield arrives("from the other tenant's PA", cross, forged)
        own = bytes(_ip(version, pa(p.BLUE_2, ca(version, 2, 6)), mine_pa, 61) / echo)
        yield arrives("from a PA of this host's own", own, forged)
        nobody = "198.51.100.99" if version == 4 else "2001:db8:f::99"
        yield arrives("from nobody's address", bytes(_ip(version, nobody, mine_pa, 61) / echo), forged)
        elsewhere = bytes(_ip(version, peer_pa, pa(p.BLUE_2, far), 61) / echo)
        yield arrives("to another host's PA is the stack's", elsewhere, ToStack())
        yield arrives("to nobody's PA is the stack's", bytes(_ip(version, peer_pa, nobody, 61) / echo), ToStack())
        off = bytes(_ip(version, peer_pa, pa(p.BLUE_1, ca(version, 1, 8)), 61) / echo)
        yield arrives("to a disabled port", off, Drop(DropReason.PORT_DOWN))
        good = bytes(_ip(version, peer_pa, mine_pa, 61) / echo)
        yield arrives("cut short", good[:-1], Drop(DropReason.TRUNCATED))
        group = uplink(
            v + "to a group's MAC", wire(good, version, "ff:ff:ff:ff:ff:ff"), Drop(DropReason.MULTICAST), POLICY
        )
        yield group
        yield uplink(v + "where nothing is rewritten it is the stack's", wire(good, version), ToStack())
        arrived = ToPort(WEB1_PORT, b.eth(p.WEB1, _ip(version, peer, mine, 61) / echo, p.WEB3))
        tagged = in_vlan(wire(good, version), p.VLAN)
        yield Case("uplink: " + v + "in the VLAN of the PAs", UPLINK, tagged, arrived, TAGGED, tag_bytes=4)
        yield uplink(v + "outside the VLAN of the PAs", wire(good, version), ToStack(), TAGGED)
        yield uplink(v + "in the VLAN, to another host's", in_vlan(wire(elsewhere, version), p.VLAN), ToStack(), TAGGED)
    lost = bytes(_ip(4, pa(p.BLUE_1, "10.0.1.20"), pa(p.BLUE_1, "10.0.1.66"), 61) / b.echo(4))
    yield uplink("rewritten back: to a port without an interface", wire(lost, 4), Drop(DropReason.VSID_ACL), POLICY)
    body = b.eth(p.WEB1, b.network("10.0.1.30", W[4]) / b.echo(4), p.FAR)
    yield uplink(
        "rewritten back: what has no PA comes by NVGRE", outer(body, source=p.PA3), ToPort(WEB1_PORT, body), POLICY
    )


def icmp(version: int, kind: int, code: int, rest: int, quote: bytes, source: str, to: str, wrong: int = 0) -> b.Packet:
    """An ICMP message about a packet, and its IP header. wrong: by how much its checksum is."""
    if version == 6:
        head = _ip(6, source, to, 61, nh=58)
        message = bytes((kind, code, 0, 0)) + rest.to_bytes(4, "big") + quote
        check = in6_chksum(58, head, message)
    else:
        head = _ip(4, source, to, 61, proto=1)
        message = bytes((kind, code, 0, 0)) + rest.to_bytes(4, "big") + quote
        check = checksum(message)
    return head / b.Raw(message[:2] + (check + wrong).to_bytes(2, "big") + message[4:])


#: What routers say: type, code, the second word.
ERRORS = {
    4: {
        "too big": (3, 4, 1400),
        "unreachable": (3, 13, 0),
        "time exceeded": (11, 0, 0),
        "a bad field": (12, 0, 9 << 24),
    },
    6: {"too big": (2, 0, 1400), "unreachable": (1, 1, 0), "time exceeded": (3, 0, 0), "a bad field": (4, 1, 40)},
}
ROUTER_PA = {4: "198.51.100.99", 6: "2001:db8:f::99"}


def routers() -> Iterator[Case]:
    """What routers on the way say of packets between PAs."""
    for version in (4, 6):
        yield from _routers(version)
    later = {"id": 9, "frag": 3, "proto": 17}
    quoted = b.Raw(bytes(range(24)))
    mine_pa, peer_pa = pa(p.BLUE_1, W[4]), pa(p.BLUE_1, "10.0.1.20")
    was, is_ = (
        bytes(b.IP(src=source, dst=to, ttl=9, **later) / quoted)
        for source, to in ((mine_pa, peer_pa), (W[4], "10.0.1.20"))
    )
    sent = wire(bytes(icmp(4, 3, 4, 1400, was, ROUTER_PA[4], mine_pa)), 4)
    told = b.eth(p.WEB1, icmp(4, 3, 4, 1400, is_, GW[4], W[4]), p.ROUTER)
    yield uplink("a router's word: of a later fragment", sent, ToPort(WEB1_PORT, told), POLICY)
    options = bytes(b.IP(src=mine_pa, dst=peer_pa, ttl=9, options=b"\x01\x01\x01\x00") / b.UDP(sport=1, dport=2))
    sent = wire(bytes(icmp(4, 3, 4, 1400, options, ROUTER_PA[4], mine_pa)), 4)
    yield uplink("a router's word: of a packet with options", sent, Drop(DropReason.FORGED_SOURCE), POLICY)
    good = bytes(b.IP(src=mine_pa, dst=peer_pa, ttl=9) / b.UDP(sport=1, dport=2))
    off = wire(bytes(icmp(4, 3, 4, 1400, good, ROUTER_PA[4], pa(p.BLUE_1, "10.0.1.8"))), 4)
    yield uplink("a router's word: to one that has not sent it", off, Drop(DropReason.FORGED_SOURCE), POLICY)


def _routers(version: int) -> Iterator[Case]:
    v = f"a router's word: IPv{version} "
    mine, peer = W[version], ca(version, 1, 20)
    mine_pa, peer_pa, router = pa(p.BLUE_1, mine), pa(p.BLUE_1, peer), ROUTER_PA[version]
    head = 20 if version == 4 else 40

    def said(
        name: str, was: bytes, is_: bytes | Drop, error: tuple[int, int, int] = ERRORS[version]["too big"],
        source: str = router, policy: Policy = POLICY, wrong: int = 0,
    ) -> Case:  # fmt: skip
        sent = wire(bytes(icmp(version, *error, was, source, mine_pa, wrong)), version)
        if isinstance(is_, Drop):
            return uplink(v + name, sent, is_, policy)
        told = b.eth(p.WEB1, icmp(version, *error, is_, GW[version], mine, wrong), p.ROUTER)
        return uplink(v + name, sent, ToPort(WEB1_PORT, told), policy)

    def quotes(body: b.Packet, **fields: object) -> tuple[bytes, bytes]:
        """On the wire, and as the guest has sent it."""
        return (
            bytes(_ip(version, mine_pa, peer_pa, 9, **fields) / body),
            bytes(_ip(version, mine, peer, 9, **fields) / body),
        )

    for name, body in payloads(version):
        protocol = {"proto" if version == 4 else "nh": 132} if name == "SCTP" else {}
        on_wire, by_guest = quotes(body, **protocol)
        for what, error in ERRORS[version].items():
            yield said(f"{what}, of {name}", on_wire, by_guest, error)
        short = slice(head + 8)
        yield said(f"of 8 bytes of {name}", on_wire[short], by_guest[short])
        yield said(f"of 15 bytes of {name}", on_wire[: head + 15], by_guest[: head + 15])
    on_wire, by_guest = quotes(b.UDP(sport=1, dport=2, chksum=0) / b.Raw(b"none"))
    yield said("of UDP without a checksum", on_wire, by_guest)
    yield said("whose checksum is wrong stays wrong", on_wire, by_guest, wrong=1)
    on_wire, by_guest = quotes(b.UDP(sport=1, dport=2) / bytes(1000))
    yield said("of a large packet", on_wire, by_guest)
    forged = Drop(DropReason.FORGED_SOURCE)
    yield said("cut short", on_wire[: head + 7], forged)
    # RFC 5837: the interface that the packet came in by: index 7, and its address.
    whose = b"\x00\x10\x02\x0c" + bytes((0, 0, 0, 7)) + b"\x00\x01\x00\x00" + bytes((198, 51, 100, 7))
    extended = b"\x20\0" + checksum(b"\x20\0\0\0" + whose).to_bytes(2, "big") + whose
    length = 32 << 16 if version == 4 else 16 << 24  # of 128 bytes, in words of four and of eight
    for what, (kind, code, rest) in ERRORS[version].items():
        if version == 4 or kind in (1, 3):
            quoted = on_wire[:128] + extended
            yield said(f"{what}, with the router's extensions", quoted, forged, (kind, code, rest | length))
    echo = (8, 0, 1) if version == 4 else (128, 0, 1)
    yield said("that is none, but a ping", on_wire, forged, echo)
    yield said("that sends elsewhere (redirect)", on_wire, forged, (5, 1, 0) if version == 4 else (137, 0, 0))
    own = p.PA1 if version == 4 else "2001:db8:f::1"
    more = {row.key: replace(row, pas=(*row.pas, own)) for row in POLICY.rows if isinstance(row, Host)}
    ours = POLICY if version == 4 else replace(POLICY, rows=tuple(more.get(row.key, row) for row in POLICY.rows))
    yield said("from this host's own address", on_wire, forged, source=own, policy=ours)
    yield said("from no address", on_wire, forged, source="0.0.0.0" if version == 4 else "::")
    yield said("from a group", on_wire, forged, source="239.1.1.1" if version == 4 else "ff05::2")
    if version == 4:
        yield said("from a broadcast address", on_wire, forged, source="255.255.255.255")
    body = b.UDP(sport=1, dport=2)
    for name, source, to in (
        ("that another has sent", pa(p.BLUE_2, ca(version, 2, 6)), peer_pa),
        ("to nobody", mine_pa, router),
        ("to the other tenant's", mine_pa, pa(p.RED_1, peer)),
        ("to one on this host", mine_pa, pa(p.BLUE_2, ca(version, 2, 6))),
    ):
        yield said(f"of a packet {name}", bytes(_ip(version, source, to, 9) / body), forged)
    alone = replace(POLICY, rows=tuple(
        replace(row, prefixes=(), gateways=()) if isinstance(row, Subnet) and row.vsid == p.BLUE_1 else row
        for row in POLICY.rows
    ))  # fmt: skip
    yield said("where there is no gateway", on_wire, forged, policy=alone)
    # A guest's own word quotes CAs: it is a packet like any other.
    _, by_guest = quotes(body)
    theirs = by_guest[: head + 8]
    sent = wire(bytes(icmp(version, *ERRORS[version]["unreachable"], theirs, peer_pa, mine_pa)), version)
    frame = b.eth(p.WEB1, icmp(version, *ERRORS[version]["unreachable"], theirs, peer, mine), p.WEB3)
    yield uplink(f"a guest's word: IPv{version} quotes CAs", sent, ToPort(WEB1_PORT, frame), POLICY)


#: By MAC, in BLUE_1: where each is moving to: from another host to a third, to here, from here.
_TO = {p.WEB3: p.PA3, p.WEB1: p.PA1, p.WEB2: p.PA2}
_FROM = {p.WEB1: p.PA2}


def _moves(row: Row) -> Row:
    if isinstance(row, Record | MacRecord) and row.vsid == p.BLUE_1 and row.mac in _TO:
        return replace(row, pa=_FROM.get(row.mac, row.pa), also=_TO[row.mac])
    if isinstance(row, Rewrite) and row.vsid == p.BLUE_1 and row.ca in _ON_THE_WAY:
        return replace(row, sent=False)
    return row


_ON_THE_WAY = {ca(version, 1, last) for version in (4, 6) for last in (4, 5, 20)}
MOVING = replace(
    POLICY,
    rows=(
        *map(_moves, POLICY.rows),
        *(Rewrite(f"192.0.2.{250 + n}", p.BLUE_1, f"10.0.1.{last}", sent=False) for n, last in enumerate((4, 5, 20))),
        *(Rewrite(f"2001:db8:a::f{n}", p.BLUE_1, ca(6, 1, last), sent=False) for n, last in enumerate((4, 5, 20))),
    ),
)


def moving() -> Iterator[Case]:
    for version in (4, 6):
        v = f"rewritten: IPv{version} "
        coming_pa, going_pa, far_pa = (f"192.0.2.{250 + n}" if version == 4 else f"2001:db8:a::f{n}" for n in range(3))
        mine, gone, peer = W[version], ca(version, 1, 5), ca(version, 1, 20)
        echo = b.echo(version)
        flow = b.flow(gone, peer, 1 if version == 4 else 58)
        frame = b.eth(p.WEB3, b.network(gone, peer) / echo, p.WEB2)
        both = Copies.of(tuple(ToUnderlay(pa, b.nvgre(pa, p.BLUE_1, flow, frame)) for pa in (p.PA2, p.PA3)))
        yield guest(v + "what moves is sent to by NVGRE, at both its hosts", frame, both, "tapweb2", MOVING)
        still = ca(version, 2, 7)
        asked = b.eth(p.ROUTER, b.network(gone, still) / echo, p.WEB2)
        inner = b.eth(p.DB2, b.network(gone, still, 63) / echo, p.ROUTER_2)
        flow = b.flow(gone, still, 1 if version == 4 else 58)
        leaves = ToUnderlay(p.PA2, b.nvgre(p.PA2, p.BLUE_2, flow, inner))
        yield guest(v + "what moves sends by NVGRE", asked, leaves, "tapweb2", MOVING)
        for name, to in (("where it comes from", pa(p.BLUE_1, mine)), ("where it moves to", coming_pa)):
            sent = bytes(_ip(version, pa(p.BLUE_1, peer), to, 61) / echo)
            arrived = ToPort(WEB1_PORT, b.eth(p.WEB1, _ip(version, peer, mine, 61) / echo, p.WEB3))
            yield uplink(v + f"moving here, to its PA of {name}", wire(sent, version), arrived, MOVING)
        for name, source, of, mac in (
            ("that is moving elsewhere", far_pa, peer, p.WEB3),
            ("that is moving from here", going_pa, gone, p.WEB2),
        ):
            sent = bytes(_ip(version, source, coming_pa, 61) / echo)
            arrived = ToPort(WEB1_PORT, b.eth(p.WEB1, _ip(version, of, mine, 61) / echo, mac))
            yield uplink(v + f"from the new PA of one {name}", wire(sent, version), arrived, MOVING)
        tagged = replace(
            MOVING,
            rows=tuple(
                next((t for t in TAGGED.rows if t.key == r.key), r) if isinstance(r, Host) else r for r in MOVING.rows
            ),
        )
        sent = in_vlan(wire(bytes(_ip(version, far_pa, coming_pa, 61) / echo), version), p.VLAN)
        arrived = ToPort(WEB1_PORT, b.eth(p.WEB1, _ip(version, peer, mine, 61) / echo, p.WEB3))
        yield Case("uplink: " + v + "in the VLAN, moving here", UPLINK, sent, arrived, tagged, tag_bytes=4)


CASES: tuple[Case, ...] = (*out(), *into(), *routers(), *moving())
