"""What the programs remember of the kernel's routes and neighbours: each change is followed within milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from ebpf.harness import SMALL, Netns, Wires, eventually, netns, send
from ebpf.rows import HOST, MAC_A, POLICY, A
from weft.dataplane.ebpf.plane import EbpfDataPlane
from weft.policy.drop import DropReason
from weft.policy.rows import Record, Uplink

pytestmark = pytest.mark.root

FIRST, SECOND, THIRD = "02:00:00:00:ff:01", "02:00:00:00:ff:02", "02:00:00:00:ff:03"
MAC_C = "02:00:00:00:00:05"
#: Of a guest on another host, by that host's PA.
FAR = {"192.0.2.2": "10.0.0.8", "2001:db8::2": "10.0.0.9"}


def packet(pa: str, payload_bytes: int = 20) -> bytes:
    ip = IP(src="10.0.0.2", dst=FAR[pa], flags="DF")
    return bytes(Ether(src=MAC_A, dst=MAC_C) / ip / UDP(sport=1, dport=2) / bytes(payload_bytes))


@dataclass
class Site:
    plane: EbpfDataPlane
    netns: Netns
    wires: Wires
    pa: str

    @property
    def ip(self) -> Callable[[str], object]:
        family = "-6 " if ":" in self.pa else ""
        return lambda words: self.netns.ip(family + words)

    def next_hops(self) -> list[tuple[str, str]]:
        """By which uplink, and to which MAC, what has come since the last time was sent."""
        kind, of = (IPv6, "dst") if ":" in self.pa else (IP, "dst")
        frames = ((name, Ether(frame)) for name, _, frame in self.wires.frames())
        return [(name, frame.dst) for name, frame in frames if kind in frame and getattr(frame[kind], of) == self.pa]

    def goes(self, uplink: str, mac: str) -> None:
        """What is sent goes there, sooner or later; and then all does."""

        def does() -> bool:
            send("peer0", packet(self.pa))
            return (uplink, mac) in self.next_hops()

        eventually(does, f"packets to {mac} by {uplink}")
        send("peer0", packet(self.pa), 50)
        found: list[tuple[str, str]] = []
        eventually(lambda: len(found.extend(self.next_hops()) or found) >= 50, "all that was sent")
        assert set(found) == {(uplink, mac)}


@pytest.fixture(params=FAR)
def site(request: pytest.FixtureRequest, pins: Path, weft_object: Path) -> Iterator[Site]:
    pa: str = request.param
    with netns("hops-") as there:
        there.veth("port0", "peer0")
        for uplink in ("up0", "up1"):
            there.veth(uplink, f"wire{uplink[-1]}")
            with there.enter():
                Path(f"/proc/sys/net/ipv6/conf/{uplink}/disable_ipv6").write_text("0")
        there.ip("addr add 192.0.2.1/24 dev up0")
        there.ip("addr add 2001:db8::1/64 dev up0 nodad")
        there.ip(f"neigh replace {pa} lladdr {FIRST} dev up0 nud permanent")
        with there.enter():
            wires = Wires({"wire0": "up0", "wire1": "up1", "peer0": "port0"})
            made = EbpfDataPlane(pins, SMALL, source=weft_object)
            try:
                host = replace(HOST, uplinks=(Uplink("up0", 1500), Uplink("up1", 1500)))
                rows = [host, *POLICY]
                rows[2:2] = [Record(5000, ca, of, MAC_C) for of, ca in FAR.items()]
                assert made.update(rows) == []
                assert made.bind({A: "port0"}) == []
                yield Site(made, there, wires, pa)
            finally:
                wires.close()
                made.remove()


def test_a_neighbour_that_has_another_mac_is_followed(site: Site) -> None:
    site.goes("up0", FIRST)
    site.ip(f"neigh replace {site.pa} lladdr {SECOND} dev up0 nud permanent")
    site.goes("up0", SECOND)


def test_a_route_that_leads_elsewhere_is_followed(site: Site) -> None:
    site.goes("up0", FIRST)
    site.ip(f"neigh replace {site.pa} lladdr {THIRD} dev up1 nud permanent")
    site.ip(f"route replace {site.pa} dev up1")
    site.goes("up1", THIRD)
    site.ip(f"route del {site.pa} dev up1")
    site.goes("up0", FIRST)


def test_what_has_no_route_any_more_is_dropped_by_name(site: Site) -> None:
    site.goes("up0", FIRST)
    site.ip(f"route add unreachable {site.pa}")

    def drops() -> int:
        return site.plane.counters()[A].drops.get(DropReason.NO_UNDERLAY, 0)

    def dropped() -> bool:
        send("peer0", packet(site.pa))
        return drops() > 0

    eventually(dropped, "a drop")
    before = drops()
    site.next_hops()
    send("peer0", packet(site.pa), 20)
    eventually(lambda: drops() == before + 20, "all the others")
    assert site.next_hops() == []


def test_what_is_larger_than_what_was_remembered_is_asked_of_anew(site: Site) -> None:
    site.ip(f"route add {site.pa} dev up0 mtu lock 1300")
    site.goes("up0", FIRST)
    site.wires.frames()
    send("peer0", packet(site.pa))
    send("peer0", packet(site.pa, 1300))
    told: list[int] = []

    def answered() -> bool:
        for name, _, data in site.wires.frames():
            frame = Ether(data)
            if name == "port0" and ICMP in frame and frame[ICMP].code == 4:
                told.append(frame[ICMP].nexthopmtu)
        return bool(told)

    eventually(answered, "Fragmentation Needed")
    assert told == [1300 - (62 if ":" in site.pa else 42)]
