"""How much of a map each is sure of, whatever others have: routing domains, and ports. Knows no row.

The door holds tenants to their shares (docs/design/model.md, Shares of tables). This holds also where it could not
know: in maps that are smaller than what tenants may have, of objects that are older than the limits, while much changes
at once. What is there is never taken away for another, be it that a former agent has put it there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence

from weft.dataplane.ebpf import libbpf

_ALL_OF_VSID = slice(0, 4)


class Domains:
    """Which routing domain a VSID is of; one that is not known is one by itself."""

    def __init__(self) -> None:
        self._of: dict[bytes, bytes] = {}
        self._reserves: list[Reserve] = []

    def of(self, vsid: bytes) -> bytes:
        return self._of.get(vsid, vsid)

    def learn(self, vsid: bytes, domain: bytes) -> None:
        former = self.of(vsid)
        if former != domain:
            for reserve in self._reserves:
                reserve.move(vsid, former, domain)
            self._of[vsid] = domain

    def forget(self, vsid: bytes) -> None:
        self.learn(vsid, vsid)
        self._of.pop(vsid, None)

    def reserve(self, of: libbpf.Map, most: int, ports: int) -> Reserve:
        """Of a map whose keys begin with a VSID."""
        made = Reserve(of, most, ports, lambda key: key[_ALL_OF_VSID], self.of)
        self._reserves.append(made)
        return made


class Reserve:
    """Of one map: ``most`` for whoever comes first, and beside that a part of its own for each of so many holders."""

    def __init__(
        self,
        of: libbpf.Map,
        most: int,
        holders: int,
        part: Callable[[bytes], bytes],
        holder_of: Callable[[bytes], bytes] = bytes,
    ) -> None:
        """part: of a key, what is counted together; holder_of: whose that is."""
        self.most = most
        self.own = (of.max_entries - most) // holders
        self._shared = most - self.own  # so that one alone has most
        self._part, self._holder_of = part, holder_of
        self._parts: Counter[bytes] = Counter()
        self._holders: Counter[bytes] = Counter()
        self._beyond = 0  # what is nobody's own

    def take(self, keys: Sequence[bytes]) -> Collection[bytes]:
        """Keys that are not there yet: those for which there is no room. The rest count from here on."""
        if not keys:
            return ()
        more = Counter(map(self._part, keys))
        if self._fits(more):
            self._add(more)
            return ()
        refused: list[bytes] = []
        for key in keys:
            one = {self._part(key): 1}
            if self._fits(one):
                self._add(one)
            else:
                refused.append(key)
        return refused

    def hold(self, keys: Iterable[bytes]) -> None:
        """Keys that are there, or have to be, room or no room: they count."""
        self._add(Counter(map(self._part, keys)))

    def give(self, keys: Iterable[bytes]) -> None:
        """Keys that counted, and are not there any more."""
        self._add({part: -number for part, number in Counter(map(self._part, keys)).items()})

    def move(self, part: bytes, former: bytes, holder: bytes) -> None:
        """It is another's from here on, who may have more than there is room for then."""
        if number := self._parts[part]:
            self._count({former: -number, holder: number})

    def _fits(self, more: Mapping[bytes, int]) -> bool:
        """What is somebody's own does, though of the rest more may be held than there is."""
        over = self._over(more)
        return not over or self._beyond + over <= self._shared

    def _held(self, more: Mapping[bytes, int]) -> Counter[bytes]:
        held: Counter[bytes] = Counter()
        for part, number in more.items():
            held[self._holder_of(part)] += number
        return held

    def _over(self, more: Mapping[bytes, int]) -> int:
        """How much more of what is nobody's own."""
        return sum(self._beyond_of(holder, number) for holder, number in self._held(more).items())

    def _beyond_of(self, holder: bytes, more: int) -> int:
        has = self._holders[holder]
        return max(has + more - self.own, 0) - max(has - self.own, 0)

    def _add(self, more: Mapping[bytes, int]) -> None:
        _count(self._parts, more)
        self._count(self._held(more))

    def _count(self, more: Mapping[bytes, int]) -> None:
        self._beyond += sum(self._beyond_of(holder, number) for holder, number in more.items())
        _count(self._holders, more)


def _count(of: Counter[bytes], more: Mapping[bytes, int]) -> None:
    for each, number in more.items():
        of[each] += number
        if not of[each]:
            del of[each]


class Further:
    """What ports have beyond what every port has: a tenant's at most a third of all. there: of ports that are not told
    of yet, what a former agent has left them, and whose they are: it counts until they are granted, or go.
    """

    def __init__(self, most: int, there: Mapping[Hashable, tuple[Hashable, int]] | None = None) -> None:
        self._most = most
        self._has = {port: number for port, (_, number) in (there or {}).items() if number}
        self._tenants = {port: tenant for port, (tenant, number) in (there or {}).items() if number}
        self._of_tenant: Counter[Hashable] = Counter()
        for port, number in self._has.items():
            self._of_tenant[self._tenants[port]] += number

    def grant(self, port: Hashable, tenant: Hashable, wanted: int) -> int:
        """How many of so many the port may have; what it had it keeps."""
        has = self._has.get(port, 0)
        free = min(self._most - self._of_tenant.total(), self._most // 3 - self._of_tenant[tenant])
        granted = min(wanted, has + max(free, 0))
        self._of_tenant[tenant] += granted - has
        self._has[port], self._tenants[port] = granted, tenant
        if not granted:
            del self._has[port], self._tenants[port]
        if not self._of_tenant[tenant]:
            del self._of_tenant[tenant]
        return granted

    def keep(self, ports: Collection[Hashable]) -> None:
        """All others have gone."""
        for port in self._has.keys() - set(ports):
            self.grant(port, self._tenants[port], 0)
