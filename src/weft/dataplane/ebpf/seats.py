"""What ports have in the maps, each at its seat. Knows no interface and decides no binding: who is where it is told.

New entries of a port come first, then the former ones go; what another port has taken over by then stays that one's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from weft.dataplane.ebpf import layout
from weft.dataplane.ebpf.counters import Counters
from weft.dataplane.ebpf.guards import Guards, is_guarded
from weft.dataplane.ebpf.layout import PortEntries, Seat
from weft.dataplane.ebpf.listeners import Listeners
from weft.dataplane.ebpf.places import Places
from weft.dataplane.ebpf.qos import Buckets
from weft.dataplane.ebpf.reserves import Further
from weft.dataplane.ebpf.tables import Table
from weft.policy.rows import Port, Sampling


@dataclass(frozen=True, slots=True)
class SeatTables:
    """The maps whose entries are a port's at its seat, or (sampling, mirrors) an interface's."""

    ports: Table
    local: Table
    sources: Table
    qos: Table
    sampling: Table
    mirrors: Table
    receivers: Places

    @property
    def by_seat(self) -> tuple[tuple[Table, Callable[[bytes, bytes], Seat]], ...]:
        """Each but receivers, and of a key and value whose they are."""
        return (
            (self.local, lambda _, value: layout.seat_in_local(value)),
            (self.ports, lambda key, _: layout.seat_of_key(key)),
            (self.sources, lambda key, _: layout.seat_of_source(key)),
            (self.qos, lambda key, _: layout.seat_of_key(key)),
            # These are an interface's, whatever sub-ports are there.
            (self.sampling, lambda key, _: Seat(layout.NUMBER.unpack(key)[0])),
            (self.mirrors, lambda key, _: Seat(layout.NUMBER.unpack(key)[0])),
        )


@dataclass(frozen=True, slots=True)
class Found:
    """What is in the kernel, by the keys of the maps; sources by seats."""

    ports: Mapping[bytes, bytes]
    local: Mapping[bytes, bytes]
    sources: Mapping[Seat, Collection[bytes]]
    qos: Mapping[bytes, bytes]
    sampling: Mapping[bytes, bytes]

    def has(self, seat: Seat, entries: PortEntries) -> bool:
        """Whether just that is there."""
        return (
            entries.ports == {seat.key: self.ports[seat.key]}
            and entries.sources.keys() == self.sources.get(seat, set())
            and all(self.local.get(key) == value for key, value in entries.local.items())
            and entries.qos.get(seat.key) == self.qos.get(seat.key)
            and all(self.sampling.get(key) == value for key, value in entries.sampling.items())
        )

    def row(self, port: str, seat: Seat) -> Port:
        """What it says of a port that has nothing else to say of it."""
        return layout.read_port(port, self.ports[seat.key], self.sources.get(seat, set()), self.qos.get(seat.key))


class Seats:
    """One host's. left: those of sub-ports that a former agent has left."""

    def __init__(
        self,
        tables: SeatTables,
        guards: Guards,
        listeners: Listeners,
        counters: Counters,
        buckets: Buckets,
        *,
        further_macs: int,
    ) -> None:
        """further_macs: by how many all ports together are reached, beside one each."""
        self.tables = tables
        self._guards, self._listeners = guards, listeners
        self.counters, self._buckets = counters, buckets
        left = layout.left_ports(tables.ports.entries(), tables.local.entries())
        self._further = Further(further_macs, {of.number: (of.tenant, of.further) for of in left.values()})
        self.left = frozenset(seat for seat in left if seat.vlan)
        self._held: dict[Seat, PortEntries] = {}  # as far as this process knows

    # One port's.

    def is_open(self, seat: Seat) -> bool:
        """Whether this process has put what a port has there."""
        return seat in self._held

    def entries(self, row: Port, ifindex: int, *, peer: bool, sampled: Sampling | None) -> PortEntries:
        """What the port is to have. peer: as layout.port; sampled: as its host is. Raises Rejected."""
        slot = self.counters.slot(Seat(ifindex, row.vlan))
        return layout.port(row, ifindex, peer=peer, slot=slot, sampled=sampled)

    def open(self, row: Port, seat: Seat, entries: PortEntries, *, copies: bool = True) -> list[str]:
        """Makes the entries so; why the kernel refused some. copies: also those by which copies come to the port."""
        refused: list[str] = []
        further = len(entries.local) - 1
        if (granted := self._grant_further(row.port, further)) < further:
            entries = replace(entries, local=dict(list(entries.local.items())[: 1 + granted]))
            refused.append(f"local: no room for {further - granted} MACs beside its own: raise the data plane's ports")
        former = self._held.get(seat)
        if former is None:
            self._held[seat] = entries  # also where what follows ends half-way: whoever closes the port knows of it
        of = self.tables
        refused += of.sources.put(entries.sources)
        refused += of.sampling.put(entries.sampling)
        if entries.qos:
            self._buckets.make(seat)
        refused += of.qos.put(entries.qos)
        refused += self._guards.put(seat, row)
        refused += of.ports.put(entries.ports)
        refused += of.local.put(entries.local)
        if copies:
            refused += of.receivers.put(entries.receivers).values()
        self._held[seat] = entries
        if former is not None and former != entries:
            of.local.drop(self._mine(former.local.keys() - entries.local.keys(), seat))
            of.sources.drop(key for key in former.sources if key not in entries.sources)
            of.qos.drop(former.qos.keys() - entries.qos.keys())
            of.sampling.drop(former.sampling.keys() - entries.sampling.keys())
            of.receivers.drop(former.receivers.keys() - entries.receivers.keys())
        if not is_guarded(row):
            self._guards.drop(seat)
        return refused

    def held(self, seat: Seat) -> PortEntries | None:
        """What this process has put there; None where the port is closed."""
        return self._held.get(seat)

    def close(self, port: str, seat: Seat) -> None:
        """What this process has put there for the port goes; absent is success."""
        entries = self._held.pop(seat, None)
        self._grant_further(port, 0)
        if entries is None:
            return
        of = self.tables
        of.local.drop(self._mine(entries.local, seat))
        of.ports.drop(entries.ports)
        of.sources.drop(entries.sources)
        of.qos.drop(entries.qos)
        of.sampling.drop(entries.sampling)
        of.receivers.drop(entries.receivers)
        self._guards.drop(seat)

    def _grant_further(self, port: str, wanted: int) -> int:
        return self._further.grant(layout.port_number(port), layout.tenant_number(port), wanted)

    def _mine(self, keys: Iterable[bytes], seat: Seat) -> list[bytes]:
        """Those of local that still lead to the port: another may have taken the MAC over."""
        leads = ((key, self.tables.local.told.get(key)) for key in keys)
        return [key for key, value in leads if value is not None and layout.seat_in_local(value) == seat]

    # What a seat has whoever is there.

    def make(self, seat: Seat) -> None:
        """Counters, where there are none. Raises Retry when there is no room for them."""
        self.counters.make(seat)

    def pass_on(self, seat: Seat) -> None:
        """Its counters are another port's from here on."""
        self.counters.reset(seat)
        self._buckets.delete(seat)

    def vacate(self, seat: Seat, *, counters: bool = True) -> None:
        """Nobody is there any more. counters: nor is what they count."""
        if counters:
            self.counters.delete(seat)
        self._buckets.delete(seat)

    def silence(self, of: Callable[[Seat], bool]) -> None:
        """Nobody at such seats listens to any group."""
        self._listeners.forget(of)

    def forget(self, of: Callable[[Seat], bool]) -> None:
        """Whatever entries such seats have, also those that this process does not know of."""
        for table, seat_of in self._by_seat():
            table.drop([key for key, value in table.entries() if of(seat_of(key, value))])
        receivers = self.tables.receivers
        receivers.drop(at for at in receivers if of(layout.seat_of_key(at[1])))
        self._listeners.forget(of)

    # Of all seats.

    def mirror(self, wanted: Mapping[bytes, bytes]) -> list[str]:
        """Where copies of interfaces' frames go, replacing the former; why the kernel refused some."""
        mirrors = self.tables.mirrors
        if wanted == mirrors.told:
            return []
        refused = mirrors.put(wanted)
        mirrors.drop([key for key in mirrors.told if key not in wanted])
        return refused

    def sample_uplinks(self, ifindexes: Iterable[int], sampled: Sampling | None) -> list[str]:
        """Samples of these uplinks as their host says, and of no other uplink; why the kernel refused some."""
        sampling, value = self.tables.sampling, layout.sampling(sampled)
        wanted = {} if value is None else {layout.NUMBER.pack(ifindex): value for ifindex in ifindexes}
        ports = {layout.NUMBER.pack(seat.ifindex) for seat in self._held}
        refused = sampling.put(wanted)
        sampling.drop([key for key in sampling.told if key not in wanted and key not in ports])
        return refused

    def prune(self, ports: Mapping[Seat, str], spared: Collection[Seat], others: Iterable[Seat]) -> None:
        """What is of no port of these goes, nor of ``spared``, of which this process has put nothing and a former one
        has. others: seats that have counters besides.
        """
        for table, seat_of in self._by_seat():
            entries = table.entries()
            table.drop([key for key, value in entries if key not in table.told and seat_of(key, value) not in spared])
        self._listeners.forget(lambda seat: seat not in ports)
        open_here = self._held.keys() | set(spared)
        receivers = self.tables.receivers
        receivers.drop(at for at in receivers if layout.seat_of_key(at[1]) not in open_here)
        self._further.keep({layout.port_number(port) for port in ports.values()})
        in_use = {*ports, *others, Seat(0)}
        for seat in self.counters.seats():
            if seat not in in_use:
                self.counters.delete(seat)
        self._buckets.keep(in_use)

    def repair(self, *, prune: bool) -> int:
        """How many entries were not as told. prune: what was not told goes, too."""
        of = self.tables
        tables = (of.sources, of.qos, of.sampling, of.mirrors, of.ports, of.local, of.receivers.table)
        return sum(table.repair(prune=prune) for table in (*tables, self._guards.guards))

    def covered(self) -> Iterator[Table]:
        """What a generation holds of ports once they are all open."""
        return (table for table, _ in self._by_seat())

    def read(self) -> Found:
        """What the kernel has."""
        of = self.tables
        sources: dict[Seat, set[bytes]] = {}
        for key, _ in of.sources.entries():
            sources.setdefault(layout.seat_of_source(key), set()).add(key)
        ports, local, qos, sampling = (dict(table.entries()) for table in (of.ports, of.local, of.qos, of.sampling))
        return Found(ports, local, sources, qos, sampling)

    def _by_seat(self) -> Iterator[tuple[Table, Callable[[bytes, bytes], Seat]]]:
        yield from self.tables.by_seat
        yield self._guards.guards, lambda key, _: layout.seat_of_key(key)
