"""How much of a map of rules each set of groups may have, so that nobody uses up what others need. Knows no rule.

The door refuses what would not fit (docs/design/model.md, Room for rules). This holds also where it could not know:
of what is there only while rules change, in a map that was made smaller, for rules that are older than the limits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from weft.dataplane.ebpf import layout
from weft.dataplane.ebpf.tables import Table


class Owner(NamedTuple):
    """A set of groups, by one of its policies' numbers, and whose it is."""

    policy: int
    tenant: str


class Shares:
    """Of one map. Each set of groups has a part of its own, also while it becomes another; a half of the map is for
    what they have beyond, and of that a quarter for one tenant's.
    """

    def __init__(self, table: Table, ports: int) -> None:
        self._table = table
        most = table.map.max_entries
        self._own, self._shared, self._of_tenant = most // (4 * ports), most // 2, most // 8
        self._owners: dict[int, Owner] = {}  # by policy
        self._has: Counter[Owner] = Counter()
        self._beyond: Counter[str] = Counter()  # what is not its own, by tenant

    def give(self, policies: Iterable[int], owner: Owner) -> None:
        """Whose entries of these policies are."""
        self._owners.update((policy, owner) for policy in policies)

    def put(self, entries: Mapping[bytes, bytes]) -> list[str]:
        """All of them, or none where they would be more than there is for whose they are; why not."""
        told = self._table.told
        fresh = [key for key in entries if key not in told]
        more = self._count(fresh)
        if (why := self._why_not(more)) is not None:
            return [why]
        refused = self._table.put(entries)
        self._add(self._count(key for key in fresh if key in told) if refused else more)
        return refused

    def drop(self, keys: Iterable[bytes]) -> None:
        gone = [key for key in keys if key in self._table.told]
        less = self._count(gone)
        self._table.drop(gone)
        self._add({owner: -number for owner, number in less.items()})

    def forget(self, keep: Collection[int]) -> None:
        """Policies that have no entries any more, but for these."""
        self._owners = {
            policy: owner for policy, owner in self._owners.items() if policy in keep or self._has[owner] > 0
        }
        self._has = +self._has

    def _count(self, keys: Iterable[bytes]) -> Counter[Owner]:
        return Counter(self._owners[layout.policy_of(key)] for key in keys)

    def _over(self, owner: Owner, more: int) -> int:
        """How much more of what is not its own."""
        has = self._has[owner]
        return max(has + more - self._own, 0) - max(has - self._own, 0)

    def _why_not(self, more: Mapping[Owner, int]) -> str | None:
        over: Counter[str] = Counter()
        for owner, number in more.items():
            over[owner.tenant] += self._over(owner, number)
        name, part = self._table.map.name, f"beyond the {self._own} of each port's groups"
        for tenant, number in over.items():
            if number and self._beyond[tenant] + number > self._of_tenant:
                return (
                    f"{name}: full at {self._of_tenant} entries of one tenant {part}: raise the data plane's size of it"
                )
        if (number := over.total()) and self._beyond.total() + number > self._shared:
            return f"{name}: full at {self._shared} entries {part}: raise the data plane's size of it"
        return None

    def _add(self, more: Mapping[Owner, int]) -> None:
        for owner, number in more.items():
            self._beyond[owner.tenant] += self._over(owner, number)
            self._has[owner] += number
