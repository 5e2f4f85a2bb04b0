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
from dataclasses import replace
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
from weft.dataplane.ebpf.attachments import LINKS, Attachments
from weft.dataplane.ebpf.bindings import Bindings
from weft.dataplane.ebpf.bridges import Bridges, quieten
from weft.dataplane.ebpf.changes import Changes
from weft.dataplane.ebpf.counters import Counters
from weft.dataplane.ebpf.decisions import Decisions
from weft.dataplane.ebpf.elements import Elements
from weft.dataplane.ebpf.groups import Groups
from weft.dataplane.ebpf.guards import Guards
from weft.dataplane.ebpf.interfaces import Interface, interfaces
from weft.dataplane.ebpf.listeners import Heeded, Listeners
from weft.dataplane.ebpf.maps import Sizes
from weft.dataplane.ebpf.paths import Paths
from weft.dataplane.ebpf.places import Place, Places
from weft.dataplane.ebpf.qos import Buckets
from weft.dataplane.ebpf.reserves import Domains, Reserve
from weft.dataplane.ebpf.seats import Seats, SeatTables
from weft.dataplane.ebpf.tables import Table
from weft.dataplane.ebpf.takeover import Takeover, former_generations
from weft.dataplane.ebpf.upcalls import Sampled, Upcalls
from weft.dataplane.ebpf.uplinks import Uplinks
from weft.dataplane.ebpf.waiting import Queues
from weft.kit.errors import Missing, Rejected
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
)


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
        self._routes = table("routes", Reserve(of["routes"], sizes.routes, sizes.ports, layout.domain_of_route))
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
        self._counters = Counters(of["counter_slots"], of["counters"])
        self._listeners = Listeners(table("listeners"))
        self._heeded = Heeded(shared("wanted", sizes.wanted))
        self._members = Places(shared("members", sizes.members), layout.member_pa)
        self._upcalls = Upcalls(of[layout.UPCALLS])
        self._sampled = Sampled(of[layout.SAMPLES], of["samples_lost"])
        self._queues = Queues()
        self._decisions = Decisions(of["hits"], of["denials"])
        self._guards = Guards(
            table("guards"),
            shared("identities", sizes.identities),
            table("classes"),
            table("rules"),
            outlast=self._outlast,
            domain_of=self._domains.of,
        )
        seats = SeatTables(
            table("ports"),
            table("local"),
            table("sources", Reserve(of["sources"], sizes.sources, sizes.ports, layout.place_of_source)),
            table("qos"),
            table("sampling"),
            table("mirrors"),
            Places(table("receivers"), layout.receiver_seat),
        )
        self._seats = Seats(
            seats,
            self._guards,
            self._listeners,
            self._counters,
            Buckets(of["buckets"]),
            further_macs=sizes.further_macs,
        )
        self._bindings = Bindings(self._seats, self._attachments, subports=sizes.subports)
        self._uplinks = Uplinks(
            of["host"],
            table("vlans"),
            self._attachments,
            self._seats,
            changed=changed,
            unnamed=f"hosts/{pins.name}",
        )
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
        self._known: dict[bytes, Subnet] = {}
        self._everything = False  # prune() came: what was not told is not wanted
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
                    failures += self._update_host(row) if kind is Host else self._bindings.put(row)
                failures += self._give_pas()
                if kind is Port:
                    failures += self._mirror()
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
        host = self._uplinks.row
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
        for port in self._bindings.rows.values() if came else ():
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
                self._known[layout.map_key(row.key)] = row
        failures += self._join_groups()
        self._write_host()
        return failures

    def _join_groups(self, *, mend: bool = False) -> list[Failure]:
        """The underlay's groups of the subnets that are known, on this host's uplinks."""
        uplinks, ports = self._uplinks, self._bindings.rows.values()
        return self._groups.update(
            self._known, ports, uplinks.row, uplinks.interfaces, prune=self._everything, mend=mend
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
        self._uplinks.row = row
        self._ways.keep(row)
        self._write_host(present)
        failures = self._uplinks.attach(present)
        self._uplinks.let_go()
        failures += self._join_groups()
        return failures + self._bindings.sample(row.sampling) + self._mirror()

    def _give_pas(self, *, mend: bool = False) -> list[Failure]:
        """What stands for the addresses of this host's ports, on its uplinks; of what is not told yet nothing goes."""
        wanted = {pa: row.key for row in self._bindings.rows.values() for pa in row.pas}
        given = self._pins / "pas"  # says to a later agent that there are, or were, some
        if not wanted and not given.exists():
            return []
        uplinks = {name: interface.ifindex for name, interface in self._uplinks.interfaces.items()}
        asked = frozenset(wanted), frozenset(uplinks.items()), self._everything
        if self._pas_asked == asked and not mend:
            return []
        from weft.dataplane.ebpf import addresses  # with it comes pyroute2: 8 MB and 0.2 s

        given.mkdir(exist_ok=True)
        refused = addresses.make(wanted, uplinks, prune=self._everything)
        self._pas_asked = None if refused else asked
        if not wanted and self._everything:
            bpffs.remove(given)
        return [Failure(wanted[why.partition(": ")[0]], why) for why in refused]

    def _begin_anew(self, rows: Iterable[Port]) -> None:
        """Of a former port of its name, or of itself with another MAC or in another subnet, a port has no connection. A
        process that starts cannot tell, and one that comes from another host may have been here before.
        """
        numbers = set()
        for row in rows:
            former = self._bindings.rows.get(row.port)
            same = former is not None and (former.vsid, former.mac) == (row.vsid, row.mac)
            if self._everything and not same and not row.arriving:
                numbers.add(layout.port_number(row.port))
        for number in numbers:
            self._leftovers.forget(number)
        if had := {number for number in numbers if self._leftovers.counts(number)}:
            self._connections.forget_ports(had)

    def delete(self, keys: Iterable[Key]) -> list[Failure]:
        failures: list[Failure] = []
        for table, some in groupby(keys, key=lambda key: key[0]):
            group = list(some)
            match table:
                case "hosts":
                    if self._uplinks.row is None or self._uplinks.row.key in group:
                        self._remove_host()
                case "peers":
                    self._ways.delete(group)
                    self._write_host(interfaces())
                case "ports":
                    for key in group:
                        self._bindings.forget(str(key[1]))
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
                self._known.pop(packed, None)
                self._domains.forget(packed)
            failures += self._join_groups()
            self._write_host()
        return failures

    def prune(self, desired: Collection[Key]) -> list[Failure]:
        wanted = desired if isinstance(desired, (AbstractSet, Mapping)) else set(desired)
        self._everything = True
        self._bindings.prune(wanted)
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
        for packed in [k for k, row in self._known.items() if row.key not in wanted]:
            del self._known[packed]
            self._domains.forget(packed)
        self._ways.prune(wanted)
        failures += self._join_groups()
        self._write_host()
        hosts = any(key[0] == "hosts" for key in wanted)
        if not hosts or (self._uplinks.row is not None and self._uplinks.row.key not in wanted):
            self._remove_host()
        self._uplinks.let_go()
        self._guards.prune(wanted)
        failures += self._guard(prune=True)
        return failures + self._give_pas() + self._settle()

    # Bindings.

    def bind(self, bindings: Mapping[str, str]) -> list[Failure]:
        self._bindings.told = dict(bindings)
        failures, _ = self._bindings.reconcile(interfaces(), self._uplinks.names, mend=False)
        failures += self._guard()
        failures += self._mirror()
        return failures + self._settle()

    def _mirror(self) -> list[Failure]:
        return [Failure(("hosts", self._uplinks.host), why) for why in self._bindings.mirror()]

    # Who listens to which multicast group: the agent's knowledge, and no row's.

    def listen(self, listeners: Mapping[str, Collection[str]]) -> list[Failure]:
        return self._listeners.listen(listeners, {port: bound.seat for port, bound in self._bindings.bound.items()})

    def listening(self) -> Mapping[str, Collection[str]]:
        return self._listeners.listening(self._bindings.by_seat())

    def heed(self, wanted: Mapping[tuple[int, str], Wanted | None]) -> list[Failure]:
        return self._heeded.heed(wanted)

    # The host and its uplinks.

    def _write_host(self, present: Mapping[str, Interface] | None = None) -> int:
        """How many entries were not as they should be. present: the interfaces, if they were looked at again."""
        row = self._uplinks.row
        if row is None:
            return 0
        subnets = self._known.values()
        self._bridges.build(row, subnets, self._bindings.rows.values(), present, everything=self._everything)
        return self._uplinks.write(
            layout.accepts_mask(rule for subnet in subnets for rule in subnet.accepts),
            everything=self._everything,
            paths=self._ways.in_use,
            bridges=self._bridges.in_use,
            groups=self._groups.in_use,
            present=present,
        )

    def _remove_host(self) -> None:
        self._ways.keep(None)
        self._uplinks.remove()
        self._bindings.sample(None)
        self._bridges.remove()

    # Generations.

    def _settle(self) -> list[Failure]:
        """Once bindings and all rows have come, this generation takes over."""
        if self._takeover.is_due:
            tables = (*map(self._table, _KEYS), *self._seats.covered())
            if self._bindings.told is None or not (self._everything or self._takeover.covers(tables)):
                return []
        failures: list[Failure] = []
        for attachment, why in self._takeover.finish().items():
            port = self._bindings.port_of(attachment)
            failures.append(Failure(("hosts", self._uplinks.host) if port is None else ("ports", port), why))
        return failures

    def _take_connections_over(self, generation: Path) -> None:
        """What changes between this and the switch is as it was before. Epochs of there say nothing here: each is held
        against the rules with its next packet.
        """
        former = maps.former_entries(generation / "connections", self._connections.table)
        self._connections.insert(dict(former), _tenants(self._bindings.numbered().values()))

    def _take_paths_over(self, generation: Path) -> None:
        self._ways.take_over(generation)
        self._write_host(interfaces())

    # What is there.

    def read(self) -> Iterator[Row]:
        """A subnet's prefixes, an uplink's own MTU, and which of a port's sources are its CAs are not in the maps: they
        come from what was told, where that agrees with the maps, else from on-link routes, and from what can be seen.
        """
        host = self._uplinks.read()
        if host is not None:
            yield host
        routes = [layout.read_route(key, value) for key, value in self._routes.entries()]
        on_link: dict[tuple[str, int], list[str]] = {}
        for route in routes:
            if route.next_hop is None:
                on_link.setdefault((route.rdid, route.vsid), []).append(route.prefix)
        for key, value in self._subnets.entries():
            told = self._known.get(key)
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
        yield from self._bindings.read()

    def repair(self) -> int:
        present = interfaces()
        all_told = self._everything
        mended = self._write_host(present)
        mended += sum(self._table(name).repair(prune=all_told) for name in _KEYS)
        mended += self._moving.repair(prune=all_told) + self._pas.repair(prune=all_told)
        mended += sum(table.repair(prune=all_told) for table in self._guards.tables)
        self._give_pas(mend=True)
        self._join_groups(mend=True)
        mended += self._uplinks.vlans.repair(prune=all_told) + self._bridges.repair(prune=all_told)
        mended += self._groups.repair(prune=all_told)
        mended += self._ways.aliases.repair(prune=all_told) + self._ways.paths.repair(prune=False)
        mended += self._members.table.repair(prune=all_told)
        # A link that is amiss first: what passes it by is worse than what it drops.
        mended += self._bindings.reconcile(present, self._uplinks.names, mend=True)[1]
        self._renew()
        mended += self._uplinks.repair(present)
        mended += self._seats.repair(prune=all_told and self._bindings.told is not None)
        if self._takeover.is_due:
            self._settle()
        return mended

    def counters(self) -> Mapping[str, Traffic]:
        names = self._bindings.by_seat()
        uplinks = self._uplinks.interfaces
        names |= {layout.Seat(interface.ifindex): f"uplink:{name}" for name, interface in uplinks.items()}
        names[layout.Seat(0)] = "unbound"
        found: dict[str, Traffic] = {}
        for seat, value in self._counters.items():
            name = names.get(seat)
            if name is not None:
                found[name] = layout.traffic(value)
        return found

    def hits(self) -> Mapping[str, int]:
        return self._decisions.hits(self._rules(), forget=self._everything)

    def denials(self) -> Mapping[str, Mapping[str, int]]:
        known = self._everything and self._bindings.all_ports
        return self._decisions.denials(self._bindings.numbered(), self._rules(), forget=known)

    def unidentified(self) -> int:
        return self._guards.unidentified

    def usage(self) -> Mapping[str, tuple[int, int]]:
        """Of what was told; ``sources`` are what ports may send from."""
        return {
            "hosts": (int(self._uplinks.is_told), 1),
            **{
                name: (len(table.told), table.most)
                for name, table in (
                    ("subnets", self._subnets),
                    ("records", self._records),
                    ("macs", self._macs),
                    ("routes", self._routes),
                    ("ports", self._seats.tables.ports),
                    ("sources", self._seats.tables.sources),
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
        return self._upcalls.read(self._bindings.by_seat())

    @property
    def sample_fd(self) -> int | None:
        return self._sampled.fd

    def samples(self) -> Samples:
        names = {bound.interface.ifindex: port for port, bound in self._bindings.bound.items()}
        names |= {interface.ifindex: f"uplink:{name}" for name, interface in self._uplinks.interfaces.items()}
        return self._sampled.read(names)

    def heard(self) -> Heard:
        return self._bridges.heard()

    def send(self, port: str, frame: bytes) -> None:
        bound = self._bindings.bound.get(port)
        if bound is None:
            raise Missing(f"{port} is not bound to an interface here")
        upcalls.send(bound.interface.name, frame, bound.vlan)

    def freshen(self, arriving: Collection[str]) -> None:
        self._queues.freshen(arriving, self._bindings.tap_of)

    # Connections of guarded ports.

    def connections(self) -> Iterator[Connection]:
        names, now_ns = self._bindings.numbered(), time.monotonic_ns()
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
        names = self._bindings.numbered()
        self.hits(), self.denials()  # of what is gone, they forget it
        # Of ports that are not known (yet) nothing can be told from those that are gone.
        known = _tenants((*names.values(), *keep))
        gone = known if self._bindings.all_ports else None
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
        ports, rules = self._bindings.numbered(), self._rules()
        return [conntrack.event(data, ports, rules) for data in self._events.read()]

    def _rules(self) -> dict[int, str]:
        """Rules' names by their numbers."""
        groups = (row for row in self._guards.rows() if isinstance(row, SecurityGroup))
        return {rule.number: rule.name for group in groups for rule in group.rules}

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


def _prefixes(gateways: Iterable[str], on_link: Iterable[str]) -> tuple[str, ...]:
    """Of each gateway, the longest on-link prefix that it is in."""
    found = []
    for gateway in gateways:
        address = ip_address(gateway)
        around = [net for net in map(ip_network, on_link) if net.version == address.version and address in net]
        if around:
            found.append(str(max(around, key=lambda net: net.prefixlen)))
    return tuple(found)
