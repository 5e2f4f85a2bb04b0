"""What guests announce reaches the agent, within bounds; what the agent sends reaches the guest."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from scapy.layers.l2 import ARP, Ether

from ebpf.harness import SMALL, eventually, netns, send
from ebpf.rows import MAC_A, MAC_B, POLICY, PORT_B, A, B
from weft.contracts.dataplane import Announcement
from weft.dataplane.ebpf import layout
from weft.dataplane.ebpf.maps import Times
from weft.dataplane.ebpf.plane import EbpfDataPlane
from weft.kit.errors import Missing
from weft.policy.drop import DropReason

pytestmark = pytest.mark.root

BURST, PER_SECOND = 64, 20  # UPCALL_BURST, UPCALL_INTERVAL_NS


def announcement(mac: str, address: str) -> bytes:
    return bytes(Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, hwsrc=mac, psrc=address, pdst=address))


@pytest.fixture
def plane(pins: Path, weft_object: Path) -> Iterator[EbpfDataPlane]:
    with netns("up-") as there:
        there.veth("port0", "peer0")
        there.veth("port1", "peer1")
        there.veth("up0", "wire0")
        with there.enter():
            made = EbpfDataPlane(pins, SMALL, source=weft_object)
            try:
                assert made.update((*POLICY, replace(PORT_B, enabled=True))) == []
                assert made.bind({A: "port0", B: "port1"}) == []
                yield made
            finally:
                made.close()


def dropped(plane: EbpfDataPlane, port: str) -> int:
    return plane.counters()[port].drops.get(DropReason.ANNOUNCEMENT, 0)


def test_an_announcement_is_heard_and_the_descriptor_tells_that_there_is_one(plane: EbpfDataPlane) -> None:
    assert plane.upcalls() == []
    send("peer0", announcement(MAC_A, "10.0.0.2"))
    assert plane.upcall_fd is not None
    readable, _, _ = select.select([plane.upcall_fd], [], [], 10)
    assert readable
    assert plane.upcalls() == [Announcement(A, MAC_A, "10.0.0.2")]
    assert plane.upcalls() == []


def test_an_announcement_of_what_is_not_allowed_is_not_heard(plane: EbpfDataPlane) -> None:
    send("peer0", announcement(MAC_A, "10.0.0.77"))
    eventually(lambda: plane.counters()[A].drops.get(DropReason.SPOOFED_CA, 0) == 1, "it is dropped")
    assert plane.upcalls() == []


def test_a_flood_of_announcements_is_bounded_and_takes_nothing_from_a_neighbour(plane: EbpfDataPlane) -> None:
    began = time.monotonic()
    send("peer0", announcement(MAC_A, "10.0.0.2"), count=2000)
    send("peer1", announcement(MAC_B, "10.0.0.3"))
    eventually(lambda: (dropped(plane, A), dropped(plane, B)) == (2000, 1), "all are counted")
    heard = plane.upcalls()
    most = BURST + 2 + PER_SECOND * (time.monotonic() - began)
    assert BURST <= heard.count(Announcement(A, MAC_A, "10.0.0.2")) <= most
    assert heard[-1] == Announcement(B, MAC_B, "10.0.0.3")


def test_no_tenant_fills_the_ring_whatever_its_ports_hand_up(pins: Path, weft_object: Path) -> None:
    """It has no more of it than it leaves, until the agent has read that."""
    red = replace(PORT_B, port="tenants/red/ports/b", enabled=True)
    with netns("up-") as there:
        there.veth("port0", "peer0")
        there.veth("port1", "peer1")
        there.veth("up0", "wire0")
        with there.enter():
            plane = EbpfDataPlane(pins, SMALL, source=weft_object, times=Times(upcall_interval_ns=0))
            assert plane.update((*POLICY, red)) == []
            assert plane.bind({A: "port0", red.port: "port1"}) == []
            room = (1 << 20) // (layout.UPCALL.size + 8 + 4 & ~7)  # with what is before each, at a multiple of 8
            for _ in range(2):
                sent = dropped(plane, A), dropped(plane, red.port)
                send("peer1", announcement(MAC_B, "10.0.0.3"), count=room + 100)
                send("peer0", announcement(MAC_A, "10.0.0.2"))
                eventually(
                    lambda sent=sent: (
                        (dropped(plane, A), dropped(plane, red.port)) == (sent[0] + 1, sent[1] + room + 100)
                    ),
                    "all are counted",
                )
                heard = plane.upcalls()
                assert heard[-1] == Announcement(A, MAC_A, "10.0.0.2")
                assert abs(len(heard) - 1 - room // 2) <= 1
            plane.close()


def test_what_is_announced_while_no_agent_runs_is_heard_by_the_next(
    plane: EbpfDataPlane, pins: Path, weft_object: Path
) -> None:
    plane.close()
    send("peer0", announcement(MAC_A, "10.0.0.2"))
    following = EbpfDataPlane(pins, SMALL, source=weft_object)
    try:
        assert following.bind({A: "port0", B: "port1"}) == []
        heard = following.upcalls()
    finally:
        following.close()
    assert heard == [Announcement(A, MAC_A, "10.0.0.2")]


def test_what_the_agent_sends_reaches_the_guest_and_is_counted(plane: EbpfDataPlane) -> None:
    frame = bytes(Ether(src="02:57:45:46:54:01", dst=MAC_A, type=0x88B5)) + bytes(range(100))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5)) as guest:
        guest.settimeout(10)
        guest.bind(("peer0", 0x88B5))
        plane.send(A, frame)
        assert guest.recv(2000) == frame
    counted = plane.counters()[A]
    assert (counted.sent_packets, counted.sent_bytes, counted.drops) == (1, len(frame), {})


def test_nothing_is_sent_to_a_port_that_is_not_here(plane: EbpfDataPlane) -> None:
    with pytest.raises(Missing, match="tenants/blue/ports/away"):
        plane.send("tenants/blue/ports/away", bytes(60))
