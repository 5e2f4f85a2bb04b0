"""Rows of the packet table for subnets of rule vlan: the same policy, its first subnets being VLANs of the uplink."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

from packets import build as b
from packets import policy as p
from packets.guarding import IGMP_TOO, narrowed
from packets.policy import BLUE_1, DB1, MAIN, RED_1, ROUTER, ROUTER_2, UPLINK, WEB1, WEB2, WEB3, Policy
from packets.table import (
    DB1_PORT,
    FW_PORT,
    GW,
    RED1_PORT,
    WEB1_PORT,
    WEB2_PORT,
    Case,
    W,
    ca,
    guest,
    outer,
)
from packets.trunk import tagged
from weft.policy.drop import DropReason
from weft.policy.rows import Host, MacRecord, Member, Port, Qos, Record, Row, Rule, Subnet
from weft.policy.upcall import UpcallKind
from weft.reference.verdict import (
    Announced,
    Announcing,
    Answer,
    Copies,
    Drop,
    ToAgent,
    ToPort,
    ToStack,
    ToUnderlay,
    ToWire,
    Verdict,
)

NETWORK = "provider-networks/fabric"
VLANS = {BLUE_1: 100, RED_1: 200}
#: Machines behind the switch.
PHYS, OTHER = "02:99:00:00:00:01", "02:99:00:00:00:02"
ALL = "ff:ff:ff:ff:ff:ff"
P = {4: "10.0.1.200", 6: "2001:db8:1::200"}
RED_PORT = RED1_PORT


def _bridged(row: Row) -> Row:
    match row:
        case Host():
            return replace(row, uplinks=(replace(row.uplinks[0], network=NETWORK),))
        case Subnet(vsid=vsid) if vsid in VLANS:
            return replace(row, accepts=(Rule.NVGRE, Rule.VLAN), vlan=VLANS[vsid], network=NETWORK, bridged=True)
        case Record(vsid=vsid) | MacRecord(vsid=vsid) | Member(vsid=vsid) if vsid in VLANS:
            return replace(row, rule=Rule.VLAN)
        case _:
            return row


def _only(row: Row, **said: object) -> Row:
    return replace(row, **said) if isinstance(row, Subnet) and row.vsid in VLANS else row


def _policy(**said: object) -> Policy:
    return replace(MAIN, rows=tuple(_only(_bridged(row), **said) for row in MAIN.rows))


BRIDGED = _policy()
OUTSIDE = _policy(external_gateway=True)
#: On the way to rule vlan, or from it: taken, and not sent.
TAKEN = replace(
    MAIN, rows=tuple(_only(row, bridged=False) if isinstance(row, Subnet) else row for row in map(_bridged, MAIN.rows))
)
TAKEN = replace(
    TAKEN,
    rows=tuple(
        replace(row, rule=Rule.NVGRE) if isinstance(row, Record | MacRecord | Member) else row for row in TAKEN.rows
    ),
)
QUIET = _policy(broadcast=False)
#: What web-1 sends is marked.
MARKED = replace(
    BRIDGED,
    rows=tuple(
        replace(row, qos=Qos(dscp=46)) if isinstance(row, Port) and row.port == WEB1_PORT else row
        for row in BRIDGED.rows
    ),
)
#: Of one member it is not known yet that its rule is vlan now.
CHANGING = replace(
    BRIDGED,
    rows=tuple(
        replace(row, rule=Rule.NVGRE) if isinstance(row, Member) and (row.vsid, row.pa) == (BLUE_1, p.PA2) else row
        for row in BRIDGED.rows
    ),
)
#: web-2 is on its way to another host, and web-3 here, where its port does not wait yet.
MOVING = replace(
    BRIDGED,
    rows=tuple(
        replace(row, also=p.PA2 if row.mac == WEB2 else p.PA3)
        if isinstance(row, Record | MacRecord) and row.vsid == BLUE_1 and row.mac in (WEB2, WEB3)
        else row
        for row in BRIDGED.rows
    ),
)


def _shut(row: Row) -> Row:
    """The host has no wire. web-2 comes here, fw leaves, and both let nothing in."""
    match row:
        case Host():
            return replace(row, uplinks=(replace(row.uplinks[0], network=""),))
        case Port(mac=mac) if mac in (WEB2, p.FW):
            return replace(row, port_security=True)
        case Record(vsid=vsid, mac=mac) | MacRecord(vsid=vsid, mac=mac) if vsid == BLUE_1 and mac in (WEB2, p.FW):
            return replace(row, pa=p.PA2, also=p.PA1) if mac == WEB2 else replace(row, also=p.PA2)
        case _:
            return row


SHUT = replace(BRIDGED, rows=tuple(map(_shut, BRIDGED.rows)))


def wire(frame: bytes, vlan: int = 100) -> ToWire:
    return ToWire(UPLINK, tagged(frame, vlan))


def from_guest(
    name: str,
    frame: bytes,
    expected: Verdict,
    interface: str = "tapweb1",
    policy: Policy = BRIDGED,
    before: tuple[tuple[str, bytes], ...] = (),
) -> Case:
    return replace(guest(f"bridged: {name}", frame, expected, interface, policy), before=before)


def outside(
    name: str,
    frame: bytes,
    expected: Verdict,
    vlan: int = 100,
    policy: Policy = BRIDGED,
    before: tuple[tuple[str, bytes], ...] = (),
) -> Case:
    return Case(f"from the VLAN: {name}", UPLINK, tagged(frame, vlan), expected, policy, tag_bytes=4, before=before)


def drop(reason: DropReason) -> Drop:
    return Drop(reason)


def _ping(source: str, mac: str, to: str, to_mac: str, size: int = 24) -> bytes:
    return b.eth(to_mac, b.network(source, to) / b.echo(b.version_of(to), size), mac)


def _arp(opcode: int, mac: str, sender: str, target: str, to: str = ALL) -> bytes:
    return b.eth(to, b.arp(opcode, mac, sender, target), mac)


def _announced(mac: str, address: str) -> Announced:
    return Announced(bytes.fromhex(mac.replace(":", "")), ip_address(address).packed)


def everywhere(frame: bytes, but: str = WEB1_PORT, vlan: int | None = 100) -> Copies:
    """To every port of the first subnet here that is up, and out."""
    here = [ToPort(port, frame) for port in (WEB1_PORT, WEB2_PORT, FW_PORT) if port != but]
    return Copies.of([*here, *([wire(frame, vlan)] if vlan else [])])


#: PHYS was heard behind the uplink.
HEARD = ((UPLINK, tagged(_arp(1, PHYS, P[4], "10.0.1.201"), 100)),)


def unicast() -> Iterator[Case]:
    for version in (4, 6):
        v = f"IPv{version} "
        mine, there = W[version], P[version]
        frame = _ping(mine, WEB1, there, PHYS)
        yield from_guest(v + "to whom nobody knows: everywhere", frame, everywhere(frame))
        yield from_guest(v + "to one heard outside: out", frame, wire(frame), before=HEARD)
        marked = b.eth(PHYS, b.network(mine, there, ecn=46 << 2) / b.echo(version, 24))
        yield from_guest(v + "marked, to one heard outside", frame, wire(marked), policy=MARKED, before=HEARD)
        yield from_guest(v + "marked, to whom nobody knows", frame, everywhere(marked), policy=MARKED)
        in_other = ((UPLINK, tagged(_arp(1, PHYS, P[4], "10.0.1.201"), 200)),)
        yield from_guest(v + "one heard in another VLAN is another", frame, everywhere(frame), before=in_other)
        known = _ping(mine, WEB1, ca(version, 1, 20), WEB3)
        yield from_guest(v + "to a port on another host: out", known, wire(known))
        wrong = _ping(mine, WEB1, ca(version, 1, 20), PHYS)
        yield from_guest(v + "by its address, whatever the MAC", wrong, wire(known), before=HEARD)
        near = _ping(mine, WEB1, ca(version, 1, 5), WEB2)
        yield from_guest(v + "to a port here", near, ToPort(WEB2_PORT, near))
        by_mac = _ping(mine, WEB1, "192.0.2.77" if version == 4 else "2001:db8:77::7", WEB3)
        yield from_guest(v + "by the MAC of a port on another host", by_mac, wire(by_mac))
        red = _ping(mine, WEB1, ca(version, 1, 20), p.RED_WEB3)
        yield from_guest(v + "the other tenant's is another VLAN", red, wire(red, 200), "tapred1")
        red = _ping(mine, WEB1, there, PHYS)
        both = Copies.of([wire(red, 200)])
        yield from_guest(v + "whom blue has heard red has not", red, both, "tapred1", before=HEARD)
        own = _ping(mine, WEB1, mine, WEB1)
        yield from_guest(v + "to itself", own, drop(DropReason.HAIRPIN))
        size = 1500 - (28 if version == 4 else 48)
        whole = _ping(mine, WEB1, ca(version, 1, 20), WEB3, size)
        yield from_guest(v + "the whole MTU is the guest's", whole, wire(whole))
        for name, to, mac, before in (
            ("to a port on another host", ca(version, 1, 20), WEB3, ()),
            ("to one heard outside", there, PHYS, HEARD),
            ("to whom nobody knows", there, PHYS, ()),
        ):
            large = _ping(mine, WEB1, to, mac, size + 1)
            error = b.icmp_error(large, *((3, 4) if version == 4 else (2, 0)), GW[version], mine, 1500)
            too_big = Answer(error, DropReason.TOO_BIG)
            yield from_guest(f"{v}a byte more {name}", large, too_big, before=before)
    spoofed = _ping("10.0.1.20", WEB1, P[4], PHYS)
    yield from_guest("another's address", spoofed, drop(DropReason.SPOOFED_CA))
    spoofed = _ping(P[4], PHYS, W[4], WEB1)
    yield from_guest("what comes back as it came", spoofed, drop(DropReason.SPOOFED_MAC), before=HEARD)
    wide = b.eth(PHYS, b.network(W[4], P[4]) / b.syn([("MSS", 1460)]))
    yield from_guest("TCP's MSS is the VLAN's", wide, wire(wide), before=HEARD)
    wide = b.eth(PHYS, b.network(W[4], P[4]) / b.syn([("MSS", 8960)]))
    less = b.eth(PHYS, b.network(W[4], P[4]) / b.syn([("MSS", 1460)]))
    yield from_guest("or is lowered to it", wide, wire(less), before=HEARD)
    yield from_guest("whoever it is for", wide, everywhere(less))
    while_taken = _ping(W[4], WEB1, P[4], PHYS)
    yield from_guest(
        "on the way to the rule nothing is sent by it", while_taken, drop(DropReason.NO_RECORD), policy=TAKEN
    )


def many() -> Iterator[Case]:
    for version in (4, 6):
        v = f"IPv{version} "
        group = "239.1.2.3" if version == 4 else "ff15::123"
        mac = "01:00:5e:01:02:03" if version == 4 else "33:33:00:00:01:23"
        frame = b.eth(mac, b.network(W[version], group) / b.UDP(sport=1, dport=2))
        yield from_guest(
            v + "a group: out, and to who listens", frame, Copies.of([ToPort(WEB2_PORT, frame), wire(frame)])
        )
        near = "224.0.0.18" if version == 4 else "ff02::12"
        mac = "01:00:5e:00:00:12" if version == 4 else "33:33:00:00:00:12"
        frame = b.eth(mac, b.network(W[version], near) / b.UDP(sport=1, dport=2))
        yield from_guest(v + "a group of the link: to all", frame, everywhere(frame))
        yield from_guest(v + "broadcast is off", frame, drop(DropReason.MULTICAST), policy=QUIET)
        large = b.eth(mac, b.network(W[version], near) / b.Raw(bytes(1500)))
        yield from_guest(v + "too large for all", large, drop(DropReason.TOO_BIG))
    hello = b.eth(ALL, b.network(W[4], "255.255.255.255") / b.UDP(sport=1, dport=2))
    yield from_guest("broadcast: out, and to all here", hello, everywhere(hello))
    joins = b.eth("01:00:5e:00:00:16", b.IP(src=W[4], dst="224.0.0.22", ttl=1, proto=2) / b.Raw(bytes(16)))
    out = ToAgent(UpcallKind.IGMP, joins, wire(joins))
    yield from_guest("IGMP: to the agent, and out", joins, out)
    kept = ToAgent(UpcallKind.IGMP, joins)
    yield from_guest("IGMP that may not leave: to the agent alone", joins, kept, policy=narrowed(BRIDGED))
    yield from_guest("IGMP that may leave: and out", joins, out, policy=narrowed(BRIDGED, IGMP_TOO))
    vrrp = b.eth(ALL, b.network("10.0.1.100", "255.255.255.255") / b.UDP(sport=1, dport=2), p.VRRP)
    yield from_guest("a shared MAC", vrrp, everywhere(vrrp, WEB2_PORT), "tapweb2")
    outside_too = ((UPLINK, tagged(_arp(1, p.VRRP, "10.0.1.100", "10.0.1.201"), 100)),)
    yield from_guest("a shared MAC that is outside, too", vrrp, drop(DropReason.LOOP), "tapweb2", before=outside_too)
    unknown = _ping("10.0.1.100", p.VRRP, P[4], PHYS)
    unknown = unknown[:6] + bytes.fromhex(p.VRRP.replace(":", "")) + unknown[12:]
    yield from_guest("and to whom nobody knows", unknown, drop(DropReason.LOOP), "tapweb2", before=outside_too)
    yield from_guest("on the way to the rule they go to hosts", hello, _to_hosts(hello, p.PA2, p.PA3), policy=TAKEN)
    both = Copies.of([*_to_hosts(hello, p.PA2).deliveries, wire(hello)])
    yield from_guest("out, and to the host that is none of the VLAN yet alone", hello, both, policy=CHANGING)


def _to_hosts(frame: bytes, *pas: str) -> Copies:
    flow = b.flow(W[4], "255.255.255.255", 17, (1, 2))
    away = [ToUnderlay(pa, b.nvgre(pa, BLUE_1, flow, frame)) for pa in pas]
    return Copies.of([ToPort(WEB2_PORT, frame), ToPort(FW_PORT, frame), *away])


def neighbours() -> Iterator[Case]:
    asked = _arp(1, WEB1, W[4], "10.0.1.20")
    said = b.eth(WEB1, b.arp(2, WEB3, "10.0.1.20", W[4], WEB1), WEB3)
    yield from_guest("ARP for whom policy knows is answered", asked, Answer(said))
    asked = _arp(1, WEB1, W[4], GW[4])
    said = b.eth(WEB1, b.arp(2, ROUTER, GW[4], W[4], WEB1), ROUTER)
    yield from_guest("ARP for the gateway is", asked, Answer(said))
    asked = _arp(1, WEB1, W[4], P[4])
    yield from_guest("ARP for others is bridged", asked, everywhere(asked))
    yield from_guest("also where broadcast is off", asked, everywhere(asked), policy=QUIET)
    yield from_guest("ARP that is too large", asked + bytes(1500), drop(DropReason.TOO_BIG))
    straight = _arp(1, WEB1, W[4], P[4], PHYS)
    yield from_guest("ARP to one heard outside", straight, wire(straight), before=HEARD)
    astray = _arp(1, WEB1, W[4], P[4], ROUTER)
    yield from_guest("ARP to the router about another", astray, drop(DropReason.NO_RECORD))
    near = _arp(1, WEB1, W[4], P[4], WEB2)
    yield from_guest("ARP to a port here about another", near, ToPort(WEB2_PORT, near))
    own = _arp(1, WEB1, W[4], P[4], WEB1)
    yield from_guest("ARP to itself about another", own, drop(DropReason.HAIRPIN))
    far = _arp(1, WEB1, W[4], P[4], WEB3)
    yield from_guest("ARP to a port on another host about another", far, wire(far))
    probe = _arp(1, WEB1, "0.0.0.0", P[4])
    yield from_guest("a probe", probe, everywhere(probe))
    probe = _arp(1, WEB1, "0.0.0.0", W[4])
    yield from_guest("a probe for its own address", probe, drop(DropReason.OWN_ADDRESS))
    reply = _arp(2, WEB1, W[4], P[4], PHYS)
    answered = Announcing(wire(reply), _announced(WEB1, W[4]))
    yield from_guest("an answer goes to who asked, and is a hint", reply, answered, before=HEARD)
    reply = _arp(2, WEB1, W[4], GW[4], ROUTER)
    hint = Drop(DropReason.ANNOUNCEMENT, _announced(WEB1, W[4]))
    yield from_guest("an answer to the router is a hint and no more", reply, hint)
    news = _arp(1, WEB1, W[4], W[4])
    announced = Announcing(everywhere(news), _announced(WEB1, W[4]))
    yield from_guest("an announcement goes everywhere, and is a hint", news, announced)
    reply = _arp(2, WEB1, W[4], "10.0.1.5", WEB1)
    hint = Drop(DropReason.HAIRPIN, _announced(WEB1, W[4]))
    yield from_guest("an answer to itself is a hint", reply, hint)
    spoofed = _arp(2, WEB1, P[4], W[4], PHYS)
    yield from_guest("ARP with another's address", spoofed, drop(DropReason.SPOOFED_CA))
    asked = b.eth("33:33:ff:00:02:00", b.solicitation(P[6]))
    yield from_guest("a solicitation for others is bridged", asked, everywhere(asked))
    straight = b.eth(PHYS, b.solicitation(P[6]))
    yield from_guest("a solicitation to one heard outside", straight, wire(straight), before=HEARD)
    asked = b.eth("33:33:ff:00:00:20", b.solicitation("2001:db8:1::20"))
    said = b.advertisement("2001:db8:1::20", WEB3, W[6], WEB1, router=False)
    yield from_guest("a solicitation for whom policy knows is answered", asked, Answer(said))
    reply = b.advertisement(W[6], WEB1, P[6], PHYS, router=False)
    answered = Announcing(wire(reply), _announced(WEB1, W[6]))
    yield from_guest("an advertisement goes to who asked, and is a hint", reply, answered, before=HEARD)
    reply = b.advertisement(W[6], WEB1, "ff02::1", "33:33:00:00:00:01", router=False)
    announced = Announcing(everywhere(reply), _announced(WEB1, W[6]))
    yield from_guest("an advertisement to all goes everywhere", reply, announced)


def routed() -> Iterator[Case]:
    for version in (4, 6):
        v = f"IPv{version} "
        frame = b.eth(ROUTER, b.network(W[version], ca(version, 2, 6)) / b.echo(version))
        arrived = b.eth(DB1, b.network(W[version], ca(version, 2, 6), 63) / b.echo(version), ROUTER_2)
        yield from_guest(v + "routed to another subnet here", frame, ToPort(DB1_PORT, arrived))
        frame = b.eth(ROUTER_2, b.network(ca(version, 2, 6), ca(version, 1, 20)) / b.echo(version), DB1)
        inner = b.eth(WEB3, b.network(ca(version, 2, 6), ca(version, 1, 20), 63) / b.echo(version), ROUTER)
        flow = b.flow(ca(version, 2, 6), ca(version, 1, 20), 1 if version == 4 else 58)
        there = ToUnderlay(p.PA2, b.nvgre(p.PA2, BLUE_1, flow, inner))
        yield from_guest(v + "routed into the VLAN, to another host: encapsulated", frame, there, "tapdb1")
        frame = b.eth(ROUTER_2, b.network(ca(version, 2, 6), W[version]) / b.echo(version), DB1)
        inner = b.eth(WEB1, b.network(ca(version, 2, 6), W[version], 63) / b.echo(version), ROUTER)
        yield from_guest(v + "routed into the VLAN, to a port here", frame, ToPort(WEB1_PORT, inner), "tapdb1")
        inner = b.eth(WEB1, b.network(ca(version, 2, 7), W[version]) / b.echo(version), ROUTER)
        packet = outer(inner, vsid=BLUE_1)
        yield Case(f"from the uplink: {v}routed into the VLAN", UPLINK, packet, ToPort(WEB1_PORT, inner), BRIDGED)
        frame = b.eth(ROUTER_2, b.network(ca(version, 2, 6), P[version]) / b.echo(version), DB1)
        error = b.icmp_error(
            frame, *((3, 1) if version == 4 else (1, 3)), ca(version, 2, 1), ca(version, 2, 6), 0, ROUTER_2, DB1
        )
        unreachable = Answer(error, DropReason.NO_RECORD)
        yield from_guest(v + "to a machine behind the switch nothing is routed", frame, unreachable, "tapdb1")
        frame = b.eth(ROUTER, b.network(W[version], ca(version, 2, 6)) / b.echo(version))
        yield from_guest(
            v + "a gateway outside: the router's MAC is nobody's", frame, everywhere(frame), policy=OUTSIDE
        )
    asked = _arp(1, WEB1, W[4], GW[4])
    yield from_guest("a gateway outside: ARP for it is bridged", asked, everywhere(asked), policy=OUTSIDE)
    asked = b.eth("33:33:ff:00:00:01", b.solicitation(GW[6]))
    yield from_guest("a gateway outside: so is a solicitation", asked, everywhere(asked), policy=OUTSIDE)
    large = _ping(W[4], WEB1, "10.0.1.20", WEB3, 1473)
    yield from_guest("a gateway outside says nothing here", large, drop(DropReason.TOO_BIG), policy=OUTSIDE)
    said = _arp(2, PHYS, GW[4], W[4], WEB1)
    yield outside("a gateway outside answers", said, ToPort(WEB1_PORT, said), policy=OUTSIDE)


def arrivals() -> Iterator[Case]:
    for version in (4, 6):
        v = f"IPv{version} "
        frame = _ping(P[version], PHYS, W[version], WEB1)
        yield outside(v + "to a port", frame, ToPort(WEB1_PORT, frame))
        yield outside(v + "the other VLAN is the other tenant", frame, ToPort(RED_PORT, frame), 200)
        frame = _ping(ca(version, 1, 20), WEB3, W[version], WEB1)
        yield outside(v + "from a port on another host", frame, ToPort(WEB1_PORT, frame))
        frame = _ping(ca(version, 1, 5), WEB2, W[version], WEB1)
        yield outside(v + "from a port of this host", frame, drop(DropReason.LOOP))
        frame = _ping(ca(version, 1, 5), WEB2, W[version], WEB1)
        yield outside(v + "from a port that is on its way", frame, ToPort(WEB1_PORT, frame), policy=MOVING)
        frame = _ping(P[version], ROUTER, W[version], WEB1)
        yield outside(v + "from the router's MAC", frame, drop(DropReason.LOOP))
        for name, claimed in (("a port's", ca(version, 1, 20)), ("the gateway's", GW[version])):
            frame = _ping(claimed, PHYS, W[version], WEB1)
            yield outside(f"{v}by {name} address", frame, drop(DropReason.FORGED_SOURCE))
        frame = _ping(P[version], PHYS, ca(version, 1, 8), p.OFF)
        yield outside(v + "to a port that is down", frame, drop(DropReason.PORT_DOWN))
        frame = _ping(P[version], PHYS, ca(version, 1, 20), WEB3)
        yield outside(v + "to a port on another host", frame, drop(DropReason.VSID_ACL))
        frame = _ping(P[version], PHYS, ca(version, 2, 6), ROUTER)
        yield outside(v + "to the router's MAC", frame, drop(DropReason.VSID_ACL))
        group = "224.0.0.18" if version == 4 else "ff02::12"
        mac = "01:00:5e:00:00:12" if version == 4 else "33:33:00:00:00:12"
        frame = b.eth(mac, b.network(P[version], group) / b.UDP(sport=1, dport=2), PHYS)
        yield outside(v + "a group of the link: to all here", frame, everywhere(frame, "", None))
        yield outside(v + "where broadcast is off", frame, drop(DropReason.MULTICAST), policy=QUIET)
        frame = b.eth(mac, b.network(P[version], "239.1.2.3" if version == 4 else "ff15::123") / b.UDP(dport=2), PHYS)
        yield outside(v + "a group: to who listens", frame, Copies.of([ToPort(WEB2_PORT, frame)]))
        frame = _ping(P[version], PHYS, W[version], WEB1)
        yield outside(v + "a VLAN that nobody has is the stack's", frame, ToStack(), 300)
        untagged = Case(f"from the VLAN: {v}without the tag is the stack's", UPLINK, frame, ToStack(), BRIDGED)
        yield untagged
        yield outside(v + "a tag within the tag is the stack's", tagged(frame, 100), ToStack())
        yield outside(v + "where it is no VLAN is the stack's", frame, ToStack(), policy=MAIN)
        yield outside(v + "on the way to the rule it is taken", frame, ToPort(WEB1_PORT, frame), policy=TAKEN)
        whatever = Case(
            f"from the VLAN: {v}whatever the priority is",
            UPLINK,
            tagged(frame, 100, priority=7),
            ToPort(WEB1_PORT, frame),
            BRIDGED,
            tag_bytes=4,
        )
        yield whatever
        other = ((UPLINK, tagged(frame, 100)),)
        answer = _ping(W[version], WEB1, P[version], PHYS)
        yield from_guest(v + "who was heard is answered", answer, wire(answer), before=other)
        yield from_guest(v + "who has it beside policy is not learned", *_policy_first(version))
    asked = _arp(1, PHYS, P[4], W[4])
    yield outside("ARP goes to all here, who answer themselves", asked, everywhere(asked, "", None))
    yield outside("ARP where broadcast is off", asked, everywhere(asked, "", None), policy=QUIET)
    reply = _arp(2, PHYS, P[4], W[4], WEB1)
    yield outside("an answer", reply, ToPort(WEB1_PORT, reply))
    for name, sender in (("a port's", "10.0.1.20"), ("the gateway's", GW[4])):
        said = _arp(2, PHYS, sender, W[4], WEB1)
        yield outside(f"ARP that claims {name} address", said, drop(DropReason.FORGED_SOURCE))
    mixed = b.eth(WEB1, b.arp(2, WEB3, P[4], W[4], WEB1), PHYS)
    yield outside("ARP of another's MAC, about nobody's address", mixed, ToPort(WEB1_PORT, mixed))
    mixed = b.eth(WEB1, b.arp(2, PHYS, "10.0.1.20", W[4], WEB1), WEB3)
    yield outside("ARP from a port, that says another has its address", mixed, drop(DropReason.FORGED_SOURCE))
    said = b.advertisement(P[6], PHYS, W[6], WEB1, router=False)
    yield outside("an advertisement", said, ToPort(WEB1_PORT, said))
    for name, target in (("a port's", "2001:db8:1::20"), ("the gateway's", GW[6])):
        said = b.eth(WEB1, b.network(P[6], W[6], 255) / b.ICMPv6ND_NA(tgt=target), PHYS)
        yield outside(f"an advertisement of {name} address", said, drop(DropReason.FORGED_SOURCE))
    good = _ping(P[4], PHYS, W[4], WEB1)
    yield outside("cut short", good[:30], drop(DropReason.TRUNCATED))
    yield outside("a version that is none", good[:14] + b"\x55" + good[15:], drop(DropReason.MALFORMED))
    lldp = b.eth("01:80:c2:00:00:0e", b"\x02\x07", PHYS, kind=0x88CC)
    yield outside("LLDP", lldp, drop(DropReason.ETHERTYPE))
    pause = b.eth("01:80:c2:00:00:01", b.network(P[4], "224.0.0.1") / b.UDP(dport=2), PHYS)
    yield outside("between neighbours on the wire", pause, drop(DropReason.MULTICAST))
    group = b.eth(WEB1, b.network(P[4], W[4]) / b.echo(4), "03:00:00:00:00:01")
    yield outside("from a group's MAC", group, drop(DropReason.MALFORMED))
    nobody = b.eth("01:00:5e:01:02:03", b.network(P[4], "239.9.8.7") / b.UDP(dport=2), PHYS)
    yield outside("a group that nobody listens to", nobody, drop(DropReason.NO_MEMBER))


def _policy_first(version: int) -> tuple[bytes, Verdict, str, Policy, tuple[tuple[str, bytes], ...]]:
    """web-3's MAC is heard, and found where policy says all the same."""
    heard = _ping(ca(version, 1, 20), WEB3, W[version], WEB1)
    frame = _ping(W[version], WEB1, ca(version, 1, 5), WEB2)
    return frame, ToPort(WEB2_PORT, frame), "tapweb1", BRIDGED, ((UPLINK, tagged(heard, 100)),)


def moving() -> Iterator[Case]:
    frame = _ping(W[4], WEB1, "10.0.1.5", WEB2)
    both = Copies.of([ToPort(WEB2_PORT, frame), wire(frame)])
    yield from_guest("to a port that is leaving: to it, and out", frame, both, policy=MOVING)
    frame = _ping(W[4], WEB1, "10.0.1.20", WEB3)
    yield from_guest("to a port between two others: out, once", frame, wire(frame), policy=MOVING)
    frame = b.eth(ROUTER_2, b.network("10.0.2.6", "10.0.1.20") / b.echo(4), DB1)
    inner = b.eth(WEB3, b.network("10.0.2.6", "10.0.1.20", 63) / b.echo(4), ROUTER)
    flow = b.flow("10.0.2.6", "10.0.1.20", 1)
    there = Copies.of([ToUnderlay(pa, b.nvgre(pa, BLUE_1, flow, inner)) for pa in (p.PA2, p.PA3)])
    yield from_guest("routed to a port that is moving: encapsulated, to both", frame, there, "tapdb1", MOVING)


def nowhere() -> Iterator[Case]:
    for version in (4, 6):
        v = f"moving, without a wire: IPv{version} "
        coming = _ping(W[version], WEB1, ca(version, 1, 5), WEB2)
        yield from_guest(v + "refused here, where it is coming", coming, drop(DropReason.NO_UNDERLAY), policy=SHUT)
        leaving = _ping(W[version], WEB1, ca(version, 1, 9), p.FW)
        yield from_guest(v + "refused here, where it is", leaving, drop(DropReason.SECURITY_GROUP), policy=SHUT)


CASES: tuple[Case, ...] = (*unicast(), *many(), *neighbours(), *routed(), *arrivals(), *moving(), *nowhere())
