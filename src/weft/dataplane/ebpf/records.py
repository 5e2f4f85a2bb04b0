"""Where addresses and MACs of virtual subnets are: the maps records, macs and moving. Decides nothing about a packet.

Of a record rules know first whose it is (guards.py); one of which they cannot is not put, or goes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from weft.contracts.dataplane import Failure
from weft.dataplane.ebpf import layout
from weft.dataplane.ebpf.guards import Guards
from weft.dataplane.ebpf.tables import Table, packed
from weft.kit.errors import Rejected
from weft.policy.rows import Key, MacRecord, Record, Rule


class Records:
    """One host's. macs and moving: a MAC's place, and the second one of a port that moves."""

    def __init__(self, records: Table, macs: Table, moving: Table, guards: Guards) -> None:
        self.records, self.macs = records, macs
        self._moving, self._guards = moving, guards
        self._came: list[MacRecord] = []

    def update(self, rows: Sequence[Record]) -> list[Failure]:
        """Whose they are first: at no moment is one there of whom rules do not know it."""
        failures = self._guards.identify(rows)
        missing = {layout.record_keys(key)[0] for key in self._guards.missing}
        return failures + self.records.put_rows((row for row in rows if row.key not in missing), layout.record)

    def update_macs(self, rows: Sequence[MacRecord], pas: Collection[str]) -> list[Failure]:
        """And where those are moving to that do; a record that says so before that is known has one place only. pas:
        this host's.
        """
        self._came += (row for row in rows if self._comes_here(row, pas))
        failures = self.macs.put_rows(rows, layout.mac_record)
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

    def _comes_here(self, row: MacRecord, pas: Collection[str]) -> bool:
        """Whether a port of a VLAN that was elsewhere, or on its way, is to be here now and nowhere else."""
        if row.rule is not Rule.VLAN or row.also is not None or row.pa not in pas:
            return False
        try:
            key, value = layout.mac_record(row)
        except Rejected:
            return False
        return self.macs.told.get(key, value) != value

    def take_came(self) -> frozenset[tuple[int, str]]:
        """(VSID, MAC) of ports in VLANs that have come to this host since the last time."""
        came, self._came = self._came, []
        return frozenset((row.vsid, row.mac) for row in came)

    def delete(self, keys: Iterable[Key]) -> list[Failure]:
        """Of records."""
        gone, failures = packed(keys, layout.map_key)
        self.records.drop(gone)
        self._guards.forget(gone)
        return failures

    def delete_macs(self, keys: Iterable[Key]) -> list[Failure]:
        gone, failures = packed(keys, layout.map_key)
        self.macs.drop(gone)
        self._moving.drop(self._moving.told.keys() & gone)
        return failures

    def drop_missing(self) -> None:
        """Those of which nothing says any more whose they are."""
        self.records.drop(self._guards.missing & self.records.told.keys())

    def prune(self, wanted: Collection[Key]) -> None:
        """All others go, told or not."""
        self.macs.prune(wanted, layout.mac_record_keys)
        self.records.prune(wanted, layout.record_keys)
        self._moving.prune(wanted, layout.mac_record_keys)

    def repair(self, *, prune: bool) -> int:
        """How many entries were not as told. prune: what was not told goes, too."""
        return sum(table.repair(prune=prune) for table in (self.records, self.macs, self._moving))

    def read(self) -> Iterator[Record | MacRecord]:
        """What the kernel has; of a rule that is not ours nothing. Groups are as they were told."""
        moves = dict(self._moving.entries())
        for key, value in self.records.entries():
            if layout.is_record(value):
                yield replace(layout.read_record(key, value, moves), groups=self._guards.bears(key))
        for key, value in self.macs.entries():
            if layout.is_record(value):
                yield layout.read_mac_record(key, value, moves)
