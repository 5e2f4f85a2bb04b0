"""The packet table: every data plane runs each row. Expected bytes are written by scapy, never by a data plane.

A bug adds a row. Names: where it enters, what it is, what comes of it.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from packets import build as b
from packets import policy as p
from packets.guarding import NARROW, narrowed
from packets.policy import (
    FAR,
    FW,
    LIMITED,
    MAIN,
    OPEN,
    OVER_IPV6,
    QUIET,
    ROUTER,
    ROUTER_2,
    UPLINK,
    WEB1,
    WEB2,
    WEB3,
    Policy,
)
from weft.policy.drop import DropReason
from weft.policy.upcall import UpcallKind
from weft.reference.verdict import (
    Announced,
    Announcing,
    Answer,
    Copies,
    Delivery,
    Drop,
    ToAgent,
    ToPort,
    ToStack,
    ToUnderlay,
    ToWire,
    Verdict,
)

WEB1_PORT, WEB2_PORT, FW_PORT, DB1_PORT = (f"tenants/blue/ports/{name}" for name in ("web-1", "web-2", "fw", "db-1"))
RED1_PORT = "tenants/red/ports/web-1"
GW = {4: "10.0.1.1", 6: "2001:db8:1::1"}
GW_2 = {4: "10.0.2.1", 6: "2001:db8:2::1"}
W = {4: "10.0.1.4", 6: "2001:db8:1::4"}


def ca(version: int, subnet: int, number: int | str) -> str:
    return f"10.0.{subnet}.{number}" if version == 4 else f"2001:db8:{subnet}::{number}"


def link_local(mac: str) -> str:
    """fe80:: with the modified EUI-64."""
    a, c, d, e, f, g = (int(part, 16) for part in mac.split(":"))
    return f"fe80::{a ^ 2:x}{c:02x}:{d:x}ff:fe{e:02x}:{f:x}{g:02x}"


@dataclass(frozen=True)
class Case:
    name: str
    interface: str
    frame: bytes
    expected: Verdict
    policy: Policy = MAIN
    tag_bytes: int = 0  # that come off before the frame is counted
    subport: str | None = None  # whose frame it is, less the tag
    before: tuple[tuple[str, bytes], ...] = ()  # interface and frame of what has come in by then

    @property
    def counted(self) -> dict[tuple[str, str], int]:
        """The whole change of counters."""
        if isinstance(self.expected, ToStack):
            return {}
        source = self.subport or _counter(self.interface)
        length = len(self.frame) - self.tag_bytes - (4 if self.subport else 0)
        changes = {(source, "received_packets"): 1, (source, "received_bytes"): length}
        match self.expected.verdict if isinstance(self.expected, Announcing) else self.expected:
            case (ToPort() | ToUnderlay() | ToWire()) as one:
                changes |= _sent((one,))
            case Copies(copies):
                changes |= _sent(copies)
            case ToAgent(besides=ToWire() as copy):
                changes |= _sent((copy,))
            case Answer(frame, reason):
                changes |= {(source, "sent_packets"): 1, (source, "sent_bytes"): len(frame)}
                if reason is not None:
                    changes[source, reason.label] = 1
            case Drop(reason):
                changes[source, reason.label] = 1
            case ToAgent():
                pass
            case _:
                raise AssertionError(self.expected)
        return {key: change for key, change in changes.items() if change}


def _sent(copies: tuple[Delivery, ...]) -> dict[tuple[str, str], int]:
    sums: Counter[tuple[str, str]] = Counter()
    for delivery in copies:
        match delivery:
            case ToPort(port, frame):
                sums += Counter({(port, "sent_packets"): 1, (port, "sent_bytes"): len(frame)})
            case ToUnderlay(_, packet):
                uplink = f"uplink:{UPLINK}"
                sums += Counter({(uplink, "sent_packets"): 1, (uplink, "sent_bytes"): 14 + len(packet)})
            case ToWire(interface, frame):
                uplink = f"uplink:{interface}"
                sums += Counter({(uplink, "sent_packets"): 1, (uplink, "sent_bytes"): len(frame) - 4})
    return dict(sums)


def _counter(interface: str) -> str:
    if interface == UPLINK:
        return f"uplink:{UPLINK}"
    return next((port for port, bound in p.BINDINGS.items() if bound == interface), "unbound")


def guest(name: str, frame: bytes, expected: Verdict, interface: str = "tapweb1", policy: Policy = MAIN) -> Case:
    return Case(name, interface, frame, expected, policy)


def drop(name: str, frame: bytes, reason: DropReason, interface: str = "tapweb1", policy: Policy = MAIN) -> Case:
    return Case(name, interface, frame, Drop(reason), policy)


def hint(mac: str, address: str) -> Drop:
    """An announcement that is dropped, and that the agent hears of."""
    said = Announced(bytes.fromhex(mac.replace(":", "")), ipaddress.ip_address(address).packed)
    return Drop(DropReason.ANNOUNCEMENT, said)


# From a guest's port


def ports() -> Iterator[Case]:
    frame = b.eth(WEB2, b.network(W[4], "10.0.1.5") / b.echo(4))
    yield drop("an interface without a port forwards nothing", frame, DropReason.PORT_UNBOUND, p.UNBOUND_INTERFACE)
    yield drop("an interface whose port has no row forwards nothing", frame, DropReason.PORT_UNBOUND, "tapghost")
    off = b.eth(WEB2, b.network("10.0.1.8", "10.0.1.5") / b.echo(4), p.OFF)
    yield drop("a disabled port sends nothing", off, DropReason.PORT_DOWN, "tapoff")
    yield drop("a disabled port is so before its frame is looked at", b"", DropReason.PORT_DOWN, "tapoff")
    yield drop("a port whose subnet is not known sends nothing", frame, DropReason.UNKNOWN_VSID, "taporphan")
    yield drop("a subnet is unknown before a frame is truncated", b"\x02", DropReason.UNKNOWN_VSID, "taporphan")


def ethernet() -> Iterator[Case]:
    yield drop("an empty frame", b"", DropReason.TRUNCATED)
    yield drop("13 bytes", bytes(13), DropReason.TRUNCATED)
    tagged = bytes(b.Ether(src=WEB1, dst=ROUTER) / b.Dot1Q(vlan=5) / b.IP(src=W[4], dst="10.0.1.5"))
    yield drop("802.1Q", tagged, DropReason.VLAN_TAG)
    yield drop("802.1ad", tagged[:12] + b"\x88\xa8" + tagged[14:], DropReason.VLAN_TAG)
    yield drop("a tag is told of a frame of 14 bytes", tagged[:14], DropReason.VLAN_TAG)
    yield drop("LLDP", b.eth("01:80:c2:00:00:0e", b"\x02\x07", kind=0x88CC), DropReason.ETHERTYPE)
    yield drop("an 802.3 length", b.eth(ROUTER, bytes(60), kind=46), DropReason.ETHERTYPE)


def headers() -> Iterator[Case]:
    good4 = b.eth(WEB2, b.network(W[4], "10.0.1.5") / b.echo(4))
    good6 = b.eth(WEB2, b.network(W[6], "2001:db8:1::5") / b.echo(6))
    ask = b.eth("ff:ff:ff:ff:ff:ff", b.arp(1, WEB1, W[4], "10.0.1.5"))

    def changed(frame: bytes, at: int, value: bytes) -> bytes:
        return frame[:at] + value + frame[at + len(value) :]

    yield drop("IPv4: 19 bytes of header", good4[:33], DropReason.TRUNCATED)
    yield drop("IPv4: no header at all", good4[:14], DropReason.TRUNCATED)
    yield drop("IPv4: version 6", changed(good4, 14, b"\x65"), DropReason.MALFORMED)
    yield drop("IPv4: IHL 4", changed(good4, 14, b"\x44"), DropReason.MALFORMED)
    yield drop("IPv4: total length less than the header", changed(good4, 16, b"\x00\x13"), DropReason.MALFORMED)
    yield drop("IPv4: IHL beyond the total length", changed(good4, 14, b"\x4f"), DropReason.MALFORMED)
    yield drop("IPv4: total length beyond the frame", good4[:-1], DropReason.TRUNCATED)
    yield drop("IPv6: 39 bytes of header", good6[:53], DropReason.TRUNCATED)
    yield drop("IPv6: version 4", changed(good6, 14, b"\x45"), DropReason.MALFORMED)
    yield drop("IPv6: payload beyond the frame", good6[:-1], DropReason.TRUNCATED)
    mapped = b.eth(ROUTER, b.network("::ffff:10.0.1.4", "2001:db8:1::5") / b.echo(6))
    yield drop("IPv6: a mapped source is no IPv4 address", mapped, DropReason.MALFORMED)
    mapped = b.eth(WEB2, b.network(W[6], "::ffff:10.0.1.5") / b.echo(6))
    yield drop("IPv6: a mapped destination is no IPv4 address", mapped, DropReason.MALFORMED)
    yield drop("ARP: 27 bytes", ask[:41], DropReason.TRUNCATED)
    yield drop("ARP: hardware type 6", changed(ask, 14, b"\x00\x06"), DropReason.MALFORMED)
    yield drop("ARP: protocol IPv6", changed(ask, 16, b"\x86\xdd"), DropReason.MALFORMED)
    yield drop("ARP: hardware length 8", changed(ask, 18, b"\x08"), DropReason.MALFORMED)
    yield drop("ARP: protocol length 16", changed(ask, 19, b"\x10"), DropReason.MALFORMED)
    yield guest("IPv4: a wrong checksum is left to the end system", *_same(changed(good4, 24, b"\x12\x34")))
    yield guest("IPv4: what trails the total length is carried along", *_same(good4 + bytes(7)))
    yield guest("IPv6: what trails the payload is carried along", *_same(good6 + bytes(7)))


def _same(frame: bytes) -> tuple[bytes, ToPort]:
    """To web-2 as it is."""
    return frame, ToPort(WEB2_PORT, frame)


def spoofing() -> Iterator[Case]:
    strange = "02:00:00:00:00:99"
    for version in (4, 6):
        to = ca(version, 1, 5)
        v = f"IPv{version}: "
        body = b.network(W[version], to) / b.echo(version)
        yield drop(v + "another's MAC", b.eth(WEB2, body, WEB2), DropReason.SPOOFED_MAC)
        yield drop(v + "nobody's MAC", b.eth(WEB2, body, strange), DropReason.SPOOFED_MAC)
        other = b.network(ca(version, 1, 6), to) / b.echo(version)
        yield drop(v + "another's address", b.eth(WEB2, other), DropReason.SPOOFED_CA)
        yield drop(v + "both another's", b.eth(WEB2, other, strange), DropReason.SPOOFED_MAC)
        gateway = b.network(GW[version], to) / b.echo(version)
        yield drop(v + "the gateway's address", b.eth(WEB2, gateway), DropReason.SPOOFED_CA)
        nameless = b.network("0.0.0.0" if version == 4 else "::", to) / b.echo(version)
        yield drop(v + "the unspecified address", b.eth(WEB2, nameless), DropReason.SPOOFED_CA)

    def to_web1(source: str, mac: str) -> bytes:
        return b.eth(WEB1, b.network(source, W[b.version_of(source)]) / b.echo(b.version_of(source)), mac)

    for name, source, mac in (
        ("a pair of another MAC", "10.0.1.100", p.VRRP),
        ("a pair of another MAC, IPv6", "2001:db8:1::100", p.VRRP),
        ("a pair of the own MAC and a prefix, first address", "10.0.1.96", WEB2),
        ("a pair of the own MAC and a prefix, last address", "10.0.1.111", WEB2),
    ):
        frame = to_web1(source, mac)
        yield Case(name, "tapweb2", frame, ToPort(WEB1_PORT, frame))
    yield drop("beyond a pair's prefix", to_web1("10.0.1.112", WEB2), DropReason.SPOOFED_CA, "tapweb2")
    yield drop("a pair's MAC with the own address", to_web1("10.0.1.5", p.VRRP), DropReason.SPOOFED_MAC, "tapweb2")
    yield drop(
        "a pair's MAC with a prefix of the own MAC", to_web1("10.0.1.97", p.VRRP), DropReason.SPOOFED_MAC, "tapweb2"
    )
    old = b.eth(ROUTER, b.network("10.0.3.9", "10.0.1.4") / b.echo(4), p.OLD)
    yield drop("a pair of ::/0 allows no IPv4 address", old, DropReason.SPOOFED_CA, "tapold")
    mine = b.eth(WEB2, b.network(link_local(WEB1), "2001:db8:1::5") / b.echo(6))
    yield guest("the link-local address of the own MAC", *_same(mine))
    others = b.eth(WEB2, b.network(link_local(WEB2), "2001:db8:1::5") / b.echo(6))
    yield drop("the link-local address of another's MAC", others, DropReason.SPOOFED_CA)
    yield drop(
        "a link-local address that is not of a MAC",
        b.eth(WEB2, b.network("fe80::1", "2001:db8:1::5") / b.echo(6)),
        DropReason.SPOOFED_CA,
    )
    yield from _dhcp()


def _dhcp() -> Iterator[Case]:
    all_ones = "ff:ff:ff:ff:ff:ff"
    discover = b.network("0.0.0.0", "255.255.255.255") / b.UDP(sport=68, dport=67) / b.Raw(bytes(240))
    carried = b.eth(all_ones, discover)
    copies = to_many(carried, "0.0.0.0", "255.255.255.255", WEB2_PORT, FW_PORT, ends=(68, 67))
    yield guest("DHCP discover passes anti-spoofing", carried, copies)
    yield drop("DHCP discover of another's MAC", b.eth(all_ones, discover, WEB2), DropReason.SPOOFED_MAC)
    back = b.network("0.0.0.0", "255.255.255.255") / b.UDP(sport=67, dport=68) / b.Raw(bytes(240))
    yield drop("DHCP from the server's port", b.eth(all_ones, back), DropReason.SPOOFED_CA)
    tcp = b.network("0.0.0.0", "255.255.255.255") / b.TCP(sport=68, dport=67)
    yield drop("0.0.0.0 in TCP", b.eth(all_ones, tcp), DropReason.SPOOFED_CA)
    part = b.network("0.0.0.0", "255.255.255.255", flags="MF") / b.UDP(sport=68, dport=67) / b.Raw(bytes(8))
    yield drop("DHCP in a fragment", b.eth(all_ones, part), DropReason.SPOOFED_CA)
    short = b.network("0.0.0.0", "255.255.255.255", proto=17) / b.Raw(bytes.fromhex("004400430008"))
    yield drop("DHCP without a whole UDP header", b.eth(all_ones, short), DropReason.SPOOFED_CA)
    behind = b.network("0.0.0.0", "255.255.255.255", proto=17, len=24) / b.Raw(bytes.fromhex("0044004300080000"))
    yield drop("DHCP whose UDP header trails the packet", b.eth(all_ones, behind), DropReason.SPOOFED_CA)


def arp() -> Iterator[Case]:
    everyone = "ff:ff:ff:ff:ff:ff"

    def ask(target: str, trailing: bytes = b"", to: str = everyone) -> bytes:
        return b.eth(to, b.arp(1, WEB1, W[4], target)) + trailing

    def told(target: str, mac: str, trailing: bytes = b"") -> Answer:
        return Answer(b.eth(WEB1, b.arp(2, mac, target, W[4], WEB1), mac) + trailing)

    yield guest("ARP for the gateway", ask(GW[4]), told(GW[4], ROUTER))
    yield guest("ARP for a local port", ask("10.0.1.5"), told("10.0.1.5", WEB2))
    yield guest("ARP for a remote port", ask("10.0.1.20"), told("10.0.1.20", WEB3))
    yield guest("ARP, padded to 60 bytes", ask("10.0.1.20", bytes(18)), told("10.0.1.20", WEB3, bytes(18)))
    yield guest("ARP by unicast", ask("10.0.1.20", to=WEB3), told("10.0.1.20", WEB3))
    yield Case(
        "ARP for the same address in the other tenant has another answer",
        "tapred1",
        ask("10.0.1.20"),
        told("10.0.1.20", p.RED_WEB3),
    )
    yield drop("ARP for nobody", ask("10.0.1.77"), DropReason.NO_RECORD)
    yield drop("ARP for an address of another subnet", ask("10.0.2.7"), DropReason.NO_RECORD)
    yield drop("ARP for another subnet's gateway", ask("10.0.2.1"), DropReason.NO_RECORD)
    own = b.eth(everyone, b.arp(1, WEB2, "10.0.1.97", "10.0.1.5"), WEB2)
    yield drop("ARP for the own address", own, DropReason.OWN_ADDRESS, "tapweb2")
    probe = b.eth(everyone, b.arp(1, WEB1, "0.0.0.0", W[4]))
    yield drop("ARP probe for the own address", probe, DropReason.OWN_ADDRESS)
    taken = b.eth(everyone, b.arp(1, WEB1, "0.0.0.0", "10.0.1.5"))
    answer = Answer(b.eth(WEB1, b.arp(2, WEB2, "10.0.1.5", "0.0.0.0", WEB1), WEB2))
    yield guest("ARP probe for an address that is taken", taken, answer)
    yield drop(
        "ARP probe of another MAC", b.eth(everyone, b.arp(1, p.VRRP, "0.0.0.0", W[4]), p.VRRP), DropReason.SPOOFED_MAC
    )
    yield guest("gratuitous ARP", b.eth(everyone, b.arp(1, WEB1, W[4], W[4])), hint(WEB1, W[4]))
    other = b.eth(everyone, b.arp(3, WEB1, W[4], W[4]))
    yield guest("gratuitous ARP of another operation", other, hint(WEB1, W[4]))
    yield drop("ARP reply of nobody", b.eth(WEB2, b.arp(2, WEB1, "0.0.0.0", W[4], WEB2)), DropReason.ANNOUNCEMENT)
    yield guest("ARP reply", b.eth(WEB2, b.arp(2, WEB1, W[4], "10.0.1.5", WEB2)), hint(WEB1, W[4]))
    yield drop("reverse ARP", b.eth(everyone, b.arp(3, WEB1, W[4], "10.0.1.5")), DropReason.MALFORMED)
    yield drop("ARP with another sender MAC", b.eth(everyone, b.arp(1, WEB2, W[4], "10.0.1.5")), DropReason.SPOOFED_MAC)
    yield drop(
        "ARP with another sender address",
        b.eth(everyone, b.arp(1, WEB1, "10.0.1.6", "10.0.1.5")),
        DropReason.SPOOFED_CA,
    )
    yield drop(
        "ARP announces another's address",
        b.eth(everyone, b.arp(2, WEB1, "10.0.1.5", "10.0.1.5")),
        DropReason.SPOOFED_CA,
    )
    vrrp = b.eth(everyone, b.arp(1, p.VRRP, "10.0.1.100", "10.0.1.100"), p.VRRP)
    yield guest("gratuitous ARP of a VRRP master", vrrp, hint(p.VRRP, "10.0.1.100"), "tapweb2")
    yield guest(
        "ARP for an announced address is answered with its MAC", ask("10.0.1.109"), told("10.0.1.109", p.VRRP_9)
    )
    master = b.eth(everyone, b.arp(1, FW, "10.0.1.9", "10.0.1.109"), FW)
    yield drop("ARP for an address that the port has announced itself", master, DropReason.OWN_ADDRESS, "tapfw")
    taking = b.eth(everyone, b.arp(1, WEB2, "0.0.0.0", "10.0.1.98"), WEB2)
    yield drop("ARP probe for an address that is about to be taken over", taking, DropReason.OWN_ADDRESS, "tapweb2")
    asking = b.eth(everyone, b.arp(1, WEB2, "10.0.1.5", "10.0.1.98"), WEB2)
    holder = Answer(b.eth(WEB2, b.arp(2, WEB3, "10.0.1.98", "10.0.1.5", WEB2), WEB3))
    yield guest("ARP for an address that another has announced", asking, holder, "tapweb2")
    ask_off = b.eth(everyone, b.arp(1, WEB1, W[4], "10.0.1.8"))
    yield guest("ARP for a disabled port is answered", ask_off, told("10.0.1.8", p.OFF))


def discovery() -> Iterator[Case]:
    group = "33:33:ff:00:00:05"

    def ask(target: str, **fields: object) -> bytes:
        return b.eth(group, b.solicitation(target, **fields))

    peer = "2001:db8:1::5"
    yield guest("ND for the gateway", ask(GW[6]), Answer(b.advertisement(GW[6], ROUTER, router=True)))
    router = link_local(ROUTER)
    yield guest(
        "ND for the router's link-local address", ask(router), Answer(b.advertisement(router, ROUTER, router=True))
    )
    yield guest("ND for a local port", ask(peer), Answer(b.advertisement(peer, WEB2, router=False)))
    far = "2001:db8:1::20"
    yield guest("ND for a remote port", ask(far), Answer(b.advertisement(far, WEB3, router=False)))
    red = Answer(b.advertisement(far, p.RED_WEB3, router=False))
    yield Case("ND for the same address in the other tenant has another answer", "tapred1", ask(far), red)
    near = link_local(WEB2)
    yield guest("ND for a port's link-local address", ask(near), Answer(b.advertisement(near, WEB2, router=False)))
    mine = link_local(WEB1)
    from_mine = Answer(b.advertisement(peer, WEB2, to=mine, router=False))
    yield guest("ND from a link-local address", ask(peer, source=mine), from_mine)
    shared = "2001:db8:1::109"
    yield guest(
        "ND for an announced address is answered with its MAC",
        ask(shared),
        Answer(b.advertisement(shared, p.VRRP_9, router=False)),
    )
    taking = b.eth("33:33:ff:00:00:98", b.solicitation("2001:db8:1::98", source="::", option=b""), WEB2)
    yield drop("DAD for an address that is about to be taken over", taking, DropReason.OWN_ADDRESS, "tapweb2")
    yield drop("ND for nobody", ask("2001:db8:1::77"), DropReason.NO_RECORD)
    yield drop("ND for nobody's link-local address", ask(link_local("02:00:00:00:00:77")), DropReason.NO_RECORD)
    yield drop("ND for a link-local address that is of no MAC", ask("fe80::1:2:3"), DropReason.NO_RECORD)
    yield drop("ND for a mapped address", ask("::ffff:10.0.1.5"), DropReason.MALFORMED)
    yield drop("ND for the own address", ask(W[6]), DropReason.OWN_ADDRESS)
    yield drop("ND for the own link-local address", ask(mine), DropReason.OWN_ADDRESS)
    yield drop("DAD for the own address", ask(W[6], source="::", option=b""), DropReason.OWN_ADDRESS)
    dad = Answer(b.advertisement(peer, WEB2, to="ff02::1", to_mac="33:33:00:00:00:01", router=False, solicited=False))
    yield guest("DAD for an address that is taken", ask(peer, source="::", option=b""), dad)
    dad = Answer(b.advertisement(GW[6], ROUTER, to="ff02::1", to_mac="33:33:00:00:00:01", router=True, solicited=False))
    yield guest("DAD for the gateway's address", ask(GW[6], source="::", option=b""), dad)
    told = Answer(b.advertisement(peer, WEB2, router=False))
    yield guest("ND without options", ask(peer, option=b""), told)
    other = bytes.fromhex("0e01000000000000")
    yield guest("ND with three other options", ask(peer, option=other * 3), told)
    yield guest("ND with four other options", ask(peer, option=other * 4), told)
    yield guest("ND, the link-layer option of another length", ask(peer, option=b"\x01\x02" + bytes(14)), told)
    yield guest("ND, trailing bytes are no options", ask(peer) + b"\x01\x01" + bytes(6), told)
    yield drop("ND with five options", ask(peer, option=other * 5), DropReason.MALFORMED)
    yield drop("ND with an option of length zero", ask(peer, option=bytes(8)), DropReason.MALFORMED)
    yield drop("ND with an option beyond the end", ask(peer, option=b"\x01\x02" + bytes(6)), DropReason.MALFORMED)
    yield drop("ND with half an option header", ask(peer, option=b"\x01"), DropReason.MALFORMED)
    wrong = bytes(b.ICMPv6NDOptSrcLLAddr(lladdr=WEB2))
    yield drop("ND with another's link-layer address", ask(peer, option=wrong), DropReason.SPOOFED_MAC)
    yield drop("ND with another's link-layer address last", ask(peer, option=other * 3 + wrong), DropReason.SPOOFED_MAC)
    yield drop("ND: the first fault decides", ask(peer, option=wrong + bytes(8)), DropReason.SPOOFED_MAC)
    yield drop("ND from another's address", ask(peer, source="2001:db8:1::6"), DropReason.SPOOFED_CA)
    near = bytes(b.IPv6(src=W[6], dst=peer, hlim=64) / b.ICMPv6ND_NS(tgt=peer))
    plain = b.eth(WEB2, near, kind=0x86DD)
    yield guest("ND of another hop limit is an ordinary packet", *_same(plain))
    coded = b.eth(WEB2, b.IPv6(src=W[6], dst=peer, hlim=255) / b.ICMPv6ND_NS(tgt=peer, code=1))
    yield guest("ND of another code is an ordinary packet", *_same(coded))
    short = b.eth(WEB2, b.IPv6(src=W[6], dst=peer, hlim=255, nh=58) / b.Raw(b"\x87\x00" + bytes(21)))
    yield guest("ND without a whole target is an ordinary packet", *_same(short))
    not_dad = b.eth(group, b.IPv6(src="::", dst="ff02::1:ff00:5", hlim=64) / b.ICMPv6ND_NS(tgt=W[6]))
    yield drop("DAD of another hop limit is none", not_dad, DropReason.SPOOFED_CA)
    yield from _advertised()
    yield from _hidden()


def _advertised() -> Iterator[Case]:
    def tell(target: str, option: bytes, source: str = W[6], mac: str = WEB1) -> bytes:
        body = b.IPv6(src=source, dst="ff02::1", hlim=255) / b.ICMPv6ND_NA(tgt=target, R=0, S=0, O=1) / b.Raw(option)
        return b.eth("33:33:00:00:00:01", body, mac)

    right = bytes(b.ICMPv6NDOptDstLLAddr(lladdr=WEB1))
    yield guest("NA for the own address", tell(W[6], right), hint(WEB1, W[6]))
    mine = link_local(WEB1)
    yield guest("NA for the own link-local address", tell(mine, right), hint(WEB1, mine))
    yield drop("NA for another's address", tell("2001:db8:1::5", right), DropReason.SPOOFED_CA)
    wrong = bytes(b.ICMPv6NDOptDstLLAddr(lladdr=WEB2))
    yield drop("NA with another's link-layer address", tell(W[6], wrong), DropReason.SPOOFED_MAC)
    vrrp = tell("2001:db8:1::100", bytes(b.ICMPv6NDOptDstLLAddr(lladdr=p.VRRP)), "2001:db8:1::100", p.VRRP)
    yield guest("NA of a VRRP master", vrrp, hint(p.VRRP, "2001:db8:1::100"), "tapweb2")


def _hidden() -> Iterator[Case]:
    """Neighbour discovery where it is not looked for, and what would make a guest its neighbours' router."""
    peer, mine = "2001:db8:1::5", link_local(WEB1)
    advertised = b.ICMPv6ND_NA(tgt=GW[6], R=1, S=0, O=1) / b.ICMPv6NDOptDstLLAddr(lladdr=WEB1)
    for name, header in (
        ("hop-by-hop options", b.IPv6ExtHdrHopByHop()),
        ("a routing header", b.IPv6ExtHdrRouting()),
        ("destination options", b.IPv6ExtHdrDestOpt()),
    ):
        hidden = b.eth(WEB2, b.IPv6(src=W[6], dst=peer, hlim=255) / header / advertised)
        yield drop(f"NA for the gateway behind {name}", hidden, DropReason.MALFORMED)
        near = b.eth(WEB2, b.IPv6(src=W[6], dst=peer, hlim=254) / header / advertised)
        yield guest(f"NA of another hop limit behind {name} is believed by nobody", *_same(near))
    router = b.IPv6(src=mine, dst=link_local(WEB2), hlim=255) / b.ICMPv6ND_RA() / b.ICMPv6NDOptSrcLLAddr(lladdr=WEB1)
    yield drop("router advertisement to a neighbour", b.eth(WEB2, router), DropReason.GUEST_SERVER)
    yield drop("router advertisement to all", b.eth("33:33:00:00:00:01", router), DropReason.GUEST_SERVER)
    redirect = b.IPv6(src=mine, dst=peer, hlim=255) / b.ICMPv6ND_Redirect(tgt=mine, dst="2001:db8:2::6")
    yield drop("redirect", b.eth(WEB2, redirect), DropReason.ANNOUNCEMENT)
    cut = b.IPv6(src=W[6], dst=peer, hlim=255, nh=58) / b.Raw(b"\x86")
    yield drop("router advertisement of one byte", b.eth(WEB2, cut), DropReason.GUEST_SERVER)
    routed = b.eth(ROUTER, b.IPv6(src=W[6], dst="2001:db8:2::6", hlim=255) / b.IPv6ExtHdrDestOpt() / b.UDP())
    yield drop("destination options with hop limit 255, routed", routed, DropReason.MALFORMED)


def addresses() -> Iterator[Case]:
    """What guests ask about their addresses. Red's subnet is answered, and blue's second and third; db-1 is not."""
    everybody, agents = "ff:ff:ff:ff:ff:ff", "33:33:00:01:00:02"
    ask, routers = b.UDP(sport=68, dport=67) / b.Raw(bytes(240)), "33:33:00:00:00:02"
    mine, its = link_local(WEB1), link_local(ROUTER)
    ask6 = b.UDP(sport=546, dport=547) / b.Raw(bytes(4))
    solicit = b.ICMPv6ND_RS() / b.ICMPv6NDOptSrcLLAddr(lladdr=WEB1)

    def handed(name: str, frame: bytes, kind: UpcallKind, interface: str = "tapred1") -> Case:
        return guest(name, frame, ToAgent(kind, frame), interface)

    discover = b.eth(everybody, b.network("0.0.0.0", "255.255.255.255") / ask)
    renew = b.eth(ROUTER, b.network(W[4], GW[4]) / ask)
    yield handed("DHCPv4 to all, from one without an address", discover, UpcallKind.DHCP4)
    yield handed("DHCPv4 to the gateway", renew, UpcallKind.DHCP4)
    yield handed("DHCPv4 to another server", b.eth(ROUTER, b.network(W[4], "10.0.2.9") / ask), UpcallKind.DHCP4)
    yield handed("DHCPv4 to all, from an address", b.eth(everybody, b.network(W[4], GW[4]) / ask), UpcallKind.DHCP4)
    rebind = b.eth(everybody, b.network("10.0.3.4", "255.255.255.255") / ask, p.OLD)
    yield handed("DHCPv4 in a subnet of IPv4 alone", rebind, UpcallKind.DHCP4, "tapold")
    yield handed("DHCPv6", b.eth(agents, b.IPv6(src=mine, dst="ff02::1:2") / ask6), UpcallKind.DHCP6)
    yield handed("DHCPv6 to the router", b.eth(ROUTER, b.IPv6(src=mine, dst=its) / ask6), UpcallKind.DHCP6)
    solicitation = b.eth(routers, b.IPv6(src=mine, dst="ff02::2", hlim=255) / solicit)
    nameless = b.eth(routers, b.IPv6(src="::", dst="ff02::2", hlim=255) / b.ICMPv6ND_RS())
    yield handed("router solicitation to all routers", solicitation, UpcallKind.ROUTER_SOLICITATION)
    yield handed("router solicitation from nobody yet", nameless, UpcallKind.ROUTER_SOLICITATION)
    one = b.eth(routers, b.IPv6(src=mine, dst="ff02::2", hlim=255, nh=58) / b.Raw(b"\x85"))
    yield handed("router solicitation of one byte", one, UpcallKind.ROUTER_SOLICITATION)

    blue, red = (WEB2_PORT, FW_PORT), p.RED_1

    def all_over(name: str, frame: bytes, *ports: str, interface: str = "tapweb1", **where: Any) -> Case:
        return guest(name, frame, to_all(frame, *ports, **where), interface)

    yield all_over("DHCPv4 in a subnet that is not answered", discover, *blue)
    error = b.icmp_error(renew, 3, 3, GW[4], W[4])
    yield guest("DHCPv4 to the gateway where it is not answered", renew, Answer(error, DropReason.TO_GATEWAY))
    yield all_over("router solicitation in a subnet that is not answered", solicitation, *blue)
    yield all_over("router solicitation from nobody in a subnet that is not answered", nameless, *blue)
    out = b.eth(everybody, b.network("0.0.0.0", "255.255.255.255") / ask, p.DB1)
    yield all_over("DHCPv4 of a port that is not answered", out, interface="tapdb1", vsid=p.BLUE_2, pas=(p.PA2,))
    out = b.eth(routers, b.IPv6(src=link_local(p.DB1), dst="ff02::2", hlim=255) / b.ICMPv6ND_RS(), p.DB1)
    yield all_over(
        "router solicitation of a port that is not answered", out, interface="tapdb1", vsid=p.BLUE_2, pas=(p.PA2,)
    )
    old6 = b.eth(agents, b.IPv6(src=link_local(p.OLD), dst="ff02::1:2") / ask6, p.OLD)
    yield drop("DHCPv6 in a subnet of IPv4 alone", old6, DropReason.NO_MEMBER, "tapold")
    near = b.eth(routers, b.IPv6(src=mine, dst="ff02::2", hlim=254) / solicit)
    yield all_over("router solicitation of another hop limit is none", near, interface="tapred1", vsid=red)
    relayed = b.eth(everybody, b.network(W[4], "255.255.255.255") / b.UDP(sport=67, dport=67) / b.Raw(bytes(240)))
    yield all_over("what a relay agent would send is no client's", relayed, interface="tapred1", vsid=red)
    part = b.eth(everybody, b.network(W[4], "255.255.255.255", flags="MF") / ask)
    yield all_over("DHCPv4 in fragments is not looked at", part, interface="tapred1", vsid=red)
    short = b.eth(everybody, b.network(W[4], "255.255.255.255", proto=17) / b.Raw(b"\x00\x44\x00\x43\x00\x08\x00"))
    yield all_over("7 bytes of DHCPv4 are none", short, interface="tapred1", vsid=red)
    large = b.eth(everybody, b.network(W[4], "255.255.255.255") / b.UDP(sport=68, dport=67) / b.Raw(bytes(1495)))
    yield drop("DHCPv4 larger than the agent is handed", large, DropReason.UPCALL_LIMIT, "tapred1")
    stolen = b.eth(routers, b.IPv6(src="::", dst="ff02::2", hlim=255) / b.ICMPv6ND_RS(), WEB2)
    yield drop("router solicitation from nobody with another MAC", stolen, DropReason.SPOOFED_MAC, "tapred1")

    yield from _servers()


def _servers() -> Iterator[Case]:
    """What only who gives addresses may say; fw may."""
    server, peer = DropReason.GUEST_SERVER, link_local(WEB2)

    def offer(source: str, mac: str = WEB1, **fields: object) -> bytes:
        return b.eth(
            WEB2, b.network(source, ca(4, 1, 5), **fields) / b.UDP(sport=67, dport=68) / b.Raw(bytes(240)), mac
        )

    def reply(source: str, mac: str = WEB1) -> bytes:
        return b.eth(WEB2, b.IPv6(src=source, dst=peer) / b.UDP(sport=547, dport=546) / b.Raw(bytes(4)), mac)

    yield drop("DHCPv4 as a server sends it", offer(W[4]), server)
    yield drop("DHCPv4 as a server sends it, in a subnet that is answered", offer(W[4]), server, "tapred1")
    yield drop("DHCPv6 as a server sends it", reply(link_local(WEB1)), server)
    any_port = b.eth(WEB2, b.network(W[4], ca(4, 1, 5)) / b.UDP(sport=6767, dport=68) / b.Raw(bytes(240)))
    yield drop("to a DHCPv4 client, from another port than a server's", any_port, server)
    yield drop("the first fragment of DHCPv4 as a server sends it", offer(W[4], flags="MF"), server)
    yield guest("a later fragment with the same bytes", *_same(offer(W[4], frag=3)))
    tcp = b.eth(WEB2, b.network(W[4], ca(4, 1, 5)) / b.TCP(sport=67, dport=68))
    yield guest("TCP to port 68 is no DHCP", *_same(tcp))
    crossed = b.eth(WEB2, b.IPv6(src=W[6], dst=ca(6, 1, 5)) / b.UDP(sport=547, dport=68))
    yield guest("port 68 over IPv6 is no DHCP client's", *_same(crossed))
    yield from _hidden_servers()
    fw4, fw6 = offer("10.0.1.9", FW), reply(link_local(FW), FW)
    yield guest("a port that may answer DHCPv4", fw4, ToPort(WEB2_PORT, fw4), "tapfw")
    yield guest("a port that may answer DHCPv6", fw6, ToPort(WEB2_PORT, fw6), "tapfw")
    router = b.IPv6(src=link_local(FW), dst=peer, hlim=255) / b.ICMPv6ND_RA() / b.ICMPv6NDOptSrcLLAddr(lladdr=FW)
    advertised = b.eth(WEB2, router, FW)
    yield guest("a port that may say that it is a router", advertised, ToPort(WEB2_PORT, advertised), "tapfw")
    redirect = b.IPv6(src=link_local(FW), dst=peer, hlim=255) / b.ICMPv6ND_Redirect(tgt=peer, dst="2001:db8:2::6")
    yield drop("a redirect of a port that may say so", b.eth(WEB2, redirect, FW), DropReason.ANNOUNCEMENT, "tapfw")


def _hidden_servers() -> Iterator[Case]:
    """DHCPv6 as a server sends it, where a client's stack finds it all the same; fw may."""
    answer = bytes(b.UDP(sport=547, dport=546) / b.Raw(bytes(12)))
    options = b"\x11\0" + bytes(6)  # destination options, then UDP

    def sent(nh: int, body: bytes, mac: str = WEB1) -> bytes:
        return b.eth(WEB2, b.IPv6(src=link_local(mac), dst=link_local(WEB2), nh=nh) / b.Raw(body), mac)

    def fragment(nh: int, body: bytes, offset: int = 0, more: int = 1) -> bytes:
        return bytes((nh, 0)) + (offset << 3 | more).to_bytes(2, "big") + bytes(4) + body

    server, malformed = DropReason.GUEST_SERVER, DropReason.MALFORMED
    to_port = b"\0" + answer[1:]
    for name, nh, body in (
        ("hop-by-hop options", 0, options + answer),
        ("a routing header", 43, options + answer),
        ("destination options", 60, options + answer),
        ("two headers", 0, b"\x3c\0" + bytes(6) + options + answer),
        ("a header of 24 bytes", 60, b"\x11\2" + bytes(22) + answer),
        ("a fragment's header, alone", 44, fragment(17, answer, more=0)),
        ("a fragment's header", 44, fragment(17, answer[:16])),
        ("a fragment's header and destination options", 44, fragment(60, options + answer[:16])),
        ("destination options and a fragment's header", 60, b"\x2c\0" + bytes(6) + fragment(17, to_port[:16])),
    ):
        frame = sent(nh, body)
        yield drop(f"DHCPv6 as a server sends it behind {name}", frame, server)
        allowed = sent(nh, body, FW)
        yield guest(f"DHCPv6 of a port that may, behind {name}", allowed, ToPort(WEB2_PORT, allowed), "tapfw")
    for name, nh, body in (
        ("options that end in a later fragment", 44, fragment(60, b"\x11\5" + bytes(14))),
        ("options, and UDP in a later fragment", 44, fragment(60, options)),
        ("options, and half of UDP's ports", 60, options + answer[:3]),
        ("a fragment within a fragment", 44, fragment(44, fragment(17, answer, more=0))),
        ("a fragment's header that is not whole", 60, b"\x2c\0" + bytes(6) + bytes(7)),
        ("nine headers", 60, (b"\x3c\0" + bytes(6)) * 8 + options + answer),
    ):
        yield drop(f"a guest's server may be behind {name}", sent(nh, body), malformed)
    other = bytes(b.UDP(sport=547, dport=547) / b.Raw(bytes(12)))
    for name, nh, body in (
        ("a later fragment", 44, fragment(17, answer, offset=3, more=0)),
        ("options, and UDP to another port", 60, options + other),
        ("eight headers, and UDP to another port", 60, (b"\x3c\0" + bytes(6)) * 7 + options + other),
        ("options, and TCP", 60, b"\x06\0" + bytes(6) + answer),
    ):
        yield guest(f"no server's: {name}", *_same(sent(nh, body)))


def to_many(
    frame: bytes,
    source: str,
    destination: str,
    *ports: str,
    vsid: int = p.BLUE_1,
    pas: tuple[str, ...] = (p.PA2, p.PA3),
    protocol: int = 17,
    ends: tuple[int, int] | None = (53, 53),
    ecn: int = 0,
) -> Copies:
    """A copy for each of the ports, and for each of the hosts."""
    flow = b.flow(source, destination, protocol, ends)
    return Copies.of(
        [
            *(ToPort(port, frame) for port in ports),
            *(ToUnderlay(pa, b.nvgre(pa, vsid, flow, frame, ecn)) for pa in pas),
        ]
    )


def to_all(frame: bytes, *ports: str, **where: Any) -> Copies:
    """The same of any frame: what its flow is, it says itself."""
    packet = b.IP(frame[14:]) if frame[12:14] == b"\x08\x00" else b.IPv6(frame[14:])
    protocol = packet.proto if packet.version == 4 else packet.nh
    at = 14 + (4 * packet.ihl if packet.version == 4 else 40)
    whole = packet.version == 6 or not (packet.flags.MF or packet.frag)
    ends = (int.from_bytes(frame[at : at + 2], "big"), int.from_bytes(frame[at + 2 : at + 4], "big"))
    known = ends if protocol in (6, 17) and whole else None
    return to_many(frame, packet.src, packet.dst, *ports, protocol=protocol, ends=known, **where)


LINK = {4: "224.0.0.251", 6: "ff02::fb"}
ALL_ONES = "ff:ff:ff:ff:ff:ff"


def group_mac(group: str) -> str:
    """RFC 1112 section 6.4, RFC 2464 section 7."""
    packed = ipaddress.ip_address(group).packed
    low = packed[12:] if len(packed) == 16 else bytes((packed[1] & 127, *packed[2:]))
    return ((b"\x33\x33" if len(packed) == 16 else b"\x01\x00\x5e") + low).hex(":")


def groups() -> Iterator[Case]:
    """Broadcast and multicast."""
    for to in ("255.255.255.255", "10.0.1.255", "10.0.1.5"):
        frame = b.eth(ALL_ONES, b.network(W[4], to) / b.UDP(sport=53, dport=53))
        yield guest(f"broadcast to {to} goes to all", frame, to_many(frame, W[4], to, WEB2_PORT, FW_PORT))
    frame = b.eth(ALL_ONES, b.network("10.0.2.6", "255.255.255.255") / b.UDP(), p.DB1)
    yield guest(
        "broadcast: to the only other host",
        frame,
        to_many(frame, "10.0.2.6", "255.255.255.255", vsid=p.BLUE_2, pas=(p.PA2,)),
        "tapdb1",
    )
    frame = b.eth(ALL_ONES, b.network(W[4], "255.255.255.255") / b.UDP())
    red = to_many(frame, W[4], "255.255.255.255", vsid=p.RED_1)
    yield guest("the same in the other tenant stays in it", frame, red, "tapred1")
    frame = b.eth(ALL_ONES, b.network("10.0.3.4", "255.255.255.255") / b.UDP(), p.OLD)
    yield drop("broadcast where nobody else is", frame, DropReason.NO_MEMBER, "tapold")
    frame = b.eth(ALL_ONES, b.network(W[4], "255.255.255.255", ecn=2) / b.UDP())
    yield guest("ECN is copied", frame, to_many(frame, W[4], "255.255.255.255", WEB2_PORT, FW_PORT, ecn=2))
    frame = b.eth(ALL_ONES, b.network(W[4], "255.255.255.255") / b.UDP(), p.VRRP)
    yield drop("broadcast from another's MAC", frame, DropReason.SPOOFED_MAC)
    for version, group in ((4, "224.0.0.251"), (6, "ff02::fb"), (4, "224.0.0.18"), (6, "ff12::5")):
        frame = b.eth(group_mac(group), b.network(W[version], group) / b.UDP(sport=53, dport=53))
        copies = to_many(frame, W[version], group, WEB2_PORT, FW_PORT)
        yield guest(f"{group}: of one link, goes to all", frame, copies)
    for version, group in ((4, "239.1.2.3"), (6, "ff15::123")):
        body = b.network(W[version], group) / b.UDP(sport=53, dport=53)
        frame = b.eth(group_mac(group), body)
        copies = to_many(frame, W[version], group, WEB2_PORT)
        yield guest(f"{group}: here only to who has asked", frame, copies)
        yield guest(f"{group}: all groups to all without snooping", frame, to_many(
            frame, W[version], group, WEB2_PORT, FW_PORT), policy=OPEN)  # fmt: skip
        by_broadcast = b.eth(ALL_ONES, body)
        copies = to_many(by_broadcast, W[version], group, WEB2_PORT)
        yield guest(f"{group}: it is the address that counts", by_broadcast, copies)
        listener = b.eth(group_mac(group), b.network(ca(version, 1, 5), group) / b.UDP(), WEB2)
        copies = to_many(listener, ca(version, 1, 5), group)
        yield guest(f"{group}: not back to the sender", listener, copies, "tapweb2")
        unasked = "239.9.9.9" if version == 4 else "ff15::999"
        frame = b.eth(group_mac(unasked), b.network(W[version], unasked) / b.UDP())
        yield guest(f"{unasked}: nobody of this tenant here", frame, to_many(frame, W[version], unasked))
        yield from _heeded(version, group, unasked)
    old = b.eth(group_mac("239.1.2.3"), b.network("10.0.3.4", "239.1.2.3") / b.UDP(), p.OLD)
    yield drop("a group where nobody else is", old, DropReason.NO_MEMBER, "tapold")
    yield from _carried_nowhere()
    yield from _memberships()
    yield from _routers()
    size = 1458 - 28
    for more, expected in ((0, None), (1, Drop(DropReason.TOO_BIG))):
        frame = b.eth(ALL_ONES, b.network(W[4], "10.0.1.255") / b.UDP(sport=53, dport=53) / bytes(size + more))
        copies = to_many(frame, W[4], "10.0.1.255", WEB2_PORT, FW_PORT)
        yield guest(f"broadcast of {1458 + more} bytes", frame, expected or copies)
    frame = b.eth(ALL_ONES, b.network("10.0.2.6", "10.0.2.255") / b.UDP() / bytes(p.MTU_2 - 27), p.DB1)
    yield drop("broadcast larger than the subnet's MTU", frame, DropReason.TOO_BIG, "tapdb1")


def _heeded(version: int, group: str, unasked: str) -> Iterator[Case]:
    """Other hosts have said which groups are listened to there."""

    def to(group: str, port: int = 53) -> bytes:
        return b.eth(group_mac(group), b.network(W[version], group) / b.UDP(sport=53, dport=port))

    frame, nobodys = to(group), to(unasked)
    asked = to_many(frame, W[version], group, WEB2_PORT, pas=(p.PA2,))
    yield guest(f"{group}: elsewhere only to who has asked", frame, asked, policy=p.HEEDING)
    yield drop(f"{unasked}: nobody has asked for it, here and there", nobodys, DropReason.NO_MEMBER, policy=p.HEEDING)
    late = to_many(frame, W[version], group, WEB2_PORT, pas=(p.PA2,))
    yield guest(f"{group}: what was said too long ago counts for nothing", frame, late, policy=p.FORGETTING)
    late = to_many(nobodys, W[version], unasked, pas=(p.PA2,))
    yield guest(f"{unasked}: nor does it for another group", nobodys, late, policy=p.FORGETTING)
    for link in ("224.0.0.251", "224.0.0.22") if version == 4 else ("ff02::fb", "ff02::1:ff00:1"):
        whole = to(link)
        copies = to_many(whole, W[version], link, WEB2_PORT, FW_PORT)
        yield guest(f"{link}: of one link, to all, whatever was said", whole, copies, policy=p.HEEDING)
    everybody = to_many(frame, W[version], group, WEB2_PORT, FW_PORT)
    unsnooped = replace(OPEN, wanted=p.HEEDING.wanted)
    yield guest(f"{group}: to all without snooping, whatever was said", frame, everybody, policy=unsnooped)
    copies = to_many(frame, W[version], group, WEB2_PORT, FW_PORT)
    yield guest(f"{group}: to a multicast router, too", frame, copies, policy=p.ROUTED)
    copies = to_many(nobodys, W[version], unasked, FW_PORT)
    yield guest(f"{unasked}: to a multicast router alone", nobodys, copies, policy=p.ROUTED)


def _carried_nowhere() -> Iterator[Case]:
    mdns = b.network(W[4], "224.0.0.251") / b.UDP(sport=5353, dport=5353)
    yield drop("multicast to the router's MAC", b.eth(ROUTER, mdns), DropReason.MULTICAST)
    frame = b.eth(ROUTER, b.network(W[4], "255.255.255.255") / b.UDP())
    yield drop("broadcast to the router's MAC", frame, DropReason.MULTICAST)
    frame = b.eth(ROUTER, b.network(W[6], "ff05::2") / b.UDP())
    yield drop("IPv6 multicast to the router's MAC", frame, DropReason.MULTICAST)
    frame = b.eth(ALL_ONES, b.network(W[4], "10.0.1.255") / b.UDP())
    yield drop("broadcast in a subnet that carries none", frame, DropReason.MULTICAST, policy=QUIET)
    frame = b.eth(group_mac("224.0.0.251"), mdns)
    yield drop("multicast in a subnet that carries none", frame, DropReason.MULTICAST, policy=QUIET)
    frame = b.eth("01:00:5e:00:00:05", b.network(W[4], "10.0.1.5") / b.UDP())
    yield drop("one machine's address at a group's MAC", frame, DropReason.MULTICAST)
    frame = b.eth("01:00:5e:7f:ff:ff", b.network(W[4], "255.255.255.255") / b.UDP())
    yield drop("255.255.255.255 at a group's MAC", frame, DropReason.MULTICAST)
    for group in ("ff00::1", "ff01::1", "ff11::1"):
        frame = b.eth(group_mac(group), b.network(W[6], group) / b.UDP())
        yield drop(f"{group} never leaves a machine", frame, DropReason.MULTICAST)


def _routers() -> Iterator[Case]:
    """Who speaks PIM is a multicast router, and the agent hears of it."""
    for version, group in ((4, "224.0.0.13"), (6, "ff02::d")):
        pim = {"proto": 103} if version == 4 else {"nh": 103}
        hello = b.network(W[version], group, **pim) / b.Raw(b"\x20\0\0\0")
        frame = b.eth(group_mac(group), hello)
        copies = to_many(frame, W[version], group, WEB2_PORT, FW_PORT, protocol=103, ends=None)
        said = Announced(bytes.fromhex(WEB1.replace(":", "")), ipaddress.ip_address(W[version]).packed, UpcallKind.PIM)
        yield guest(f"IPv{version}: PIM to all routers", frame, Announcing(copies, said))
        yield guest(f"IPv{version}: PIM where there is no snooping", frame, copies, policy=OPEN)
        other = b.eth(group_mac(LINK[version]), b.network(W[version], LINK[version], **pim) / b.Raw(b"\x20\0\0\0"))
        copies = to_many(other, W[version], LINK[version], WEB2_PORT, FW_PORT, protocol=103, ends=None)
        yield guest(f"IPv{version}: PIM's protocol, to another group", other, copies)


def _memberships() -> Iterator[Case]:
    """IGMP and MLD are the agent's."""
    report = b.eth(group_mac("239.1.2.3"), b.IP(src=W[4], dst="239.1.2.3", ttl=1, proto=2) / b.Raw(b"\x16" + bytes(7)))
    yield guest("IGMP", report, ToAgent(UpcallKind.IGMP, report))
    copies = to_many(report, W[4], "239.1.2.3", WEB2_PORT, FW_PORT, protocol=2, ends=None)
    yield guest("IGMP is carried where there is no snooping", report, copies, policy=OPEN)
    yield drop("IGMP in a subnet that carries no multicast", report, DropReason.MULTICAST, policy=QUIET)
    source = link_local(WEB1)
    alert = b"\x3a\x00\x05\x02\x00\x00\x01\x00"
    for kind in (130, 131, 132, 143):
        frame = b.eth(group_mac("ff02::16"), b.IPv6(src=source, dst="ff02::16", hlim=1, nh=0) / b.Raw(
            alert + bytes((kind,)) + bytes(23)))  # fmt: skip
        yield guest(f"MLD type {kind}", frame, ToAgent(UpcallKind.MLD, frame))
        yield guest(f"MLD type {kind}, whatever may leave", frame, ToAgent(UpcallKind.MLD, frame), policy=NARROW)
    for what, body in (
        ("another ICMPv6 type", alert + b"\x80" + bytes(7)),
        ("no ICMPv6", b"\x11" + alert[1:] + b"\x83" + bytes(7)),
        ("longer options", b"\x3a\x01" + alert[2:] + bytes(8) + b"\x83" + bytes(7)),
        ("cut off", alert),
    ):
        frame = b.eth(group_mac("ff02::16"), b.IPv6(src=source, dst="ff02::16", hlim=1, nh=0) / b.Raw(body))
        copies = to_many(frame, source, "ff02::16", WEB2_PORT, FW_PORT, protocol=0, ends=None)
        yield guest(f"no MLD: {what}", frame, copies)
        # What its headers lead to is not there: conntrack.md.
        reason = DropReason.CONNECTION_INVALID if what == "cut off" else DropReason.SECURITY_GROUP
        yield drop(f"no MLD, and it may not leave: {what}", frame, reason, policy=NARROW)
    yield guest("IGMP, whatever may leave", report, ToAgent(UpcallKind.IGMP, report), policy=NARROW)
    yield drop("IGMP that may not leave, without snooping", report, DropReason.SECURITY_GROUP, policy=narrowed(OPEN))
    yield drop("IGMP that may not leave, without broadcast", report, DropReason.SECURITY_GROUP, policy=narrowed(QUIET))
    to_one = b.eth(WEB2, b.IP(src=W[4], dst="239.1.2.3", ttl=1, proto=2) / b.Raw(b"\x16" + bytes(7)))
    yield drop("IGMP that may not leave, to one MAC", to_one, DropReason.SECURITY_GROUP, policy=NARROW)
    to_group = b.eth(group_mac("239.1.2.3"), b.network(W[4], "239.1.2.3") / b.UDP(sport=1, dport=2))
    yield drop("to a group, that may not leave", to_group, DropReason.SECURITY_GROUP, policy=NARROW)


def bridged() -> Iterator[Case]:
    for version in (4, 6):
        v = f"IPv{version}: "
        local = b.eth(WEB2, b.network(W[version], ca(version, 1, 5), hop_limit=1) / b.echo(version))
        yield guest(v + "to a local port, hop limit untouched", *_same(local))
        body = b.network(W[version], ca(version, 1, 20)) / b.echo(version)
        frame = b.eth(WEB3, body)
        flow = b.flow(W[version], ca(version, 1, 20), 1 if version == 4 else 58)
        remote = ToUnderlay(p.PA2, b.nvgre(p.PA2, p.BLUE_1, flow, frame))
        yield guest(v + "to a remote port", frame, remote)
        yield guest(v + "to a remote port by a stale MAC: the record's is set", b.eth(WEB2, body), remote)
        red = b.nvgre(p.PA3, p.RED_1, flow, b.eth(p.RED_WEB3, body))
        yield guest(v + "the same in the other tenant goes elsewhere", frame, ToUnderlay(p.PA3, red), "tapred1")
        unknown = b.eth(WEB2, b.network(W[version], ca(version, 1, 77)) / b.echo(version))
        yield guest(v + "no record, but a local port's MAC", unknown, ToPort(WEB2_PORT, unknown))
        behind = "172.16.5.9" if version == 4 else "2001:db8:77::9"
        unknown = b.eth(WEB3, b.network(W[version], behind) / b.echo(version))
        flow = b.flow(W[version], behind, 1 if version == 4 else 58)
        to_mac = ToUnderlay(p.PA2, b.nvgre(p.PA2, p.BLUE_1, flow, unknown))
        yield guest(v + "no record, but a remote port's MAC", unknown, to_mac)
        nobody = b.eth("02:00:00:00:00:77", b.network(W[version], ca(version, 1, 77)) / b.echo(version))
        yield drop(v + "neither record nor MAC", nobody, DropReason.NO_RECORD)
        shared = b.eth(p.VRRP_9, b.network(W[version], ca(version, 1, 109)) / b.echo(version))
        yield guest(v + "to an announced address, by its MAC", shared, ToPort(FW_PORT, shared))
        own = b.eth(WEB1, b.network(W[version], W[version]) / b.echo(version))
        yield drop(v + "to itself", own, DropReason.HAIRPIN)
        off = b.eth(p.OFF, b.network(W[version], ca(version, 1, 8)) / b.echo(version))
        yield drop(v + "to a disabled port", off, DropReason.PORT_DOWN)
    lost = b.eth(p.LOST, b.network(W[4], "10.0.1.66") / b.echo(4))
    yield drop("to a port of this host that has no interface", lost, DropReason.VSID_ACL)
    away = b.eth(p.ELSE, b.network(W[4], "10.0.1.40") / b.echo(4))
    yield drop("to a PA without a route", away, DropReason.NO_UNDERLAY)
    other = b.eth("02:00:00:00:01:41", b.network(W[4], "10.0.1.41") / b.echo(4))
    yield drop("to a PA of a family that this host has none of", other, DropReason.NO_UNDERLAY)
    other_subnet = b.eth(p.DB1, b.network(W[4], "10.0.2.6") / b.echo(4))
    yield drop("to a MAC of another subnet", other_subnet, DropReason.NO_RECORD)
    gateway = b.eth(WEB2, b.network(W[4], GW[4]) / b.echo(4))
    yield guest("to the gateway's address by another's MAC", gateway, ToPort(WEB2_PORT, gateway))
    lower = b.eth(WEB1, b.network("172.16.0.7", W[4]) / b.echo(4), FW)
    yield Case("from behind a guest that routes", "tapfw", lower, ToPort(WEB1_PORT, lower))
    ll = b.eth(WEB3, b.network(link_local(WEB1), link_local(WEB3)) / b.echo(6))
    flow = b.flow(link_local(WEB1), link_local(WEB3), 58)
    yield guest("between link-local addresses", ll, ToUnderlay(p.PA2, b.nvgre(p.PA2, p.BLUE_1, flow, ll)))


def routed() -> Iterator[Case]:
    for version in (4, 6):
        v = f"IPv{version}: "
        number = 1 if version == 4 else 58

        def body(to: str, hop_limit: int = 64, version: int = version) -> b.Packet:
            return b.network(W[version], to, hop_limit) / b.echo(version)

        here = ca(version, 2, 6)
        delivered = b.eth(p.DB1, body(here, 63), ROUTER_2)
        yield guest(v + "routed to a local port", b.eth(ROUTER, body(here)), ToPort(DB1_PORT, delivered))
        delivered = b.eth(p.DB1, body(here, 1), ROUTER_2)
        yield guest(v + "routed with hop limit 2", b.eth(ROUTER, body(here, 2)), ToPort(DB1_PORT, delivered))
        there = ca(version, 2, 7)
        inner = b.eth(p.DB2, body(there, 63), ROUTER_2)
        packet = b.nvgre(p.PA2, p.BLUE_2, b.flow(W[version], there, number), inner)
        yield guest(v + "routed to a remote port", b.eth(ROUTER, body(there)), ToUnderlay(p.PA2, packet))
        inner = b.eth(p.RED_DB2, body(there, 63), ROUTER)
        packet = b.nvgre(p.PA3, p.RED_2, b.flow(W[version], there, number), inner)
        yield guest(
            v + "routed to the same address of the other tenant",
            b.eth(ROUTER, body(there)),
            ToUnderlay(p.PA3, packet),
            "tapred1",
        )
        same = ca(version, 1, 5)
        delivered = b.eth(WEB2, body(same, 63), ROUTER)
        yield guest(v + "routed within the subnet", b.eth(ROUTER, body(same)), ToPort(WEB2_PORT, delivered))
        yield drop(v + "routed to itself", b.eth(ROUTER, body(W[version])), DropReason.HAIRPIN)
        behind = "172.16.5.9" if version == 4 else "2001:db8:99::9"
        delivered = b.eth(FW, body(behind, 63), ROUTER)
        yield guest(v + "routed by way of a guest", b.eth(ROUTER, body(behind)), ToPort(FW_PORT, delivered))
        yield from _unreachable(version)
        yield from _gateway(version)
    inner = b.eth(WEB3, b.network(W[4], "172.31.1.1", 63) / b.echo(4), ROUTER)
    packet = b.nvgre(p.PA2, p.BLUE_1, b.flow(W[4], "172.31.1.1", 1), inner)
    frame = b.eth(ROUTER, b.network(W[4], "172.31.1.1") / b.echo(4))
    yield guest("the longer prefix, by way of a remote guest", frame, ToUnderlay(p.PA2, packet))
    frame = b.eth(ROUTER, b.network(W[4], "172.20.1.1") / b.echo(4))
    error = b.icmp_error(frame, 3, 1, GW[4], W[4])
    yield guest("a next hop without a record", frame, Answer(error, DropReason.NO_RECORD))
    frame = b.eth(ROUTER, b.network(W[4], "10.9.1.1") / b.echo(4))
    yield drop("a route to a subnet that is not known", frame, DropReason.UNKNOWN_VSID)
    frame = b.eth(ROUTER, b.network(W[4], "203.0.113.5") / b.echo(4))
    error = b.icmp_error(frame, 3, 0, GW[4], W[4])
    yield guest("::/0 routes no IPv4", frame, Answer(error, DropReason.NO_ROUTE), "tapred1")
    frame = b.eth(ROUTER, b.network(W[6], link_local(WEB2)) / b.echo(6))
    yield drop("routed to a link-local address", frame, DropReason.NO_ROUTE)
    frame = b.eth(ROUTER, b.network(link_local(WEB1), "2001:db8:2::6", hop_limit=1) / b.echo(6))
    yield drop("routed from a link-local address, before hop limit 1", frame, DropReason.NO_ROUTE)
    old = b.eth(ROUTER, b.network("2001:db8:3::4", "2001:db8:55::1") / b.echo(6), p.OLD)
    yield drop("no gateway of the family: no ICMP", old, DropReason.NO_ROUTE, "tapold")
    # The router's MAC is the own subnet's: another's is an unknown MAC.
    frame = b.eth(ROUTER_2, b.network(W[4], "10.0.2.6") / b.echo(4))
    yield drop("another subnet's router MAC routes nothing", frame, DropReason.NO_RECORD)
    frame = b.eth(ROUTER_2, b.network("10.0.2.6", "10.0.1.8") / b.echo(4), p.DB1)
    yield drop("routed to a disabled port", frame, DropReason.PORT_DOWN, "tapdb1")
    options = b.network(W[4], "10.0.2.6", options=b"\x94\x04\x00\x00") / b.echo(4)
    lower = b.network(W[4], "10.0.2.6", 63, options=b"\x94\x04\x00\x00") / b.echo(4)
    yield guest("IPv4 options are carried", b.eth(ROUTER, options), ToPort(DB1_PORT, b.eth(p.DB1, lower, ROUTER_2)))


def _unreachable(version: int) -> Iterator[Case]:
    v = f"IPv{version}: "
    nowhere = "203.0.113.5" if version == 4 else "2001:db8:dead::5"

    def refused(name: str, frame: bytes, kind4: tuple[int, int], kind6: tuple[int, int], reason: DropReason) -> Case:
        kind, code = kind4 if version == 4 else kind6
        return guest(v + name, frame, Answer(b.icmp_error(frame, kind, code, GW[version], W[version]), reason))

    def body(to: str, payload: b.Packet, hop_limit: int = 64) -> bytes:
        return b.eth(ROUTER, b.network(W[version], to, hop_limit) / payload)

    no_route = ((3, 0), (1, 0), DropReason.NO_ROUTE)
    yield refused("no route", body(nowhere, b.echo(version)), *no_route)
    yield refused("no route, trailing bytes are not quoted", body(nowhere, b.echo(version)) + bytes(9), *no_route)
    yield refused("no route, a long packet is quoted in part", body(nowhere, b.echo(version, 1400)), *no_route)
    big = 520 if version == 4 else 1184  # the quote is exactly what may be quoted
    yield refused("no route, the longest whole quote", body(nowhere, b.echo(version, big)), *no_route)
    yield refused("no route, one byte too long for the quote", body(nowhere, b.echo(version, big + 1)), *no_route)
    yield refused(
        "no record behind a route", body(ca(version, 2, 77), b.echo(version)), (3, 1), (1, 3), DropReason.NO_RECORD
    )
    for hop_limit in (0, 1):
        frame = body(ca(version, 2, 7), b.UDP(sport=33434, dport=33434), hop_limit)
        yield refused(f"hop limit {hop_limit}", frame, (11, 0), (3, 0), DropReason.TTL_EXPIRED)
    frame = body(ca(version, 2, 77), b.UDP(sport=33434, dport=33434), 1)
    yield refused("hop limit 1 before a missing record", frame, (11, 0), (3, 0), DropReason.TTL_EXPIRED)
    frame = body(nowhere, b.UDP(sport=33434, dport=33434), 1)
    yield refused("no route before hop limit 1", frame, *no_route)
    yield refused("an echo reply is no error", body(nowhere, b.echo_reply(version)), *no_route)
    errors = (3, 4, 5, 11, 12) if version == 4 else (1, 2, 3, 4, 100, 127, 137)
    protocol = {"proto": 1} if version == 4 else {"nh": 58}
    for kind in errors:
        packet = b.network(W[version], nowhere, **protocol) / b.Raw(bytes((kind,)) + bytes(40))
        yield drop(v + f"no ICMP about ICMP type {kind}", b.eth(ROUTER, packet), DropReason.NO_ROUTE)
    packet = b.network(W[version], nowhere, **protocol) / b.Raw(b"")
    yield drop(v + "no ICMP about ICMP without a type", b.eth(ROUTER, packet), DropReason.NO_ROUTE)
    yield from _fragments_refused(version, nowhere)


def _fragments_refused(version: int, nowhere: str) -> Iterator[Case]:
    if version == 4:
        first = b.eth(ROUTER, b.network(W[4], nowhere, flags="MF") / b.echo(4))
        yield guest(
            "IPv4: no route for a first fragment",
            first,
            Answer(b.icmp_error(first, 3, 0, GW[4], W[4]), DropReason.NO_ROUTE),
        )
        later = b.eth(ROUTER, b.network(W[4], nowhere, frag=1, proto=17) / b.Raw(bytes(16)))
        yield drop("IPv4: no ICMP about a later fragment", later, DropReason.NO_ROUTE)
        for many, kind in (("224.0.0.9", "a multicast"), ("255.255.255.255", "a broadcast")):
            frame = b.eth(ROUTER, b.network(many, nowhere) / b.echo(4), FW)
            yield drop(f"IPv4: no ICMP to {kind} source", frame, DropReason.NO_ROUTE, "tapfw")
        return
    first = b.eth(
        ROUTER, b.network(W[6], nowhere) / b.IPv6ExtHdrFragment(offset=0, m=1, id=9, nh=58) / b.Raw(bytes(16))
    )
    yield guest(
        "IPv6: no route for a first fragment",
        first,
        Answer(b.icmp_error(first, 1, 0, GW[6], W[6]), DropReason.NO_ROUTE),
    )
    later = b.eth(
        ROUTER, b.network(W[6], nowhere) / b.IPv6ExtHdrFragment(offset=1, m=0, id=9, nh=58) / b.Raw(bytes(16))
    )
    yield drop("IPv6: no ICMP about a later fragment", later, DropReason.NO_ROUTE)
    short = b.eth(ROUTER, b.network(ca(6, 1, 9), nowhere, nh=44) / b.Raw(bytes(7)), FW)
    yield drop("IPv6: no ICMP about half a fragment header", short, DropReason.NO_ROUTE, "tapfw")


def _gateway(version: int) -> Iterator[Case]:
    v = f"IPv{version}: "

    def ping(to: str, size: int = 24, hop_limit: int = 64) -> bytes:
        return b.eth(ROUTER, b.network(W[version], to, hop_limit) / b.echo(version, size))

    def pong(source: str, size: int = 24) -> Answer:
        return Answer(b.eth(WEB1, b.network(source, W[version], 64) / b.echo_reply(version, size), ROUTER))

    gateway, other = GW[version], GW_2[version]
    yield guest(v + "ping of the gateway", ping(gateway), pong(gateway))
    yield guest(v + "ping of another subnet's gateway", ping(other), pong(other))
    yield guest(v + "ping of the gateway with hop limit 1", ping(gateway, hop_limit=1), pong(gateway))
    yield guest(v + "ping of the gateway, 1 byte", ping(gateway, 1), pong(gateway, 1))
    yield guest(v + "ping of the gateway, larger than the uplink takes", ping(gateway, 2000), pong(gateway, 2000))
    trailing = Answer(pong(gateway).frame + b"trailing")
    yield guest(v + "ping of the gateway keeps its trailing bytes", ping(gateway) + b"trailing", trailing)
    to_gateway = DropReason.TO_GATEWAY
    for name, transport in (("TCP", b.TCP(sport=50000, dport=22)), ("UDP", b.UDP(sport=50000, dport=53))):
        frame = b.eth(ROUTER, b.network(W[version], gateway) / transport)
        kind, code = (3, 3) if version == 4 else (1, 4)
        error = b.icmp_error(frame, kind, code, gateway, W[version])
        yield guest(v + f"{name} to the gateway", frame, Answer(error, to_gateway))
        frame = b.eth(ROUTER, b.network(W[version], other) / transport)
        error = b.icmp_error(frame, kind, code, gateway, W[version])
        yield guest(v + f"{name} to another subnet's gateway: the own one says no", frame, Answer(error, to_gateway))
    reply = b.eth(ROUTER, b.network(W[version], gateway) / b.echo_reply(version))
    yield drop(v + "an echo reply to the gateway", reply, to_gateway)
    sctp = b.network(W[version], gateway, **({"proto": 132} if version == 4 else {"nh": 132})) / b.Raw(bytes(12))
    yield drop(v + "SCTP to the gateway", b.eth(ROUTER, sctp), to_gateway)
    protocol = {"proto": 1} if version == 4 else {"nh": 58}
    request = 8 if version == 4 else 128
    coded = b.network(W[version], gateway, **protocol) / b.Raw(bytes((request, 1)) + bytes(10))
    yield drop(v + "an echo request of code 1 to the gateway", b.eth(ROUTER, coded), to_gateway)
    short = b.network(W[version], gateway, **protocol) / b.Raw(bytes((request,)) + bytes(6))
    yield drop(v + "7 bytes of an echo request to the gateway", b.eth(ROUTER, short) + bytes(4), to_gateway)
    if version == 4:
        part = b.eth(ROUTER, b.network(W[4], gateway, flags="MF") / b.echo(4))
        yield drop(v + "a fragment of an echo request to the gateway", part, to_gateway)
        part = b.eth(ROUTER, b.network(W[4], gateway, flags="MF") / b.UDP())
        yield drop(v + "a fragment of UDP to the gateway", part, to_gateway)
        options = b.network(W[4], gateway, 3, options=b"\x94\x04\x00\x00") / b.echo(4)
        back = b.network(gateway, W[4], 64, options=b"\x94\x04\x00\x00") / b.echo_reply(4)
        yield guest(v + "ping of the gateway with options", b.eth(ROUTER, options), Answer(b.eth(WEB1, back, ROUTER)))
        return
    part = b.network(W[6], gateway) / b.IPv6ExtHdrFragment(m=1, id=9) / b.echo(6)
    yield drop(v + "a fragment of an echo request to the gateway", b.eth(ROUTER, part), to_gateway)
    router = link_local(ROUTER)
    yield guest(v + "ping of the router's link-local address", ping(router), pong(router))
    mine = link_local(WEB1)
    frame = b.eth(ROUTER, b.network(mine, router, 255) / b.echo(6))
    answer = Answer(b.eth(WEB1, b.network(router, mine, 64) / b.echo_reply(6), ROUTER))
    yield guest(v + "ping of the router between link-local addresses", frame, answer)
    frame = b.eth(ROUTER, b.network(W[6], router) / b.UDP(sport=50000, dport=53))
    error = b.icmp_error(frame, 1, 4, gateway, W[6])
    yield guest(v + "UDP to the router's link-local address", frame, Answer(error, to_gateway))


# Size


def sizes() -> Iterator[Case]:
    for version in (4, 6):
        v = f"IPv{version}: "
        head = 28 if version == 4 else 48  # IP and ICMP echo header
        kind, code = (3, 4) if version == 4 else (2, 0)
        number = 1 if version == 4 else 58

        def ping(to: str, total: int, mac: str, version: int = version, head: int = head, **fields: object) -> bytes:
            return b.eth(mac, b.network(W[version], to, **fields) / b.echo(version, total - head))

        def too_big(
            name: str, frame: bytes, mtu: int, v: str = v, kind: int = kind, code: int = code, version: int = version
        ) -> Case:
            error = b.icmp_error(frame, kind, code, GW[version], W[version], mtu)
            return guest(v + name, frame, Answer(error, DropReason.TOO_BIG))

        remote = ca(version, 1, 20)
        limit = p.REMOTE_MTU
        fits = ping(remote, limit, WEB3)
        packet = b.nvgre(p.PA2, p.BLUE_1, b.flow(W[version], remote, number), fits)
        yield guest(v + "as large as the uplink takes", fits, ToUnderlay(p.PA2, packet))
        yield too_big("one byte larger than the uplink takes", ping(remote, limit + 1, WEB3), limit)
        yield too_big("trailing bytes count", fits + b"\x00", limit)
        local = ping(ca(version, 1, 5), 1500, WEB2)
        yield guest(v + "to a local port the uplink limits nothing", *_same(local))
        routed = ping(ca(version, 2, 6), p.MTU_2, ROUTER)
        lower = ping(ca(version, 2, 6), p.MTU_2, p.DB1, hop_limit=63)
        lower = lower[:6] + bytes.fromhex(ROUTER_2.replace(":", "")) + lower[12:]
        yield guest(v + "as large as the target subnet takes", routed, ToPort(DB1_PORT, lower))
        yield too_big("larger than the target subnet takes", ping(ca(version, 2, 6), p.MTU_2 + 1, ROUTER), p.MTU_2)
        yield too_big("to a remote port of a smaller subnet", ping(ca(version, 2, 7), p.MTU_2 + 1, ROUTER), p.MTU_2)
        yield too_big("routed, larger than the uplink takes", ping(ca(version, 1, 30), limit + 1, ROUTER), limit)
        if version == 4:
            yield too_big("DF", ping(remote, limit + 1, WEB3, flags="DF"), limit)
            off = ping(ca(4, 2, 77), limit + 1, ROUTER)
            error = b.icmp_error(off, 3, 1, GW[4], W[4])
            yield guest(v + "no record before its size", off, Answer(error, DropReason.NO_RECORD))
    unbound = b.eth(ROUTER_2, b.network("10.0.2.6", "10.0.1.66") / b.echo(4, 1600), p.DB1)
    yield drop("a local subnet without a limit has none", unbound, DropReason.VSID_ACL, "tapdb1")
    other = b.eth("02:00:00:00:01:41", b.network(W[4], "10.0.1.41") / b.echo(4, 1438 - 28 + 1))
    error = b.icmp_error(other, 3, 4, GW[4], W[4], 1438)
    yield guest(
        "62 bytes less for an IPv6 PA, before it is found unreachable", other, Answer(error, DropReason.TOO_BIG)
    )
    reply = b.eth(WEB3, b.network(W[4], "10.0.1.20") / b.ICMP(type=3, code=1) / b.Raw(bytes(1500)))
    yield drop("no ICMP about a large ICMP error", reply, DropReason.TOO_BIG)


def segments() -> Iterator[Case]:
    """TCP's maximum segment size."""
    for version in (4, 6):
        number = "10.0.1.20" if version == 4 else "2001:db8:1::20"
        limit = p.REMOTE_MTU - (40 if version == 4 else 60)
        v = f"IPv{version}: "

        def sent(
            name: str,
            before: b.Packet,
            after: b.Packet,
            to: str = number,
            version: int = version,
            v: str = v,
            **ip: object,
        ) -> Case:
            frame = b.eth(WEB3, b.network(W[version], to, **ip) / before)
            inner = b.eth(WEB3, b.network(W[version], to, **ip) / after)
            part = bool(ip)
            flow = b.flow(W[version], to, 6, None if part else (50000, 80))
            return guest(v + name, frame, ToUnderlay(p.PA2, b.nvgre(p.PA2, p.BLUE_1, flow, inner)))

        def both(name: str, before: list[object], after: list[object], flags: str = "S") -> Case:
            return sent(name, b.syn(before, flags=flags), b.syn(after, flags=flags))

        mss, fits = ("MSS", 1460), ("MSS", limit)
        yield both("MSS is clamped", [mss], [fits])
        yield both("MSS that fits is left", [fits], [fits])
        yield both("MSS one too large is clamped", [("MSS", limit + 1)], [fits])
        yield both("MSS of a SYN ACK is clamped", [mss], [fits], "SA")
        yield both("MSS without SYN is left", [mss], [mss], "A")
        nop, sack = ("NOP", None), ("SAckOK", b"")
        yield both("MSS at an odd offset", [nop, mss], [nop, fits])
        yield both("MSS at offset 2", [nop, nop, mss], [nop, nop, fits])
        yield both("MSS at offset 3", [nop, sack, mss], [nop, sack, fits])
        stamp = ("Timestamp", (1, 0))
        scale = ("WScale", 7)
        yield both("MSS behind other options", [sack, stamp, nop, scale, mss], [sack, stamp, nop, scale, fits])
        yield both("only the first MSS", [mss, mss], [fits, mss])
        yield both("MSS as the 10th option", [nop] * 9 + [mss], [nop] * 9 + [fits])
        yield both("MSS as the 11th option is left", [nop] * 10 + [mss], [nop] * 10 + [mss])
        end = ("EOL", None)
        yield both("MSS behind the end of options is left", [end, nop, nop, nop, mss], [end, nop, nop, nop, mss])
        yield both("no options", [], [])
        for name, raw in (
            ("an option of length 0 before MSS", b"\x1e\x00\x02\x04\x05\xb4\x01\x01"),
            ("an option of length 1 before MSS", b"\x1e\x01\x02\x04\x05\xb4\x01\x01"),
            ("an option beyond the header before MSS", b"\x1e\x20\x02\x04\x05\xb4\x01\x01"),
            ("MSS of length 3", b"\x02\x03\xff\x02\x04\x05\xb4\x01"),
            ("MSS cut off by the header's end", b"\x01\x01\x02\x04"),
            ("half an option at the header's end", b"\x01\x01\x01\x02"),
        ):
            broken = b.TCP(sport=50000, dport=80, flags="S", dataofs=5 + len(raw) // 4) / b.Raw(raw)
            yield sent(f"{name}: left alone", broken, broken)
        cut = b.TCP(sport=50000, dport=80, flags="S", dataofs=6) / b.Raw(b"\x01\x01\x02\x04\x05\xb4")
        yield sent("MSS that goes on behind the header: left alone", cut, cut)
        behind = b.TCP(sport=50000, dport=80, flags="S", dataofs=15) / b.Raw(b"\x02\x04\x05\xb4")
        yield sent("a TCP header beyond the packet: left alone", behind, behind)
        little = b.TCP(sport=50000, dport=80, flags="S", dataofs=4) / b.Raw(b"\x02\x04\x05\xb4")
        yield sent("a data offset of 4: left alone", little, little)
        data = b.syn([mss]) / b.Raw(b"fast open")
        yield sent("a SYN with data", data, b.syn([fits]) / b.Raw(b"fast open"))
        if version == 4:
            yield sent("a SYN in a fragment: left alone", b.syn([mss]), b.syn([mss]), flags="MF")
        target = ca(version, 2, 6)
        limit_2 = p.MTU_2 - (40 if version == 4 else 60)
        frame = b.eth(ROUTER, b.network(W[version], target) / b.syn([mss]))
        inner = b.eth(p.DB1, b.network(W[version], target, 63) / b.syn([("MSS", limit_2)]), ROUTER_2)
        yield guest(v + "MSS by the target subnet's limit, routed to a local port", frame, ToPort(DB1_PORT, inner))
        local = b.eth(WEB2, b.network(W[version], ca(version, 1, 5)) / b.syn([mss]))
        yield guest(v + "MSS where nothing limits it", *_same(local))


def wire() -> Iterator[Case]:
    """What an encapsulated packet looks like."""
    for version in (4, 6):
        v = f"IPv{version}: "
        to = ca(version, 1, 30)

        def away(name: str, body: b.Packet, flow: int, ecn: int = 0, trailing: bytes = b"", v: str = v) -> Case:
            frame = b.eth(FAR, body) + trailing
            return guest(v + name, frame, ToUnderlay(p.PA3, b.nvgre(p.PA3, p.BLUE_1, flow, frame, ecn)))

        for ecn in (1, 2, 3):
            plain = b.network(W[version], to, ecn=0xB8 | ecn) / b.echo(version)
            flow = b.flow(W[version], to, 1 if version == 4 else 58)
            yield away(f"ECN {ecn} is copied outside, DSCP is not", plain, flow, ecn)
        for name, transport, number in (
            ("UDP", b.UDP(sport=40000, dport=53) / b.Raw(b"x"), 17),
            ("TCP", b.TCP(sport=40000, dport=443) / b.Raw(b"x"), 6),
        ):
            whole = b.network(W[version], to) / transport
            yield away(
                f"FlowID of {name} holds its ports",
                whole,
                b.flow(W[version], to, number, (40000, int(transport.dport))),
            )
        short = b.network(W[version], to, **({"proto": 17} if version == 4 else {"nh": 17})) / b.Raw(b"\x9c\x40\x00")
        yield away("FlowID of half a UDP header", short, b.flow(W[version], to, 17), trailing=b"\x35")
        whole = b.network(W[version], to) / b.UDP(sport=40000, dport=53)
        yield away(
            "trailing bytes are encapsulated", whole, b.flow(W[version], to, 17, (40000, 53)), trailing=bytes(18)
        )
        if version == 4:
            for flags, offset in (("MF", 0), (0, 8)):
                part = b.network(W[4], to, flags=flags, frag=offset, proto=17) / b.Raw(bytes(range(32)))
                yield away(f"FlowID of a fragment, offset {offset}", part, b.flow(W[4], to, 17))
        else:
            part = b.network(W[6], to) / b.IPv6ExtHdrFragment(m=1, id=9) / b.UDP(sport=40000, dport=53)
            yield away("FlowID behind an extension header", part, b.flow(W[6], to, 44))


# From the uplink


def outer(
    inner: bytes, vsid: int = p.BLUE_1, source: str = p.PA2, to: str = p.PA1, flow: int = 9, **fields: object
) -> bytes:
    """A frame from the physical network."""
    gre = b.GRE(key_present=1, proto=0x6558, key=vsid << 8 | flow) / b.Raw(inner)
    packet = b.IP(src=source, dst=to, id=0, flags="DF", ttl=61, proto=47).copy()
    for name, value in fields.items():
        packet.setfieldval(name, value)
    return bytes(b.Ether(dst="02:aa:00:00:00:01", src="02:aa:00:00:00:02", type=0x0800)) + bytes(packet / gre)


def uplink(name: str, frame: bytes, expected: Verdict, policy: Policy = MAIN) -> Case:
    return Case(f"uplink: {name}", UPLINK, frame, expected, policy)


def _inner(
    version: int = 4,
    source: str | None = None,
    to: str | None = None,
    mac: str = WEB3,
    to_mac: str = WEB1,
    ecn: int = 0,
) -> bytes:
    body = b.network(source or ca(version, 1, 20), to or W[version], ecn=ecn) / b.echo(version)
    return b.eth(to_mac, body, mac)


def taken() -> Iterator[Case]:
    inner = _inner()
    good = outer(inner)
    stack = ToStack()
    yield uplink("to another's PA", outer(inner, to="192.0.2.99"), stack)
    yield uplink("another protocol", outer(inner, proto=17), stack)
    yield uplink("ARP", b.eth("ff:ff:ff:ff:ff:ff", b.arp(1, WEB1, p.PA2, p.PA1)), stack)
    yield uplink("an empty frame", b"", stack)
    yield uplink("half an IPv4 header", good[:30], stack)
    yield uplink("half a GRE header", good[: 34 + 7], stack)
    gre = 34
    for name, word in (
        ("a GRE checksum", "a0006558"),
        ("a GRE sequence number", "30006558"),
        ("GRE without a key", "00006558"),
        ("GRE version 1", "20016558"),
        ("GRE of IPv4", "20000800"),
    ):
        yield uplink(name, good[:gre] + bytes.fromhex(word) + good[gre + 4 :], stack)
    yield uplink("IP version 6 in an IPv4 frame", good[:14] + b"\x65" + good[15:], stack)
    yield uplink("IHL 4", good[:14] + b"\x44" + good[15:], stack)
    yield uplink("a tagged frame", good[:12] + b"\x81\x00\x00\x05" + good[12:], stack)
    yield uplink("an IPv6 frame without IPv6 PAs", good[:12] + b"\x86\xdd" + good[14:], stack)
    malformed = Drop(DropReason.OUTER_MALFORMED)
    yield uplink("outer options", outer(inner, options=bytes(4)), malformed)
    yield uplink("outer checksum wrong", outer(inner, chksum=0x1234), malformed)
    yield uplink("outer total length beyond the frame", good[:-1], malformed)
    yield uplink("outer total length under 28", outer(inner, len=27), malformed)
    yield uplink("outer fragment, the first", outer(inner, flags="MF"), Drop(DropReason.OUTER_FRAGMENT))
    yield uplink("outer fragment, a later one", outer(inner, frag=1), ToStack())
    yield uplink("outer checksum wrong before a fragment", outer(inner, flags="MF", chksum=1), malformed)
    yield uplink("to the second PA", outer(inner, to=p.PA1_SECOND), ToPort(WEB1_PORT, inner))
    yield uplink("the outer TTL does not matter", outer(inner, ttl=1), ToPort(WEB1_PORT, inner))
    yield uplink("FlowID 0", outer(inner, flow=0), ToPort(WEB1_PORT, inner))
    yield uplink("bytes behind the outer length are cut off", good + bytes(6), ToPort(WEB1_PORT, inner))
    for vsid in (0, 1, 4095, 16777215):
        yield uplink(f"VSID {vsid}", outer(inner, vsid), Drop(DropReason.RESERVED_VSID))
    for vsid in (4096, p.UNKNOWN, 16777214):
        yield uplink(f"VSID {vsid}, not known here", outer(inner, vsid), Drop(DropReason.UNKNOWN_VSID))
    yield uplink("an inner frame of no bytes", outer(b""), Drop(DropReason.TRUNCATED))


def inners() -> Iterator[Case]:
    for version in (4, 6):
        v = f"IPv{version} "
        good = _inner(version)
        yield uplink(v + "to a port", outer(good), ToPort(WEB1_PORT, good))
        red = _inner(version, mac=p.RED_WEB3)
        yield uplink(
            v + "to the other tenant's port of the same address", outer(red, p.RED_1, p.PA3), ToPort(RED1_PORT, red)
        )
        routed = _inner(version, source=ca(version, 2, 7), mac=ROUTER)
        yield uplink(v + "routed on the sending host", outer(routed), ToPort(WEB1_PORT, routed))
        if version == 4:
            frame = _inner(4, source="172.31.9.9")
            yield uplink(v + "from behind a remote guest that routes", outer(frame), ToPort(WEB1_PORT, frame))
        pair = _inner(version, source=ca(version, 1, 177))
        yield uplink(v + "from an address pair, placed by its MAC", outer(pair), ToPort(WEB1_PORT, pair))
        trailing = good + bytes(7)
        yield uplink(v + "inner trailing bytes are kept", outer(trailing), ToPort(WEB1_PORT, trailing))
        yield uplink(v + "no port with the MAC", outer(_inner(version, to_mac=WEB3)), Drop(DropReason.VSID_ACL))
        wrong = _inner(version, source=ca(version, 2, 7), to_mac=p.DB1)
        yield uplink(v + "the VSID of another subnet: its ports only", outer(wrong), Drop(DropReason.VSID_ACL))
        yield uplink(v + "to a disabled port", outer(_inner(version, to_mac=p.OFF)), Drop(DropReason.PORT_DOWN))
        yield uplink(
            v + "to a port without an interface", outer(_inner(version, to_mac=p.LOST)), Drop(DropReason.VSID_ACL)
        )
        forged = Drop(DropReason.FORGED_SOURCE)
        yield uplink(v + "from another host than its source's", outer(good, source=p.PA3), forged)
        yield uplink(v + "from no host at all", outer(good, source="192.0.2.66"), forged)
        yield uplink(v + "the other tenant's source", outer(_inner(version), p.RED_1, p.PA2), forged)
        own = _inner(version, source=ca(version, 1, 5), mac=WEB2)
        yield uplink(v + "a source that lives here", outer(own), forged)
        yield uplink(v + "a source that lives here, from this host's own PA", outer(own, source=p.PA1), forged)
        nobody = _inner(version, source=ca(version, 1, 177), mac="02:00:00:00:00:77")
        yield uplink(v + "a source that nobody has", outer(nobody), forged)
        unrouted = "203.0.113.5" if version == 4 else "2001:db8:dead::5"
        strange = _inner(version, source=unrouted, mac=WEB3)
        yield uplink(v + "a source without a route, placed by its MAC", outer(strange), ToPort(WEB1_PORT, strange))
        yield uplink(v + "a source without a route, from elsewhere", outer(strange, source=p.PA3), forged)
        astray = _inner(version, to_mac="33:33:00:00:00:01")
        yield uplink(v + "one machine's address at an inner group MAC", outer(astray), Drop(DropReason.MULTICAST))
        link = "224.0.0.251" if version == 4 else "ff02::fb"
        group = b.eth(group_mac(link), b.network(ca(version, 1, 20), link) / b.UDP(), WEB3)
        many = tuple(ToPort(port, group) for port in (WEB1_PORT, WEB2_PORT, FW_PORT))
        yield uplink(v + "inner multicast of one link", outer(group), Copies.of(many))
        yield uplink(
            v + "inner multicast in a subnet that carries none", outer(group), Drop(DropReason.MULTICAST), QUIET
        )
        asked = "239.1.2.3" if version == 4 else "ff15::123"
        group = b.eth(group_mac(asked), b.network(ca(version, 1, 20), asked) / b.UDP(), WEB3)
        yield uplink(v + "inner multicast to who has asked", outer(group), Copies.of([ToPort(WEB2_PORT, group)]))
        unasked = "239.9.9.9" if version == 4 else "ff15::999"
        group = b.eth(group_mac(unasked), b.network(ca(version, 1, 20), unasked) / b.UDP(), WEB3)
        yield uplink(v + "inner multicast that nobody has asked for", outer(group), Drop(DropReason.NO_MEMBER))
        forged = outer(group, source=p.PA3)
        yield uplink(v + "inner multicast from another host than its sender's", forged, Drop(DropReason.FORGED_SOURCE))
        inner = _inner(version, to_mac=ALL_ONES)
        everybody = Copies.of(ToPort(port, inner) for port in (WEB1_PORT, WEB2_PORT, FW_PORT))
        yield uplink(v + "inner broadcast", outer(inner), everybody)
        marked = _inner(version, to_mac=ALL_ONES, ecn=3)
        everybody = Copies.of(ToPort(port, marked) for port in (WEB1_PORT, WEB2_PORT, FW_PORT))
        congested = outer(_inner(version, to_mac=ALL_ONES, ecn=1), tos=3)
        yield uplink(v + "congestion outside, inner broadcast", congested, everybody)
        congested = outer(_inner(version, to_mac=ALL_ONES), tos=3)
        yield uplink(v + "congestion outside, inner broadcast not capable", congested, Drop(DropReason.ECN))
        tagged = good[:12] + b"\x81\x00\x00\x05" + good[12:]
        yield uplink(v + "inner 802.1Q", outer(tagged), Drop(DropReason.VLAN_TAG))
        yield uplink(v + "inner packet cut off", outer(good[:-1]), Drop(DropReason.TRUNCATED))
        yield uplink(v + "inner header cut off", outer(good[:30]), Drop(DropReason.TRUNCATED))
        yield uplink(v + "inner version wrong", outer(good[:14] + b"\x55" + good[15:]), Drop(DropReason.MALFORMED))
        yield from _congested(version)
    yield uplink("inner 802.1ad", outer(_inner()[:12] + b"\x88\xa8" + bytes(40)), Drop(DropReason.VLAN_TAG))
    yield uplink("inner frame of 13 bytes", outer(bytes(13)), Drop(DropReason.TRUNCATED))
    ask = b.eth("ff:ff:ff:ff:ff:ff", b.arp(1, WEB3, "10.0.1.20", "10.0.1.4"), WEB3)
    yield uplink("inner ARP", outer(ask), Drop(DropReason.ETHERTYPE))
    yield uplink("inner ARP cut off", outer(ask[:30]), Drop(DropReason.ETHERTYPE))
    yield uplink("inner LLDP", outer(b.eth(WEB1, b"\x02\x07", WEB3, 0x88CC)), Drop(DropReason.ETHERTYPE))
    mapped = b.eth(WEB1, b.network("::ffff:10.0.1.20", W[6]) / b.echo(6), WEB3)
    yield uplink("an inner mapped source", outer(mapped), Drop(DropReason.MALFORMED))
    ll = b.eth(WEB1, b.network(link_local(p.RED_WEB5), link_local(WEB1)) / b.echo(6), p.RED_WEB5)
    delivered = ToPort(RED1_PORT, ll)
    yield uplink("a link-local source, where a default route leads elsewhere", outer(ll, p.RED_1, p.PA2), delivered)
    yield uplink("a link-local source from elsewhere", outer(ll, p.RED_1, p.PA3), Drop(DropReason.FORGED_SOURCE))
    default = b.eth(WEB1, b.network("2001:db8:dead::5", W[6]) / b.echo(6), ROUTER)
    yield uplink("a source by the default route", outer(default, p.RED_1, p.PA3), ToPort(RED1_PORT, default))
    yield uplink(
        "a source by the default route, from elsewhere", outer(default, p.RED_1, p.PA2), Drop(DropReason.FORGED_SOURCE)
    )
    four = b.eth(WEB1, b.network("203.0.113.5", W[4]) / b.echo(4), ROUTER)
    yield uplink("::/0 places no IPv4 source", outer(four, p.RED_1, p.PA3), Drop(DropReason.FORGED_SOURCE))


def _congested(version: int) -> Iterator[Case]:
    v = f"IPv{version} "
    for inside in (1, 2, 3):
        marked = _inner(version, ecn=0xB8 | 3)
        yield uplink(
            v + f"congestion outside, ECN {inside} inside",
            outer(_inner(version, ecn=0xB8 | inside), tos=3),
            ToPort(WEB1_PORT, marked),
        )
    yield uplink(v + "congestion outside, not capable inside", outer(_inner(version), tos=3), Drop(DropReason.ECN))
    for outside in (1, 2):
        plain = _inner(version, ecn=2)
        yield uplink(v + f"ECN {outside} outside changes nothing", outer(plain, tos=outside), ToPort(WEB1_PORT, plain))
    acl = outer(_inner(version, to_mac=WEB3), tos=3)
    yield uplink(v + "congestion is looked at last", acl, Drop(DropReason.VSID_ACL))


def over_ipv6() -> Iterator[Case]:
    """An IPv6 underlay."""
    for version in (4, 6):
        v = f"over IPv6: IPv{version} "
        to = ca(version, 1, 20)
        number = 1 if version == 4 else 58
        body = b.network(W[version], to, ecn=2) / b.echo(version)
        frame = b.eth(WEB3, body)
        packet = b.nvgre(p.PA2_6, p.BLUE_1, b.flow(W[version], to, number), frame, 2)
        yield guest(v + "to a remote port", frame, ToUnderlay(p.PA2_6, packet), policy=OVER_IPV6)
        size = 1438 - (28 if version == 4 else 48)
        large = b.eth(WEB3, b.network(W[version], to) / b.echo(version, size + 1))
        kind, code = (3, 4) if version == 4 else (2, 0)
        error = b.icmp_error(large, kind, code, GW[version], W[version], 1438)
        yield guest(v + "62 bytes less", large, Answer(error, DropReason.TOO_BIG), policy=OVER_IPV6)
        link = "224.0.0.251" if version == 4 else "ff02::fb"
        frame = b.eth(group_mac(link), b.network(W[version], link) / b.UDP(sport=53, dport=53))
        flow = b.flow(W[version], link, 17, (53, 53))
        copy = ToUnderlay(p.PA2_6, b.nvgre(p.PA2_6, p.BLUE_1, flow, frame))
        copies = Copies.of([ToPort(WEB2_PORT, frame), ToPort(FW_PORT, frame), copy])
        yield guest(v + "to many", frame, copies, policy=OVER_IPV6)
        inner = _inner(version, ecn=1)

        def outer6(inner: bytes, source: str = p.PA2_6, ecn: int = 0, vsid: int = p.BLUE_1, **fields: object) -> bytes:
            gre = b.GRE(key_present=1, proto=0x6558, key=vsid << 8 | 9) / b.Raw(inner)
            head = b.IPv6(src=source, dst=p.PA1_6, tc=ecn, hlim=60, nh=47).copy()
            for name, value in fields.items():
                head.setfieldval(name, value)
            return bytes(b.Ether(dst="02:aa:00:00:00:01", src="02:aa:00:00:00:02", type=0x86DD)) + bytes(head / gre)

        def arrives(name: str, frame: bytes, expected: Verdict, v: str = v) -> Case:
            return uplink(v + name, frame, expected, OVER_IPV6)

        yield arrives("to a port", outer6(inner), ToPort(WEB1_PORT, inner))
        yield arrives("forged", outer6(inner, "2001:db8:f::66"), Drop(DropReason.FORGED_SOURCE))
        yield arrives("bytes behind are cut off", outer6(inner) + bytes(5), ToPort(WEB1_PORT, inner))
        yield arrives("cut off", outer6(inner)[:-1], Drop(DropReason.OUTER_MALFORMED))
        yield arrives("payload length 7", outer6(inner, plen=7), Drop(DropReason.OUTER_MALFORMED))
        yield arrives("an extension header", outer6(inner, nh=44), ToStack())
        yield arrives("congestion", outer6(inner, ecn=3), ToPort(WEB1_PORT, _inner(version, ecn=3)))
        yield arrives("reserved VSID", outer6(inner, vsid=4095), Drop(DropReason.RESERVED_VSID))


def several() -> Iterator[Case]:
    """Several ways to a peer."""
    for version in (4, 6):
        v = f"several ways: IPv{version}: "
        to, headers = ca(version, 1, 20), 28 if version == 4 else 48
        for port in (53, 54):
            flow = b.flow(W[version], to, 17, (40000, port))
            source, pa, limit = (p.PA1_SECOND, p.PA2_SECOND, p.PATH_MTU) if flow % 2 else (p.PA1, p.PA2, 1500)
            size = limit - 42 - headers
            frames = [
                b.eth(WEB3, b.network(W[version], to) / b.UDP(sport=40000, dport=port) / b.Raw(bytes(length)))
                for length in (0, size, size + 1)
            ]
            for name, frame in zip(("a flow", "the largest"), frames, strict=False):
                packet = b.nvgre(pa, p.BLUE_1, flow, frame, source=source)
                yield guest(f"{v}{name} of place {flow % 16}", frame, ToUnderlay(pa, packet), policy=p.SEVERAL)
            kind, code = (3, 4) if version == 4 else (2, 0)
            error = b.icmp_error(frames[2], kind, code, GW[version], W[version], limit - 42)
            much = Answer(error, DropReason.TOO_BIG)
            yield guest(f"{v}more than fits, of place {flow % 16}", frames[2], much, policy=p.SEVERAL)
        for source in (p.PA2, p.PA2_SECOND):
            name = f"{v}from {source} of a peer"
            yield uplink(name, outer(_inner(version), source=source), ToPort(WEB1_PORT, _inner(version)), p.SEVERAL)
        lone = outer(_inner(version), source=p.PA2_SECOND)
        yield uplink(f"{v}from a PA that is nobody's", lone, Drop(DropReason.FORGED_SOURCE))
        own = outer(_inner(version), source=p.PA1_SECOND)
        yield uplink(f"{v}from this host's own second PA", own, Drop(DropReason.FORGED_SOURCE), p.SEVERAL)


def qos() -> Iterator[Case]:
    """Limits that nothing or everything passes, and marks."""
    for version in (4, 6):
        yield from _marks(version)
        yield from _limits(version)


def _marks(version: int) -> Iterator[Case]:
    v = f"IPv{version}: qos: "
    number = 1 if version == 4 else 58

    def ping(source: str, to: str, tos: int, hop_limit: int = 64) -> b.Packet:
        return b.network(source, to, hop_limit, tos) / b.echo(version)

    def limited(name: str, frame: bytes, expected: Verdict, interface: str = "tapweb1") -> Case:
        return guest(v + name, frame, expected, interface, LIMITED)

    near, far, second = ca(version, 1, 9), ca(version, 1, 20), ca(version, 2, 7)
    web2, db1 = ca(version, 1, 5), ca(version, 2, 6)
    marked = b.eth(FW, ping(W[version], near, 0xB8 | 1))
    yield limited("marked with DSCP 46, its ECN stays", b.eth(FW, ping(W[version], near, 1)), ToPort(FW_PORT, marked))
    yield limited("marked over another mark", b.eth(FW, ping(W[version], near, 0x28 | 1)), ToPort(FW_PORT, marked))
    yield limited("marked as it is already", marked, ToPort(FW_PORT, marked))
    frame, inner = (b.eth(WEB3, ping(W[version], far, tos)) for tos in (0xFC | 2, 0xB8 | 2))
    packet = b.nvgre(p.PA2, p.BLUE_1, b.flow(W[version], far, number), inner, 2)
    yield limited("marked inside, the outer DSCP is 0", frame, ToUnderlay(p.PA2, packet))
    frame = b.eth(ROUTER, ping(W[version], second, 0xFF))
    inner = b.eth(p.DB2, ping(W[version], second, 0xB8 | 3, 63), ROUTER_2)
    packet = b.nvgre(p.PA2, p.BLUE_2, b.flow(W[version], second, number), inner, 3)
    yield limited("routed and marked", frame, ToUnderlay(p.PA2, packet))
    frame = b.eth(WEB3, ping(web2, far, 0x48 | 1), WEB2)
    inner = b.eth(WEB3, ping(web2, far, 1), WEB2)
    packet = b.nvgre(p.PA2, p.BLUE_1, b.flow(web2, far, number), inner, 1)
    yield limited("marked with 0, and that is copied", frame, ToUnderlay(p.PA2, packet), "tapweb2")
    frame = b.eth(p.DB2, ping(db1, second, 0xB8 | 1), p.DB1)
    packet = b.nvgre(p.PA2, p.BLUE_2, b.flow(db1, second, number), frame, 34 << 2 | 1)
    yield limited("not marked, and the outer DSCP is set", frame, ToUnderlay(p.PA2, packet), "tapdb1")
    refused = b.eth(WEB3, b.network(W[version], far, ecn=0x20) / b.echo(version, 2000))
    kind, code = (3, 4) if version == 4 else (2, 0)
    error = b.icmp_error(refused, kind, code, GW[version], W[version], p.REMOTE_MTU)
    yield limited("what is quoted is not marked", refused, Answer(error, DropReason.TOO_BIG))


def _limits(version: int) -> Iterator[Case]:
    v = f"IPv{version}: qos: "

    def limited(name: str, frame: bytes, interface: str, reason: DropReason = DropReason.RATE_LIMIT) -> Case:
        return drop(v + name, frame, reason, interface, LIMITED)

    fw = ca(version, 1, 9)
    to_web = b.network(fw, W[version]) / b.echo(version)
    yield limited("no bits from the guest", b.eth(WEB1, to_web, FW), "tapfw")
    nowhere = b.network(W[version], "10.9.9.9" if version == 4 else "fd00::9") / b.echo(version)
    yield limited("no packets from the guest, whether or not there is a route", b.eth(ROUTER, nowhere), "tapred1")
    to_gateway = b.network(fw, GW[version]) / b.echo(version)
    yield limited("a ping of the gateway counts as well", b.eth(ROUTER, to_gateway, FW), "tapfw")
    group = b.eth("01:00:5e:00:00:05" if version == 4 else "33:33:00:00:00:05", to_web, FW)
    yield limited("multicast counts as well", group, "tapfw")
    spoofed = b.eth(WEB1, b.network(ca(version, 1, 77), W[version]) / b.echo(version), FW)
    yield limited("what is spoofed does not", spoofed, "tapfw", DropReason.SPOOFED_CA)
    to_web2 = b.network(W[version], ca(version, 1, 5)) / b.echo(version)
    yield limited("no bits to the guest", b.eth(WEB2, to_web2), "tapweb1")
    to_db = b.network(W[version], ca(version, 2, 6)) / b.echo(version)
    yield limited("no packets to the guest", b.eth(ROUTER, to_db), "tapweb1")
    far = ca(version, 1, 20)
    inner = b.eth(WEB2, b.network(far, ca(version, 1, 5)) / b.echo(version), WEB3)
    yield uplink(v + "no bits to the guest, from the uplink", outer(inner), Drop(DropReason.RATE_LIMIT), LIMITED)
    inner = b.eth(WEB1, b.network(far, W[version], ecn=2) / b.echo(version), WEB3)
    congested = b.eth(WEB1, b.network(far, W[version], ecn=3) / b.echo(version), WEB3)
    yield uplink(v + "a wide limit, from the uplink", outer(inner, tos=3), ToPort(WEB1_PORT, congested), LIMITED)
    inner = b.eth(WEB2, b.network(far, ca(version, 1, 5)) / b.echo(version), WEB3)
    yield uplink(v + "a limit is the last question", outer(inner, tos=3), Drop(DropReason.ECN), LIMITED)


def in_vlan(frame: bytes, tag: int, kind: bytes = b"\x81\x00") -> bytes:
    return frame[:12] + kind + tag.to_bytes(2, "big") + frame[12:]


def tagged() -> Iterator[Case]:
    """An uplink whose PAs are in a VLAN."""
    for version in (4, 6):
        v = f"VLAN: IPv{version}: "
        good = outer(_inner(version))
        for name, tag in (("its own", p.VLAN), ("its own, with a priority", 7 << 13 | p.VLAN)):
            arrived = ToPort(WEB1_PORT, _inner(version))
            yield Case(f"{v}{name}", UPLINK, in_vlan(good, tag), arrived, p.TAGGED, tag_bytes=4)
        forged = in_vlan(outer(_inner(version), source=p.PA3), p.VLAN)
        yield Case(f"{v}forged", UPLINK, forged, Drop(DropReason.FORGED_SOURCE), p.TAGGED, tag_bytes=4)
        for name, frame in (
            ("untagged", good),
            ("another", in_vlan(good, p.VLAN + 1)),
            ("the priority alone", in_vlan(good, 0)),
            ("802.1ad", in_vlan(good, p.VLAN, b"\x88\xa8")),
            ("a tag inside the tag", in_vlan(in_vlan(good, 5), p.VLAN)),
            ("cut off", in_vlan(good, p.VLAN)[:17]),
            ("not for a PA", in_vlan(outer(_inner(version), to="192.0.2.99"), p.VLAN)),
        ):
            yield uplink(f"{v}{name}", frame, ToStack(), p.TAGGED)
        to = ca(version, 1, 20)
        frame = b.eth(WEB3, b.network(W[version], to) / b.echo(version))
        packet = b.nvgre(p.PA2, p.BLUE_1, b.flow(W[version], to, 1 if version == 4 else 58), frame)
        yield guest(f"{v}what leaves is as without", frame, ToUnderlay(p.PA2, packet), policy=p.TAGGED)


#: What no packet of a table can bring about: they need a kernel that fails, a stale map, or the host's own stack.
NOT_BY_PACKETS = frozenset(
    {DropReason.FLOOD_LIMIT, DropReason.ENCAP_FAILED, DropReason.UNSUPPORTED_RULE, DropReason.NOT_POLICY}
) | frozenset(
    # Nor can a single one bring these about: conversations.py.
    {
        DropReason.MOVING,
        DropReason.CONNECTION_LIMIT,
        DropReason.FRAGMENT_OVERLAP,
        DropReason.CONNECTION_TABLE_FULL,
        DropReason.UNKNOWN_FRAGMENT,
    }
)

CASES: tuple[Case, ...] = tuple(
    case
    for part in (
        ports, ethernet, headers, spoofing, arp, discovery, addresses, groups, bridged, routed, sizes, segments, wire,
        taken, inners, over_ipv6, several, tagged, qos,
    )
    for case in part()
)  # fmt: skip
