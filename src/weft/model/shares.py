"""How much of what hosts share a tenant's objects may take. Counts; sees neither rows nor packets.

A host has the rows of every routing domain that it runs ports of, in tables that its tenants share. So what a tenant
may have of each is bounded, wherever it is, and an operator may set another bound (``limits`` of the tenant). What was
there before is let be. Docs: model.md, Shares of tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TypeAlias

from weft.kit.errors import Conflict, Rejected
from weft.model.journal import Journal
from weft.model.names import Kind, Name

LIMIT_LAST = 1 << 28  #: entries that a host's table has at most
SOURCES_OF_PORT = 16  #: (MAC, prefix) that each port may send from, whatever others do


class Share(StrEnum):
    """What is counted: of the tenant as a whole, or of its ports on each host."""

    SUBNETS = "subnets"
    ROUTES = "routes"
    RECORDS = "records"
    MACS = "macs"
    MEMBERS = "members"
    SUBPORTS = "subports"
    SOURCES = "sources"


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one tenant. None: the usual one."""

    subnets: int | None = None
    routes: int | None = None
    records: int | None = None
    macs: int | None = None
    members: int | None = None
    subports: int | None = None
    sources: int | None = None

    def of(self, share: Share) -> int:
        said: int | None = getattr(self, share)
        return USUAL[share] if said is None else said


@dataclass(frozen=True, slots=True)
class _About:
    """What a share is of, in words; the usual limit; what has most likely made it grow; and what helps."""

    what: str
    usual: int
    kinds: tuple[Kind, ...]
    field: str
    helps: str


_ABOUT: Mapping[Share, _About] = {
    Share.SUBNETS: _About(
        "virtual subnets", 4_096, (Kind.VIRTUAL_SUBNET,), "name", "a subnet may have an IPv4 and an IPv6 prefix"
    ),
    Share.ROUTES: _About(
        "prefixes of subnets and customer routes", 16_384, (Kind.CUSTOMER_ROUTE, Kind.VIRTUAL_SUBNET), "spec",
        "let fewer routes have wider prefixes",
    ),
    Share.RECORDS: _About(
        "addresses of ports, those among them that guests have announced", 65_536, (Kind.PORT,), "spec.addresses",
        "an allowed address pair may be a whole prefix, and takes none",
    ),
    Share.MACS: _About(
        "MACs of ports, those among them that guests have announced", 65_536, (Kind.PORT,), "spec",
        "let guests that share an address announce one virtual MAC",
    ),
    Share.MEMBERS: _About(
        "pairs of a subnet and a host that runs ports of it", 65_536, (Kind.PORT,), "spec.virtual_subnet",
        "let more ports be in the same subnet",
    ),
    Share.SUBPORTS: _About("sub-ports", 1_024, (Kind.PORT,), "spec.trunk", "let sub-ports be on more hosts"),
    Share.SOURCES: _About(
        f"sources (addresses and allowed pairs) of ports beyond {SOURCES_OF_PORT} of each", 65_536, (Kind.PORT,),
        "spec.allowed_address_pairs", "let fewer pairs have wider prefixes",
    ),
}  # fmt: skip

USUAL: Mapping[Share, int] = {share: about.usual for share, about in _ABOUT.items()}

USUAL_LIMITS = Limits()

#: What is counted of whom, and on which host; None: wherever it is.
Key: TypeAlias = tuple[Share, Name, Name | None]


class Tally:
    """What each tenant has. Follows from the objects alone; written through the journal, so an undo takes it back."""

    __slots__ = ("_before", "_counts", "_journal")

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._counts: dict[Key, int] = {}
        self._before: dict[Key, int] = {}  # of what has been counted since the last settle

    def add(self, share: Share, tenant: Name, number: int, host: Name | None = None) -> None:
        """number below zero: so many less."""
        key = share, tenant, host
        count = self._counts.get(key, 0)
        self._before.setdefault(key, count)
        if count + number:
            self._journal.put(self._counts, key, count + number)
        elif count:
            self._journal.drop(self._counts, key)

    def settle(self) -> None:
        self._before.clear()

    @property
    def grown(self) -> Iterable[tuple[Key, int]]:
        """Of what has changed since the last settle, what is more than before, and how much it is now."""
        for key, before in self._before.items():
            if (now := self._counts.get(key, 0)) > before:
                yield key, now

    def has(self, share: Share, tenant: Name, host: Name | None = None) -> int:
        return self._counts.get((share, tenant, host), 0)

    def had(self, share: Share, tenant: Name, host: Name | None = None) -> int:
        """At the last settle."""
        key = share, tenant, host
        return self._before.get(key, self._counts.get(key, 0))


@dataclass(frozen=True, slots=True)
class Arrival:
    """A port that was there comes to another host. taken: of each share as much as before, or less."""

    tenant: Name
    host: Name
    former: tuple[Name, ...]
    taken: Mapping[Share, int]


def check(
    tally: Tally,
    limits: Mapping[Name, Limits],
    puts: Mapping[Kind, Iterable[tuple[Name, str]]],
    arrivals: Callable[[], Iterable[Arrival]],
) -> None:
    """That no tenant takes more than it may. limits: of the tenants that have their own; puts: names and where each is
    in the request; arrivals: asked for where a limit does not do.
    """
    for (share, tenant, host), now in tally.grown:
        most = limits.get(tenant, USUAL_LIMITS).of(share)
        if now <= most or (host is not None and _only_moved(tally, share, tenant, host, arrivals())):
            continue
        about, below = _ABOUT[share], f"{tenant}/"
        mine = ((name, place) for kind in about.kinds for name, place in puts[kind] if name.startswith(below))
        # Where what has grown it is not put itself, the whole batch is to blame.
        name, place = next(mine, (None, None))
        blamed = "" if name is None else f"with {name} "
        there = "" if host is None else f" on {host}"
        raise Conflict(
            f"{blamed}{tenant} would have {now:,} {about.what}{there}; {most:,} are the most of a tenant's: "
            f"{about.helps}, or an operator sets limits.{share} of {tenant}",
            "" if place is None else f"{place}.{about.field}",
        )


def _only_moved(tally: Tally, share: Share, tenant: Name, host: Name, arrivals: Iterable[Arrival]) -> bool:
    """Whether all that a host has more of comes from another, and the tenant had as much there: as it was let be there,
    it may go elsewhere.
    """
    arrived, most = 0, 0
    for each in arrivals:
        if (each.tenant, each.host) == (tenant, host) and (number := each.taken.get(share, 0)):
            arrived += number
            most = max(most, *(tally.had(share, tenant, former) for former in each.former))
    now = tally.has(share, tenant, host)
    return now <= most and now - tally.had(share, tenant, host) <= arrived


def parse(given: Mapping[str, int | None]) -> Limits:
    for each in fields(Limits):
        number = given.get(each.name)
        if number is not None and not 0 <= number <= LIMIT_LAST:
            raise Rejected(f"{number} is outside 0..{LIMIT_LAST}", each.name)
    return Limits(**given)
