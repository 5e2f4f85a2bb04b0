"""Subnets that are VLANs of an uplink: which is where, and who was heard there. Decides nothing about a packet.

An uplink of such a subnet must take in what is for guests' MACs, so it is promiscuous: a mark beside the pins says that
we made it so, since the flag itself does not say who did.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from weft.contracts.dataplane import Heard, Learned
from weft.dataplane.ebpf import bpffs, layout, libbpf
from weft.dataplane.ebpf.interfaces import Interface
from weft.dataplane.ebpf.libbpf import NOEXIST
from weft.dataplane.ebpf.tables import Table
from weft.policy.rows import Host, Port, Rule, Subnet, tenant_of_port
from weft.reference import packet

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_PROMISC = 0x8913, 0x8914, 0x100
_IFREQ = struct.Struct("16sH22x")
_MARKS = "promiscuous"
_ASKED = struct.Struct("=14xII")  # how many keys follow, and whether only those that were not heard for too long
_MOST = 200  # UNLEARN_MOST


class Bridges:
    """One host's. unlearn: the program that forgets whom it is asked to; learned_ns: how long who was heard is
    remembered; most: so many beyond what each subnet is sure of.
    """

    def __init__(
        self,
        maps: Mapping[str, libbpf.Map],
        segments: Table,
        vsids: Table,
        unlearn: libbpf.Program,
        pins: Path,
        learned_ns: int,
        most: int,
    ) -> None:
        self._segments, self._vsids = segments, vsids
        self._learned, self._hearing = maps["learned"], maps["hearing"]
        self._unlearn = libbpf.TestRun(unlearn)
        self._pins, self._learned_ns, self._most = pins, learned_ns, most
        self._tenants: dict[bytes, int] = {}  # by VSID, as it stands in hearing
        self._idle: frozenset[bytes] = frozenset()  # VSIDs that are no VLAN any more, and in which nobody is heard
        self._present: Mapping[str, Interface] = {}
        self._pruned = False  # what is there is what was told

    @property
    def in_use(self) -> bool:
        """Whether some subnet is a VLAN here, or was to a former agent and may yet be."""
        if self._segments.told or self._pruned:
            return bool(self._segments.told)
        return next(iter(self._segments.entries()), None) is not None

    def build(
        self,
        host: Host,
        subnets: Collection[Subnet],
        ports: Iterable[Port],
        present: Mapping[str, Interface] | None,
        *,
        everything: bool,
    ) -> None:
        """What host and subnets say, on the interfaces that there are. everything: all subnets are told; ports: say
        whose they are.
        """
        if present is not None:
            self._present = present
        bridged = [row for row in subnets if row.vlan and Rule.VLAN in row.accepts]
        if not bridged and not self._segments.told and (self._pruned or not everything):
            return
        if bridged:
            self._hear(bridged, _owners(bridged, subnets, ports))
        uplinks = self._uplinks(host)
        wanted: dict[bytes, bytes] = {}
        back: dict[bytes, bytes] = {}
        for row in bridged:
            if (at := uplinks.get(row.network)) is not None:
                vsid = layout.NUMBER.pack(row.vsid)
                wanted[vsid] = layout.segment(at.ifindex, row.vlan)
                back[layout.Seat(at.ifindex, row.vlan).key] = vsid
        if (self._segments.told, self._vsids.told) != (wanted, back) or (everything and not self._pruned):
            self._write(wanted, back, everything=everything)
            self._pruned = everything
        self._listen({at for name, at in uplinks.items() if any(row.network == name for row in bridged)}, everything)

    def _uplinks(self, host: Host) -> dict[str, Interface]:
        """By provider network: the first uplink that is there and has a link; else the first that is there."""
        found: dict[str, Interface] = {}
        for uplink in host.uplinks:
            interface = self._present.get(uplink.interface)
            if interface is None:
                continue
            held = found.get(uplink.network)
            if held is None or (not held.has_link and interface.has_link):
                found[uplink.network] = interface
        return found

    def _hear(self, bridged: Iterable[Subnet], owners: Mapping[str, int]) -> None:
        """Whose each is, once that is known: nobody is learned before."""
        for row in bridged:
            vsid, tenant = layout.NUMBER.pack(row.vsid), owners.get(row.rdid)
            if tenant is None or self._tenants.get(vsid) == tenant:
                continue
            former = self._hearing.lookup(vsid)
            if former is not None and layout.HEARING.unpack(former)[2] != tenant:
                # What was heard there is its former tenant's, and counts as that.
                self._forget([key for key, _ in self._learned.items() if key.startswith(vsid)], late=False)
                self._hearing.delete(vsid)
            try:
                self._hearing.update(vsid, layout.HEARING.pack(0, 0, tenant), NOEXIST)
            except FileExistsError:
                pass
            except OSError as error:
                if error.errno not in (errno.E2BIG, errno.ENOSPC):
                    raise
                continue  # there is no room until one that has gone is forgotten
            self._tenants[vsid] = tenant

    def _write(self, wanted: Mapping[bytes, bytes], back: Mapping[bytes, bytes], *, everything: bool) -> None:
        self._segments.put(wanted)
        self._vsids.put(back)
        for table, entries in ((self._vsids, back), (self._segments, wanted)):
            there = (key for key, _ in table.entries()) if everything else iter(tuple(table.told))
            gone = [key for key in there if key not in entries]
            table.drop(gone)
            if table is self._segments and gone:
                self.sweep()

    def announce(self, vsid: int, mac: str, addresses: Sequence[str]) -> None:
        """Switches hear from here on whose MAC it is: a port has come, and its guest may be silent."""
        place = self._segments.told.get(layout.NUMBER.pack(vsid))
        if place is None:
            return
        ifindex, vlan, _ = layout.SEGMENT.unpack(place)
        name = next((each.name for each in self._present.values() if each.ifindex == ifindex), None)
        frame = _says_so(packet.mac_bytes(mac), addresses)
        if name is None or frame is None:
            return
        # What is not heard now is learned when the guest speaks.
        with suppress(OSError), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind((name, 0))
            wire.send(layout.tagged(frame, vlan))

    def sweep(self) -> None:
        """Who was not heard for too long is forgotten, and so is who was heard in what is a VLAN no more."""
        now_ns = time.monotonic_ns()
        segments = {key for key, _ in self._segments.entries()}
        late: list[bytes] = []
        gone: list[bytes] = []
        for key, value in self._learned.items():
            if key[:4] not in segments:
                gone.append(key)
            elif now_ns - layout.LEARNED.unpack(value)[0] >= self._learned_ns:
                late.append(key)
        self._forget(late, late=True)
        self._forget(gone, late=False)

    def _forget(self, keys: Sequence[bytes], *, late: bool) -> None:
        """late: only who was not heard since, either."""
        for at in range(0, len(keys), _MOST):
            some = keys[at : at + _MOST]
            self._unlearn(_ASKED.pack(len(some), late) + b"".join(some), 1)

    def _forget_subnets(self) -> None:
        """Counts of what is a VLAN no more, once nobody is heard there, nor was at the last repair: no packet that has
        found its count is under way any more.
        """
        segments = {key for key, _ in self._segments.entries()}
        gone = ((key, value) for key, value in self._hearing.items() if key not in segments)
        idle = {key for key, value in gone if not layout.HEARING.unpack(value)[0]}
        for vsid in idle & self._idle:
            self._hearing.delete(vsid)
            self._tenants.pop(vsid, None)
        self._idle = frozenset(idle - self._idle)

    def repair(self, *, prune: bool) -> int:
        if self.in_use or next(iter(self._hearing.items()), None) is not None:
            self.sweep()
            self._forget_subnets()
        return self._segments.repair(prune=prune) + self._vsids.repair(prune=prune)

    def heard(self) -> Heard:
        """Who is behind the uplinks, as far as it was heard."""
        names = {each.ifindex: each.name for each in self._present.values()}
        now_ns = time.monotonic_ns()
        found = []
        for key, value in list(self._learned.items()):
            vsid, mac, ifindex, seen_ns = layout.read_learned(key, value)
            if now_ns - seen_ns < self._learned_ns:
                found.append(Learned(vsid, mac, names.get(ifindex, str(ifindex)), (now_ns - seen_ns) / 1e9))
        refused = sum(layout.HEARING.unpack(value)[1] for _, value in self._hearing.items())
        return Heard(tuple(sorted(found, key=lambda each: (each.vsid, each.mac))), refused)

    def usage(self) -> tuple[int, int]:
        """How many were heard, and how many there is room for beyond what each subnet is sure of."""
        learned = sum(layout.HEARING.unpack(value)[0] for _, value in self._hearing.items()) if self.in_use else 0
        return learned, self._most

    def remove(self) -> None:
        for table in (self._vsids, self._segments):
            table.drop([key for key, _ in table.entries()])
        self.sweep()
        quieten(self._pins)

    def _listen(self, wanted: set[Interface], everything: bool) -> None:
        marks = self._pins / _MARKS
        for interface in wanted:
            mark = marks / str(interface.ifindex)
            if _is_promiscuous(interface.name):
                continue  # ours, or somebody else's, who then keeps it
            mark.mkdir(parents=True, exist_ok=True)
            _set_promiscuous(interface.name, on=True)
        if everything:
            quieten(self._pins, {interface.ifindex for interface in wanted})


def _owners(bridged: Iterable[Subnet], subnets: Iterable[Subnet], ports: Iterable[Port]) -> dict[str, int]:
    """Whose each routing domain with a VLAN is, as its ports here say, in whichever of its subnets, by number."""
    wanted = {row.rdid for row in bridged}
    domains = {row.vsid: row.rdid for row in subnets if row.rdid in wanted}
    names: dict[str, str] = {}
    for port in ports:
        if (domain := domains.get(port.vsid)) is not None:
            tenant = tenant_of_port(port.port)
            names[domain] = min(names.get(domain, tenant), tenant)
    return {domain: layout.tenant_number(name) for domain, name in names.items()}


def _says_so(mac: bytes, addresses: Sequence[str]) -> bytes | None:
    """RFC 5227 section 2.3, or RFC 4861 section 7.2.6."""
    packed = sorted(map(packet.address_bytes, addresses), key=len)
    if not packed:
        return None
    if len(packed[0]) == 4:
        return packet.arp_request(mac, packed[0], packed[0])
    return packet.neighbour_advertisement(packet.ALL_NODES_MAC, packet.UNSPECIFIED6, packed[0], mac, router=False)


def quieten(pins: Path, but: Iterable[int] = ()) -> None:
    """Interfaces that we made promiscuous are so no more, but for these (ifindexes)."""
    keep = {str(ifindex) for ifindex in but}
    for mark in bpffs.entries(pins / _MARKS):
        if mark.name not in keep:
            with suppress(OSError):  # it is gone
                _set_promiscuous(socket.if_indextoname(int(mark.name)), on=False)
            bpffs.remove(mark)


def _flags(wire: socket.socket, interface: str) -> int:
    answer = fcntl.ioctl(wire, _SIOCGIFFLAGS, _IFREQ.pack(interface.encode(), 0))
    flags: int = _IFREQ.unpack(answer)[1]
    return flags


def _is_promiscuous(interface: str) -> bool:
    """As somebody has asked for: what only listens for a while (tcpdump) does not count."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire, suppress(OSError):
        return bool(_flags(wire, interface) & _IFF_PROMISC)
    return False


def _set_promiscuous(interface: str, *, on: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        flags = _flags(wire, interface) & ~_IFF_PROMISC | (_IFF_PROMISC if on else 0)
        fcntl.ioctl(wire, _SIOCSIFFLAGS, _IFREQ.pack(interface.encode(), flags))
