"""Two hosts whose wire carries a VLAN, with no device for it: ARP, neighbour discovery, probes and guests cross."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from ebpf.harness import SMALL, Netns, eventually, netns, pin_directory, run
from polling import PATIENCE_S
from weft.dataplane.ebpf import attach
from weft.dataplane.ebpf.clsact import Clsact
from weft.dataplane.ebpf.plane import EbpfDataPlane
from weft.policy.rows import Host, MacRecord, Port, Record, Rewrite, Route, Row, Rule, Subnet, Uplink

pytestmark = pytest.mark.root

VLAN = 100
VSID, RDID = 5000, "0b1e0000-0000-4000-8000-000000000001"
PAS = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}
CAS = ("10.0.0.4", "10.0.0.5")
GUESTS_PAS = ("192.0.2.104", "192.0.2.105")  # where their subnet travels by IP rewrite
MACS = ("02:00:00:00:00:04", "02:00:00:00:00:05")
WAYS: dict[str, Callable[[], attach.Attacher]] = {"tcx": attach.Tcx, "clsact": lambda: Clsact("test")}

_PACKET_AUXDATA = 8
_AUXDATA = struct.Struct("=IIIHHHH")  # status, length, captured, network header, …, VLAN's TCI, its protocol
_VLAN_VALID = 1 << 4


@dataclass(frozen=True)
class Site:
    """hosts: with uplink up0, the other's at its end; guests: by CA."""

    hosts: tuple[Netns, Netns]
    guests: tuple[Netns, Netns]
    planes: tuple[EbpfDataPlane, EbpfDataPlane]
    version: int

    def tell(self, number: int, vlan: int, rule: Rule = Rule.NVGRE) -> None:
        assert self.planes[number].update(rows(self.version, number, vlan, rule)) == []


def rows(version: int, number: int, vlan: int, rule: Rule) -> list[Row]:
    pas = PAS[version]
    found: list[Row] = [
        Host(f"hosts/h{number}", (pas[number],), (Uplink("up0", 1500, vlan=vlan),)),
        Subnet(VSID, RDID, ("10.0.0.0/24",), ("10.0.0.1",), "02:57:45:46:54:01", 0, (rule,)),
    ]
    for ca, mac, pa in zip(CAS, MACS, pas, strict=True):
        found += [Record(VSID, ca, pa, mac, rule), MacRecord(VSID, mac, pa)]
    own: tuple[str, ...] = ()
    if rule is Rule.REWRITE:
        found += [Rewrite(pa, VSID, ca) for ca, pa in zip(CAS, GUESTS_PAS, strict=True)]
        own = (GUESTS_PAS[number],)
    return [*found, Route(RDID, "10.0.0.0/24", VSID), Port(f"p{number}", VSID, MACS[number], (CAS[number],), pas=own)]


@pytest.fixture(params=[(4, "tcx"), (6, "clsact")], ids=["IPv4, TCX", "IPv6, clsact"])
def site(request: pytest.FixtureRequest, weft_object: Path) -> Iterator[Site]:
    version, way = request.param
    with ExitStack() as stack:
        hosts = (stack.enter_context(netns()), stack.enter_context(netns()))
        guests = (stack.enter_context(netns()), stack.enter_context(netns()))
        hosts[0].veth("up0", "up1", into=hosts[1])
        hosts[1].ip("link set up1 down")
        hosts[1].ip("link set up1 name up0")
        hosts[1].ip("link set up0 up")
        planes = []
        for number, (host, guest) in enumerate(zip(hosts, guests, strict=True)):
            if version == 6:
                with host.enter():
                    Path("/proc/sys/net/ipv6/conf/up0/disable_ipv6").write_text("0")
            host.ip(f"addr add {PAS[version][number]}/{24 if version == 4 else '64 nodad'} dev up0")
            host.veth("port0", "eth0", into=guest)
            guest.ip(f"link set eth0 address {MACS[number]} mtu 1400")
            guest.ip(f"addr add {CAS[number]}/24 dev eth0")
            with host.enter():
                pins = stack.enter_context(pin_directory())
                plane = EbpfDataPlane(pins, SMALL, source=weft_object, attacher=WAYS[way]())
            stack.callback(_remove, host, plane)
            planes.append(plane)
        made = Site(hosts, guests, (planes[0], planes[1]), version)
        for number in (0, 1):
            with hosts[number].enter():
                assert planes[number].bind({f"p{number}": "port0"}) == []
        yield made


def _remove(host: Netns, plane: EbpfDataPlane) -> None:
    with host.enter():
        plane.remove()


def tell_both(site: Site, *vlans: int, rule: Rule = Rule.NVGRE) -> None:
    for number, vlan in enumerate(vlans):
        with site.hosts[number].enter():
            site.tell(number, vlan, rule)


def ping(source: Netns, target: str) -> bool:
    done = run("sh", "-c", f"ip netns exec {source.name} ping -c 1 -W 0.3 {target} || true")
    return " 1 received" in done


def listen(host: Netns) -> socket.socket:
    """What comes in by the host's uplink, with the tag beside it."""
    with host.enter():
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    wire.setsockopt(263, _PACKET_AUXDATA, 1)  # SOL_PACKET
    with host.enter():
        wire.bind(("up0", 3))
    wire.setblocking(False)
    return wire


def tags(wire: socket.socket) -> set[int | None]:
    """Of all that has come in."""
    found: set[int | None] = set()
    while True:
        try:
            _, control, _, sender = wire.recvmsg(2048, 256)
        except BlockingIOError:
            return found
        if sender[2] == socket.PACKET_OUTGOING:
            continue
        status, _, _, _, _, tci, _ = _AUXDATA.unpack_from(control[0][2])
        found.add(tci & 0xFFF if status & _VLAN_VALID else None)


def test_hosts_and_guests_reach_each_other_and_all_that_is_on_the_wire_is_in_the_vlan(site: Site) -> None:
    tell_both(site, VLAN, VLAN)
    with listen(site.hosts[1]) as wire:
        eventually(lambda: ping(site.guests[0], CAS[1]), "a guest's ping crosses, once neighbours are found")
        assert ping(site.hosts[0], PAS[site.version][1]), "and the host's own"
        found = tags(wire)
    # Multicast listener reports of the kernel's are no provider address's.
    assert found - {None} == {VLAN}
    assert None not in found or site.version == 6


@pytest.mark.parametrize("rule", [Rule.NVGRE, Rule.GRE, Rule.VXLAN, Rule.GENEVE, Rule.STT])
def test_large_segments_cross_whole_in_the_vlan(site: Site, rule: Rule) -> None:
    """The kernel keeps the tag beside a packet that is yet to be segmented."""
    tell_both(site, VLAN, VLAN, rule=rule)
    eventually(lambda: ping(site.guests[0], CAS[1]), "a guest's ping crosses, once neighbours are found")
    with site.guests[1].enter():
        listener = socket.create_server((CAS[1], 0))
    with site.guests[0].enter():
        client = socket.socket()
    sent = bytes(range(256)) * 8000
    with listener, client, listen(site.hosts[1]) as wire:
        for each in (listener, client):
            each.settimeout(PATIENCE_S)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with server:
            server.settimeout(PATIENCE_S)
            writer = threading.Thread(target=lambda: (client.sendall(sent), client.shutdown(socket.SHUT_WR)))
            writer.start()
            got = bytearray()
            while piece := server.recv(1 << 16):
                got += piece
            writer.join()
        assert VLAN in tags(wire)
    assert bytes(got) == sent


@pytest.mark.parametrize("site", [(4, "tcx"), (4, "clsact")], indirect=True, ids=["TCX", "clsact"])
def test_what_is_rewritten_is_in_the_vlan_and_neighbours_find_the_guests_addresses_there(site: Site) -> None:
    tell_both(site, VLAN, VLAN, rule=Rule.REWRITE)
    with listen(site.hosts[1]) as wire:
        eventually(lambda: ping(site.guests[0], CAS[1]), "a guest's ping crosses, once neighbours are found")
        assert tags(wire) == {VLAN}
    tell_both(site, VLAN, VLAN + 1, rule=Rule.REWRITE)
    assert not ping(site.guests[0], CAS[1])


def test_hosts_of_two_vlans_do_not_hear_each_other_until_they_are_in_one(site: Site) -> None:
    tell_both(site, VLAN, VLAN + 1)
    assert not ping(site.guests[0], CAS[1])
    assert not ping(site.hosts[0], PAS[site.version][1])
    tell_both(site, VLAN, VLAN)
    eventually(lambda: ping(site.guests[0], CAS[1]), "a guest's ping crosses")


def test_an_uplink_whose_vlan_goes_is_untagged_again(site: Site) -> None:
    tell_both(site, VLAN, VLAN)
    eventually(lambda: ping(site.guests[0], CAS[1]), "a guest's ping crosses")
    tell_both(site, 0, 0)
    with listen(site.hosts[1]) as wire:
        eventually(lambda: ping(site.guests[0], CAS[1]), "a guest's ping crosses")
        assert tags(wire) == {None}
    for number, host in enumerate(site.hosts):
        with host.enter():
            assert site.planes[number].repair() == 0


def test_a_vlan_that_is_taken_off_by_hand_is_mended(site: Site) -> None:
    tell_both(site, VLAN, VLAN)
    maps = site.planes[0]._loaded.maps
    for key, _ in list(maps["vlans"].items()):
        maps["vlans"].delete(key)
    with site.hosts[0].enter():
        assert site.planes[0].repair() == 1
    eventually(lambda: ping(site.guests[0], CAS[1]), "a guest's ping crosses")
