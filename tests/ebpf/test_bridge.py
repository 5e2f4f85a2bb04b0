"""Subnets that are VLANs, on real interfaces: tags beside frames, ages, bounds, uplinks that come and go, restarts."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Dot1Q, Ether

from ebpf.harness import SMALL, Netns, Wires, eventually, netns, send
from ebpf.rows import MAC_A, MAC_B, POLICY, PORT_A, PORT_B, SUBNET, A, B
from weft.dataplane.ebpf import layout
from weft.dataplane.ebpf.maps import Times
from weft.dataplane.ebpf.plane import EbpfDataPlane
from weft.policy.rows import Host, MacRecord, Member, Port, Record, Row, Rule, Uplink
from weft.reference.learning import Learned as ReferenceLearned

pytestmark = pytest.mark.root

VLAN, OTHER_VLAN, OTHER_VSID = 100, 200, 5002
RED_PORT, RED_RDID = "tenants/red/ports/b", "00000000-0000-4000-8000-00000000ed00"
NETWORK = "provider-networks/fabric"
MACHINE, MACHINE_CA = "02:99:00:00:00:01", "10.0.0.200"
UPLINKS = ("up0", "up1")
BINDINGS = {A: "port0", B: "port1"}
HOST = Host("hosts/h1", ("192.0.2.1",), tuple(Uplink(name, 1500, NETWORK) for name in UPLINKS))


def _row(row: Row) -> Row:
    match row:
        case Record() | MacRecord() | Member():
            return replace(row, rule=Rule.VLAN)
        case _:
            return row


BRIDGED = replace(SUBNET, accepts=(Rule.NVGRE, Rule.VLAN), vlan=VLAN, network=NETWORK, bridged=True)
OTHER = replace(BRIDGED, vsid=OTHER_VSID, vlan=OTHER_VLAN)
ROWS: tuple[Row, ...] = (HOST, BRIDGED, OTHER, *map(_row, POLICY[1:]))


@dataclass(frozen=True)
class Site:
    """A host with two uplinks, whose other ends (wire0, wire1) are in its namespace, as those of its ports are."""

    here: Netns
    pins: Path
    source: Path

    @contextmanager
    def plane(self, times: Times | None = None, *, told: bool = True) -> Iterator[EbpfDataPlane]:
        made = EbpfDataPlane(self.pins, SMALL, source=self.source, times=times or Times())
        try:
            if told:
                assert made.update(ROWS) == []
                assert made.prune({row.key for row in ROWS}) == []
                assert made.bind(BINDINGS) == []
            yield made
        finally:
            made.close()


@pytest.fixture
def site(weft_object: Path, pins: Path) -> Iterator[Site]:
    with netns("bridge-") as here:
        for number in (0, 1):
            here.veth(f"up{number}", f"wire{number}")
            here.veth(f"port{number}", f"peer{number}")
        with here.enter():
            yield Site(here, pins, weft_object)


@contextmanager
def wires() -> Iterator[Wires]:
    made = Wires({name: name for name in ("wire0", "wire1", "peer0", "peer1")})
    try:
        yield made
    finally:
        made.close()


def arrives(made: Wires, at: str, mark: bytes) -> int:
    """The VLAN in which a frame with the mark comes in there."""
    found: list[int] = []

    def come() -> bool:
        found.extend(vlan for name, vlan, frame in made.frames() if name == at and mark in frame)
        return bool(found)

    eventually(come, f"{mark!r} at {at}")
    return found[0]


def from_machine(mark: bytes = b"hello", vlan: int = VLAN, mac: str = MACHINE, to: str = MAC_A) -> bytes:
    head = Ether(src=mac, dst=to) / Dot1Q(vlan=vlan) / IP(src=MACHINE_CA, dst="10.0.0.2")
    return bytes(head / UDP(sport=1, dport=2) / mark)


def to_machine(mark: bytes = b"answer") -> bytes:
    return bytes(Ether(src=MAC_A, dst=MACHINE) / IP(src="10.0.0.2", dst=MACHINE_CA) / UDP(sport=2, dport=1) / mark)


def heard(plane: EbpfDataPlane) -> dict[tuple[int, str], str]:
    return {(each.vsid, each.mac): each.interface for each in plane.heard().learned}


def of_red(port: str) -> str:
    return port.replace("tenants/t/", "tenants/red/")


def repaired(plane: EbpfDataPlane) -> int:
    """Where the VLAN is, once interfaces have been looked at again; the kernel takes its time to say who has a link."""
    plane.repair()
    value = plane._loaded.maps["segments"].lookup(layout.NUMBER.pack(SUBNET.vsid))
    assert value is not None
    return int(layout.SEGMENT.unpack(value)[0])


def is_promiscuous(here: Netns, interface: str) -> bool:
    return "PROMISC" in here.ip(f"-o link show {interface}")


def test_a_tag_comes_off_on_the_way_in_and_goes_on_on_the_way_out(site: Site) -> None:
    with site.plane() as plane, wires() as wire:
        send("wire0", from_machine())
        assert arrives(wire, "peer0", b"hello") == 0
        assert heard(plane) == {(SUBNET.vsid, MACHINE): "up0"}
        send("peer0", to_machine())
        assert arrives(wire, "wire0", b"answer") == VLAN


def test_who_is_silent_for_the_age_is_forgotten_and_takes_no_room(site: Site) -> None:
    with site.plane(Times(learned_ns=200_000_000)) as plane, wires() as wire:
        send("wire0", from_machine())
        arrives(wire, "peer0", b"hello")
        eventually(lambda: not heard(plane), "it is forgotten")
        send("peer0", to_machine())
        assert arrives(wire, "wire0", b"answer") == VLAN, "what is for it goes everywhere, and out"
        assert plane.usage()["learned"][0] == 1
        plane.repair()
        assert plane.usage()["learned"][0] == 0
        assert list(plane._loaded.maps["learned"].items()) == []


def test_one_subnet_takes_no_others_room(site: Site) -> None:
    with site.plane() as plane, wires() as wire:
        template = from_machine(to="02:00:00:00:77:77")
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as machines:
            machines.bind(("wire0", 0))
            for number in range(4200):
                machines.send(template[:6] + b"\x02\x98" + number.to_bytes(4, "big") + template[12:])
        send("wire0", from_machine(b"the last"))
        arrives(wire, "peer0", b"the last")
        found = plane.heard()
        assert len(found.learned) == 4096
        assert found.refused == 4201 - 4096
        assert plane.usage()["learned"][0] == 4096
        send("wire0", from_machine(vlan=OTHER_VLAN))
        eventually(lambda: (OTHER_VSID, MACHINE) in heard(plane), "another subnet's machine is learned all the same")


def test_a_tenant_that_floods_leaves_room_for_what_others_are_to_learn(site: Site) -> None:
    """Whose machines are learned, of two tenants with several VLANs each, is to the machine what the reference says."""
    blue = [replace(BRIDGED, vsid=SUBNET.vsid + 10 * n, vlan=VLAN + n) for n in range(3)]
    red = [replace(OTHER, rdid=RED_RDID, vsid=OTHER_VSID + 10 * n, vlan=OTHER_VLAN + n) for n in range(2)]
    rows = [HOST, *blue, *red, replace(PORT_A, pairs=()), replace(PORT_B, port=RED_PORT, vsid=OTHER_VSID)]
    owners = {row.vsid: "tenants/blue" if row in blue else "tenants/red" for row in (*blue, *red)}
    sizes = replace(SMALL, learned=96)
    plane = EbpfDataPlane(site.pins, sizes, source=site.source)
    counts, tenants = (plane._loaded.maps[name] for name in ("learning", "tenants"))
    try:
        assert plane.update(rows) == []
        assert plane.prune({row.key for row in rows}) == []
        assert plane.bind({A: "port0", RED_PORT: "port1"}) == []
        for _ in range(2):
            before, expected = plane.heard().refused, ReferenceLearned(shared=96)
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as machines:
                machines.bind(("wire0", 0))
                flood = [(row, number) for row in blue for number in range(100)]
                flood += [(row, number) for number in range(20) for row in red]
                for row, number in flood:
                    mac = b"\x02\x98" + number.to_bytes(4, "big")
                    template = from_machine(vlan=row.vlan, to="02:00:00:00:77:77")
                    machines.send(template[:6] + mac + template[12:])
                    expected.learn(row.vsid, mac, "up0", 0, owners[row.vsid])
            due = before + expected.refused
            eventually(lambda due=due: plane.heard().refused >= due, "all came in")
            assert plane.heard().refused == due
            known = {(vsid, mac.hex(":")) for vsid, mac, _, _ in expected.entries(0)}
            assert heard(plane).keys() == known
            of = Counter(vsid for vsid, _ in known)
            assert [of[row.vsid] for row in blue] == [80, 8, 8], "alone it has three quarters, and each VLAN its own"
            assert sum(of[row.vsid] for row in red) == 2 * 8 + 18, "another has three quarters of what is left"
            assert all(of[row.vsid] > 8 for row in red)
            assert plane.usage()["learned"] == (len(known), 96)
            # Who is forgotten leaves his room to others: of all of them nothing is counted any more.
            assert plane.update([replace(row, vlan=0) for row in (*blue, *red)]) == []
            assert heard(plane) == {}
            assert layout.COUNT.unpack(counts.lookup(layout.NUMBER.pack(0)) or b"") == (0,)
            assert [layout.TENANT.unpack(value)[1] for _, value in tenants.items()] == [0, 0]
            assert plane.update(rows) == []
    finally:
        plane.close()


def test_a_vlan_that_is_anothers_by_now_begins_with_nobody_and_counts_as_his(site: Site) -> None:
    with site.plane() as plane, wires() as wire:
        template = from_machine(to="02:00:00:00:77:77")
        for number in range(20):
            send("wire0", template[:6] + b"\x02\x98" + number.to_bytes(4, "big") + template[12:])
        eventually(lambda: len(heard(plane)) == 20, "all are learned")
        ports = [replace(row, port=of_red(row.port)) for row in ROWS if isinstance(row, Port)]
        assert plane.delete([row.key for row in ROWS if isinstance(row, Port)]) == []
        assert plane.update(ports) == []
        assert plane.bind({of_red(port): name for port, name in BINDINGS.items()}) == []
        assert heard(plane) == {}
        for number in range(10):
            send("wire0", template[:6] + b"\x02\x98" + number.to_bytes(4, "big") + template[12:])
        eventually(lambda: len(heard(plane)) == 10, "all are learned")
        send("wire0", from_machine())
        arrives(wire, "peer0", b"hello")
        tenants = plane._loaded.maps["tenants"]
        of = [tenants.lookup(layout.NUMBER.pack(layout.tenant_number(port))) for port in (A, of_red(A))]
        assert [layout.TENANT.unpack(each or b"")[1] for each in of] == [0, 11 - 8]


def test_the_vlan_is_at_the_uplink_that_has_a_link(site: Site) -> None:
    with site.plane() as plane, wires() as wire:
        send("wire1", from_machine(b"not here"))
        send("wire0", from_machine())
        arrives(wire, "peer0", b"hello")
        assert heard(plane) == {(SUBNET.vsid, MACHINE): "up0"}, (
            "of two uplinks one is it: else what is for all goes round"
        )
        site.here.ip("link set wire0 down")
        eventually(lambda: repaired(plane) == site.here.ifindex("up1"), "the other uplink is it")
        send("wire1", from_machine(b"here now"))
        assert arrives(wire, "peer0", b"here now") == 0
        assert heard(plane) == {(SUBNET.vsid, MACHINE): "up1"}
        send("peer0", to_machine())
        assert arrives(wire, "wire1", b"answer") == VLAN
        site.here.ip("link set wire0 up")
        eventually(lambda: repaired(plane) == site.here.ifindex("up0"), "the first one is it again")
        send("peer0", to_machine(b"back"))
        assert arrives(wire, "wire0", b"back") == VLAN


def test_an_uplink_is_promiscuous_as_long_as_it_must_be(site: Site) -> None:
    site.here.ip("link set up1 promisc on")
    with site.plane() as plane:
        assert is_promiscuous(site.here, "up0")
        site.here.ip("link set up0 promisc off")
        plane.repair()
        assert is_promiscuous(site.here, "up0"), "what is changed by hand is mended"
        plane.delete([BRIDGED.key, OTHER.key])
        plane.repair()
        assert not is_promiscuous(site.here, "up0")
        assert is_promiscuous(site.here, "up1"), "it was so before"


def test_a_host_that_goes_is_as_it_was(site: Site) -> None:
    with site.plane() as plane:
        plane.remove()
    assert not is_promiscuous(site.here, "up0")
    assert not site.pins.exists()


def test_what_was_heard_outlives_the_agent_and_traffic_goes_on_without_one(site: Site) -> None:
    with site.plane(), wires() as wire:
        send("wire0", from_machine())
        arrives(wire, "peer0", b"hello")
    with wires() as wire:
        send("wire0", from_machine(b"nobody is there"))
        arrives(wire, "peer0", b"nobody is there")
    with site.plane(told=False) as plane, wires() as wire:
        assert [(each.vsid, each.mac) for each in plane.heard().learned] == [(SUBNET.vsid, MACHINE)]
        plane.repair()
        send("wire0", from_machine(b"nothing is told"))
        arrives(wire, "peer0", b"nothing is told")
        send("peer0", to_machine())
        assert arrives(wire, "wire0", b"answer") == VLAN


def test_entries_that_somebody_takes_out_are_mended(site: Site) -> None:
    with site.plane() as plane, wires() as wire:
        for name in ("segments", "segment_vsids"):
            for key, _ in list(plane._loaded.maps[name].items()):
                plane._loaded.maps[name].delete(key)
        assert plane.repair() == 4
        send("wire0", from_machine())
        arrives(wire, "peer0", b"hello")


def test_a_port_that_comes_from_another_host_is_announced_to_the_switch(site: Site) -> None:
    away = MacRecord(SUBNET.vsid, MAC_B, "192.0.2.2", Rule.VLAN)
    with site.plane() as plane, wires() as wire:
        plane.update([away])
        plane.update([replace(away, also="192.0.2.1")])
        wire.frames()
        plane.update([replace(away, pa="192.0.2.1")])
        said: list[tuple[int, bytes]] = []

        def come() -> bool:
            said.extend((vlan, frame) for name, vlan, frame in wire.frames() if name == "wire0")
            return bool(said)

        eventually(come, "an announcement")
        [(vlan, frame)] = said
        found = Ether(frame)
        assert (vlan, found.src, found[ARP].psrc, found[ARP].pdst) == (VLAN, MAC_B, "10.0.0.3", "10.0.0.3")
