"""Packets of several segments: each is counted, and one of them is what must fit."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE, Ether
from scapy.packet import Packet, Raw

from ebpf.harness import Harness
from ebpf.rows import HOST, MAC_A, MAC_B, POLICY, SUBNET, A
from weft.policy.drop import DropReason

pytestmark = pytest.mark.root

PEER_MAC = "02:00:00:00:00:04"
NETWORKS = {4: IP(src="10.0.0.2", dst="10.0.0.3"), 6: IPv6(src="fd00:1::2", dst="fd00:1::99")}
#: Headers of 20, 40 (with options) and 8 bytes.
TRANSPORTS: dict[str, Packet] = {
    "tcp": TCP(sport=1, dport=2, flags="A"),
    "tcp with options": TCP(sport=1, dport=2, flags="A", options=[("Timestamp", (1, 2)), ("EOL", None)] * 2),
    "udp": UDP(sport=1, dport=2),
}


@pytest.fixture
def told(programs: Harness) -> Harness:
    with_host = [HOST, *POLICY]
    assert programs.plane.update(with_host) == []
    assert programs.plane.prune({row.key for row in with_host}) == []
    assert programs.plane.bind({}) == []  # counters start anew with a binding
    assert programs.plane.bind({A: "port0"}) == []
    return programs


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("payload", "segments"), [(2000, 2), (2001, 3), (3000, 3)])
def test_segments_that_the_kernel_has_not_counted_are_counted(
    told: Harness, version: int, transport: str, payload: int, segments: int
) -> None:
    """As a virtual machine's through a tap: of a size, and of no number. There is no record, so each is dropped."""
    packet = NETWORKS[version].copy() / TRANSPORTS[transport] / Raw(bytes(payload))
    packet.dst = "10.0.0.77" if version == 4 else "fd00:1::77"
    frame = bytes(Ether(src=MAC_A, dst="02:00:00:00:00:77") / packet)
    told.run("weft_from_port", frame, told.netns.ifindex("port0"), gso_size=1000)
    counted = told.plane.counters()[A]
    assert (counted.received_packets, counted.received_bytes) == (segments, len(frame))
    assert counted.drops == {DropReason.NO_RECORD: segments}


@pytest.mark.parametrize("version", [4, 6])
def test_segments_within_an_outer_header_are_counted(told: Harness, version: int) -> None:
    before = told.plane.counters()["uplink:up0"].received_packets
    inner = bytes(Ether(src=PEER_MAC, dst=MAC_A) / NETWORKS[version] / TRANSPORTS["tcp"] / Raw(bytes(2500)))
    outer = IP(src="192.0.2.9", dst="192.0.2.1", proto=47) / GRE(key_present=1, key=SUBNET.vsid << 8, proto=0x6558)
    frame = bytes(Ether(src=PEER_MAC, dst=MAC_A) / outer / Raw(inner))
    ran = told.run("weft_from_uplink", frame, told.netns.ifindex("up0"), gso_size=1000)
    assert ran.target == DropReason.FORGED_SOURCE
    assert told.plane.counters()["uplink:up0"].received_packets - before == 3


@pytest.mark.parametrize(("gso_size", "too_big"), [(1360, False), (1361, True)])
def test_what_must_fit_is_one_segment(told: Harness, gso_size: int, too_big: bool) -> None:
    """40 bytes of headers; the subnet's MTU is 1400. What fits gets further: to a port that is not bound."""
    frame = bytes(Ether(src=MAC_A, dst=MAC_B) / NETWORKS[4] / TRANSPORTS["tcp"] / Raw(bytes(2800)))
    told.run("weft_from_port", frame, told.netns.ifindex("port0"), gso_size=gso_size)
    assert told.plane.counters()[A].drops == {DropReason.TOO_BIG if too_big else DropReason.VSID_ACL: 3}
