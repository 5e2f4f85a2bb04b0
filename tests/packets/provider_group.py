"""The packet table's rows of subnets whose broadcast and multicast go to a group of the underlay, one copy for all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from packets import build as b
from packets import policy as p
from packets.policy import MAIN, OVER_IPV6, Policy
from packets.table import ALL_ONES, FW_PORT, WEB1_PORT, WEB2_PORT, Case, W, ca, group_mac, guest, uplink
from packets.tunnels import PA_1, PA_2, Wire, with_rules
from weft.policy.drop import DropReason
from weft.policy.rows import Member, Rule, Subnet
from weft.reference.verdict import Copies, Drop, ToPort, ToStack, ToUnderlay

GROUP = {4: "239.77.0.1", 6: "ff15::77:1"}
OTHERS = {4: "239.77.0.2", 6: "ff15::77:2"}
NOBODYS = {4: "239.77.0.3", 6: "ff15::77:3"}
RULES = (Rule.NVGRE, Rule.GRE, Rule.VXLAN, Rule.GENEVE)
LINK = {4: "224.0.0.251", 6: "ff02::fb"}


def grouped(policy: Policy, groups: dict[int, str]) -> Policy:
    rows = (
        replace(row, provider_group=groups.get(row.vsid)) if isinstance(row, Subnet) else row for row in policy.rows
    )
    return replace(policy, rows=tuple(rows))


POLICIES = {
    (rule, outer): grouped(with_rules(policy, rule), {p.BLUE_1: GROUP[outer], p.RED_1: OTHERS[outer]})
    for rule in RULES
    for outer, policy in ((4, MAIN), (6, OVER_IPV6))
}


class GroupWire(Wire):
    """NVGRE besides, and to a group."""

    def head(self, vsid: int, flow: int, **fields: object) -> b.Packet:
        if self.rule is not Rule.NVGRE:
            return super().head(vsid, flow, **fields)
        return b.GRE(key_present=1, proto=0x6558, key=vsid << 8 | flow >> 24)

    def packet(
        self, source: str, to: str, vsid: int, flow: int, inner: bytes, ecn: int = 0, ttl: int = 64, **fields: object
    ) -> bytes:
        found = super().packet(source, to, vsid, flow, inner, ecn, ttl, **fields)
        if self.rule is not Rule.NVGRE:
            return found
        # The protocol is GRE's, as for GRE.
        rule = Wire(Rule.GRE, self.outer)
        return rule.packet(source, to, vsid << 8 | flow >> 24, flow, inner, ecn, ttl)

    def to_group(self, inner: bytes, to: str, source: str = "", vsid: int = p.BLUE_1, ecn: int = 0) -> bytes:
        """A frame from the physical network."""
        packet = self.packet(source or PA_2[self.outer], to, vsid, 0x12345678, inner, ecn, 61)
        kind = b"\x08\x00" if self.outer == 4 else b"\x86\xdd"
        mac = bytes.fromhex(group_mac(to).replace(":", ""))
        return mac + bytes.fromhex("02aa00000002") + kind + packet


def out() -> Iterator[Case]:
    for (rule, outer), policy in POLICIES.items():
        wire = GroupWire(rule, outer)
        for version in (4, 6):
            v = f"provider group, {rule} over IPv{outer}: IPv{version} "
            frame = b.eth(
                group_mac(LINK[version]), b.network(W[version], LINK[version], ecn=1) / b.UDP(sport=53, dport=53)
            )
            flow = b.flow32(W[version], LINK[version], 17, (53, 53))
            one = ToUnderlay(GROUP[outer], wire.packet(PA_1[outer], GROUP[outer], p.BLUE_1, flow, frame, 1))
            here = [ToPort(port, frame) for port in (WEB2_PORT, FW_PORT)]
            yield guest(v + "to many: one copy", frame, Copies.of([*here, one]), policy=policy)
    whole = b.eth(ALL_ONES, b.IP(src="10.0.1.4", dst="255.255.255.255") / b.UDP(sport=1, dport=2))
    flow = b.flow32("10.0.1.4", "255.255.255.255", 17, (1, 2))
    wire = GroupWire(Rule.VXLAN, 4)
    everybody = [ToPort(port, whole) for port in (WEB2_PORT, FW_PORT)]
    one = ToUnderlay(GROUP[4], wire.packet(p.PA1, GROUP[4], p.BLUE_1, flow, whole))
    yield guest("provider group: broadcast", whole, Copies.of([*everybody, one]), policy=POLICIES[Rule.VXLAN, 4])
    other_family = grouped(with_rules(MAIN, Rule.VXLAN), {p.BLUE_1: GROUP[6]})
    each = [ToUnderlay(pa, wire.packet(p.PA1, pa, p.BLUE_1, flow, whole)) for pa in (p.PA2, p.PA3)]
    yield guest(
        "provider group: of another family than the hosts': a copy each",
        whole,
        Copies.of([*everybody, *each]),
        policy=other_family,
    )
    heeding = replace(POLICIES[Rule.VXLAN, 4], wanted=p.HEEDING.wanted)
    for group, ports, copies in (("239.1.2.3", (WEB2_PORT,), 1), ("239.9.9.9", (), 0)):
        frame = b.eth(group_mac(group), b.network(W[4], group) / b.UDP(sport=53, dport=53))
        flow = b.flow32(W[4], group, 17, (53, 53))
        there = [ToUnderlay(GROUP[4], wire.packet(p.PA1, GROUP[4], p.BLUE_1, flow, frame))] * copies
        expected = (
            Copies.of([*(ToPort(port, frame) for port in ports), *there]) if copies else Drop(DropReason.NO_MEMBER)
        )
        yield guest(f"provider group: {group} that {copies} has asked for", frame, expected, policy=heeding)
    flow = b.flow32("10.0.1.4", "255.255.255.255", 17, (1, 2))
    alone = replace(
        POLICIES[Rule.VXLAN, 4],
        rows=tuple(row for row in POLICIES[Rule.VXLAN, 4].rows if not isinstance(row, Member) or row.pa == p.PA1),
    )
    yield guest("provider group: nobody is elsewhere", whole, Copies.of(everybody), policy=alone)


def taken() -> Iterator[Case]:
    for (rule, outer), policy in POLICIES.items():
        wire = GroupWire(rule, outer)
        for version in (4, 6):
            v = f"provider group, {rule} over IPv{outer}: IPv{version} "
            many = b.eth(
                group_mac(LINK[version]),
                b.network(ca(version, 1, 20), LINK[version], ecn=1) / b.UDP(sport=53, dport=53),
                p.WEB3,
            )
            all_here = Copies.of(ToPort(port, many) for port in (WEB1_PORT, WEB2_PORT, FW_PORT))
            yield uplink(v + "to many", wire.to_group(many, GROUP[outer]), all_here, policy)
            unicast = wire.to_group(many, PA_1[outer])
            yield uplink(v + "to many, and to this host alone", unicast, all_here, policy)
            forged = "192.0.2.66" if outer == 4 else "2001:db8:f::66"
            refused = Drop(DropReason.FORGED_SOURCE)
            yield uplink(v + "forged", wire.to_group(many, GROUP[outer], forged), refused, policy)
            yield uplink(v + "this host's own", wire.to_group(many, GROUP[outer], PA_1[outer]), refused, policy)
            others = wire.to_group(many, OTHERS[outer])
            yield uplink(v + "to another subnet's group", others, Drop(DropReason.RULE_NOT_ACCEPTED), policy)
            yield uplink(v + "to a group of nobody here", wire.to_group(many, NOBODYS[outer]), ToStack(), policy)
            one = b.eth(p.WEB1, b.network(ca(version, 1, 20), W[version]) / b.echo(version), p.WEB3)
            yield uplink(v + "to one", wire.to_group(one, GROUP[outer]), Drop(DropReason.MULTICAST), policy)
            unknown = wire.to_group(many, GROUP[outer], vsid=p.UNKNOWN)
            yield uplink(v + "of an unknown VSID", unknown, Drop(DropReason.UNKNOWN_VSID), policy)


CASES: tuple[Case, ...] = (*out(), *taken())
