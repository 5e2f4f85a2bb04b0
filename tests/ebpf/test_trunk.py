"""Sub-ports on real interfaces: tags that the kernel has put beside the frame, VLANs that change hands, restarts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import ARP, Dot1Q, Ether

from ebpf.harness import SMALL, Netns, Wires, eventually, netns, send
from ebpf.rows import MAC_B, POLICY, PORT_A, PORT_B, SUBNET, A, B
from weft.contracts.dataplane import Announcement
from weft.dataplane.ebpf.plane import EbpfDataPlane
from weft.policy.drop import DropReason
from weft.policy.rows import Host, Port, Record

pytestmark = pytest.mark.root

SUB, OTHER = "tenants/t/ports/sub", "tenants/t/ports/other"
MAC_SUB, MAC_OTHER = "02:00:00:00:00:05", "02:00:00:00:00:06"
SUB_ROW = Port(SUB, SUBNET.vsid, MAC_SUB, ("10.0.0.5",), parent=A, vlan=100)
OTHER_ROW = Port(OTHER, SUBNET.vsid, MAC_OTHER, ("10.0.0.6",), parent=A, vlan=200)
ROWS = (
    Host("hosts/h1", ("192.0.2.1",), ()),
    *POLICY[:-2],
    Record(SUBNET.vsid, "10.0.0.5", "192.0.2.1", MAC_SUB),
    Record(SUBNET.vsid, "10.0.0.6", "192.0.2.1", MAC_OTHER),
    PORT_A,
    replace(PORT_B, enabled=True),
    SUB_ROW,
    OTHER_ROW,
)
BINDINGS = {A: "port0", B: "port1"}


@dataclass(frozen=True)
class Site:
    pins: Path
    source: Path
    guest: Netns  # where peer0 is: bpf_redirect_peer reaches it there

    @contextmanager
    def plane(self) -> Iterator[EbpfDataPlane]:
        made = EbpfDataPlane(self.pins, SMALL, source=self.source)
        try:
            yield made
        finally:
            made.close()

    def say(self, frame: bytes) -> None:
        with self.guest.enter():
            send("peer0", frame)

    @contextmanager
    def listening(self) -> Iterator[Wires]:
        """At the guest's end."""
        with self.guest.enter():
            wires = Wires({"peer0": "peer0"})
        try:
            yield wires
        finally:
            wires.close()


#: By bpf_redirect_peer into the guest's namespace, and by bpf_redirect to an end that is in the host's own.
@pytest.fixture(params=["peer", "redirect"])
def site(request: pytest.FixtureRequest, weft_object: Path, pins: Path) -> Iterator[Site]:
    with netns("trunk-") as here, netns("guest-") as there:
        guest = there if request.param == "peer" else here
        here.veth("port0", "peer0", into=guest)
        here.veth("port1", "peer1")
        with here.enter():
            yield Site(pins, weft_object, guest)


def heard(wires: Wires) -> tuple[int, bytes]:
    """The next frame that comes in, and its VLAN."""
    found: list[tuple[str, int, bytes]] = []

    def come() -> bool:
        found.extend(wires.frames())
        return bool(found)

    eventually(come, "a frame")
    [(_, vlan, frame)] = found
    return vlan, frame


def asks(vlan: int, mac: str = MAC_SUB, address: str = "10.0.0.5") -> bytes:
    head = Ether(src=mac, dst="ff:ff:ff:ff:ff:ff")
    return bytes(head / Dot1Q(vlan=vlan) / ARP(op=1, hwsrc=mac, psrc=address, pdst="10.0.0.3"))


def to_sub() -> bytes:
    return bytes(Ether(src=MAC_B, dst=MAC_SUB) / IP(src="10.0.0.3", dst="10.0.0.5") / ICMP())


def tell(plane: EbpfDataPlane) -> None:
    assert plane.bind(BINDINGS) == []
    assert plane.update(ROWS) == []


def test_a_question_in_a_vlan_is_answered_there(site: Site) -> None:
    with site.plane() as plane, site.listening() as wire:
        tell(plane)
        site.say(asks(100))
        vlan, frame = heard(wire)
        assert vlan == 100
        assert Ether(frame)[ARP].hwsrc == MAC_B
        assert len(frame) == len(asks(100)) - 4
        counted = plane.counters()[SUB]
        assert (counted.received_packets, counted.received_bytes, counted.sent_packets) == (1, len(frame), 1)
        assert plane.counters()[A].received_packets == 0


def test_what_is_for_a_sub_port_has_its_tag_and_the_parents_has_none(site: Site) -> None:
    with site.plane() as plane, site.listening() as wire:
        tell(plane)
        send("peer1", to_sub())
        assert heard(wire) == (100, to_sub())
        to_parent = bytes(Ether(src=MAC_B, dst=PORT_A.mac) / IP(src="10.0.0.3", dst="10.0.0.2") / ICMP())
        send("peer1", to_parent)
        assert heard(wire) == (0, to_parent)


def test_a_tag_beside_the_frame_that_no_sub_port_has_is_refused(site: Site) -> None:
    with site.plane() as plane:
        tell(plane)
        for frame in (
            asks(101),
            bytes(Ether(src=MAC_SUB) / Dot1Q(vlan=100) / Dot1Q(vlan=5) / IP()),
            asks(100)[:12] + b"\x88\xa8" + asks(100)[14:],
        ):
            site.say(frame)
        eventually(lambda: plane.counters()[A].drops == {DropReason.VLAN_TAG: 3}, "three drops")
        assert plane.counters()[SUB].received_packets == 0


def test_what_the_agent_sends_is_in_the_vlan_and_announcements_are_the_sub_ports(site: Site) -> None:
    with site.plane() as plane, site.listening() as wire:
        tell(plane)
        plane.send(SUB, to_sub())
        assert heard(wire) == (100, to_sub())
        counted = plane.counters()[SUB]
        assert (counted.sent_packets, counted.sent_bytes) == (1, len(to_sub()))
        head = Ether(src=MAC_SUB, dst="ff:ff:ff:ff:ff:ff") / Dot1Q(vlan=100)
        site.say(bytes(head / ARP(op=1, hwsrc=MAC_SUB, psrc="10.0.0.5", pdst="10.0.0.5")))
        eventually(lambda: DropReason.ANNOUNCEMENT in plane.counters()[SUB].drops, "it comes in")
        assert plane.upcalls() == [Announcement(SUB, MAC_SUB, "10.0.0.5")]


def test_sub_ports_swap_their_vlans(site: Site) -> None:
    with site.plane() as plane, site.listening() as wire:
        tell(plane)
        swapped = [replace(OTHER_ROW, vlan=100), replace(SUB_ROW, vlan=200)]
        assert plane.update(swapped) == []
        assert set(swapped) <= set(plane.read())
        site.say(asks(200))
        assert heard(wire)[0] == 200
        site.say(asks(100, MAC_OTHER, "10.0.0.6"))
        assert heard(wire)[0] == 100
        counters = plane.counters()
        assert (counters[SUB].received_packets, counters[OTHER].received_packets) == (1, 1)


def test_a_sub_port_is_bound_as_long_as_its_parent_is(site: Site) -> None:
    with site.plane() as plane:
        assert plane.update(ROWS) == []
        assert SUB not in plane.counters()
        assert plane.bind(BINDINGS) == []
        assert {SUB_ROW, OTHER_ROW} <= set(plane.read())
        assert plane.bind({B: "port1"}) == []
        assert {row.port for row in plane.read() if isinstance(row, Port)} == {B}
        assert SUB not in plane.counters()
        assert plane.bind(BINDINGS) == []
        assert SUB_ROW in set(plane.read())
        assert plane.delete([("ports", SUB)]) == []
        assert SUB not in plane.counters()
        assert OTHER_ROW in set(plane.read())
        [failure] = plane.bind({**BINDINGS, OTHER: "port1"}) or [None]
        assert failure is not None
        assert failure.permanent


def test_an_agent_that_starts_finds_sub_ports_and_takes_away_what_went_meanwhile(site: Site) -> None:
    with site.plane() as plane:
        tell(plane)
    with site.plane() as plane, site.listening() as wire:
        site.say(asks(100))
        assert heard(wire)[0] == 100
        assert plane.bind(BINDINGS) == []
        left = [row for row in ROWS if row.key != SUB_ROW.key]
        assert plane.update(left) == []
        assert plane.prune({row.key for row in left}) == []
        site.say(asks(100))
        eventually(lambda: plane.counters()[A].drops == {DropReason.VLAN_TAG: 1}, "the VLAN is nobody's")
        assert SUB not in plane.counters()
        site.say(asks(200, MAC_OTHER, "10.0.0.6"))
        assert heard(wire)[0] == 200
        assert plane.repair() == 0
