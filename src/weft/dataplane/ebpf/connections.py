"""Connections of guarded ports, by the ports' names: shown, carried, swept and taken over. Judges no packet.

conntrack.py has them as the maps do, by numbers; here is who asks for them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from weft.contracts.connections import Carried, Connection, ConnectionEvent, Logged, Mark
from weft.dataplane.ebpf import conntrack, layout, maps
from weft.dataplane.ebpf.libbpf import Map, Ring


class PortConnections:
    """One host's. names: its ports, bound or not yet, by their numbers, as they are when it is called."""

    def __init__(
        self,
        connections: conntrack.Connections,
        leftovers: conntrack.Leftovers,
        tracking: conntrack.Tracking,
        events: Map,
        names: Callable[[], Mapping[int, str]],
    ) -> None:
        self._connections, self.leftovers, self._tracking = connections, leftovers, tracking
        self._events = Ring(events)
        self._names = names

    def shown(self) -> Iterator[Connection]:
        """See DataPlane.connections."""
        names, now_ns = self._names(), time.monotonic_ns()
        for key, value in self._connections.entries():
            yield conntrack.shown(key, value, names, now_ns)
        for key, value in conntrack.entries(self._connections.expectations):
            yield conntrack.awaited(key, value, names, now_ns)

    def carried(self, port: str, connections: Collection[bytes] | None = None) -> Iterator[tuple[bytes, Carried]]:
        """See DataPlane.carried."""
        number, now_ns = layout.port_number(port).to_bytes(8, sys.byteorder), self._tracking.now_ns()
        for key, value in self._connections.entries() if connections is None else self._connections.some(connections):
            if key.startswith(number):
                found = conntrack.carried(key, value, now_ns, self._connections.expectation_of(key, value))
                if found.left_ms > 0:
                    yield key, found

    def marks(self, ports: Collection[str]) -> Iterator[tuple[str, bytes, Mark]]:
        """See DataPlane.marks."""
        names = {layout.port_number(port).to_bytes(8, sys.byteorder): port for port in ports}
        now_ns = self._tracking.now_ns()
        for key, value in self._connections.entries():
            if (port := names.get(key[:8])) is not None:
                mark, left_ns = conntrack.mark(value, now_ns, partial(self._connections.expectation_of, key))
                if left_ns > 0:
                    yield port, key, mark

    def take(self, port: str, connections: Iterable[Carried]) -> int:
        """See DataPlane.take. Raises Rejected."""
        number, now_ns = layout.port_number(port), self._tracking.now_ns()
        settings = self._tracking.settings
        taken = [conntrack.taken(number, of, now_ns, settings) for of in connections]
        awaited = [spoken_of for *_, spoken_of in taken if spoken_of is not None]
        entries = {key: value for key, value, _ in taken}
        return self._connections.take(entries, awaited, tenant=layout.tenant_number(port))

    def forget_ports(self, ports: Collection[str]) -> None:
        """All that is of these ports, and what is under way of them."""
        numbers = {layout.port_number(port) for port in ports}
        for number in numbers:
            self.leftovers.forget(number)
        if had := {number for number in numbers if self.leftovers.counts(number)}:
            self._connections.forget_ports(had)

    def sweep(self, keep: Collection[str], *, all_ports: bool) -> int:
        """What has expired goes; how many connections. all_ports: and what is of no port but those that are known and
        those to ``keep``: while not all are known, nothing can be told from what is gone.
        """
        known = _tenants((*self._names().values(), *keep))
        gone = known if all_ports else None
        now_ns = time.monotonic_ns()
        swept = self._connections.sweep(now_ns, gone)
        self.leftovers.sweep(now_ns, gone)
        return swept

    def watch(self, *, on: bool) -> None:
        """Whether programs tell of what becomes of connections."""
        self._tracking.events = on
        self._tracking.write()

    @property
    def fd(self) -> int | None:
        """Readable when there is something to tell."""
        return self._events.fd

    def events(self, rules: Mapping[int, str]) -> list[ConnectionEvent | Logged]:
        """Those since the last time, in order. rules: their names by their numbers."""
        ports = self._names()
        return [conntrack.event(data, ports, rules) for data in self._events.read()]

    def take_over(self, generation: Path) -> None:
        """Another generation's. What changes between this and the switch is as it was before. Epochs of there say
        nothing here: each is held against the rules with its next packet.
        """
        former = maps.former_entries(generation / "connections", self._connections.table)
        self._connections.insert(dict(former), _tenants(self._names().values()))

    def close(self) -> None:
        self._events.close()


def _tenants(ports: Iterable[str]) -> dict[int, int]:
    """Whose each is, by numbers."""
    return {layout.port_number(port): layout.tenant_number(port) for port in ports}
