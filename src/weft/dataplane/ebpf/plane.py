"""The eBPF data plane: rows and bindings become map entries and attached programs. Sees no packet.

What is told is kept beside each map (tables.py) so that it can be mended. What a former agent left is recognised by
where it is pinned: docs/design/ebpf.md.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
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
from weft.dataplane.ebpf import attach, bpffs, build, conntrack, layout, maps, upcalls
from weft.dataplane.ebpf.attachments import LINKS, Attachments
from weft.dataplane.ebpf.bindings import Bindings
from weft.dataplane.ebpf.bridges import Bridges, quieten
from weft.dataplane.ebpf.changes import Changes
from weft.dataplane.ebpf.connections import PortConnections
from weft.dataplane.ebpf.counters import Counters
from weft.dataplane.ebpf.decisions import Decisions
from weft.dataplane.ebpf.elements import Elements
from weft.dataplane.ebpf.groups import Groups
from weft.dataplane.ebpf.guards import Guards
from weft.dataplane.ebpf.interfaces import Interface, interfaces
from weft.dataplane.ebpf.listeners import Heeded, Listeners
from weft.dataplane.ebpf.maps import Sizes
from weft.dataplane.ebpf.paths import Paths
from weft.dataplane.ebpf.places import Places
from weft.dataplane.ebpf.qos import Buckets
from weft.dataplane.ebpf.records import Records
from weft.dataplane.ebpf.reserves import Domains, Reserve
from weft.dataplane.ebpf.rewrite import Rewrites
from weft.dataplane.ebpf.seats import Seats, SeatTables
from weft.dataplane.ebpf.subnets import Subnets
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

        self._subnets = Subnets(
            shared("subnets", sizes.subnets),
            table("routes", Reserve(of["routes"], sizes.routes, sizes.ports, layout.domain_of_route)),
            Places(shared("members", sizes.members), layout.member_pa),
            self._domains,
        )
        self._rewrites = Rewrites(table("rewrites"), table("pas"), pins)
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
        self._records = Records(
            shared("records", sizes.records), shared("macs", sizes.macs), table("moving"), self._guards
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
        self._connections = conntrack.Connections(
            of["connections"], of["expectations"], of["tracked"], self._loaded.programs["weft_conntrack"]
        )
        self._of_ports = PortConnections(
            self._connections,
            conntrack.Leftovers((of["quotas"], of["expecting"]), of["tenants"], of["datagrams"], of["lines"]),
            self._tracking,
            of[layout.CONNECTION_EVENTS],
            self._bindings.numbered,
        )
        self._everything = False  # prune() came: what was not told is not wanted
        heirs = (
            self._counters.take_over,
            self._decisions.take_over,
            self._listeners.take_over,
            self._of_ports.take_over,
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
                failures += self._records.update(list(group))
            elif kind is MacRecord:
                pas = () if self._uplinks.row is None else self._uplinks.row.pas
                failures += self._records.update_macs(list(group), pas)
            elif kind is Route:
                failures += self._subnets.update_routes(group)
                self._guards.changed |= self._guards.in_use  # whose an address is follows from routes, too
            elif kind is Rewrite:
                failures += self._rewrites.update(list(group))
            elif kind is Peer:
                failures += self._ways.update(group)
                self._write_host()
            elif kind is Member:
                failures += self._subnets.update_members(group)
            elif kind is Subnet:
                failures += self._subnets.update(list(group))
                failures += self._join_groups()
                self._write_host()
            elif kind is SecurityGroup or kind is AddressGroup:
                failures += self._guards.update(group)
            elif kind is Host:
                for row in group:
                    failures += self._update_host(row)
                failures += self._give_pas()
            else:
                ports = list(group)
                self._begin_anew(ports)
                for row in ports:
                    failures += self._bindings.put(row)
                failures += self._follow_ports()
        self._announce()
        return failures + self._guard()

    def _guard(self, *, prune: bool = False) -> list[Failure]:
        """Rules as they are now; connections are held against them from here on."""
        failures = self._guards.settle(prune=prune)
        self._records.drop_missing()
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

    def _announce(self) -> None:
        """Those that have come, once their ports are known."""
        came = self._records.take_came()
        for port in self._bindings.rows.values() if came else ():
            for mac in (port.mac, *port.macs):
                if (port.vsid, mac) in came:
                    self._bridges.announce(port.vsid, mac, port.cas)

    def _follow_ports(self) -> list[Failure]:
        """What else is to be as the ports are that are known now."""
        failures = self._give_pas() + self._join_groups()
        self._write_host()
        return failures + self._mirror()

    def _join_groups(self, *, mend: bool = False) -> list[Failure]:
        """The underlay's groups of the subnets that are known, on this host's uplinks."""
        uplinks, ports = self._uplinks, self._bindings.rows.values()
        return self._groups.update(
            self._subnets.rows, ports, uplinks.row, uplinks.interfaces, prune=self._everything, mend=mend
        )

    def paths(self, ways: Mapping[str, Sequence[Way]]) -> list[Failure]:
        failures = self._ways.lead(ways)
        self._write_host()
        return failures

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
        ports, uplinks = self._bindings.rows.values(), self._uplinks.interfaces
        return self._rewrites.give(ports, uplinks, prune=self._everything, mend=mend)

    def _begin_anew(self, rows: Iterable[Port]) -> None:
        """Of a former port of its name, or of itself with another MAC or in another subnet, a port has no connection. A
        process that starts cannot tell, and one that comes from another host may have been here before.
        """
        if not self._everything:
            return
        former = self._bindings.rows
        self._of_ports.forget_ports(
            {row.port for row in rows if not row.arriving and not _is_same(former.get(row.port), row)}
        )

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
                    failures += self._follow_ports()
                case "subnets":
                    failures += self._subnets.delete(group)
                    failures += self._join_groups()
                    self._write_host()
                case "records":
                    failures += self._records.delete(group)
                case "macs":
                    failures += self._records.delete_macs(group)
                case "routes":
                    failures += self._subnets.delete_routes(group)
                case "rewrites":
                    failures += self._rewrites.delete(group)
                case "members":
                    failures += self._subnets.delete_members(group)
                case "security_groups" | "address_groups":
                    self._guards.delete(group)
                case _:
                    failures += (Failure(key, f"there is no table {table!r}", permanent=True) for key in group)
        return failures + self._guard()

    def prune(self, desired: Collection[Key]) -> list[Failure]:
        wanted = desired if isinstance(desired, (AbstractSet, Mapping)) else set(desired)
        self._everything = True
        self._bindings.prune(wanted)
        failures = self._mirror()
        self._subnets.prune_routes(wanted)
        self._records.prune(wanted)
        self._rewrites.prune(wanted)
        self._subnets.prune(wanted)
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
        subnets, ports = self._subnets, self._bindings.rows.values()
        self._bridges.build(row, subnets.rows.values(), ports, present, everything=self._everything)
        return self._uplinks.write(
            subnets.accepts,
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
            rows = self._subnets.subnets, self._rewrites.rewrites, self._records.records, self._records.macs
            tables = (*rows, self._subnets.routes, *self._seats.covered())
            if self._bindings.told is None or not (self._everything or self._takeover.covers(tables)):
                return []
        failures: list[Failure] = []
        for attachment, why in self._takeover.finish().items():
            port = self._bindings.port_of(attachment)
            failures.append(Failure(("hosts", self._uplinks.host) if port is None else ("ports", port), why))
        return failures

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
        yield from self._subnets.read(self._groups.of)
        yield from self._ways.peers.values()
        yield from self._records.read()
        yield from self._rewrites.read()
        yield from self._subnets.read_members()
        yield from self._subnets.read_routes()
        yield from self._guards.rows()
        yield from self._bindings.read()

    def repair(self) -> int:
        present = interfaces()
        all_told = self._everything
        mended = self._write_host(present)
        mended += self._subnets.repair(prune=all_told) + self._rewrites.repair(prune=all_told)
        mended += self._records.repair(prune=all_told)
        mended += sum(table.repair(prune=all_told) for table in self._guards.tables)
        self._give_pas(mend=True)
        self._join_groups(mend=True)
        mended += self._uplinks.vlans.repair(prune=all_told) + self._bridges.repair(prune=all_told)
        mended += self._groups.repair(prune=all_told)
        mended += self._ways.aliases.repair(prune=all_told) + self._ways.paths.repair(prune=False)
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
                    ("subnets", self._subnets.subnets),
                    ("records", self._records.records),
                    ("macs", self._records.macs),
                    ("routes", self._subnets.routes),
                    ("ports", self._seats.tables.ports),
                    ("sources", self._seats.tables.sources),
                    ("aliases", self._ways.aliases),
                    ("paths", self._ways.paths),
                    ("members", self._subnets.members.table),
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
        return self._of_ports.shown()

    def expected(self) -> Mapping[Expected, int]:
        return self._connections.expected()

    def forget(self, connections: Collection[bytes]) -> int:
        return self._connections.forget(connections)

    def carried(self, port: str, connections: Collection[bytes] | None = None) -> Iterator[tuple[bytes, Carried]]:
        return self._of_ports.carried(port, connections)

    def marks(self, ports: Collection[str]) -> Iterator[tuple[str, bytes, Mark]]:
        return self._of_ports.marks(ports)

    def take(self, port: str, connections: Iterable[Carried]) -> int:
        return self._of_ports.take(port, connections)

    def sweep(self, keep: Collection[str] = ()) -> int:
        self.hits(), self.denials()  # of what is gone, they forget it
        return self._of_ports.sweep(keep, all_ports=self._bindings.all_ports)

    def watch(self, *, on: bool) -> None:
        self._of_ports.watch(on=on)

    @property
    def connection_fd(self) -> int | None:
        return self._of_ports.fd

    def connection_events(self) -> list[ConnectionEvent | Logged]:
        return self._of_ports.events(self._rules())

    def _rules(self) -> dict[int, str]:
        """Rules' names by their numbers."""
        groups = (row for row in self._guards.rows() if isinstance(row, SecurityGroup))
        return {rule.number: rule.name for group in groups for rule in group.rules}

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._queues.close()
            self._of_ports.close()
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


def _is_same(former: Port | None, row: Port) -> bool:
    """Whether the guest behind it may be."""
    return former is not None and (former.vsid, former.mac) == (row.vsid, row.mac)
