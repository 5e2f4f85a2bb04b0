"""One frame in N in the kernel: that it is one in N, by chance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import ARP, GRE, Ether

from ebpf.harness import SMALL, Netns, eventually, send
from ebpf.rows import ARP_A, MAC_B, POLICY, PORT_A, PORT_B, A
from weft.contracts.dataplane import Sample
from weft.dataplane.ebpf import layout
from weft.dataplane.ebpf.plane import EbpfDataPlane
from weft.model.features import SamplingProtocol
from weft.model.objects import Sampling
from weft.policy.rows import Host, Uplink

pytestmark = pytest.mark.root

SENT, RATE = 20_000, 10
#: In so many deviations a right program is found wrong once in a billion runs.
DEVIATIONS = 6
OF_RED = bytes(Ether(src=MAC_B, dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, hwsrc=MAC_B, psrc="10.0.0.3", pdst="10.0.0.2"))
TAKEN = bytes(Ether() / IP(src="192.0.2.2", dst="192.0.2.1") / GRE(key_present=1, proto=0x6558, key=5000 << 8) / ARP_A)
HOST = Host("hosts/h1", ("192.0.2.1",), (), Sampling(RATE, "192.0.2.99", 6343, SamplingProtocol.SFLOW, 64))


def test_of_many_frames_one_in_so_many_is_sampled_and_none_of_a_port_that_is_left_out(
    weft_object: Path, pins: Path, netns: Callable[[], Netns]
) -> None:
    there = netns()
    there.veth("port0", "peer0")
    with there.enter():
        plane = EbpfDataPlane(pins, SMALL, source=weft_object)
        try:
            assert plane.update([HOST, *POLICY]) == []
            assert plane.bind({A: "port0"}) == []

            def has_come(packets: int) -> bool:
                return plane.counters()[A].received_packets >= packets

            def sampled(count: int) -> list[Sample]:
                """Of so many frames, in parts for which there is room."""
                found: list[Sample] = []
                for _ in range(10):
                    due = plane.counters()[A].received_packets + count // 10
                    send("peer0", ARP_A, count // 10)
                    eventually(partial(has_come, due), "all came in")
                    found += plane.samples().samples
                assert plane.samples().lost == 0
                return found

            found = sampled(SENT)
            expected, deviation = SENT / RATE, math.sqrt(SENT / RATE * (1 - 1 / RATE))
            assert abs(len(found) - expected) < DEVIATIONS * deviation, f"{len(found)} of {SENT}"
            assert {(each.rate, each.frame_bytes, each.header) for each in found} == {(RATE, len(ARP_A), ARP_A)}
            assert plane.update([replace(PORT_A, sampling_rate=1)]) == []
            assert len(sampled(100)) == 100
            assert plane.update([replace(PORT_A, sampling_rate=0)]) == []
            assert sampled(1000) == []
        finally:
            plane.close()


def test_no_tenant_fills_the_ring_whatever_its_ports_send(
    weft_object: Path, pins: Path, netns: Callable[[], Netns]
) -> None:
    """It has no more of it than it leaves, until the agent has read that; nor have uplinks."""
    red = replace(PORT_B, port="tenants/red/ports/b", enabled=True)
    everything = Sampling(1, "192.0.2.99", 6343, SamplingProtocol.SFLOW, 64)
    host = replace(HOST, uplinks=(Uplink("up0", 1500),), sampling=everything)
    room = (1 << 20) // (layout.SAMPLE.size + 256 + 8 + 7 & ~7)  # with what is before each, at a multiple of 8
    there = netns()
    for port, peer in (("port0", "peer0"), ("port1", "peer1"), ("up0", "wire0")):
        there.veth(port, peer)
    with there.enter():
        plane = EbpfDataPlane(pins, SMALL, source=weft_object)
        try:
            assert plane.update([host, *POLICY, red]) == []
            assert plane.bind({A: "port0", red.port: "port1"}) == []

            def has_come(name: str, packets: int) -> bool:
                return plane.counters()[name].received_packets >= packets

            lost = 0
            for turn in (1, 2):
                send("peer1", OF_RED, room + 100)
                eventually(partial(has_come, red.port, turn * (room + 100)), "all of a tenant's came in")
                send("wire0", TAKEN, room)
                eventually(partial(has_come, "uplink:up0", turn * room), "and all of the uplink's")
                send("peer0", ARP_A)
                eventually(partial(has_come, A, turn), "and another's")
                found = plane.samples()
                of = Counter(each.ifindex for each in found.samples)
                assert abs(of[there.ifindex("port1")] - room // 2) <= 1, "alone it has half"
                assert abs(of[there.ifindex("up0")] - room // 4) <= 2, "of the rest uplinks have half"
                assert of[there.ifindex("port0")] == 1
                assert found.lost - lost == 2 * room + 101 - of.total()
                lost = found.lost
        finally:
            plane.close()
