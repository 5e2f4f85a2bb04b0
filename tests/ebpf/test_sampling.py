"""One frame in N in the kernel: that it is one in N, by chance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from ebpf.harness import SMALL, Netns, eventually, send
from ebpf.rows import ARP_A, POLICY, PORT_A, A
from weft.contracts.dataplane import Sample
from weft.dataplane.ebpf.plane import EbpfDataPlane
from weft.model.features import SamplingProtocol
from weft.model.objects import Sampling
from weft.policy.rows import Host

pytestmark = pytest.mark.root

SENT, RATE = 20_000, 10
#: In so many deviations a right program is found wrong once in a billion runs.
DEVIATIONS = 6
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
