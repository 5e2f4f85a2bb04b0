"""Provider addresses that stand for guests: in the maps rewrites and pas, and on the uplinks. Rewrites no packet.

That some are, or were, on the uplinks a directory beside the pins says to a later agent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from weft.contracts.dataplane import Failure
from weft.dataplane.ebpf import bpffs, layout
from weft.dataplane.ebpf.interfaces import Interface
from weft.dataplane.ebpf.tables import Table, packed
from weft.policy.rows import Key, Port, Rewrite


class Rewrites:
    """One host's. rewrites: whom a PA stands for; pas: what stands for an address."""

    def __init__(self, rewrites: Table, pas: Table, pins: Path) -> None:
        self.rewrites = rewrites
        self._pas = pas
        self._given = pins / "pas"
        self._asked: tuple[frozenset[str], frozenset[tuple[str, int]], bool] | None = None

    def update(self, rows: Sequence[Rewrite]) -> list[Failure]:
        failures = self.rewrites.put_rows(rows, layout.rewrite)
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

    def delete(self, keys: Iterable[Key]) -> list[Failure]:
        """What a PA stood for may have another by now, since puts come before deletes."""
        gone, failures = packed(keys, layout.map_key)
        places = [(pa, self.rewrites.told.get(pa)) for pa in gone]
        self.rewrites.drop(gone)
        self._pas.drop(place for pa, place in places if place is not None and self._pas.told.get(place) == pa)
        return failures

    def prune(self, wanted: Collection[Key]) -> None:
        """All others go, told or not."""
        self.rewrites.prune(wanted, layout.rewrite_keys)
        standing = set(self.rewrites.told.values())
        self._pas.drop([place for place, _ in self._pas.entries() if place not in standing])

    def repair(self, *, prune: bool) -> int:
        """How many entries were not as told. prune: what was not told goes, too."""
        return self.rewrites.repair(prune=prune) + self._pas.repair(prune=prune)

    def read(self) -> Iterator[Rewrite]:
        """What the kernel has."""
        sent = dict(self._pas.entries())
        for key, value in self.rewrites.entries():
            yield layout.read_rewrite(key, value, sent)

    def give(
        self, ports: Iterable[Port], uplinks: Mapping[str, Interface], *, prune: bool, mend: bool
    ) -> list[Failure]:
        """What stands for the addresses of this host's ports, on its uplinks (by name). prune: and no other that is
        ours; mend: look at the kernel again.
        """
        wanted = {pa: row.key for row in ports for pa in row.pas}
        if not wanted and not self._given.exists():
            return []
        on = {name: interface.ifindex for name, interface in uplinks.items()}
        asked = frozenset(wanted), frozenset(on.items()), prune
        if self._asked == asked and not mend:
            return []
        from weft.dataplane.ebpf import addresses  # with it comes pyroute2: 8 MB and 0.2 s

        self._given.mkdir(exist_ok=True)
        refused = addresses.make(wanted, on, prune=prune)
        self._asked = None if refused else asked
        if not wanted and prune:
            bpffs.remove(self._given)
        return [Failure(wanted[why.partition(": ")[0]], why) for why in refused]
