"""Who listens to which multicast group, here and on other hosts. Never loses a group: who asks for too much hears all.

It is the agent's knowledge, and no row's.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from weft.contracts.dataplane import Failure, Wanted
from weft.dataplane.ebpf import layout, maps
from weft.dataplane.ebpf.tables import Table

#: All of IPv4's and all of IPv6's: what a multicast router's port listens to.
EVERY4, EVERY6 = "0.0.0.0", "::"  # noqa: S104 -- no address to bind to
EVERY_GROUP = frozenset({EVERY4, EVERY6})


def generalised(asked: Mapping[str, Collection[str]], room: int) -> dict[str, frozenset[str]]:
    """Each port's groups, in so many places: ports that ask for the most hear every group, until the others have room.

    A port that asks for no more than two groups is left as it is: all of them would take as many places.
    """
    given = {port: frozenset(groups) for port, groups in asked.items()}
    total = sum(map(len, given.values()))
    most = [(-len(groups), port) for port, groups in given.items()]
    heapq.heapify(most)
    while total > room and most:
        _, port = heapq.heappop(most)
        every = frozenset(EVERY6 if ":" in group else EVERY4 for group in given[port])
        if len(every) < len(given[port]):
            total += len(every) - len(given[port])
            given[port] = every
    return given


class Listeners:
    """The map listeners: of guests here, by their ports' seats."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def listen(self, listeners: Mapping[str, Collection[str]], seats: Mapping[str, layout.Seat]) -> list[Failure]:
        """See DataPlane.listen. seats: of all ports that are bound, by name."""
        asked = {port: frozenset(groups) for port, groups in listeners.items() if port in seats}
        # Two places of each port are nobody else's: who asks for too much hears all, and nobody's group is lost.
        most = self.table.map.max_entries
        given = generalised(asked, most - len(EVERY_GROUP) * len(seats))
        wanted: dict[bytes, bytes] = {}
        ports: dict[bytes, str] = {}
        for port in sorted(given, key=lambda port: given[port] == asked[port]):  # first those that are to hear all
            for group in given[port]:
                key = layout.listener(seats[port], group)
                wanted[key], ports[key] = layout.ALLOWED, port
        refused = self.table.refused(wanted)
        here = set(seats.values())
        stale = (key for key, _ in self.table.entries() if key not in wanted)
        self.table.drop([key for key in stale if layout.read_listener(key)[0] in here])
        if refused:  # what has gone may have been in the way
            refused = self.table.refused(wanted)
        size = f"listeners: full at {most} entries: raise the data plane's size of it"
        why = {
            port: f"{size}; a guest that asks for {len(asked[port])} groups hears them all"
            for port in given
            if given[port] != asked[port]
        } | {ports[key]: reason for key, reason in refused.items()}
        return [Failure(("ports", port), reason) for port, reason in why.items()]

    def listening(self, names: Mapping[layout.Seat, str]) -> dict[str, set[str]]:
        """What is programmed of these ports, also by a former agent."""
        found: dict[str, set[str]] = {}
        for key, _ in self.table.entries():
            seat, group = layout.read_listener(key)
            if seat in names:
                found.setdefault(names[seat], set()).add(group)
        return found

    def forget(self, of: Callable[[layout.Seat], bool]) -> None:
        """Whatever is there of such seats."""
        self.table.drop([key for key, _ in self.table.entries() if of(layout.read_listener(key)[0])])

    def take_over(self, generation: Path) -> None:
        """Another generation's."""
        self.table.put(dict(maps.former_entries(generation / "listeners", self.table.map)))


class Heeded:
    """The map wanted: what members of subnets on other hosts want copies of."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._told: dict[tuple[int, str], frozenset[bytes]] | None = None  # None: whatever a former process has told

    def heed(self, wanted: Mapping[tuple[int, str], Wanted | None]) -> list[Failure]:
        """See DataPlane.heed."""
        if self._told is None:
            self._told = {}
            self.table.drop([key for key, _ in self.table.entries()])
        failures: list[Failure] = []
        now_ns = time.monotonic_ns()
        for at, said in wanted.items():
            entries = {} if said is None else layout.wanted(*at, said.groups, now_ns + int(said.for_s * 1e9))
            gone = self._told.pop(at, frozenset()) - entries.keys()
            if refused := self.table.put(entries):
                failures.append(Failure(("members", *at), "; ".join(dict.fromkeys(refused))))
                gone |= entries.keys()  # what not all is known of is as if nothing were
            else:
                self._told[at] = frozenset(entries)
            # What says that this is all goes first.
            self.table.drop(sorted(gone, key=lambda key: key[-16:] != layout.NONE))
        return failures
