"""Runs frames through the eBPF programs as the packet table and the differential test want it."""

from __future__ import annotations

import errno
import ipaddress
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from ebpf.harness import Harness, Netns, Wires, eventually, netns, pin_directory, run, send
from weft.contracts.dataplane import Announcement, Handed, Routing, Traffic, Wanted, Way
from weft.dataplane.ebpf.interfaces import interfaces
from weft.dataplane.ebpf.maps import Sizes, Times
from weft.dataplane.ebpf.plane import EbpfDataPlane
from weft.policy.drop import DropReason
from weft.policy.rows import Member, Peer, Port, Row, Subnet
from weft.policy.upcall import UpcallKind
from weft.reference.trunk import tagged
from weft.reference.verdict import (
    Announced,
    Announcing,
    Answer,
    Copies,
    Delivery,
    Drop,
    ToAgent,
    ToPort,
    ToStack,
    ToUnderlay,
    ToWire,
    Verdict,
)

ETHERNET_BYTES = 14
TC_ACT_REDIRECT = 7
ON_LINK = (ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("2001:db8:f::/64"))
#: Every upcall comes up, and who was heard has just been heard, however slow the machine is.
TIMES = Times(upcall_interval_ns=0, learned_ns=3600 * 10**9, loop_ns=3600 * 10**9)
SIZES = Sizes(subnets=64, records=512, macs=512, routes=128, ports=64, sources=512, connections=1 << 17)


class Told(Protocol):
    """Rows, bindings, and the PAs that the kernel is to have no route to."""

    @property
    def rows(self) -> Collection[Row]: ...
    @property
    def bindings(self) -> Mapping[str, str]: ...
    @property
    def unreachable(self) -> Collection[str]: ...
    @property
    def listeners(self) -> Mapping[str, Collection[str]]: ...
    @property
    def ways(self) -> Mapping[str, Sequence[Way]]: ...
    @property
    def wanted(self) -> Mapping[tuple[int, str], Wanted]: ...


class EbpfDriver:
    """The eBPF data plane of one host; frames go in by BPF_PROG_TEST_RUN.

    The kernel refuses to test-run what is too short for its own parser: such a frame goes in over the wire, and the
    counters say what became of it.
    """

    def __init__(self, plane: EbpfDataPlane, there: Netns, uplink: str) -> None:
        """Call it in the namespace."""
        self.plane = plane
        self._harness = Harness(plane, there)
        self._uplink = uplink
        self._ifindexes = {name: found.ifindex for name, found in interfaces().items()}
        self._names: dict[tuple[int, int], str] = {}  # (ifindex, VLAN) -> port
        self._unreachable: set[str] = set()
        self._met: set[str] = set()
        self._heeded: set[tuple[int, str]] = set()
        self._segments: set[int] = set()  # VLANs that subnets are
        self._wires = Wires({f"{name}p": name for name in self._ifindexes if f"{name}p" in self._ifindexes})

    def load(self, told: Told) -> None:
        self.forget()
        assert self.plane.update(told.rows) == []
        assert self.plane.prune({row.key for row in told.rows}) == []
        failed = self.plane.bind(told.bindings)
        assert failed == [], failed
        assert self.plane.listen(told.listeners) == []
        assert self.plane.heed({**dict.fromkeys(self._heeded), **told.wanted}) == []
        self._heeded = set(told.wanted)
        peers = {row.pa: () for row in told.rows if isinstance(row, Peer)}
        assert self.plane.paths({**peers, **told.ways}) == []
        # From zero, as a new reference data plane counts.
        for key, value in self._harness.maps["counters"].items():
            self._harness.maps["counters"].update(key, bytes(len(value)))
        self._meet({row.pa for row in told.rows if isinstance(row, Member)})
        self._meet({way.destination for ways in told.ways.values() for way in ways})
        self._segments = {row.vlan for row in told.rows if isinstance(row, Subnet) and row.vlan}
        self._names = {(self._ifindexes[name], 0): port for port, name in told.bindings.items()}
        for row in told.rows:
            if isinstance(row, Port) and row.parent in told.bindings:
                self._names[self._ifindexes[told.bindings[row.parent]], row.vlan] = row.port
        for pa in {pa for pa in told.unreachable if ":" not in pa} - self._unreachable:
            self._harness.netns.ip(f"route add unreachable {pa}")
            self._unreachable.add(pa)

    def _meet(self, pas: set[str]) -> None:
        """Copies are really sent: whom the kernel would ask for, it knows."""
        for pa in pas - self._met:
            if any(ipaddress.ip_address(pa) in network for network in ON_LINK):
                self._harness.netns.ip(f"neigh replace {pa} lladdr 02:00:00:00:ff:fd dev {self._uplink} nud permanent")
        self._met |= pas

    def set_clock(self, now_ns: int) -> None:
        """That of the connection tracker; all connections and what rules have decided are forgotten."""
        self.plane._tracking.clock_ns = now_ns
        self.plane._tracking.write()
        self.plane._connections.forget(key for key, _ in list(self.plane._connections.entries()))
        self.forget_rulings()

    def forget_rulings(self) -> None:
        """What rules have decided."""
        for name in ("hits", "denials"):
            for key, _ in list(self._harness.maps[name].items()):
                self._harness.maps[name].delete(key)

    def forget(self) -> None:
        self.plane._bridges._forget([key for key, _ in self._harness.maps["learned"].items()], late=False)

    def inject(self, interface: str, frame: bytes) -> Verdict:
        self._wires.frames()
        program = "weft_from_uplink" if interface == self._uplink else "weft_from_port"
        before = self._counters_at(interface)
        try:
            out = self._harness.run(program, frame, self._ifindexes[interface])
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return self._over_the_wire(interface, frame)
        match out.verdict:
            case 1:
                return self._with_hint(interface, ToPort(self._names[out.target, out.vlan], out.data))
            case 2:
                return _to_underlay(out.data)
            case 3:
                return Answer(out.data, _new_drop(before, self._counters_at(interface)))
            case 8:
                return self._with_hint(interface, ToWire(self._interface(out.target), tagged(out.data, out.vlan)))
            case 4:
                return ToStack()
            case 5:
                return Drop(DropReason(out.target), self._announced(interface, out.vlan))
            case 6:
                match self.plane.upcalls():
                    case [Handed(port, kind, frame)] if port == self._name_at(interface, out.vlan):
                        assert kind == out.target
                        besides = list(self._copied(out.besides))
                        assert all(isinstance(copy, ToWire) for copy in besides)
                        return ToAgent(kind, frame, *besides)
                    case others:
                        raise AssertionError(f"handed up: {others}")
            case 7:
                last = [_to_underlay(out.data)] if out.retval == TC_ACT_REDIRECT else []
                return self._with_hint(interface, Copies.of([*self._copied(out.target), *last]))
            case other:
                raise AssertionError(f"verdict {other}, {out}")

    def _with_hint(self, interface: str, verdict: ToPort | ToWire | Copies) -> Verdict:
        """What the agent has heard besides."""
        match self.plane.upcalls():
            case []:
                return verdict
            case [Announcement(_, mac, address) | Routing(_, mac, address) as hint]:
                kind = UpcallKind.PIM if isinstance(hint, Routing) else UpcallKind.ANNOUNCEMENT
                said = Announced(bytes.fromhex(mac.replace(":", "")), ipaddress.ip_address(address).packed, kind)
                return Announcing(verdict, said)
            case others:
                raise AssertionError(f"handed up at {interface}: {others}")

    def _interface(self, ifindex: int) -> str:
        return next(name for name, each in self._ifindexes.items() if each == ifindex)

    def _copied(self, count: int) -> Iterator[Delivery]:
        """What the program has sent by itself: it comes out at the other ends."""
        found: list[tuple[str, int, bytes]] = []

        def come() -> bool:
            fresh = self._wires.frames()
            found.extend(each for each in fresh if each[0] != self._uplink or each[1] or not _is_chatter(each[2]))
            return len(found) >= count

        eventually(come, f"{count} copies")
        assert len(found) == count, [(name, vlan, frame.hex()) for name, vlan, frame in found]
        for name, vlan, frame in found:
            port = self._name_at(name, vlan)
            if name == self._uplink and vlan in self._segments:
                yield ToWire(name, tagged(frame, vlan))
            else:
                yield _to_underlay(frame) if port is None else ToPort(port, frame)

    def close(self) -> None:
        self._wires.close()
        self.plane.remove()

    def _name_at(self, interface: str, vlan: int) -> str | None:
        return self._names.get((self._ifindexes[interface], vlan))

    def _announced(self, interface: str, vlan: int) -> Announced | None:
        match self.plane.upcalls():
            case []:
                return None
            case [Announcement(port, mac, address)] if port == self._name_at(interface, vlan):
                return Announced(bytes.fromhex(mac.replace(":", "")), ipaddress.ip_address(address).packed)
            case others:
                raise AssertionError(f"handed up: {others}")

    def counters(self) -> Mapping[str, Traffic]:
        return self.plane.counters()

    def _counters_at(self, interface: str) -> Traffic:
        """Of the interface's port, and of the sub-ports there."""
        names = [port for (ifindex, _), port in self._names.items() if ifindex == self._ifindexes[interface]]
        if interface == self._uplink:
            names = [f"uplink:{interface}"]
        counters = self.plane.counters()
        found = [counters[name] for name in names or ["unbound"] if name in counters]
        drops: Counter[DropReason] = Counter()
        for traffic in found:
            drops.update(traffic.drops)
        return Traffic(received_packets=sum(traffic.received_packets for traffic in found), drops=drops)

    def _over_the_wire(self, interface: str, frame: bytes) -> Verdict:
        before = self._counters_at(interface)
        if interface == self._uplink:
            # Too short to be taken: the stack's, and not counted. What the program leaves alone it does not touch.
            send(f"{interface}p", frame)
            return ToStack()
        send(f"{interface}p", frame)
        eventually(
            lambda: self._counters_at(interface).received_packets > before.received_packets, f"{frame.hex()} comes in"
        )
        dropped = _new_drop(before, self._counters_at(interface))
        assert dropped is not None, f"{frame.hex()} was not dropped"
        return Drop(dropped)


def _is_chatter(frame: bytes) -> bool:
    """What the namespace's own stack says on the uplink: ARP, IGMP, MLD, neighbour discovery. No copy is such."""
    kind = frame[12:14]
    return (
        kind == b"\x08\x06"
        or (kind == b"\x08\x00" and frame[23] == 2)
        or (kind == b"\x86\xdd" and frame[20] in (0, 58))
    )


def _to_underlay(frame: bytes) -> ToUnderlay:
    outer = frame[ETHERNET_BYTES:]
    destination = outer[16:20] if outer[0] >> 4 == 4 else outer[24:40]
    return ToUnderlay(str(ipaddress.ip_address(destination)), outer)


def _new_drop(before: Traffic, after: Traffic) -> DropReason | None:
    more = [reason for reason, count in after.drops.items() if count > before.drops.get(reason, 0)]
    assert len(more) <= 1
    return more[0] if more else None


@contextmanager
def ebpf_driver(source: Path, names: Collection[str], uplink: str) -> Iterator[EbpfDriver]:
    """A driver in a namespace of its own. The calling thread is in the namespace until the end.

    Each of ``names`` is a veth whose other end has its name with a p behind. The uplink has room for every MTU of the
    policies, addresses, and default routes by way of a neighbour that is known.
    """
    with netns("drive-") as there, pin_directory() as pins:
        for name in names:
            there.veth(name, f"{name}p", mtu_bytes=9200)
        there.veth(uplink, f"{uplink}p", mtu_bytes=9200)
        there.ip(f"addr add 192.0.2.1/24 dev {uplink}")
        there.ip(f"neigh add 192.0.2.254 lladdr 02:00:00:00:ff:fe dev {uplink} nud permanent")
        there.ip("route add default via 192.0.2.254")
        # Nothing of the stack's own may come in beside the test's frames.
        run("nsenter", f"--net=/run/netns/{there.name}", "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
        run("nsenter", f"--net=/run/netns/{there.name}", "sysctl", "-qw", f"net.ipv6.conf.{uplink}.disable_ipv6=0")
        there.ip(f"addr add 2001:db8:f::1/64 dev {uplink} nodad")
        there.ip(f"neigh add 2001:db8:f::fe lladdr 02:00:00:00:ff:fe dev {uplink} nud permanent")
        there.ip("route add default via 2001:db8:f::fe")
        # One of two that a packet is copied to is known: a copy cannot wait for its neighbour.
        for pa in ("192.0.2.11", "2001:db8:f::11", "2001:db8:f::13"):
            there.ip(f"neigh add {pa} lladdr 02:00:00:00:ff:13 dev {uplink} nud permanent")
        with there.enter():
            plane = EbpfDataPlane(pins, SIZES, source=source, times=TIMES)
            made = EbpfDriver(plane, there, uplink)
            try:
                yield made
            finally:
                made.close()
