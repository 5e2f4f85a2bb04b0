"""What the programs remember is over with any change, and serves no packet that is not like the former ones."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, GRE, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from ebpf.harness import Harness, Outcome, eventually, harness
from ebpf.rows import HOST, MAC_A, POLICY, PORT_A, SUBNET, A
from weft.dataplane.ebpf.changes import Changes
from weft.policy.drop import DropReason
from weft.policy.rows import Direction, Record, Rewrite, Row, Rule, SecurityGroup, SecurityRule

pytestmark = pytest.mark.root

MAC_C, FAR, ELSEWHERE = "02:00:00:00:00:04", "192.0.2.2", "192.0.2.3"
PAIR_MAC, PAIR_CA = "02:00:00:00:00:99", "10.0.9.9"
TO_PORT, TO_UNDERLAY, ANSWER, DROP = 1, 2, 3, 5
RECORD = Record(5000, "10.0.0.4", FAR, MAC_C)
HERE_PA, THERE_PA, OTHER_PA = "192.0.2.102", "192.0.2.104", "192.0.2.105"
BY_RULE = {
    Rule.NVGRE: GRE(proto=0x6558, key_present=1, key=5000 << 8),
    Rule.GRE: GRE(proto=0x6558, key_present=1, key=5000),
    Rule.VXLAN: UDP(sport=50000, dport=4789, chksum=0) / VXLAN(flags=8, vni=5000),
    Rule.GENEVE: UDP(sport=50000, dport=6081, chksum=0) / GENEVE(vni=5000, proto=0x6558),
}
PROTOCOLS = {Rule.NVGRE: 47, Rule.GRE: 47, Rule.VXLAN: 17, Rule.GENEVE: 17, Rule.STT: 6}


def sent(source: str = "10.0.0.2", mac: str = MAC_A, payload: Packet | None = None, **of_ip: object) -> bytes:
    inside = payload if payload is not None else UDP(sport=1, dport=2) / Raw(bytes(20))
    return bytes(Ether(src=mac, dst=MAC_C) / IP(src=source, dst="10.0.0.4", **of_ip) / inside)


def came(rule: Rule = Rule.NVGRE, pa: str = FAR, outer_tos: int = 0, **of_ip: object) -> bytes:
    inner = Ether(src=MAC_C, dst=MAC_A) / IP(**{"src": "10.0.0.4", "dst": "10.0.0.2", **of_ip}) / UDP(sport=2, dport=1)
    outer = Ether(dst="02:00:00:00:ff:01") / IP(src=pa, dst="192.0.2.1", tos=outer_tos)
    return bytes(outer / BY_RULE[rule] / inner / Raw(bytes(20)))


class Site:
    def __init__(self, of: Harness) -> None:
        self.of = of

    def tell(self, *rows: Row) -> None:
        assert self.of.plane.update(rows) == []

    def out(self, frame: bytes) -> Outcome:
        return self.of.run("weft_from_port", frame, self.of.netns.ifindex("port0"))

    def into(self, frame: bytes) -> Outcome:
        return self.of.run("weft_from_uplink", frame, self.of.netns.ifindex("up0"))

    def why(self, got: Outcome) -> DropReason:
        assert got.verdict == DROP
        return DropReason(got.target)

    def warm(self, rule: Rule = Rule.NVGRE) -> None:
        """All that can be remembered is."""
        for _ in range(2):
            for frame in (sent(), sent(PAIR_CA, PAIR_MAC), sent(payload=TCP(flags="A"))):
                assert self.out(frame).verdict == TO_UNDERLAY
            assert self.into(came(rule)).verdict == TO_PORT


@pytest.fixture(scope="module")
def programs(weft_object: Path) -> Iterator[Harness]:
    with harness(weft_object) as of:
        for pa in (FAR, ELSEWHERE, THERE_PA, OTHER_PA):
            of.netns.ip(f"neigh replace {pa} lladdr 02:00:00:00:ff:01 dev up0 nud permanent")
        yield of


@pytest.fixture
def site(programs: Harness) -> Site:
    rows = [HOST, *(row for row in POLICY if row.key != RECORD.key), RECORD]
    site = Site(programs)
    site.tell(*rows)
    assert programs.plane.prune({row.key for row in rows}) == []
    assert programs.plane.bind({A: "port0"}) == []
    site.warm()
    return site


def destination(frame: bytes) -> str:
    return str(Ether(frame)[IP].dst)


def test_a_record_that_moves_is_followed_by_the_next_packet(site: Site) -> None:
    site.tell(replace(RECORD, pa=ELSEWHERE))
    assert destination(site.out(sent()).data) == ELSEWHERE
    assert site.why(site.into(came())) is DropReason.FORGED_SOURCE
    assert site.into(came(pa=ELSEWHERE)).verdict == TO_PORT


def test_a_record_that_goes_is_nobodys_for_the_next_packet(site: Site) -> None:
    assert site.of.plane.delete([RECORD.key]) == []
    assert site.why(site.out(sent())) is DropReason.NO_RECORD
    assert site.why(site.into(came())) is DropReason.FORGED_SOURCE


def test_a_port_that_is_disabled_sends_and_receives_no_packet_more(site: Site) -> None:
    site.tell(replace(PORT_A, enabled=False))
    assert site.why(site.out(sent())) is DropReason.PORT_DOWN
    assert site.why(site.into(came())) is DropReason.PORT_DOWN


def test_a_port_that_is_unbound_sends_and_receives_no_packet_more(site: Site) -> None:
    assert site.of.plane.bind({}) == []
    assert site.why(site.out(sent())) is DropReason.PORT_UNBOUND
    assert site.why(site.into(came())) is DropReason.VSID_ACL


def test_an_address_pair_that_is_taken_back_is_a_spoofed_one_at_once(site: Site) -> None:
    site.tell(replace(PORT_A, pairs=()))
    assert site.why(site.out(sent(PAIR_CA, PAIR_MAC))) is DropReason.SPOOFED_MAC
    assert site.out(sent()).verdict == TO_UNDERLAY


def test_a_subnet_that_takes_smaller_packets_says_so_at_once(site: Site) -> None:
    large = sent(payload=Raw(bytes(1300)), flags="DF", proto=17)
    assert site.out(large).verdict == TO_UNDERLAY
    site.tell(replace(SUBNET, mtu_bytes=1200))
    assert site.out(large).verdict == ANSWER


def test_a_host_that_goes_takes_its_packets_with_it(site: Site) -> None:
    assert site.of.plane.delete([HOST.key]) == []
    assert site.of.plane.prune({row.key for row in POLICY}) == []
    assert site.why(site.out(sent())) is DropReason.NO_UNDERLAY


@pytest.mark.parametrize("rule", PROTOCOLS)
def test_a_rule_that_changes_is_the_next_packets(site: Site, rule: Rule) -> None:
    site.tell(replace(RECORD, rule=rule), replace(SUBNET, accepts=(rule,)))
    for _ in range(3):
        assert Ether(site.out(sent()).data)[IP].proto == PROTOCOLS[rule]
    if rule in BY_RULE:
        for _ in range(3):
            assert site.into(came(rule)).verdict == TO_PORT
    if rule is not Rule.NVGRE:
        assert site.into(came()).verdict != TO_PORT


@pytest.mark.parametrize("rule", [Rule.GRE, Rule.VXLAN, Rule.GENEVE])
def test_a_rule_that_is_accepted_no_more_is_dropped_at_once(site: Site, rule: Rule) -> None:
    both = replace(SUBNET, accepts=(Rule.NVGRE, rule))
    site.tell(replace(SUBNET, vsid=5001, prefixes=("10.9.0.0/24",), gateways=("10.9.0.1",), accepts=(rule,)), both)
    for _ in range(3):
        assert site.into(came(rule)).verdict == TO_PORT
    site.tell(replace(both, accepts=(Rule.NVGRE,)))
    assert site.into(came(rule)).verdict == DROP
    assert site.into(came()).verdict == TO_PORT


def test_groups_that_a_port_is_given_are_asked_at_once_and_when_their_rules_change(site: Site) -> None:
    allows = SecurityRule(1, "out", Direction.EGRESS, 4)
    site.tell(
        SecurityGroup(1, "tenants/t/security-groups/g", rules=()), replace(PORT_A, groups=(1,), port_security=True)
    )
    assert site.why(site.out(sent())) is DropReason.SECURITY_GROUP
    assert site.why(site.into(came())) is DropReason.SECURITY_GROUP
    site.tell(SecurityGroup(1, "tenants/t/security-groups/g", rules=(allows,)))
    for _ in range(3):
        assert site.out(sent()).verdict == TO_UNDERLAY
        assert site.into(came()).verdict == TO_PORT  # answers


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (sent("10.0.0.9"), DropReason.SPOOFED_CA),
        (sent(mac=MAC_C), DropReason.SPOOFED_MAC),
        (sent(PAIR_CA), DropReason.SPOOFED_CA),
        (sent("0.0.0.0"), DropReason.SPOOFED_CA),
        (sent()[:40], DropReason.TRUNCATED),
    ],
)
def test_a_packet_that_is_not_like_the_former_ones_is_asked_of(site: Site, frame: bytes, why: DropReason) -> None:
    site.warm()
    assert site.why(site.out(frame)) is why
    site.warm()


def test_an_address_that_is_unspecified_is_let_pass_for_dhcp_alone(site: Site) -> None:
    for _ in range(3):
        site.out(sent("0.0.0.0", payload=UDP(sport=68, dport=67) / Raw(bytes(300))))
        assert site.why(site.out(sent("0.0.0.0"))) is DropReason.SPOOFED_CA


def test_what_does_not_fit_is_answered_and_a_connections_first_segment_is_told_the_size(site: Site) -> None:
    site.warm()
    assert site.out(sent(payload=Raw(bytes(1390)), flags="DF", proto=17)).verdict == ANSWER
    got = site.out(sent(payload=TCP(flags="S", options=[("MSS", 1460)])))
    assert dict(Ether(Ether(got.data)[GRE].payload.build())[TCP].options)["MSS"] == 1360


@pytest.mark.parametrize(
    "frame",
    [came(pa=ELSEWHERE), came(src="10.0.0.2"), came(outer_tos=3), came(rule=Rule.VXLAN)[:-21]],
    ids=["another host's", "another's address", "congestion that cannot be told", "no rule of the host's"],
)
def test_a_frame_that_is_not_like_the_former_ones_reaches_no_port(site: Site, frame: bytes) -> None:
    site.warm()
    assert site.into(frame).verdict != TO_PORT
    site.warm()


def test_arp_in_a_tunnel_reaches_nobody_whatever_came_before_it(site: Site) -> None:
    """Of a frame whose addresses and MACs are all as those of a packet that may come: ARP has none."""
    ends = Ether(src=MAC_C, dst=MAC_A)
    outer = Ether(dst="02:00:00:00:ff:01") / IP(src=FAR, dst="192.0.2.1") / BY_RULE[Rule.NVGRE]
    for destination in ("::", "::ff02:0:ff02:0"):
        before = bytes(outer / ends / IPv6(src="::", dst=destination) / UDP(sport=2, dport=1) / Raw(bytes(20)))
        for _ in range(2):
            site.into(before)
        assert site.why(site.into(bytes(outer / ends / ARP()))) is DropReason.ETHERTYPE


def test_packets_are_counted_alike(site: Site) -> None:
    before = site.of.plane.counters()
    for _ in range(10):
        site.out(sent())
        site.into(came())
    after = site.of.plane.counters()
    length = len(sent())
    assert after[A].received_packets - before[A].received_packets == 10
    assert after[A].received_bytes - before[A].received_bytes == 10 * length
    assert after[A].sent_packets - before[A].sent_packets == 10
    uplink = next(name for name in after if name.startswith("uplink:"))
    assert after[uplink].sent_bytes - before[uplink].sent_bytes == 10 * (length + 42)
    assert after[uplink].received_bytes - before[uplink].received_bytes == 10 * len(came())


def on_wire(source: str = THERE_PA, to: str = HERE_PA, payload: Packet | None = None, **of_ip: object) -> bytes:
    inside = payload if payload is not None else UDP(sport=2, dport=1) / Raw(bytes(20))
    return bytes(Ether(dst="02:00:00:00:ff:01") / IP(src=source, dst=to, **of_ip) / inside)


def ends(frame: bytes) -> tuple[str, str]:
    found = Ether(frame)[IP]
    return str(found.src), str(found.dst)


@pytest.fixture
def rewriting(site: Site) -> Site:
    """The same, without a tunnel."""
    site.tell(
        replace(SUBNET, accepts=(Rule.NVGRE, Rule.REWRITE)),
        replace(RECORD, rule=Rule.REWRITE),
        Rewrite(HERE_PA, 5000, "10.0.0.2"),
        Rewrite(THERE_PA, 5000, "10.0.0.4"),
    )
    assert (
        site.of.plane.prune({row.key for row in (*POLICY, HOST)} | {("rewrites", HERE_PA), ("rewrites", THERE_PA)})
        == []
    )
    for _ in range(3):
        for payload in (None, TCP(flags="A")):
            assert ends(site.out(sent(payload=payload)).data) == (HERE_PA, THERE_PA)
            got = site.into(on_wire(payload=payload))
            assert (got.verdict, *ends(got.data)) == (TO_PORT, "10.0.0.4", "10.0.0.2")
    return site


def same(frame: bytes, wanted: bytes) -> bool:
    """All of it, checksums too, but for what the sender's and the wire's MACs are."""
    return Ether(frame).payload.build() == Ether(wanted).payload.build()


def test_addresses_that_are_rewritten_again_are_so_as_the_first_time(rewriting: Site) -> None:
    for payload in (
        UDP(sport=1, dport=2) / Raw(bytes(20)),
        TCP(flags="PA", seq=9) / Raw(b"odd"),
        UDP(chksum=0) / Raw(b"1"),
    ):
        for _ in range(3):
            assert same(rewriting.out(sent(payload=payload)).data, on_wire(HERE_PA, THERE_PA, payload))
            got = rewriting.into(on_wire(payload=payload))
            assert same(got.data, bytes(Ether() / IP(src="10.0.0.4", dst="10.0.0.2") / payload))
            assert (Ether(got.data).src, Ether(got.data).dst) == (MAC_C, MAC_A)


def test_a_pa_that_stands_for_another_is_so_with_the_next_packet(rewriting: Site) -> None:
    rewriting.tell(Rewrite(OTHER_PA, 5000, "10.0.0.4"))
    assert rewriting.of.plane.delete([("rewrites", THERE_PA)]) == []
    assert ends(rewriting.out(sent()).data) == (HERE_PA, OTHER_PA)
    assert rewriting.why(rewriting.into(on_wire())) is DropReason.FORGED_SOURCE
    assert rewriting.into(on_wire(OTHER_PA)).verdict == TO_PORT


def test_an_own_pa_that_goes_is_the_stacks_and_its_guest_sends_by_a_tunnel(rewriting: Site) -> None:
    assert rewriting.of.plane.delete([("rewrites", HERE_PA)]) == []
    assert Ether(rewriting.out(sent()).data)[IP].proto == PROTOCOLS[Rule.NVGRE]
    assert rewriting.into(on_wire()).verdict not in (TO_PORT, DROP)


def test_a_record_that_goes_is_nobodys_between_pas(rewriting: Site) -> None:
    assert rewriting.of.plane.delete([RECORD.key]) == []
    assert rewriting.why(rewriting.out(sent())) is DropReason.NO_RECORD
    assert rewriting.why(rewriting.into(on_wire())) is DropReason.FORGED_SOURCE


def test_a_port_that_is_disabled_or_gone_takes_nothing_between_pas(rewriting: Site) -> None:
    rewriting.tell(replace(PORT_A, enabled=False))
    assert rewriting.why(rewriting.out(sent())) is DropReason.PORT_DOWN
    assert rewriting.why(rewriting.into(on_wire())) is DropReason.PORT_DOWN
    assert rewriting.of.plane.bind({}) == []
    assert rewriting.why(rewriting.into(on_wire())) is DropReason.VSID_ACL


def test_rewriting_that_is_accepted_no_more_is_dropped_at_once(rewriting: Site) -> None:
    other = replace(SUBNET, vsid=5001, prefixes=("10.9.0.0/24",), gateways=("10.9.0.1",), accepts=(Rule.REWRITE,))
    rewriting.tell(other, replace(SUBNET, accepts=(Rule.NVGRE,)))
    assert rewriting.why(rewriting.into(on_wire())) is DropReason.RULE_NOT_ACCEPTED
    rewriting.of.plane.delete([other.key])
    assert rewriting.into(on_wire()).verdict not in (TO_PORT, DROP)  # the stack's: nothing here takes it


def test_groups_are_asked_of_what_is_rewritten_from_the_next_packet_on(rewriting: Site) -> None:
    name = "tenants/t/security-groups/g"
    rewriting.tell(SecurityGroup(1, name, rules=()), replace(PORT_A, groups=(1,), port_security=True))
    assert rewriting.why(rewriting.out(sent())) is DropReason.SECURITY_GROUP
    assert rewriting.why(rewriting.into(on_wire())) is DropReason.SECURITY_GROUP
    rewriting.tell(SecurityGroup(1, name, rules=(SecurityRule(1, "out", Direction.EGRESS, 4),)))
    for _ in range(3):
        assert rewriting.out(sent()).verdict == TO_UNDERLAY
        assert rewriting.into(on_wire()).verdict == TO_PORT  # answers


def test_what_is_not_as_it_should_be_between_known_pas_is_dropped_all_the_same(rewriting: Site) -> None:
    to_all = on_wire()
    assert rewriting.why(rewriting.into(b"\xff" * 6 + to_all[6:])) is DropReason.MULTICAST
    assert rewriting.why(rewriting.into(on_wire()[:-20])) is DropReason.TRUNCATED
    assert rewriting.why(rewriting.into(on_wire(OTHER_PA))) is DropReason.FORGED_SOURCE
    large = sent(payload=Raw(bytes(1390)), flags="DF", proto=17)
    assert rewriting.out(large).verdict == ANSWER


def test_what_is_rewritten_is_counted_alike(rewriting: Site) -> None:
    before = rewriting.of.plane.counters()
    for _ in range(10):
        rewriting.out(sent())
        rewriting.into(on_wire())
    after = rewriting.of.plane.counters()
    uplink = next(name for name in after if name.startswith("uplink:"))
    for name, length in ((A, len(sent())), (uplink, len(on_wire()))):
        assert after[name].received_packets - before[name].received_packets == 10
        assert after[name].received_bytes - before[name].received_bytes == 10 * length
        assert after[name].sent_packets - before[name].sent_packets == 10
        assert after[name].sent_bytes - before[name].sent_bytes == 10 * length


def test_rewrites_that_are_changed_by_hand_are_followed_within_milliseconds(rewriting: Site) -> None:
    """And not at once, or else nothing would be remembered."""
    rewrites = rewriting.of.maps["rewrites"]

    def remembered() -> bool:
        rewriting.of.plane.repair()
        for _ in range(2):
            rewriting.out(sent())
            rewriting.into(on_wire())
        for key, _ in list(rewrites.items()):
            rewrites.delete(key)
        records = rewriting.of.maps["records"]
        for key, _ in list(records.items()):
            records.delete(key)
        return rewriting.out(sent()).verdict == TO_UNDERLAY and rewriting.into(on_wire()).verdict == TO_PORT

    try:
        eventually(remembered, "a packet that is treated as the one before it")
        eventually(lambda: rewriting.out(sent()).verdict == DROP, "a drop")
        eventually(lambda: rewriting.into(on_wire()).verdict != TO_PORT, "nobody's")
    finally:
        rewriting.of.plane.repair()
    assert rewriting.out(sent()).verdict == TO_UNDERLAY


def test_what_is_changed_by_hand_is_followed_within_milliseconds(site: Site) -> None:
    """And is not seen at once, or else nothing would be remembered."""
    records = site.of.maps["records"]

    def remembered() -> bool:
        site.of.plane.repair()
        site.warm()
        for key, _ in list(records.items()):
            records.delete(key)
        return site.out(sent()).verdict == TO_UNDERLAY and site.into(came()).verdict == TO_PORT

    eventually(remembered, "a packet that is treated as the one before it")
    eventually(lambda: site.out(sent()).verdict == DROP, "a drop")
    eventually(lambda: site.into(came()).verdict == DROP, "a drop")
    site.of.plane.repair()
    assert site.out(sent()).verdict == TO_UNDERLAY


def test_every_change_is_counted_and_a_new_process_counts_on(site: Site) -> None:
    def count() -> int:
        found: tuple[int] = struct.unpack("=I", site.of.maps["changes"].lookup(bytes(4)) or b"")
        return found[0]

    changes: list[Callable[[], object]] = [
        lambda: site.tell(replace(RECORD, pa=ELSEWHERE)),
        lambda: site.tell(replace(HOST, pas=("192.0.2.1",))),
        lambda: site.of.plane.delete([RECORD.key]),
        lambda: site.of.plane.bind({}),
    ]
    for change in changes:
        before = count()
        change()
        assert count() > before
    before = count()
    Changes(site.of.maps["changes"]).made()  # another's
    assert count() == before + 1
