"""Broadcast and multicast in the kernel: to hundreds of hosts, within a limit, through changes and restarts."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether

from ebpf.harness import SMALL, Netns, Wires, eventually, netns, send
from ebpf.rows import HOST, MAC_A, POLICY, PORT_A, PORT_B, SUBNET, A, B
from weft.contracts.dataplane import Wanted
from weft.dataplane.ebpf.maps import Sizes
from weft.dataplane.ebpf.plane import EbpfDataPlane
from weft.policy.drop import DropReason
from weft.policy.rows import Member

pytestmark = pytest.mark.root

BURST = 64  # FLOOD_BURST
MOST = 1024  # MEMBERS_MAX
OWN = "192.0.2.1"
GROUP = "239.1.2.3"


def broadcast(to: str = "255.255.255.255", mark: bytes = b"flood") -> bytes:
    mac = "ff:ff:ff:ff:ff:ff" if to == "255.255.255.255" else "01:00:5e:01:02:03"
    return bytes(Ether(src=MAC_A, dst=mac) / IP(src="10.0.0.2", dst=to) / UDP(sport=9, dport=9) / mark)


class Site:
    """A host with two ports, an uplink to a gateway that is known, and what comes out of all of them."""

    def __init__(self, there: Netns, pins: Path, source: Path) -> None:
        self.netns = there
        self._pins, self._source = pins, source
        self.wires = Wires({"peer1": "port1", "wire0": "up0"})

    @contextmanager
    def plane(self, *members: Member, told: bool = True, sizes: Sizes = SMALL) -> Iterator[EbpfDataPlane]:
        made = EbpfDataPlane(self._pins, sizes, source=self._source)
        try:
            if told:
                rows = (HOST, *POLICY, replace(PORT_B, enabled=True), Member(SUBNET.vsid, OWN), *members)
                assert made.update(rows) == []
                assert made.bind({A: "port0", B: "port1"}) == []
                assert made.prune({row.key for row in rows}) == []
            yield made
        finally:
            made.close()

    def copies(self, count: int) -> list[str]:
        """Where so many copies of a frame have gone: a port's interface, or a PA."""
        found: list[str] = []

        def come() -> bool:
            for name, _, frame in self.wires.frames():
                if b"flood" in frame:
                    found.append(name if name != "up0" else str(ipaddress.ip_address(frame[30:34])))
            return len(found) >= count

        eventually(come, f"{count} copies")
        return found


@pytest.fixture
def site(pins: Path, weft_object: Path) -> Iterator[Site]:
    with netns("flood-") as there:
        there.veth("port0", "peer0")
        there.veth("port1", "peer1")
        there.veth("up0", "wire0")
        there.ip("addr add 192.0.2.1/24 dev up0")
        there.ip("neigh add 192.0.2.254 lladdr 02:00:00:00:ff:fe dev up0 nud permanent")
        there.ip("route add default via 192.0.2.254")
        with there.enter():
            made = Site(there, pins, weft_object)
            try:
                yield made
            finally:
                made.wires.close()


def far(count: int) -> list[Member]:
    """On hosts behind the gateway."""
    first = int(ipaddress.ip_address("198.18.0.1"))
    return [Member(SUBNET.vsid, str(ipaddress.ip_address(first + number))) for number in range(count)]


def test_five_hundred_hosts_have_a_copy_each(site: Site) -> None:
    members = far(500)
    with site.plane(*members) as plane:
        send("peer0", broadcast())
        found = site.copies(501)
        assert sorted(found) == sorted(["port1", *(member.pa for member in members)])
        assert plane.counters()["uplink:up0"].sent_packets == 500


def test_more_members_than_there_is_room_for_in_a_packets_time_are_left_out(site: Site) -> None:
    with site.plane(*far(MOST + 50)) as plane:
        send("peer0", broadcast())
        eventually(lambda: plane.counters()["uplink:up0"].sent_packets >= MOST - 1, "copies")
        assert plane.counters()["uplink:up0"].sent_packets <= MOST


def test_a_neighbour_that_is_not_known_is_asked_for_and_then_has_its_copies(site: Site) -> None:
    near = [Member(SUBNET.vsid, f"192.0.2.{number}") for number in (11, 12, 13)]
    with site.plane(*near):
        asked: set[str] = set()

        def all_are_asked() -> bool:
            for name, _, frame in site.wires.frames():
                if name == "up0" and frame[12:14] == b"\x08\x06":
                    asked.add(Ether(frame)[ARP].pdst)
            return asked >= {member.pa for member in near}

        send("peer0", broadcast())
        eventually(all_are_asked, "who has each of the members?")
        for member in near:
            answer = ARP(op=2, hwsrc="02:00:00:00:0f:01", psrc=member.pa, hwdst="02:00:00:00:0f:02", pdst=OWN)
            send("wire0", bytes(Ether(src="02:00:00:00:0f:01", dst=mac_of(site, "up0")) / answer))
        # What has waited for its neighbour goes out.
        assert set(site.copies(3)) >= {member.pa for member in near}


def mac_of(site: Site, interface: str) -> str:
    return site.netns.ip(f"-o link show {interface}").split("link/ether ")[1].split()[0]


def test_members_that_go_leave_the_others_in_place_and_a_fresh_agent_finds_them(site: Site) -> None:
    members = far(8)
    with site.plane(*members) as plane:
        gone = [members[number] for number in (0, 3, 4, 7)]
        assert plane.delete([member.key for member in gone]) == []
        left = {member.pa for member in members if member not in gone}
        send("peer0", broadcast())
        assert set(site.copies(5)) == {"port1", *left}
    with site.plane(told=False) as plane:
        assert {row.pa for row in plane.read() if isinstance(row, Member)} == {OWN, *left}
        send("peer0", broadcast())
        assert set(site.copies(5)) == {"port1", *left}
        assert plane.update([members[3], replace(members[1])]) == []
        send("peer0", broadcast())
        assert sorted(site.copies(6)) == sorted(["port1", *left, members[3].pa])
    with site.plane(*members[:2]) as plane:
        assert {row.pa for row in plane.read() if isinstance(row, Member)} == {OWN, *(m.pa for m in members[:2])}
        send("peer0", broadcast())
        assert sorted(site.copies(3)) == sorted(["port1", *(member.pa for member in members[:2])])
        assert plane.repair() == 0


def test_who_listens_outlives_the_agent_and_goes_with_the_port(site: Site) -> None:
    with site.plane() as plane:
        send("peer0", broadcast(GROUP))
        eventually(lambda: plane.counters()[A].drops.get(DropReason.NO_MEMBER, 0) == 1, "nobody has asked")
        assert plane.listen({B: [GROUP, "ff15::1"]}) == []
        send("peer0", broadcast(GROUP))
        assert site.copies(1) == ["port1"]
    with site.plane() as plane:
        assert plane.listening() == {B: {GROUP, "ff15::1"}}
        send("peer0", broadcast(GROUP))
        assert site.copies(1) == ["port1"]
        assert plane.listen({B: ["ff15::1"]}) == []
        send("peer0", broadcast(GROUP))
        eventually(lambda: plane.counters()[A].drops.get(DropReason.NO_MEMBER, 0) == 2, "B has left")
        assert plane.bind({A: "port0"}) == []
        assert plane.bind({A: "port0", B: "port1"}) == []
        assert plane.listening() == {}


def test_a_guest_that_asks_for_more_groups_than_there_is_room_for_takes_nobody_elses(site: Site) -> None:
    many = [f"239.9.{number >> 8}.{number & 255}" for number in range(300)]
    few = many[:10]
    with site.plane(sizes=replace(SMALL, listeners=16)) as plane:
        assert plane.listen({A: few, B: [GROUP]}) == []
        for greedy in (many, [*many[9:], GROUP, "ff15::2"]):
            (failure,) = plane.listen({A: greedy, B: [GROUP, "ff15::1"]})
            assert (failure.key, "full at 16 entries" in failure.reason) == (("ports", A), True)
            every = {"::" if ":" in group else "0.0.0.0" for group in greedy}
            assert plane.listening() == {A: every, B: {GROUP, "ff15::1"}}
            send("peer0", broadcast(GROUP))
            assert site.copies(1) == ["port1"]
        assert plane.listen({A: few, B: [GROUP]}) == []
        assert plane.listening() == {A: set(few), B: {GROUP}}
        assert plane.listen({}) == []
        assert plane.listening() == {}


def test_what_other_hosts_have_said_holds_until_the_next_agent_or_its_time(site: Site) -> None:
    first, second, third = far(3)
    nobody = Wanted(frozenset(), 3600.0)
    with site.plane(first, second, third) as plane:
        said = {(SUBNET.vsid, first.pa): nobody, (SUBNET.vsid, second.pa): Wanted(frozenset({GROUP}), 3600.0)}
        assert plane.heed({**said, (SUBNET.vsid, third.pa): Wanted(frozenset(), 0.0)}) == []
        send("peer0", broadcast(GROUP))
        assert sorted(site.copies(2)) == sorted([second.pa, third.pa])
        assert plane.heed({(SUBNET.vsid, second.pa): nobody, (SUBNET.vsid, first.pa): None}) == []
        send("peer0", broadcast(GROUP))
        assert sorted(site.copies(2)) == sorted([first.pa, third.pa])
        assert plane.usage()["wanted"][0] == 2
    with site.plane(first, second, third) as plane:
        send("peer0", broadcast(GROUP))
        assert sorted(site.copies(2)) == sorted([first.pa, third.pa]), "as long as nobody says anything else"
        assert plane.heed({}) == []
        send("peer0", broadcast(GROUP))
        assert sorted(site.copies(3)) == sorted([first.pa, second.pa, third.pa])


def test_a_host_that_there_is_no_room_for_is_sent_everything(site: Site) -> None:
    (one,) = far(1)
    with site.plane(one) as plane:
        room = plane.usage()["wanted"][1]
        many = frozenset(f"239.2.{number // 250}.{number % 250}" for number in range(room))
        assert plane.heed({(SUBNET.vsid, one.pa): Wanted(frozenset(), 3600.0)}) == []
        (failure,) = plane.heed({(SUBNET.vsid, one.pa): Wanted(many, 3600.0)})
        assert failure.key == ("members", SUBNET.vsid, one.pa)
        assert "full" in failure.reason
        assert plane.usage()["wanted"][0] == 0
        send("peer0", broadcast(GROUP))
        assert site.copies(1) == [one.pa]


def test_a_guest_that_floods_is_held_to_its_limit_and_nobody_else(site: Site) -> None:
    with site.plane() as plane:
        assert plane.update([replace(PORT_A, flood_limit_pps=1)]) == []
        sent = 10 * BURST
        send("peer0", broadcast(), sent)
        eventually(lambda: plane.counters()[A].received_packets == sent, "all of them came in")
        dropped = plane.counters()[A].drops.get(DropReason.FLOOD_LIMIT, 0)
        passed = sent - dropped
        assert BURST <= passed <= 2 * BURST, "the burst, and what few the time until then has added"
        assert plane.counters()[B].sent_packets == passed
        assert plane.update([replace(PORT_A, flood_limit_pps=0)]) == []
        send("peer0", broadcast(), sent)
        eventually(lambda: plane.counters()[B].sent_packets == passed + sent, "without a limit all pass")


def test_the_host_row_that_goes_takes_the_copies_for_others_along(site: Site) -> None:
    with site.plane(*far(2)) as plane:
        assert plane.delete([HOST.key]) == []
        send("peer0", broadcast())
        assert site.copies(1) == ["port1"]
