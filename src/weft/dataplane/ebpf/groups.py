"""Groups of the underlay that subnets have: in the maps, and joined on the uplinks. Sends and takes no packet.

The kernel holds the memberships, as it does everything else: an agent that is killed leaves no group.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from weft.contracts.dataplane import Failure
from weft.dataplane.ebpf import bpffs, layout
from weft.dataplane.ebpf.interfaces import Interface
from weft.dataplane.ebpf.tables import Table
from weft.policy.rows import Host, Port, Subnet

_JOINED = layout.NUMBER.pack(1)


class Groups:
    """One host's. here: those of subnets that have ports on this host; ways_out: the uplink of each family."""

    def __init__(self, by_subnet: Table, here: Table, ways_out: Table, pins: Path) -> None:
        self._by_subnet, self._here, self._ways_out = by_subnet, here, ways_out
        self._given = pins / "groups"  # says to a later agent that some are joined, or were
        self._asked: tuple[frozenset[str], frozenset[tuple[str, int]], bool] | None = None

    @property
    def in_use(self) -> bool:
        """A former agent's count, until it is known what is wanted."""
        return next(self._here.entries(), None) is not None

    def of(self, vsid: bytes) -> str | None:
        group = dict(self._by_subnet.entries()).get(vsid)
        return None if group is None else layout.address_text(group)

    def update(
        self,
        subnets: Mapping[bytes, Subnet],
        ports: Iterable[Port],
        host: Host | None,
        uplinks: Mapping[str, Interface],
        *,
        prune: bool,
        mend: bool,
    ) -> list[Failure]:
        """What these subnets (by the map's key) have, joined where ports are; no other if ``prune``. mend: look at the
        kernel again.
        """
        rows = {key: row for key, row in subnets.items() if row.provider_group is not None}
        if not rows and not self._given.exists():
            return []
        told = {key: layout.address(str(row.provider_group)) for key, row in rows.items()}
        populated = {layout.NUMBER.pack(port.vsid) for port in ports} if rows else set()
        here = dict.fromkeys((group for vsid, group in told.items() if vsid in populated), _JOINED)
        refused = self._by_subnet.put(told) + self._here.put(here)
        ways_out = _ways_out(host, uplinks) if rows else {}
        refused += self._ways_out.put(ways_out)
        self._drop_others(self._ways_out, ways_out, prune=prune)
        self._drop_others(self._by_subnet, told, prune=prune)
        self._drop_others(self._here, here, prune=prune)
        failures = [Failure(row.key, why) for row in rows.values() for why in dict.fromkeys(refused)]
        joined = {key: row for key, row in rows.items() if key in populated}
        return failures + self._join(joined, host, uplinks, prune=prune, mend=mend)

    def repair(self, *, prune: bool) -> int:
        return sum(table.repair(prune=prune) for table in (self._by_subnet, self._here, self._ways_out))

    def _drop_others(self, table: Table, wanted: Mapping[bytes, bytes], *, prune: bool) -> None:
        """Of what is not told yet nothing goes."""
        there = [key for key, _ in table.entries()] if prune else list(table.told)
        table.drop([key for key in there if key not in wanted])

    def _join(
        self,
        rows: Mapping[bytes, Subnet],
        host: Host | None,
        uplinks: Mapping[str, Interface],
        *,
        prune: bool,
        mend: bool,
    ) -> list[Failure]:
        by_group = {str(row.provider_group): row.key for row in rows.values()}
        on = {name: interface.ifindex for name, interface in uplinks.items()} if host is not None else {}
        asked = frozenset(by_group), frozenset(on.items()), prune
        if self._asked == asked and not mend:
            return []
        from weft.dataplane.ebpf import addresses  # with it comes pyroute2: 8 MB and 0.2 s

        self._given.mkdir(exist_ok=True)
        refused = addresses.join(by_group, on, prune=prune)
        self._asked = None if refused else asked
        if not by_group and prune:
            bpffs.remove(self._given)
        return [Failure(by_group[why.partition(": ")[0]], why) for why in refused]


def _ways_out(host: Host | None, uplinks: Mapping[str, Interface]) -> dict[bytes, bytes]:
    """By family, the uplink that has the host's first PA of it."""
    found: dict[bytes, bytes] = {}
    if host is None:
        return found
    for family, is6 in ((0, False), (1, True)):
        first = next((pa for pa in host.pas if (":" in pa) is is6), None)
        name = next((up.interface for up in host.uplinks if first in up.pas), None)
        # A host whose row does not say which uplink has a PA has but one that matters.
        name = name or next((up.interface for up in host.uplinks), None)
        if first is not None and name is not None and name in uplinks:
            found[layout.NUMBER.pack(family)] = layout.NUMBER.pack(uplinks[name].ifindex)
    return found
