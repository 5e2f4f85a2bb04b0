"""The eBPF data plane: rows and bindings become map entries and attached programs. Sees no packet.

What is told is kept beside each map (tables.py) so that it can be mended. What a former agent left is recognised by
where it is pinned: docs/design/ebpf.md.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import ip_address, ip_network
from itertools import groupby
from pathlib import Path
from typing import Any

from weft.contracts.connections import Carried, Connection, ConnectionEvent, Logged, Mark
from weft.contracts.dataplane import (
    Failure,
    Feature,
    Heard,
    Samples,
    Traffic,
    Upcall,
    Wanted,
    Way,
)
from weft.dataplane.ebpf import attach, bpffs, build, conntrack, layout, libbpf, maps, upcalls
from weft.dataplane.ebpf.attachments import LINKS, Attachment, Attachments
from weft.dataplane.ebpf.bridges import Bridges, quieten
from weft.dataplane.ebpf.changes import Changes
from weft.dataplane.ebpf.counters import Counters
from weft.dataplane.ebpf.decisions import Decisions
from weft.dataplane.ebpf.elements import Elements
from weft.dataplane.ebpf.groups import Groups
from weft.dataplane.ebpf.guards import Guards, is_guarded
from weft.dataplane.ebpf.interfaces import Interface, interfaces
from weft.dataplane.ebpf.listeners import Heeded, Listeners
from weft.dataplane.ebpf.maps import Sizes
from weft.dataplane.ebpf.paths import Paths
from weft.dataplane.ebpf.places import Place, Places
from weft.dataplane.ebpf.qos import Buckets
from weft.dataplane.ebpf.reserves import Domains, Further, Reserve
from weft.dataplane.ebpf.tables import Table
from weft.dataplane.ebpf.takeover import Takeover, former_generations
from weft.dataplane.ebpf.upcalls import Sampled, Upcalls
from weft.dataplane.ebpf.waiting import Queues
from weft.kit.errors import Missing, Rejected, Retry
from weft.model.features import ABILITIES, DataPlaneKind
from weft.policy.connections import Expected
from weft.policy.rows import (
    AddressGroup,
    Host,
    Key,
    MacRecord,
    Member,
    Peer,
    Port,
    Record,
    Rewrite,
    Route,
    Row,
    Rule,
    SecurityGroup,
    Subnet,
    Uplink,
)


@dataclass(slots=True)
class Bound:
    """A port on its interface. entries: what it has in the maps, as far as this process knows; none while it is closed.

    inherited: a former agent's entries may be there, too. holder: whose interface it is: its own, or its parent's.
    """

    interface: Interface
    inherited: bool
    holder: str
    vlan: int = 0
    entries: layout.PortEntries | None = None

    @property
    def seat(self) -> layout.Seat:
        return layout.Seat(self.interface.ifindex, self.vlan)


@dataclass(slots=True)
class Known:
    """What this process was told that a map does not say."""

    host: Host | None = None
    subnets: dict[bytes, Subnet] = field(default_factory=dict)
    ports: dict[str, Port] = field(default_factory=dict)
    bindings: dict[str, str] | None = None  # None: not told yet, and a former agent's are left alone
    everything: bool = False  # prune() came: what was not told is not wanted
    all_ports: bool = False  # and with the bindings known: ports have no entries but those that were told


class EbpfDataPlane:
    """One host's data plane. pins: this host's own directory on a BPF file system; source: the compiled programs."""

    def __init__(
        self,
        pins: Path,
        sizes: Sizes,
        *,
        source: Path = build.OBJECT,
        attacher: attach.Attacher | None = None,
        times: maps.Times = maps.TIMES,
        tracking: conntrack.Settings | None = None,
    ) -> None:
        self._pins = pins
        try:
            way = attacher or attach.best(pins.name)
            bpffs.make(pins / LINKS)
            self._lock = bpffs.hold(pins)
            try:
                self._loaded = maps.load(source, sizes, pins, times)
            except BaseException:
                os.close(self._lock)
                raise
        except PermissionError as error:
            raise Rejected(
                "the eBPF data plane needs root, or CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and a BPF file system to write "
                f"to: {error}"
            ) from error
        of = self._loaded.maps
        former = any(former_generations(pins, self._loaded))
        self._attachments = Attachments(pins, way, self._loaded.programs, filling=former)
        self._changes = Changes(of["changes"])
        changed = self._changes.made
        self._elements = Elements(self._loaded.programs["weft_overwrite"])
        self._domains = Domains()

        def table(name: str, reserve: Reserve | None = None) -> Table:
            return Table(of[name], changed, reserve, self._elements)

        def shared(name: str, most: int) -> Table:
            """Whose keys begin with a VSID."""
            return table(name, self._domains.reserve(of[name], most, sizes.ports))

        self._subnets, self._records, self._macs = (
            shared("subnets", sizes.subnets),
            shared("records", sizes.records),
            shared("macs", sizes.macs),
        )
        self._moving = table("moving")
        self._rewrites, self._pas = table("rewrites"), table("pas")
        self._pas_asked: tuple[frozenset[str], frozenset[tuple[str, int]], bool] | None = None
        self._routes, self._ports, self._local = (
            table("routes", Reserve(of["routes"], sizes.routes, sizes.ports, layout.domain_of_route)),
            table("ports"),
            table("local"),
        )
        self._sources, self._qos, self._sampling = (
            table("sources", Reserve(of["sources"], sizes.sources, sizes.ports, layout.place_of_source)),
            table("qos"),
            table("sampling"),
        )
        self._vlans = table("vlans")
        self._came: list[MacRecord] = []
        self._bridges = Bridges(
            of,
            table("segments"),
            table("segment_vsids"),
            self._loaded.programs["weft_unlearn"],
            pins,
            times.learned_ns,
            sizes.learned,
        )
        self._groups = Groups(
            table("provider_groups"),
            table("groups"),
            table("group_uplinks"),
            pins,
        )
        self._ways = Paths(table("aliases"), table("paths"))
        self._host, self._buckets = of["host"], Buckets(of["buckets"])
        self._counters = Counters(of["counter_slots"], of["counters"])
        self._listeners = Listeners(table("listeners"))
        self._heeded = Heeded(shared("wanted", sizes.wanted))
        self._members = Places(shared("members", sizes.members), layout.member_pa)
        self._receivers = Places(table("receivers"), layout.receiver_seat)
        self._upcalls = Upcalls(of[layout.UPCALLS])
        self._sampled = Sampled(of[layout.SAMPLES], of["samples_lost"])
        self._queues = Queues()
        self._mirrors = table("mirrors")
        self._decisions = Decisions(of["hits"], of["denials"])
        self._guards = Guards(
            table("guards"),
            shared("identities", sizes.identities),
            table("classes"),
            table("rules"),
            outlast=self._outlast,
            domain_of=self._domains.of,
        )
        left = layout.left_ports(self._ports.entries(), self._local.entries())
        self._further_macs = Further(sizes.further_macs, {of.number: (of.tenant, of.further) for of in left.values()})
        self._most_subports = sizes.subports
        #: Of sub-ports that a former agent has left and that are not told of yet: nobody else has their room.
        self._left_seats = {seat for seat in left if seat.vlan}
        settings = tracking or conntrack.Settings()
        most = min(settings.most, sizes.connections)  # what is ports' own in the map nobody else gets
        self._tracking = conntrack.Tracking(of["tracking"], replace(settings, most=most))
        self._events = libbpf.Ring(of[layout.CONNECTION_EVENTS])
        self._connections = conntrack.Connections(
            of["connections"], of["expectations"], of["tracked"], self._loaded.programs["weft_conntrack"]
        )
        self._leftovers = conntrack.Leftovers(
            (of["quotas"], of["expecting"]), of["tenants"], of["datagrams"], of["lines"]
        )
        self._host_value: bytes | None = None
        self._mtus_bytes: Mapping[str, int] = {}  # of the uplinks that exist
        self._known = Known()
        self._bound: dict[str, Bound] = {}
        self._seated: dict[layout.Seat, str] = {}  # sub-ports
        self._uplinks: dict[str, Interface] = {}
        heirs = (
            self._counters.take_over,
            self._decisions.take_over,
            self._listeners.take_over,
            self._take_connections_over,
            self._take_paths_over,
        )
        self._takeover = Takeover(pins, self._loaded, self._attachments, heirs)
        self._closed = False

    @property
    def features(self) -> frozenset[Feature]:
        return ABILITIES[DataPlaneKind.EBPF].features

    # Rows.

    def update(self, rows: Iterable[Row]) -> list[Failure]:
        failures: list[Failure] = []
        for kind, some in groupby(rows, key=type):
            # Each group holds one kind of row; the checker cannot see that.
            group: Iterator[Any] = some
            if kind is Record:
                failures += self._update_records(list(group))
            elif kind is MacRecord:
                failures += self._update_macs(list(group))
            elif kind is Route:
                failures += self._routes.put_rows(group, layout.route)
                self._guards.changed |= self._guards.in_use  # whose an address is follows from routes, too
            elif kind is Rewrite:
                failures += self._update_rewrites(list(group))
            elif kind is Peer:
                failures += self._update_peers(group)
            elif kind is Member:
                failures += self._update_members(group)
            elif kind is Subnet:
                failures += self._update_subnets(list(group))
            elif kind is SecurityGroup or kind is AddressGroup:
                failures += self._guards.update(group)
            else:
                rows_here = list(group)
                if kind is Port:
                    self._begin_anew(rows_here)
                for row in rows_here:
                    failures += self._update_host(row) if kind is Host else self._update_port(row)
                failures += self._give_pas()
                if kind is Port:
                    failures += self._join_groups()
                    self._write_host()
        self._announce()
        return failures + self._guard()

    def _guard(self, *, prune: bool = False) -> list[Failure]:
        """Rules as they are now; connections are held against them from here on."""
        failures = self._guards.settle(prune=prune)
        self._records.drop(self._guards.missing & self._records.told.keys())
        self._renew()
        return failures

    def _renew(self) -> None:
        """Connections are held against the rules once more, if those have changed."""
        if self._guards.changed:
            self._guards.changed = False
            self._tracking.renew()

    def _outlast(self) -> None:
        """Until runs that were under way have ended; what rules cut does not wait for that."""
        self._renew()
        self._elements.outlast()

    def _update_records(self, rows: list[Record]) -> list[Failure]:
        """Whose they are first: at no moment is one there of whom rules do not know it."""
        failures = self._guards.identify(rows)
        missing = {layout.record_keys(key)[0] for key in self._guards.missing}
        return failures + self._records.put_rows((row for row in rows if row.key not in missing), layout.record)

    def _update_macs(self, rows: list[MacRecord]) -> list[Failure]:
        """And where those are moving to that do; a record that says so before that is known has one place only."""
        self._came += (row for row in rows if self._comes_here(row))
        failures = self._macs.put_rows(rows, layout.mac_record)
        if not self._moving.told and all(row.also is None for row in rows):
            return failures
        refused = {failure.key for failure in failures}
        for row in rows:
            if row.key not in refused:
                key, also = layout.moving(row)
                if also is None:
                    self._moving.drop([key] if key in self._moving.told else ())
                else:
                    failures += (Failure(row.key, why) for why in self._moving.put({key: also}))
        return failures

    def _comes_here(self, row: MacRecord) -> bool:
        """Whether a port of a VLAN that was elsewhere, or on its way, is to be here now and nowhere else."""
        host = self._known.host
        if row.rule is not Rule.VLAN or row.also is not None or host is None or row.pa not in host.pas:
            return False
        try:
            key, value = layout.mac_record(row)
        except Rejected:
            return False
        return self._macs.told.get(key, value) != value

    def _announce(self) -> None:
        """Those that have come, once their ports are known."""
        came, self._came = {(row.vsid, row.mac) for row in self._came}, []
        for port in self._known.ports.values() if came else ():
            for mac in (port.mac, *port.macs):
                if (port.vsid, mac) in came:
                    self._bridges.announce(port.vsid, mac, port.cas)

    def _update_rewrites(self, rows: list[Rewrite]) -> list[Failure]:
        """Both ways: whom a PA stands for, and what stands for an address."""
        failures = self._rewrites.put_rows(rows, layout.rewrite)
        refused = {failure.key for failure in failures}
        for row in rows:
            if row.key in refused:
                continue
            pa, place = layout.rewrite(row)
            if row.sent:
                failures += (Failure(row.key, why) for why in self._pas.put({place: pa}))
            elif self._pas.told.get(place) == pa:
                self._pas.drop([place])
        return failures

    def _drop_rewrites(self, gone: Iterable[bytes]) -> None:
        """PAs; what one stood for may have another by now, since puts come before deletes."""
        places = [(pa, self._rewrites.told.get(pa)) for pa in gone]
        self._rewrites.drop(pa for pa, _ in places)
        self._pas.drop(place for pa, place in places if place is not None and self._pas.told.get(place) == pa)

    def _update_subnets(self, rows: list[Subnet]) -> list[Failure]:
        for row in rows:
            with suppress(Rejected):  # it is refused, too
                self._domains.learn(layout.map_key(row.key), row.rdid.encode())
        failures = self._subnets.put_rows(rows, layout.subnet)
        failed = {failure.key for failure in failures}
        for row in rows:
            if row.key not in failed:
                self._known.subnets[layout.map_key(row.key)] = row
        failures += self._join_groups()
        self._write_host()
        return failures

    def _join_groups(self, *, mend: bool = False) -> list[Failure]:
        """The underlay's groups of the subnets that are known, on this host's uplinks."""
        known = self._known
        return self._groups.update(
            known.subnets, known.ports.values(), known.host, self._uplinks, prune=known.everything, mend=mend
        )

    def _update_peers(self, rows: Iterable[Peer]) -> list[Failure]:
        failures = self._ways.update(rows)
        self._write_host()
        return failures

    def paths(self, ways: Mapping[str, Sequence[Way]]) -> list[Failure]:
        failures = self._ways.lead(ways)
        self._write_host()
        return failures

    def _update_members(self, rows: Iterable[Member]) -> list[Failure]:
        failures: list[Failure] = []
        values: dict[Place, bytes] = {}
        keys: dict[Place, Key] = {}
        for row in rows:
            try:
                place, value = layout.member(row)
            except Rejected as error:
                failures.append(Failure(row.key, error.message, permanent=True))
                continue
            values[place], keys[place] = value, row.key
        return failures + [Failure(keys[place], why) for place, why in self._members.put(values).items()]

    def _update_host(self, row: Host) -> list[Failure]:
        present = interfaces()
        try:
            layout.host(row, {}, 0)
        except Rejected as error:
            return [Failure(row.key, error.message, permanent=True)]
        former = None if self._known.host is None else self._known.host.sampling
        self._known.host = row
        self._ways.keep(row)
        self._write_host(present)
        failures = self._attach_uplinks(present)
        self._let_go_of_uplinks()
        failures += self._join_groups()
        if former != row.sampling:
            for port in self._bound:
                failures += self._open(port)
        return failures + self._mirror()

    def _give_pas(self, *, mend: bool = False) -> list[Failure]:
        """What stands for the addresses of this host's ports, on its uplinks; of what is not told yet nothing goes."""
        wanted = {pa: row.key for row in self._known.ports.values() for pa in row.pas}
        given = self._pins / "pas"  # says to a later agent that there are, or were, some
        if not wanted and not given.exists():
            return []
        uplinks = {name: interface.ifindex for name, interface in self._uplinks.items()}
        asked = frozenset(wanted), frozenset(uplinks.items()), self._known.everything
        if self._pas_asked == asked and not mend:
            return []
        from weft.dataplane.ebpf import addresses  # with it comes pyroute2: 8 MB and 0.2 s

        given.mkdir(exist_ok=True)
        refused = addresses.make(wanted, uplinks, prune=self._known.everything)
        self._pas_asked = None if refused else asked
        if not wanted and self._known.everything:
            bpffs.remove(given)
        return [Failure(wanted[why.partition(": ")[0]], why) for why in refused]

    def _begin_anew(self, rows: Iterable[Port]) -> None:
        """Of a former port of its name, or of itself with another MAC or in another subnet, a port has no connection. A
        process that starts cannot tell, and one that comes from another host may have been here before.
        """
        numbers = set()
        for row in rows:
            former = self._known.ports.get(row.port)
            same = former is not None and (former.vsid, former.mac) == (row.vsid, row.mac)
            if self._known.everything and not same and not row.arriving:
                numbers.add(layout.port_number(row.port))
        for number in numbers:
            self._leftovers.forget(number)
        if had := {number for number in numbers if self._leftovers.counts(number)}:
            self._connections.forget_ports(had)

    def _update_port(self, row: Port) -> list[Failure]:
        try:
            layout.port(row, 0, peer=False)
        except Rejected as error:
            return [Failure(row.key, error.message, permanent=True)]
        former = self._known.ports.get(row.port)
        self._known.ports[row.port] = row
        try:
            self._take_seat(row.port)
        except Retry as error:
            return [Failure(row.key, str(error))]
        failures = self._open(row.port)
        if row.mirror is not None or (former is not None and former.mirror is not None):
            failures += self._mirror()
        return failures

    def delete(self, keys: Iterable[Key]) -> list[Failure]:
        failures: list[Failure] = []
        for table, some in groupby(keys, key=lambda key: key[0]):
            group = list(some)
            match table:
                case "hosts":
                    if self._known.host is None or self._known.host.key in group:
                        self._remove_host()
                case "peers":
                    self._ways.delete(group)
                    self._write_host(interfaces())
                case "ports":
                    for key in group:
                        self._forget_row(str(key[1]))
                    failures += self._give_pas()
                    failures += self._join_groups()
                    self._write_host()
                    failures += self._mirror()
                case "subnets" | "records" | "macs" | "routes" | "rewrites":
                    failures += self._delete(table, group)
                case "members":
                    failures += self._delete_members(group)
                case "security_groups" | "address_groups":
                    self._guards.delete(group)
                case _:
                    failures += (Failure(key, f"there is no table {table!r}", permanent=True) for key in group)
        return failures + self._guard()

    def _delete_members(self, keys: list[Key]) -> list[Failure]:
        failures: list[Failure] = []
        for key in keys:
            try:
                self._members.drop([layout.member_place(key)])
            except Rejected as error:
                failures.append(Failure(key, error.message, permanent=True))
        return failures

    def _delete(self, table: str, keys: list[Key]) -> list[Failure]:
        failures: list[Failure] = []
        gone: list[bytes] = []
        for key in keys:
            try:
                gone.append(layout.map_key(key))
            except Rejected as error:
                failures.append(Failure(key, error.message, permanent=True))
        if table == "rewrites":
            self._drop_rewrites(gone)
            return failures
        self._table(table).drop(gone)
        if table == "records":
            self._guards.forget(gone)
        if table == "macs":
            self._moving.drop(self._moving.told.keys() & gone)
        if table == "subnets":
            for packed in gone:
                self._known.subnets.pop(packed, None)
                self._domains.forget(packed)
            failures += self._join_groups()
            self._write_host()
        return failures

    def prune(self, desired: Collection[Key]) -> list[Failure]:
        wanted = desired if isinstance(desired, (AbstractSet, Mapping)) else set(desired)
        for port in [name for name in self._known.ports if ("ports", name) not in wanted]:
            self._forget_row(port)
        self._known.everything = True
        self._prune_ports(wanted)
        failures = self._mirror()
        for name, keys_of in reversed(list(_KEYS.items())):
            self._table(name).prune(wanted, keys_of)
        members: list[tuple[Place, Key]] = [
            (at, ("members", at[0], layout.address_text(at[1]))) for at in self._members
        ]
        self._members.drop(place for place, key in members if key not in wanted)
        self._moving.prune(wanted, layout.mac_record_keys)
        standing = set(self._rewrites.told.values())
        self._pas.drop([place for place, _ in self._pas.entries() if place not in standing])
        for packed in [k for k, row in self._known.subnets.items() if row.key not in wanted]:
            del self._known.subnets[packed]
            self._domains.forget(packed)
        self._ways.prune(wanted)
        failures += self._join_groups()
        self._write_host()
        hosts = any(key[0] == "hosts" for key in wanted)
        if not hosts or (self._known.host is not None and self._known.host.key not in wanted):
            self._remove_host()
        self._let_go_of_uplinks()
        self._guards.prune(wanted)
        failures += self._guard(prune=True)
        return failures + self._give_pas() + self._settle()

    def _prune_ports(self, wanted: Collection[Key]) -> None:
        """Entries of ports that are not bound here; bindings that were not told yet are a former agent's, and stay."""
        if self._known.bindings is None:
            return
        # Bound and desired, but its row has not come: a former agent's entries still speak for it.
        spared = {
            bound.seat for name, bound in self._bound.items() if ("ports", name) in wanted and bound.entries is None
        }
        for table, seat_of in self._of_ports():
            foreign = [
                key for key, value in table.entries() if key not in table.told and seat_of(key, value) not in spared
            ]
            table.drop(foreign)
        bound_here = {bound.seat for bound in self._bound.values()}
        self._listeners.forget(lambda seat: seat not in bound_here)
        open_here = {bound.seat for bound in self._bound.values() if bound.entries is not None} | spared
        self._receivers.drop(at for at in self._receivers if layout.seat_of_key(at[1]) not in open_here)
        for bound in self._bound.values():
            bound.inherited = bound.seat in spared
        self._known.all_ports = True
        self._left_seats = set()
        self._further_macs.keep({layout.port_number(port) for port in self._bound})
        in_use = {bound.seat for bound in self._bound.values()} | {layout.Seat(0)}
        in_use |= {layout.Seat(attachment.ifindex) for attachment in self._attachments.all()}
        for seat in self._counters.seats():
            if seat not in in_use:
                self._counters.delete(seat)
        self._buckets.keep(in_use)

    # Bindings.

    def bind(self, bindings: Mapping[str, str]) -> list[Failure]:
        self._known.bindings = dict(bindings)
        failures, _ = self._reconcile(interfaces(), mend=False)
        failures += self._guard()
        failures += self._mirror()
        return failures + self._settle()

    def _reconcile(self, present: Mapping[str, Interface], *, mend: bool) -> tuple[list[Failure], int]:
        """Attachments as they should be; what could not be, and how many had to be mended. mend: also those that were
        made before are looked at, 100 us each; one port more is not to wait for thousands.
        """
        bindings = self._known.bindings
        if bindings is None:
            return [], 0
        failures: list[Failure] = []
        uplinks = {uplink.interface for uplink in self._known.host.uplinks} if self._known.host else set()
        taken: dict[str, str] = {}
        wanted: dict[str, Interface] = {}
        for port, name in bindings.items():
            interface = present.get(name)
            row = self._known.ports.get(port)
            if row is not None and row.parent is not None:
                failures.append(Failure(("ports", port), f"it is at the interface of {row.parent}", permanent=True))
            elif interface is None:
                failures.append(Failure(("ports", port), f"interface {name} does not exist"))
            elif name in uplinks:
                failures.append(Failure(("ports", port), f"interface {name} is an uplink", permanent=True))
            elif name in taken:
                failures.append(Failure(("ports", port), f"interface {name} is bound to {taken[name]} already"))
            else:
                taken[name] = port
                wanted[port] = interface
        self._let_go(wanted)
        self._forget_lost(wanted)
        mended = 0
        # Those that come first: a look at each of the others takes some 50 us.
        for port, interface in sorted(wanted.items(), key=lambda each: each[0] in self._bound):
            bound = self._bound.get(port)
            if not mend and bound is not None and bound.interface == interface:
                failures += self._open(port)
                continue
            try:
                self._open_ahead(port, interface)
                mended += self._bind(port, interface)
            except (Retry, OSError) as error:
                if bound is None and port in self._bound:
                    self._close(port)
                    del self._bound[port]
                failures.append(Failure(("ports", port), str(error)))
            else:
                former = self._bound[port].entries
                failures += self._open(port)
                mended += former is not None and former != self._bound[port].entries
        for port, row in list(self._known.ports.items()):
            if row.parent is not None:
                try:
                    self._take_seat(port)
                except Retry as error:
                    failures.append(Failure(("ports", port), str(error)))
                else:
                    failures += self._open(port)
        return failures, mended

    def _open_ahead(self, port: str, interface: Interface) -> None:
        """The entries of a port whose interface has no program of ours yet, but those by which copies come to it: these
        are judged on the way out. A program runs as soon as it is attached, but the kernel says so some 10 ms later.
        """
        if port in self._bound or Attachment.of_port(interface.ifindex, port) in self._attachments:
            return
        self._counters.make(layout.Seat(interface.ifindex))
        self._bound[port] = Bound(interface, inherited=False, holder=port)
        self._open(port, copies=False)  # what is refused is said when it is opened for good

    def _bind(self, port: str, interface: Interface) -> int:
        """Counters, then programs: the interface is closed from here on. How many attachments were amiss."""
        self._counters.make(layout.Seat(interface.ifindex))
        attachment = Attachment.of_port(interface.ifindex, port)
        inherited = attachment in self._attachments
        mended = self._attachments.attach(attachment)
        attach.let_look_up_routes()
        bound = self._bound.get(port)
        if bound is None:
            self._bound[port] = Bound(interface, inherited, port)
        else:
            bound.interface = interface
        return mended

    def _take_seat(self, port: str) -> None:
        """A sub-port is bound where its parent is, and nowhere while that is not. Raises Retry."""
        row, bound = self._known.ports.get(port), self._bound.get(port)
        holder = None if row is None else row.parent
        parent = None if holder is None else self._bound.get(holder)
        seat = None
        if row is not None and parent is not None and parent.holder == holder:
            seat = layout.Seat(parent.interface.ifindex, row.vlan)
        if bound is not None and bound.holder != port and (bound.holder, bound.seat) != (holder, seat):
            self._leave_seat(port)
            bound = None
        if seat is None or parent is None:
            return
        if bound is None:
            if (former := self._seated.get(seat)) is not None:
                self._leave_seat(former)  # its row goes, or says another place, next
            others = self._left_seats - {seat}
            if len(self._seated) + len(others) >= self._most_subports:
                raise Retry(f"ports: full at {self._most_subports} sub-ports: raise the data plane's size of it")
            self._counters.make(seat)
            self._left_seats = others
            self._seated[seat] = port
            self._bound[port] = Bound(parent.interface, parent.inherited, parent.holder, seat.vlan)
        elif bound.holder != port:
            bound.interface = parent.interface

    def _leave_seat(self, port: str) -> None:
        seat = self._bound[port].seat
        self._close(port)
        del self._bound[port]
        del self._seated[seat]
        self._listeners.forget(lambda other: other == seat)
        self._counters.delete(seat)
        self._buckets.delete(seat)

    def _forget_row(self, port: str) -> None:
        self._known.ports.pop(port, None)
        self._close(port)
        self._take_seat(port)

    def _let_go(self, wanted: Mapping[str, Interface]) -> None:
        """Programs come off interfaces that no port is bound to; where another port takes over, they stay, closed."""
        closed: set[int] = set()
        for port, bound in list(self._bound.items()):
            interface = wanted.get(bound.holder)
            if interface is not None and interface.ifindex == bound.interface.ifindex:
                continue
            if bound.holder != port:
                self._leave_seat(port)
                continue
            self._close(port)
            del self._bound[port]
            closed.add(bound.interface.ifindex)
        if closed:
            self._listeners.forget(lambda seat: seat.ifindex in closed)
        successors = {i.ifindex: Attachment.of_port(i.ifindex, port) for port, i in wanted.items()}
        leaving = [a for a in self._attachments.all() if not a.on_uplink and successors.get(a.ifindex) != a]
        self._forget({attachment.ifindex for attachment in leaving} - closed)
        for attachment in leaving:
            successor = successors.get(attachment.ifindex)
            if successor is None:
                self._detach(attachment)
            else:
                self._attachments.hand_over(attachment, successor)
                # The interface's counters are another port's from here on.
                seat = layout.Seat(attachment.ifindex)
                self._counters.reset(seat)
                self._buckets.delete(seat)
                with suppress(Retry):  # the binding that follows tries again, and says so
                    self._attachments.attach(successor, swap=True)

    def _forget_lost(self, wanted: Mapping[str, Interface]) -> None:
        """Entries of interfaces whose attachment is not there (any more): of a former port, or of a former interface
        that had the number; not of the port that is bound now.
        """
        if self._known.all_ports:
            return
        fresh = ((port, i) for port, i in wanted.items() if port not in self._bound)
        self._forget({i.ifindex for port, i in fresh if Attachment.of_port(i.ifindex, port) not in self._attachments})

    def _open(self, port: str, *, copies: bool = True) -> list[Failure]:
        """The entries of a port that is bound and whose row is known; new ones first, then the former go."""
        bound, row = self._bound.get(port), self._known.ports.get(port)
        if bound is None or row is None:
            return []
        if row.parent is not None and bound.holder == port:
            self._close(port)  # an interface is not a sub-port's; the next bind() lets go of it
            return []
        entries = self._entries(row, bound.interface)
        further = len(entries.local) - 1
        refused: list[str] = []
        if (granted := self._grant_further(port, further)) < further:
            entries = replace(entries, local=dict(list(entries.local.items())[: 1 + granted]))
            refused.append(f"local: no room for {further - granted} MACs beside its own: raise the data plane's ports")
        former = bound.entries
        if former is None:
            bound.entries = entries  # also where what follows ends half-way: whoever closes the port knows of it
        refused += self._sources.put(entries.sources)
        refused += self._sampling.put(entries.sampling)
        if entries.qos:
            self._buckets.make(bound.seat)
        refused += self._qos.put(entries.qos)
        refused += self._guards.put(bound.seat, row)
        refused += self._ports.put(entries.ports)
        refused += self._local.put(entries.local)
        if copies:
            refused += self._receivers.put(entries.receivers).values()
        bound.entries = entries
        if former is not None and former != entries:
            self._local.drop(self._mine(former.local.keys() - entries.local.keys(), bound.seat))
            self._sources.drop(key for key in former.sources if key not in entries.sources)
            self._qos.drop(former.qos.keys() - entries.qos.keys())
            self._sampling.drop(former.sampling.keys() - entries.sampling.keys())
            self._receivers.drop(former.receivers.keys() - entries.receivers.keys())
        if not is_guarded(row):
            self._guards.drop(bound.seat)
        return [Failure(row.key, "; ".join(dict.fromkeys(refused)))] if refused else []

    def _grant_further(self, port: str, wanted: int) -> int:
        return self._further_macs.grant(layout.port_number(port), layout.tenant_number(port), wanted)

    def _mirror(self) -> list[Failure]:
        """Where copies go, as ports are bound now: to one that is not bound here go none."""
        wanted: dict[bytes, bytes] = {}
        for row in self._known.ports.values():
            bound = self._bound.get(row.port)
            if row.mirror is None or bound is None or row.parent is not None:
                continue
            to = None if row.mirror.port is None else self._bound.get(row.mirror.port)
            if to is not None and to.holder != row.mirror.port:
                continue  # a sub-port's copies would lack their tag
            if to is not None or row.mirror.port is None:
                ifindex = 0 if to is None else to.interface.ifindex
                wanted[layout.NUMBER.pack(bound.interface.ifindex)] = layout.mirror(row.mirror, ifindex)
        if wanted == self._mirrors.told:
            return []
        refused = self._mirrors.put(wanted)
        self._mirrors.drop([key for key in self._mirrors.told if key not in wanted])
        return [Failure(("hosts", self._host_name), why) for why in refused]

    def _entries(self, row: Port, interface: Interface) -> layout.PortEntries:
        host = self._known.host
        sampled = None if host is None else host.sampling
        slot = self._counters.slot(layout.Seat(interface.ifindex, row.vlan))
        peer = interface.takes_peer_redirect
        return layout.port(row, interface.ifindex, peer=peer, slot=slot, sampled=sampled)

    def _close(self, port: str) -> None:
        """Its entries go; its programs stay and drop everything."""
        bound = self._bound.get(port)
        if bound is None:
            return
        if bound.inherited:
            self._forget_where(lambda seat: seat == bound.seat)
            bound.inherited = False
        entries, bound.entries = bound.entries, None
        self._grant_further(port, 0)
        if entries is None:
            return
        self._local.drop(self._mine(entries.local, bound.seat))
        self._ports.drop(entries.ports)
        self._sources.drop(entries.sources)
        self._qos.drop(entries.qos)
        self._sampling.drop(entries.sampling)
        self._receivers.drop(entries.receivers)
        self._guards.drop(bound.seat)

    def _mine(self, keys: Iterable[bytes], seat: layout.Seat) -> list[bytes]:
        """Those of local that still lead to the port: another may have taken the MAC over."""
        leads = ((key, self._local.told.get(key)) for key in keys)
        return [key for key, value in leads if value is not None and layout.seat_in_local(value) == seat]

    def _forget(self, ifindexes: set[int]) -> None:
        """Whatever entries interfaces have, also those that this process does not know of."""
        if ifindexes:
            self._forget_where(lambda seat: seat.ifindex in ifindexes)

    # Who listens to which multicast group: the agent's knowledge, and no row's.

    def listen(self, listeners: Mapping[str, Collection[str]]) -> list[Failure]:
        return self._listeners.listen(listeners, {port: bound.seat for port, bound in self._bound.items()})

    def listening(self) -> Mapping[str, Collection[str]]:
        return self._listeners.listening(self._by_seat())

    def heed(self, wanted: Mapping[tuple[int, str], Wanted | None]) -> list[Failure]:
        return self._heeded.heed(wanted)

    def _by_seat(self) -> dict[layout.Seat, str]:
        """Bound ports by where they are."""
        return {bound.seat: port for port, bound in self._bound.items()}

    def _forget_where(self, wanted: Callable[[layout.Seat], bool]) -> None:
        for table, seat_of in self._of_ports():
            table.drop([key for key, value in table.entries() if wanted(seat_of(key, value))])
        self._receivers.drop(at for at in self._receivers if wanted(layout.seat_of_key(at[1])))
        self._listeners.forget(wanted)

    def _of_ports(self) -> tuple[tuple[Table, Callable[[bytes, bytes], layout.Seat]], ...]:
        return (
            (self._local, lambda _, value: layout.seat_in_local(value)),
            (self._ports, lambda key, _: layout.seat_of_key(key)),
            (self._sources, lambda key, _: layout.seat_of_source(key)),
            (self._qos, lambda key, _: layout.seat_of_key(key)),
            (self._guards.guards, lambda key, _: layout.seat_of_key(key)),
            # These are an interface's, whatever sub-ports are there.
            (self._sampling, lambda key, _: layout.Seat(layout.NUMBER.unpack(key)[0])),
            (self._mirrors, lambda key, _: layout.Seat(layout.NUMBER.unpack(key)[0])),
        )

    # The host and its uplinks.

    def _write_host(self, present: Mapping[str, Interface] | None = None) -> int:
        """How many entries were not as they should be. present: the interfaces, if they were looked at again."""
        row = self._known.host
        if row is None:
            return 0
        known = self._known
        self._bridges.build(row, known.subnets.values(), known.ports.values(), present, everything=known.everything)
        if present is not None:
            self._mtus_bytes = {
                up.interface: present[up.interface].mtu_bytes for up in row.uplinks if up.interface in present
            }
        there = self._host.lookup(layout.THE_HOST)
        accepts = layout.accepts_mask(rule for subnet in self._known.subnets.values() for rule in subnet.accepts)
        if there is not None and not self._known.everything:
            # What a former agent was told, and this one may yet be.
            accepts |= layout.read_host(there).accepts
        value = layout.host(
            row,
            self._mtus_bytes,
            accepts,
            paths=self._ways.in_use,
            bridges=self._bridges.in_use,
            groups=self._groups.in_use,
        )
        self._host_value = value
        if there == value:
            return 0
        self._host.update(layout.THE_HOST, value)
        self._changes.made()
        return 1

    def _remove_host(self) -> None:
        self._known.host = None
        self._ways.keep(None)
        self._host_value = None
        self._host.update(layout.THE_HOST, bytes(layout.HOST.size))
        self._changes.made()
        self._uplinks = {}
        self._sample_uplinks()
        for port in self._bound:
            self._open(port)  # it is sampled no more
        self._vlans.drop([key for key, _ in self._vlans.entries()])
        self._bridges.remove()
        for attachment in self._attachments.all():
            if attachment.on_uplink:
                self._detach(attachment)

    def _attach_uplinks(self, present: Mapping[str, Interface]) -> list[Failure]:
        row = self._known.host
        if row is None:
            return []
        failures: list[Failure] = []
        self._uplinks = {}
        for uplink in row.uplinks:
            interface = present.get(uplink.interface)
            if interface is None:
                failures.append(Failure(row.key, f"uplink {uplink.interface} does not exist"))
                continue
            try:
                self._counters.make(layout.Seat(interface.ifindex))
                if uplink.vlan:
                    self._vlans.put({layout.NUMBER.pack(interface.ifindex): layout.NUMBER.pack(uplink.vlan)})
                    self._attachments.attach(Attachment.of_vlan(interface.ifindex))
                self._attachments.attach(Attachment.of_uplink(interface.ifindex))
                self._uplinks[uplink.interface] = interface
            except (Retry, OSError) as error:
                failures.append(Failure(row.key, f"uplink {uplink.interface}: {error}"))
        failures += (Failure(row.key, why) for why in self._sample_uplinks())
        return failures

    def _sample_uplinks(self) -> list[str]:
        """Why the kernel refused some."""
        sampled = layout.sampling(None if self._known.host is None else self._known.host.sampling)
        wanted = {layout.NUMBER.pack(of.ifindex): sampled for of in self._uplinks.values() if sampled is not None}
        ports = {layout.NUMBER.pack(bound.interface.ifindex) for bound in self._bound.values()}
        refused = self._sampling.put(wanted)
        self._sampling.drop([key for key in self._sampling.told if key not in wanted and key not in ports])
        return refused

    def _let_go_of_uplinks(self) -> None:
        if self._known.host is None:
            return
        wanted = {interface.ifindex for interface in self._uplinks.values()}
        in_vlan = {uplink.interface for uplink in self._known.host.uplinks if uplink.vlan}
        tagged = {interface.ifindex for name, interface in self._uplinks.items() if name in in_vlan}
        for attachment in self._attachments.all():
            if attachment.on_uplink and attachment.ifindex not in (tagged if attachment.in_vlan else wanted):
                self._detach(attachment)
        self._vlans.drop([key for key, _ in self._vlans.entries() if layout.NUMBER.unpack(key)[0] not in tagged])

    # Attachments and generations.

    def _detach(self, attachment: Attachment) -> None:
        self._attachments.detach(attachment)
        seat = layout.Seat(attachment.ifindex)
        if not attachment.in_vlan:  # the uplink's, whose counters go on
            self._counters.delete(seat)
        self._buckets.delete(seat)

    def _settle(self) -> list[Failure]:
        """Once bindings and all rows have come, this generation takes over."""
        if self._takeover.is_due:
            tables = (*map(self._table, _KEYS), *(table for table, _ in self._of_ports()))
            if self._known.bindings is None or not (self._known.everything or self._takeover.covers(tables)):
                return []
        return [Failure(self._key_of(attachment), why) for attachment, why in self._takeover.finish().items()]

    def _key_of(self, attachment: Attachment) -> Key:
        for port, bound in self._bound.items():
            if Attachment.of_port(bound.interface.ifindex, port) == attachment:
                return ("ports", port)
        return ("hosts", self._host_name)

    @property
    def _host_name(self) -> str:
        return self._known.host.host if self._known.host else f"hosts/{self._pins.name}"

    def _take_connections_over(self, generation: Path) -> None:
        """What changes between this and the switch is as it was before. Epochs of there say nothing here: each is held
        against the rules with its next packet.
        """
        former = maps.former_entries(generation / "connections", self._connections.table)
        self._connections.insert(dict(former), _tenants(self._numbered().values()))

    def _take_paths_over(self, generation: Path) -> None:
        self._ways.take_over(generation)
        self._write_host(interfaces())

    # What is there.

    def read(self) -> Iterator[Row]:
        """A subnet's prefixes, an uplink's own MTU, and which of a port's sources are its CAs are not in the maps: they
        come from what was told, where that agrees with the maps, else from on-link routes, and from what can be seen.
        """
        host = self._read_host()
        if host is not None:
            yield host
        routes = [layout.read_route(key, value) for key, value in self._routes.entries()]
        on_link: dict[tuple[str, int], list[str]] = {}
        for route in routes:
            if route.next_hop is None:
                on_link.setdefault((route.rdid, route.vsid), []).append(route.prefix)
        for key, value in self._subnets.entries():
            told = self._known.subnets.get(key)
            if told is not None and layout.subnet(told) == (key, value):
                yield told
            else:
                seen = layout.read_subnet(key, value)
                yield seen.row(_prefixes(seen.gateways, on_link.get((seen.rdid, seen.vsid), ())), self._groups.of(key))
        yield from self._ways.peers.values()
        moves = dict(self._moving.entries())
        for key, value in self._records.entries():
            if layout.is_record(value):
                yield replace(layout.read_record(key, value, moves), groups=self._guards.bears(key))
        for key, value in self._macs.entries():
            if layout.is_record(value):
                yield layout.read_mac_record(key, value, moves)
        sent = dict(self._pas.entries())
        for key, value in self._rewrites.entries():
            yield layout.read_rewrite(key, value, sent)
        for vsid, value in self._members.entries():
            yield layout.read_member(vsid, value)
        yield from routes
        yield from self._guards.rows()
        yield from self._read_ports()

    def _read_host(self) -> Host | None:
        value = self._host.lookup(layout.THE_HOST)
        if value is None or not any(value):
            return None
        if self._known.host is not None and value == self._host_value:
            return self._known.host
        seen = layout.read_host(value)
        names = {interface.ifindex: name for name, interface in interfaces().items()}
        uplinks = tuple(
            Uplink(names[attachment.ifindex], seen.uplink_mtu_bytes)
            for attachment in self._attachments.all()
            if attachment.on_uplink and not attachment.in_vlan and attachment.ifindex in names
        )
        return Host(self._host_name, seen.pas, uplinks)

    def _read_ports(self) -> Iterator[Port]:
        sources: dict[layout.Seat, set[bytes]] = {}
        for key, _ in self._sources.entries():
            sources.setdefault(layout.seat_of_source(key), set()).add(key)
        values = dict(self._ports.entries())
        local, qos = dict(self._local.entries()), dict(self._qos.entries())
        sampled = dict(self._sampling.entries())
        for name, bound in self._bound.items():
            key = bound.seat.key
            if key not in values:
                continue
            row = self._known.ports.get(name)
            there = sources.get(bound.seat, set())
            if row is not None:
                should = self._entries(row, bound.interface)
                reached = all(local.get(k) == v for k, v in should.local.items())
                limited = should.qos.get(key) == qos.get(key)
                limited &= all(sampled.get(k) == v for k, v in should.sampling.items())
                if should.ports == {key: values[key]} and should.sources.keys() == there and reached and limited:
                    yield row
                    continue
            read = layout.read_port(name, values[key], there, qos.get(key))
            yield read if bound.holder == name else replace(read, parent=bound.holder, vlan=bound.vlan)

    def repair(self) -> int:
        present = interfaces()
        all_told = self._known.everything
        mended = self._write_host(present)
        mended += sum(self._table(name).repair(prune=all_told) for name in _KEYS)
        mended += self._moving.repair(prune=all_told) + self._pas.repair(prune=all_told)
        mended += sum(table.repair(prune=all_told) for table in self._guards.tables)
        self._give_pas(mend=True)
        self._join_groups(mend=True)
        mended += self._vlans.repair(prune=all_told) + self._bridges.repair(prune=all_told)
        mended += self._groups.repair(prune=all_told)
        mended += self._ways.aliases.repair(prune=all_told) + self._ways.paths.repair(prune=False)
        mended += self._members.table.repair(prune=all_told)
        bindings_told = all_told and self._known.bindings is not None
        # A link that is amiss first: what passes it by is worse than what it drops.
        mended += self._reconcile(present, mend=True)[1]
        self._renew()
        mended += self._repair_uplinks(present)
        for table in (
            self._sources,
            self._qos,
            self._sampling,
            self._mirrors,
            self._ports,
            self._local,
            self._receivers.table,
            self._guards.guards,
        ):
            mended += table.repair(prune=bindings_told)
        if self._takeover.is_due:
            self._settle()
        return mended

    def _repair_uplinks(self, present: Mapping[str, Interface]) -> int:
        if self._known.host is None:
            return 0
        missing = sum(
            self._attachments.missing(attachment)
            for uplink in self._known.host.uplinks
            if uplink.interface in present
            for attachment in _attachments_of(uplink, present[uplink.interface].ifindex)
        )
        self._attach_uplinks(present)
        self._let_go_of_uplinks()
        return missing

    def counters(self) -> Mapping[str, Traffic]:
        names = self._by_seat()
        names |= {layout.Seat(interface.ifindex): f"uplink:{name}" for name, interface in self._uplinks.items()}
        names[layout.Seat(0)] = "unbound"
        found: dict[str, Traffic] = {}
        for seat, value in self._counters.items():
            name = names.get(seat)
            if name is not None:
                found[name] = layout.traffic(value)
        return found

    def hits(self) -> Mapping[str, int]:
        return self._decisions.hits(self._rules(), forget=self._known.everything)

    def denials(self) -> Mapping[str, Mapping[str, int]]:
        known = self._known.everything and self._known.all_ports
        return self._decisions.denials(self._numbered(), self._rules(), forget=known)

    def unidentified(self) -> int:
        return self._guards.unidentified

    def usage(self) -> Mapping[str, tuple[int, int]]:
        """Of what was told; ``sources`` are what ports may send from."""
        return {
            "hosts": (int(self._host_value is not None), 1),
            **{
                name: (len(table.told), table.most)
                for name, table in (
                    ("subnets", self._subnets),
                    ("records", self._records),
                    ("macs", self._macs),
                    ("routes", self._routes),
                    ("ports", self._ports),
                    ("sources", self._sources),
                    ("aliases", self._ways.aliases),
                    ("paths", self._ways.paths),
                    ("members", self._members.table),
                    ("listeners", self._listeners.table),
                    ("wanted", self._heeded.table),
                    ("rules", self._guards.rules),
                    ("classes", self._guards.classes),
                    ("identities", self._guards.identities),
                )
            },
            "learned": self._bridges.usage(),
        }

    # What guests ask of the agent, and what it answers.

    @property
    def upcall_fd(self) -> int | None:
        return self._upcalls.fd

    def upcalls(self) -> list[Upcall]:
        return self._upcalls.read(self._by_seat())

    @property
    def sample_fd(self) -> int | None:
        return self._sampled.fd

    def samples(self) -> Samples:
        names = {bound.interface.ifindex: port for port, bound in self._bound.items()}
        names |= {interface.ifindex: f"uplink:{name}" for name, interface in self._uplinks.items()}
        return self._sampled.read(names)

    def heard(self) -> Heard:
        return self._bridges.heard()

    def send(self, port: str, frame: bytes) -> None:
        bound = self._bound.get(port)
        if bound is None:
            raise Missing(f"{port} is not bound to an interface here")
        upcalls.send(bound.interface.name, frame, bound.vlan)

    def freshen(self, arriving: Collection[str]) -> None:
        self._queues.freshen(arriving, self._tap_of)

    def _tap_of(self, port: str) -> str | None:
        bound = self._bound.get(port)
        return bound.interface.name if bound is not None and bound.interface.kind == "tun" else None

    # Connections of guarded ports.

    def connections(self) -> Iterator[Connection]:
        names, now_ns = self._numbered(), time.monotonic_ns()
        for key, value in self._connections.entries():
            yield conntrack.shown(key, value, names, now_ns)
        for key, value in conntrack.entries(self._connections.expectations):
            yield conntrack.awaited(key, value, names, now_ns)

    def expected(self) -> Mapping[Expected, int]:
        return self._connections.expected()

    def forget(self, connections: Collection[bytes]) -> int:
        return self._connections.forget(connections)

    def carried(self, port: str, connections: Collection[bytes] | None = None) -> Iterator[tuple[bytes, Carried]]:
        number, now_ns = layout.port_number(port).to_bytes(8, sys.byteorder), self._tracking.now_ns()
        for key, value in self._connections.entries() if connections is None else self._connections.some(connections):
            if key.startswith(number):
                found = conntrack.carried(key, value, now_ns, self._connections.expectation_of(key, value))
                if found.left_ms > 0:
                    yield key, found

    def marks(self, ports: Collection[str]) -> Iterator[tuple[str, bytes, Mark]]:
        names = {layout.port_number(port).to_bytes(8, sys.byteorder): port for port in ports}
        now_ns = self._tracking.now_ns()
        for key, value in self._connections.entries():
            if (port := names.get(key[:8])) is not None:
                mark, left_ns = conntrack.mark(value, now_ns, partial(self._connections.expectation_of, key))
                if left_ns > 0:
                    yield port, key, mark

    def take(self, port: str, connections: Iterable[Carried]) -> int:
        number, now_ns = layout.port_number(port), self._tracking.now_ns()
        settings = self._tracking.settings
        taken = [conntrack.taken(number, of, now_ns, settings) for of in connections]
        awaited = [spoken_of for *_, spoken_of in taken if spoken_of is not None]
        entries = {key: value for key, value, _ in taken}
        return self._connections.take(entries, awaited, tenant=layout.tenant_number(port))

    def sweep(self, keep: Collection[str] = ()) -> int:
        names = self._numbered()
        self.hits(), self.denials()  # of what is gone, they forget it
        # Of ports that are not known (yet) nothing can be told from those that are gone.
        known = _tenants((*names.values(), *keep))
        gone = known if self._known.all_ports else None
        now_ns = time.monotonic_ns()
        swept = self._connections.sweep(now_ns, gone)
        self._leftovers.sweep(now_ns, gone)
        return swept

    def watch(self, *, on: bool) -> None:
        self._tracking.events = on
        self._tracking.write()

    @property
    def connection_fd(self) -> int | None:
        return self._events.fd

    def connection_events(self) -> list[ConnectionEvent | Logged]:
        ports, rules = self._numbered(), self._rules()
        return [conntrack.event(data, ports, rules) for data in self._events.read()]

    def _rules(self) -> dict[int, str]:
        """Rules' names by their numbers."""
        groups = (row for row in self._guards.rows() if isinstance(row, SecurityGroup))
        return {rule.number: rule.name for group in groups for rule in group.rules}

    def _numbered(self) -> dict[int, str]:
        """Ports by the numbers that guards have of them: also those whose interface is yet to come."""
        return {layout.port_number(port): port for port in (*self._known.ports, *self._bound)}

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._queues.close()
            self._events.close()
            self._upcalls.close()
            self._sampled.close()
            self._loaded.close()
            os.close(self._lock)

    def remove(self) -> None:
        quieten(self._pins)
        if (self._pins / "pas").exists() or (self._pins / "groups").exists():
            from weft.dataplane.ebpf import addresses  # with it comes pyroute2

            addresses.clear()
        for attachment in self._attachments.all():
            self._attachments.detach(attachment)
        bpffs.remove(self._pins)
        self.close()

    def _table(self, name: str) -> Table:
        return {
            "subnets": self._subnets,
            "rewrites": self._rewrites,
            "records": self._records,
            "macs": self._macs,
            "routes": self._routes,
        }[name]


#: Tables whose rows are one entry each: how their entries' keys are rows' keys, in the tables' order.
_KEYS: Mapping[str, Callable[[bytes], list[Key]]] = {
    "subnets": layout.subnet_keys,
    "rewrites": layout.rewrite_keys,
    "records": layout.record_keys,
    "macs": layout.mac_record_keys,
    "routes": layout.route_keys,
}


def _tenants(ports: Iterable[str]) -> dict[int, int]:
    """Whose each is, by numbers."""
    return {layout.port_number(port): layout.tenant_number(port) for port in ports}


def _attachments_of(uplink: Uplink, ifindex: int) -> list[Attachment]:
    return [Attachment.of_uplink(ifindex), *([Attachment.of_vlan(ifindex)] if uplink.vlan else [])]


def _prefixes(gateways: Iterable[str], on_link: Iterable[str]) -> tuple[str, ...]:
    """Of each gateway, the longest on-link prefix that it is in."""
    found = []
    for gateway in gateways:
        address = ip_address(gateway)
        around = [net for net in map(ip_network, on_link) if net.version == address.version and address in net]
        if around:
            found.append(str(max(around, key=lambda net: net.prefixlen)))
    return tuple(found)
