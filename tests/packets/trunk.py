"""Rows of the packet table for sub-ports: the same policy, with some behind web-1's interface, each in a VLAN."""

from __future__ import annotations

from collections.abc import Iterator

from packets import build as b
from packets import policy as p
from packets.policy import BLUE_1, BLUE_2, DB1, DB2, RED_2, ROUTER, ROUTER_2, WEB1, WEB2, Policy
from packets.table import DB1_PORT, GW_2, WEB1_PORT, WEB2_PORT, Case, W, ca, hint, outer, uplink
from weft.policy.drop import DropReason
from weft.policy.rows import MacRecord, Port, Qos, Record, Row
from weft.policy.upcall import UpcallKind
from weft.reference.verdict import Answer, Drop, ToAgent, ToPort, ToUnderlay, Verdict

SUB_PORT, RED_PORT, OFF_PORT, LOST_PORT, SERVER_PORT = (
    f"tenants/blue/ports/web-1-{name}" for name in ("db", "red", "off", "lost", "server")
)
SUB, OFF, LOST, SERVER = "02:00:00:00:02:64", "02:00:00:00:02:65", "02:00:00:00:02:66", "02:00:00:00:01:67"
VLAN, RED_VLAN, OFF_VLAN, SERVER_VLAN = 100, 200, 4094, 7


def _subport(name: str, vsid: int, mac: str, number: int, vlan: int, **more: object) -> list[Row]:
    index = vsid % 1000
    cas = (f"10.0.{index}.{number}", f"2001:db8:{index}::{number}")
    parent = more.pop("parent", WEB1_PORT)
    return [
        *(Record(vsid, each, p.PA1, mac) for each in cas),
        MacRecord(vsid, mac, p.PA1),
        Port(name, vsid, mac, cas, parent=parent, vlan=vlan, **more),
    ]


TRUNKED = Policy(
    (
        *p.ROWS,
        *_subport(SUB_PORT, BLUE_2, SUB, 100, VLAN),
        *_subport(RED_PORT, RED_2, WEB1, 44, RED_VLAN),  # another routing domain, and the parent's own MAC
        *_subport(OFF_PORT, BLUE_2, OFF, 101, OFF_VLAN, enabled=False),
        *_subport(SERVER_PORT, BLUE_1, SERVER, 67, SERVER_VLAN, qos=Qos(dscp=46)),  # the parent's own subnet
        *_subport(LOST_PORT, BLUE_2, LOST, 102, VLAN, parent="tenants/blue/ports/lost"),  # whose parent is not bound
    ),
    p.BINDINGS,
    p.MAIN.unreachable,
)


def tagged(frame: bytes, vlan: int = VLAN, kind: int = 0x8100, priority: int = 0) -> bytes:
    return frame[:12] + kind.to_bytes(2, "big") + (priority << 13 | vlan).to_bytes(2, "big") + frame[12:]


def trunk(
    name: str,
    frame: bytes,
    expected: Verdict,
    interface: str = "tapweb1",
    subport: str | None = SUB_PORT,
) -> Case:
    return Case(f"trunk: {name}", interface, frame, expected, TRUNKED, subport=subport)


def _ping(source: str, mac: str, to: str, to_mac: str) -> bytes:
    version = b.version_of(to)
    return b.eth(to_mac, b.network(source, to) / b.echo(version), mac)


def from_subports() -> Iterator[Case]:
    for version in (4, 6):
        v = f"IPv{version} "
        source = ca(version, 2, 100)
        near = _ping(source, SUB, ca(version, 2, 6), DB1)
        yield trunk(v + "in its subnet, to a port here", tagged(near), ToPort(DB1_PORT, near))
        yield trunk(v + "whatever the priority is", tagged(near, priority=7), ToPort(DB1_PORT, near))
        far = _ping(source, SUB, ca(version, 2, 7), DB2)
        flow = b.flow(source, ca(version, 2, 7), 1 if version == 4 else 58)
        there = ToUnderlay(p.PA2, b.nvgre(p.PA2, BLUE_2, flow, far))
        yield trunk(v + "to another host: the tag stays behind", tagged(far), there)
        routed = b.eth(ROUTER_2, b.network(source, ca(version, 1, 5)) / b.echo(version), SUB)
        arrived = b.eth(WEB2, b.network(source, ca(version, 1, 5), 63) / b.echo(version), ROUTER)
        yield trunk(v + "routed to another subnet", tagged(routed), ToPort(WEB2_PORT, arrived))
        routed = b.eth(ROUTER_2, b.network(source, W[version]) / b.echo(version), SUB)
        arrived = b.eth(WEB1, b.network(source, W[version], 63) / b.echo(version), ROUTER)
        yield trunk(v + "routed to its parent", tagged(routed), ToPort(WEB1_PORT, arrived))
        asked = b.eth(ROUTER_2, b.network(source, GW_2[version]) / b.echo(version), SUB)
        said = b.eth(SUB, b.network(GW_2[version], source) / b.echo_reply(version), ROUTER_2)
        yield trunk(v + "a ping of its gateway", tagged(asked), Answer(said))
        own = _ping(source, SUB, source, SUB)
        yield trunk(v + "to itself", tagged(own), Drop(DropReason.HAIRPIN))
        spoofed = _ping(W[version], WEB1, ca(version, 2, 6), DB1)
        yield trunk(v + "its parent's source is none of its own", tagged(spoofed), Drop(DropReason.SPOOFED_MAC))
        spoofed = _ping(ca(version, 2, 6), SUB, ca(version, 2, 6), DB1)
        yield trunk(v + "another's address", tagged(spoofed), Drop(DropReason.SPOOFED_CA))
        back = _ping(source, SUB, ca(version, 2, 6), DB1)
        yield trunk(v + "a sub-port's source without its tag", back, Drop(DropReason.SPOOFED_MAC), subport=None)
        red = _ping(ca(version, 2, 44), WEB1, ca(version, 2, 7), p.RED_DB2)
        flow = b.flow(ca(version, 2, 44), ca(version, 2, 7), 1 if version == 4 else 58)
        there = ToUnderlay(p.PA3, b.nvgre(p.PA3, RED_2, flow, red))
        yield trunk(v + "another VLAN is another subnet", tagged(red, RED_VLAN), there, subport=RED_PORT)
        marked = b.eth(WEB2, b.network(ca(version, 1, 67), ca(version, 1, 5), ecn=46 << 2) / b.echo(version), SERVER)
        plain = _ping(ca(version, 1, 67), SERVER, ca(version, 1, 5), WEB2)
        yield trunk(v + "its own QoS", tagged(plain, SERVER_VLAN), ToPort(WEB2_PORT, marked), subport=SERVER_PORT)
        off = _ping(ca(version, 2, 101), OFF, ca(version, 2, 6), DB1)
        down = Drop(DropReason.PORT_DOWN)
        yield trunk(v + "a sub-port that is down", tagged(off, OFF_VLAN), down, subport=OFF_PORT)
    asked = b.eth("ff:ff:ff:ff:ff:ff", b.arp(1, SUB, "10.0.2.100", "10.0.2.6"), SUB)
    said = b.eth(SUB, b.arp(2, DB1, "10.0.2.6", "10.0.2.100", SUB), DB1)
    yield trunk("ARP", tagged(asked), Answer(said))
    asked = b.eth("33:33:ff:00:00:06", b.solicitation("2001:db8:2::6", SUB, "2001:db8:2::100"), SUB)
    said = b.advertisement("2001:db8:2::6", DB1, "2001:db8:2::100", SUB, router=False)
    yield trunk("neighbour discovery", tagged(asked), Answer(said))
    asked = b.eth("ff:ff:ff:ff:ff:ff", b.arp(1, SUB, "0.0.0.0", "10.0.2.100"), SUB)
    yield trunk("a probe for its own address", tagged(asked), Drop(DropReason.OWN_ADDRESS))
    news = b.eth("ff:ff:ff:ff:ff:ff", b.arp(1, SUB, "10.0.2.100", "10.0.2.100"), SUB)
    yield trunk("an announcement is the sub-port's", tagged(news), hint(SUB, "10.0.2.100"))
    discover = b.eth("ff:ff:ff:ff:ff:ff", b.network("0.0.0.0", "255.255.255.255") / b.UDP(sport=68, dport=67), SUB)
    yield trunk("DHCP is the sub-port's", tagged(discover), ToAgent(UpcallKind.DHCP4, discover))
    large = b.eth(DB2, b.network("10.0.2.100", "10.0.2.7") / b.echo(4, p.MTU_2 - 27), SUB)
    error = b.icmp_error(large, 3, 4, GW_2[4], "10.0.2.100", p.MTU_2, ROUTER_2, SUB)
    yield trunk("what is too big is said in its VLAN", tagged(large), Answer(error, DropReason.TOO_BIG))


def tags() -> Iterator[Case]:
    vlan_tag = Drop(DropReason.VLAN_TAG)
    good = _ping("10.0.2.100", SUB, "10.0.2.6", DB1)
    yield trunk("a VLAN that nobody has is the parent's fault", tagged(good, 101), vlan_tag, subport=None)
    yield trunk("VLAN 0", tagged(good, 0), vlan_tag, subport=None)
    yield trunk("VLAN 4095", tagged(good, 4095), vlan_tag, subport=None)
    yield trunk("802.1ad, of a VLAN that is there", tagged(good, kind=0x88A8), vlan_tag, subport=None)
    yield trunk("a tag within the tag", tagged(tagged(good, 5)), vlan_tag, subport=None)
    yield trunk("802.1ad within the tag", tagged(tagged(good, kind=0x88A8)), vlan_tag, subport=None)
    yield trunk("another port's VLAN", tagged(good), vlan_tag, "tapweb2", None)
    yield trunk(
        "at an interface that nobody has", tagged(good), Drop(DropReason.PORT_UNBOUND), p.UNBOUND_INTERFACE, None
    )
    yield trunk("17 bytes", tagged(good)[:17], vlan_tag, subport=None)
    yield trunk("18 bytes", tagged(good)[:18], Drop(DropReason.TRUNCATED))
    lldp = b.eth("01:80:c2:00:00:0e", b"\x02\x07", SUB, kind=0x88CC)
    yield trunk("LLDP in the VLAN", tagged(lldp), Drop(DropReason.ETHERTYPE))


def to_subports() -> Iterator[Case]:
    for version in (4, 6):
        v = f"IPv{version} "
        near = _ping(ca(version, 2, 6), DB1, ca(version, 2, 100), SUB)
        yield trunk(v + "from a port here", near, ToPort(SUB_PORT, near), "tapdb1", None)
        routed = b.eth(ROUTER, b.network(W[version], ca(version, 2, 100)) / b.echo(version), WEB1)
        arrived = b.eth(SUB, b.network(W[version], ca(version, 2, 100), 63) / b.echo(version), ROUTER_2)
        yield trunk(v + "from its parent, routed", routed, ToPort(SUB_PORT, arrived), subport=None)
        own = _ping(W[version], WEB1, ca(version, 1, 67), SERVER)
        yield trunk(v + "from its parent, in one subnet", own, ToPort(SERVER_PORT, own), subport=None)
        lost = _ping(ca(version, 2, 6), DB1, ca(version, 2, 102), LOST)
        yield trunk(v + "whose parent is not bound", lost, Drop(DropReason.VSID_ACL), "tapdb1", None)
        off = _ping(ca(version, 2, 6), DB1, ca(version, 2, 101), OFF)
        yield trunk(v + "one that is down", off, Drop(DropReason.PORT_DOWN), "tapdb1", None)
        inner = _ping(ca(version, 2, 7), DB2, ca(version, 2, 100), SUB)
        packet = outer(inner, vsid=BLUE_2)
        yield uplink(f"trunk: {v}from another host", packet, ToPort(SUB_PORT, inner), TRUNKED)
        inner = _ping(ca(version, 2, 7), p.RED_DB2, ca(version, 2, 44), WEB1)
        packet = outer(inner, source=p.PA3, vsid=RED_2)
        yield uplink(f"trunk: {v}by a MAC that its parent has, too", packet, ToPort(RED_PORT, inner), TRUNKED)


CASES: tuple[Case, ...] = (*from_subports(), *tags(), *to_subports())
