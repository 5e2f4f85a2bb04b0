"""Virtual subnets, their routes and members: in the maps of those names. Knows no guest in them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from ipaddress import ip_address, ip_network

from weft.contracts.dataplane import Failure
from weft.dataplane.ebpf import layout
from weft.dataplane.ebpf.places import Place, Places
from weft.dataplane.ebpf.reserves import Domains
from weft.dataplane.ebpf.tables import Table, packed
from weft.kit.errors import Rejected
from weft.policy.rows import Key, Member, Route, Subnet


class Subnets:
    """One host's. rows: the subnets that were told, by the map's key."""

    def __init__(self, subnets: Table, routes: Table, members: Places, domains: Domains) -> None:
        """domains: is told which routing domain each VSID is of."""
        self.rows: dict[bytes, Subnet] = {}
        self.subnets, self.routes, self.members = subnets, routes, members
        self._domains = domains

    @property
    def accepts(self) -> int:
        """Rules by which some subnet takes packets, as layout.accepts_mask has them."""
        return layout.accepts_mask(rule for row in self.rows.values() for rule in row.accepts)

    def update(self, rows: Sequence[Subnet]) -> list[Failure]:
        for row in rows:
            with suppress(Rejected):  # it is refused, too
                self._domains.learn(layout.map_key(row.key), row.rdid.encode())
        failures = self.subnets.put_rows(rows, layout.subnet)
        failed = {failure.key for failure in failures}
        for row in rows:
            if row.key not in failed:
                self.rows[layout.map_key(row.key)] = row
        return failures

    def update_routes(self, rows: Iterable[Route]) -> list[Failure]:
        return self.routes.put_rows(rows, layout.route)

    def update_members(self, rows: Iterable[Member]) -> list[Failure]:
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
        return failures + [Failure(keys[place], why) for place, why in self.members.put(values).items()]

    def delete(self, keys: Iterable[Key]) -> list[Failure]:
        """Of subnets."""
        gone, failures = packed(keys, layout.map_key)
        self.subnets.drop(gone)
        self._forget(gone)
        return failures

    def delete_routes(self, keys: Iterable[Key]) -> list[Failure]:
        gone, failures = packed(keys, layout.map_key)
        self.routes.drop(gone)
        return failures

    def delete_members(self, keys: Iterable[Key]) -> list[Failure]:
        gone, failures = packed(keys, layout.member_place)
        self.members.drop(gone)
        return failures

    def prune_routes(self, wanted: Collection[Key]) -> None:
        """All other routes go, told or not."""
        self.routes.prune(wanted, layout.route_keys)

    def prune(self, wanted: Collection[Key]) -> None:
        """All other subnets and members go, told or not."""
        self.subnets.prune(wanted, layout.subnet_keys)
        members: list[tuple[Place, Key]] = [(at, ("members", at[0], layout.address_text(at[1]))) for at in self.members]
        self.members.drop(place for place, key in members if key not in wanted)
        self._forget([key for key, row in self.rows.items() if row.key not in wanted])

    def _forget(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self.rows.pop(key, None)
            self._domains.forget(key)

    def repair(self, *, prune: bool) -> int:
        """How many entries were not as told. prune: what was not told goes, too."""
        return sum(table.repair(prune=prune) for table in (self.subnets, self.routes, self.members.table))

    def read(self, group_of: Callable[[bytes], str | None]) -> Iterator[Subnet]:
        """What the kernel has. Prefixes are not in the maps: they come from what was told, where that agrees with the
        maps, else from on-link routes. group_of: the underlay's group of a subnet, by the map's key.
        """
        on_link: dict[tuple[str, int], list[str]] | None = None
        for key, value in self.subnets.entries():
            told = self.rows.get(key)
            if told is not None and layout.subnet(told) == (key, value):
                yield told
            else:
                on_link = self._on_link() if on_link is None else on_link
                seen = layout.read_subnet(key, value)
                yield seen.row(_prefixes(seen.gateways, on_link.get((seen.rdid, seen.vsid), ())), group_of(key))

    def _on_link(self) -> dict[tuple[str, int], list[str]]:
        """Prefixes by routing domain and VSID, as on-link routes say."""
        found: dict[tuple[str, int], list[str]] = {}
        for route in self.read_routes():
            if route.next_hop is None:
                found.setdefault((route.rdid, route.vsid), []).append(route.prefix)
        return found

    def read_routes(self) -> Iterator[Route]:
        return (layout.read_route(key, value) for key, value in self.routes.entries())

    def read_members(self) -> Iterator[Member]:
        return (layout.read_member(vsid, value) for vsid, value in self.members.entries())


def _prefixes(gateways: Iterable[str], on_link: Iterable[str]) -> tuple[str, ...]:
    """Of each gateway, the longest on-link prefix that it is in."""
    found = []
    for gateway in gateways:
        address = ip_address(gateway)
        around = [net for net in map(ip_network, on_link) if net.version == address.version and address in net]
        if around:
            found.append(str(max(around, key=lambda net: net.prefixlen)))
    return tuple(found)
