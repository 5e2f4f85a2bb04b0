"""The maps of what lies between this host and its peers: which addresses are theirs, and which ways lead there.

Finds out nothing by itself. Ways that a former agent has told stay until others are told, or their peer or one of their
addresses goes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from weft.contracts.dataplane import Failure, Way
from weft.dataplane.ebpf import layout, maps
from weft.dataplane.ebpf.tables import Table
from weft.kit.errors import Rejected
from weft.policy.rows import Host, Key, Peer


class Paths:
    """The maps aliases and paths, and the Peer rows that they follow from."""

    def __init__(self, aliases: Table, paths: Table) -> None:
        self.aliases, self.paths = aliases, paths
        self.peers: dict[Key, Peer] = {}
        self._rows_of: dict[str, dict[Key, None]] = {}  # by a peer's first PA
        #: Peers of which a packet has to ask. Of the others there is one way, and it takes all that the uplink takes.
        self._asked_of = {key for key, _ in paths.entries()}
        self._host: Host | None = None

    @property
    def in_use(self) -> bool:
        """Whether packets have to ask."""
        return bool(self._asked_of)

    def update(self, rows: Iterable[Peer]) -> list[Failure]:
        failures: list[Failure] = []
        for row in rows:
            try:
                entries = layout.aliases(row)
            except Rejected as error:
                failures.append(Failure(row.key, error.message, permanent=True))
                continue
            if refused := self.aliases.put(entries):
                failures.append(Failure(row.key, "; ".join(dict.fromkeys(refused))))
                continue
            former = self.peers.get(row.key)
            self.peers[row.key] = row
            self._rows_of.setdefault(row.pa, {})[row.key] = None
            if former is not None and former.pas != row.pas:
                self._forget(former)
        return failures

    def delete(self, keys: Iterable[Key]) -> None:
        for key in keys:
            row = self.peers.pop(key, None)
            if row is None:
                continue
            rows = self._rows_of[row.pa]
            del rows[key]
            self._forget(row)
            if not rows:
                del self._rows_of[row.pa]
                self._put(layout.address(row.pa), None)

    def _forget(self, former: Peer) -> None:
        """What the row has said, but for what rows that there are say of the same peer."""
        rows = [self.peers[key] for key in self._rows_of[former.pa]]
        left = {layout.address(pa) for row in rows for pa in row.pas}
        said = layout.aliases(former).items()
        self.aliases.drop([key for key, first in said if key not in left and self.aliases.told.get(key) == first])
        self._drop({layout.address(former.pa)}, left, by_source=False)

    def prune(self, wanted: Collection[Key]) -> None:
        """Also of what a former agent has left."""
        self.delete([key for key in self.peers if key not in wanted])
        self.aliases.drop([key for key, _ in self.aliases.entries() if key not in self.aliases.told])
        known = {layout.address(pa) for pa in self._rows_of}
        for key in [key for key, _ in self.paths.entries() if key not in known]:
            self._put(key, None)

    def take_over(self, generation: Path) -> None:
        """What a former generation had, of peers that there still are and that nothing was told of yet. Which ways work
        is found out anew; till then what was known goes on.
        """
        known = {layout.address(pa) for pa in self._rows_of}
        for key, value in maps.former_entries(generation / "paths", self.paths.map):
            if key in known and key not in self.paths.told:
                self._put(key, value)

    def keep(self, host: Host | None) -> None:
        """No way begins at an address that is not the host's."""
        self._host = host
        own = {layout.address(pa) for pa in host.pas} if host is not None else set()
        self._drop(None, own, by_source=True)
        self._asked_of = {key for key, value in self.paths.entries() if not self._is_plain(key, value)}

    def lead(self, ways: Mapping[str, Sequence[Way]]) -> list[Failure]:
        """See DataPlane.paths."""
        failures: list[Failure] = []
        for pa, some in ways.items():
            if pa not in self._rows_of:
                failures.append(Failure(("peers", "", pa), f"{pa} is the first PA of no peer", permanent=True))
                continue
            try:
                value = layout.path(pa, some) if some else None
            except Rejected as error:
                failures.append(Failure(("peers", "", pa), error.message, permanent=True))
                continue
            failures += (Failure(("peers", "", pa), why) for why in self._put(layout.address(pa), value))
        return failures

    def _put(self, key: bytes, value: bytes | None) -> list[str]:
        if value is None:
            self.paths.drop([key])
            self._asked_of.discard(key)
            return []
        refused = self.paths.put({key: value})
        if refused or self._is_plain(key, value):
            self._asked_of.discard(key)
        else:
            self._asked_of.add(key)
        return refused

    def _is_plain(self, key: bytes, value: bytes) -> bool:
        """Whether a packet that does not ask goes the same way, whatever its size: from the host's first PA of the
        family to the peer's first, which takes all that the uplinks take.
        """
        if self._host is None:
            return False
        six = not key.startswith(layout.MAPPED)
        first = next((layout.address(pa) for pa in self._host.pas if (":" in pa) == six), None)
        least = max((uplink.mtu_bytes for uplink in self._host.uplinks), default=0)
        return all(
            (source, destination) == (first, key) and mtu >= least
            for source, destination, mtu in layout.WAY.iter_unpack(value)
        )

    def _drop(self, keys: Collection[bytes] | None, left: Collection[bytes], *, by_source: bool) -> None:
        """The ways of these peers, or of all, when one of them has an address that is not among those left."""
        gone = []
        for key, value in self.paths.entries():
            if keys is None or key in keys:
                ends = layout.WAY.iter_unpack(value)
                if any((source if by_source else destination) not in left for source, destination, _ in ends):
                    gone.append(key)
        for key in gone:
            self._put(key, None)
