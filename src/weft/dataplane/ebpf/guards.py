"""What ports' security groups and their records' say, kept in the programs' maps. Sees no packet.

Policies and identities are numbered by what they say, so an agent that starts anew says the same of them as the former
did, and nothing moves. A port's rules change by one write, of its guard: what the guard names is there before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from weft.contracts.dataplane import Failure
from weft.dataplane.ebpf import layout, security
from weft.dataplane.ebpf.security import Flag
from weft.dataplane.ebpf.tables import Table
from weft.policy.rows import AddressGroup, Direction, Key, Port, Record, SecurityGroup
from weft.policy.security import compile_identity, compile_policy, remote_groups

_FIRST_POLICY = 2
_OPEN_OUT = {look: security.EVERYTHING if look[0] is Direction.EGRESS else security.NOTHING for look in security.LOOKS}


def is_guarded(row: Port) -> bool:
    """Whether anything is asked of the port's packets."""
    return row.port_security or bool(row.groups)


@dataclass(slots=True)
class Policies:
    """Of one set of groups: the numbers of its policies, and their entries."""

    groups: tuple[SecurityGroup, ...]
    numbers: dict[tuple[Direction, int], int]
    classes: dict[bytes, bytes] = field(default_factory=dict)
    rules: dict[bytes, bytes] = field(default_factory=dict)
    names: frozenset[int] = frozenset()  # of security groups whose members rules speak of

    def identity(self, number: int, bears: Collection[int]) -> dict[bytes, bytes]:
        """Entries of the map rules for the addresses of an identity."""
        found: dict[bytes, bytes] = {}
        if not self.names.isdisjoint(bears):
            for (direction, version), policy in self.numbers.items():
                found |= security.rules(policy, compile_identity(self.groups, direction, version, number, bears))
        return found


class Guards:
    """The maps guards, identities, classes and rules. ``changed``: since it was last set to False."""

    def __init__(self, guards: Table, identities: Table, classes: Table, rules: Table) -> None:
        self.guards, self.identities, self.classes, self.rules = guards, identities, classes, rules
        self.changed = False
        self._groups: dict[int, SecurityGroup] = {}
        self._address_groups: dict[int, AddressGroup] = {}
        self._policies: dict[tuple[int, ...], Policies] = {}  # by the groups of a port
        self._ports: dict[layout.Seat, Port] = {}
        self._bears: dict[int, tuple[int, ...]] = {}  # by identity
        self._identity: dict[tuple[int, ...], int] = {}
        self._stale = False

    @property
    def tables(self) -> tuple[Table, ...]:
        """What is the host's, and no port's."""
        return (self.rules, self.classes, self.identities)

    @property
    def in_use(self) -> bool:
        return bool(self._ports)

    def bears(self, key: bytes) -> tuple[int, ...]:
        """The groups of a record."""
        number = self.identities.told.get(key)
        return () if number is None else self._bears[layout.NUMBER.unpack(number)[0]]

    # Records

    def identify(self, rows: Iterable[Record]) -> list[Failure]:
        """The groups that addresses bear; what rules say of a new set of them is there first."""
        failures: list[Failure] = []
        entries: dict[bytes, bytes] = {}
        keys: dict[bytes, Key] = {}
        gone: list[bytes] = []
        for row in rows:
            key = layout.map_key(row.key)
            if row.groups:
                entries[key], keys[key] = layout.NUMBER.pack(self._number_of(row.groups, failures)), row.key
            elif key in self.identities.told:
                gone.append(key)
        fresh = {key: value for key, value in entries.items() if self.identities.told.get(key) != value}
        if fresh or gone:
            self.changed = True
        failures += (Failure(next(iter(keys.values())), why) for why in self.identities.put(fresh))
        self.identities.drop(gone)
        return failures

    def forget(self, keys: Collection[bytes]) -> None:
        """Records that are gone."""
        known = [key for key in keys if key in self.identities.told]
        if known:
            self.identities.drop(known)
            self.changed = True

    def _number_of(self, bears: tuple[int, ...], failures: list[Failure]) -> int:
        known = self._identity.get(bears)
        if known is not None:
            return known
        number = _digest(repr(bears)) >> 1 or 1
        while number in self._bears:
            number = number % 0x7FFFFFFF + 1
        self._identity[bears], self._bears[number] = number, bears
        for numbers, policies in self._policies.items():
            entries = policies.identity(number, bears)
            policies.rules |= entries
            failures += (Failure(("security_groups", numbers[0]), why) for why in self.rules.put(entries))
        return number

    # Groups

    def update(self, rows: Iterable[SecurityGroup | AddressGroup]) -> None:
        """They are in effect with the next settle()."""
        for row in rows:
            if isinstance(row, SecurityGroup):
                self._groups[row.number] = row
            else:
                self._address_groups[row.number] = row
            self._stale = True

    def delete(self, keys: Iterable[Key]) -> None:
        for table, number, *_ in keys:
            self._stale = True
            (self._groups if table == "security_groups" else self._address_groups).pop(int(number), None)

    def prune(self, wanted: Collection[Key]) -> None:
        """Of all that was told, and of records that a former agent left, what is not wanted goes."""
        self.delete([row.key for row in self.rows() if row.key not in wanted])
        self.identities.drop([key for key, _ in self.identities.entries() if key not in self.identities.told])

    def rows(self) -> Iterator[SecurityGroup | AddressGroup]:
        """Those that were told: maps say of them what decides, and no more."""
        yield from self._address_groups.values()
        yield from self._groups.values()

    # Ports

    def put(self, seat: layout.Seat, row: Port) -> list[str]:
        """A bound port's guard, if it has one; why the kernel refused it, or what it names."""
        if not is_guarded(row):
            return []
        self._ports[seat] = row
        return self._guard(seat, row)

    def drop(self, seat: layout.Seat) -> None:
        if self._ports.pop(seat, None) is not None or seat.key in self.guards.told:
            self.guards.drop([seat.key])

    def _guard(self, seat: layout.Seat, row: Port) -> list[str]:
        flags = (Flag.ARRIVING if row.arriving else Flag(0)) | (Flag.LEAVING if row.leaving else Flag(0))
        refused: list[str] = []
        numbers: Mapping[tuple[Direction, int], int] = _OPEN_OUT
        if row.groups:
            policies, refused = self._of(row.groups)
            numbers = policies.numbers
            if not all(group.stateful for group in policies.groups):
                flags |= Flag.STATELESS
            if len(policies.groups) == len(row.groups) and all(group.keep for group in policies.groups):
                flags |= Flag.KEEP
        value = security.guard(row.port, row.vsid, numbers, flags)
        if self.guards.told.get(seat.key) != value:
            self.changed = True
        # What could not be put is missing from what the guard would name: the former rules stay.
        return refused or self.guards.put({seat.key: value})

    def _of(self, groups: Sequence[int]) -> tuple[Policies, list[str]]:
        """The policies of a set of groups, programmed."""
        numbers = tuple(sorted(groups))
        known = self._policies.get(numbers)
        if known is not None:
            return known, []
        made = self._compile(numbers)
        refused = self.classes.put(made.classes) + self.rules.put(made.rules)
        if not refused:
            self._policies[numbers] = made
        return made, list(dict.fromkeys(refused))

    def _compile(self, numbers: tuple[int, ...]) -> Policies:
        groups = tuple(self._groups[number] for number in numbers if number in self._groups)
        named = {rule.remote_addresses for group in groups for rule in group.rules if rule.remote_addresses is not None}
        addresses = [self._address_groups[number] for number in sorted(named) if number in self._address_groups]
        said = repr((groups, addresses))
        taken = {number for of in self._policies.values() for number in of.numbers.values()}
        made = Policies(groups, {}, names=remote_groups(groups))
        for look in security.LOOKS:
            direction, version = look
            number = max(_digest(f"{direction}{version}{said}"), _FIRST_POLICY)
            while number in taken:
                number = max((number + 1) & 0xFFFFFFFF, _FIRST_POLICY)
            taken.add(number)
            made.numbers[look] = number
            policy = compile_policy(groups, self._address_groups, direction, version)
            made.classes |= security.classes(number, policy)
            made.rules |= security.rules(number, policy.rules)
        for number, bears in self._bears.items():
            made.rules |= made.identity(number, bears)
        return made

    def settle(self, *, prune: bool = False) -> list[Failure]:
        """Rules as they are now, for every port; then what none has any more goes. prune: a former agent's, too."""
        failures: list[Failure] = []
        if self._stale:
            self._stale = False
            former, self._policies = self._policies, {}
            for numbers, policies in former.items():
                groups = tuple(self._groups[number] for number in numbers if number in self._groups)
                if groups == policies.groups and not _names_addresses(groups):
                    self._policies[numbers] = policies
            for seat, row in self._ports.items():
                failures += (Failure(row.key, why) for why in self._guard(seat, row))
            if failures:
                # The former ones are what ports still have.
                self._policies = {**former, **self._policies}
                self._stale = True
        in_use = {tuple(sorted(row.groups)) for row in self._ports.values() if row.groups}
        for numbers in [numbers for numbers in self._policies if numbers not in in_use]:
            del self._policies[numbers]
        for table, keep in (
            (self.rules, {key for of in self._policies.values() for key in of.rules}),
            (self.classes, {key for of in self._policies.values() for key in of.classes}),
        ):
            if not failures and len(keep) != len(table.told):
                table.drop([key for key in table.told if key not in keep])
            if not failures and prune:
                table.drop([key for key, _ in table.entries() if key not in keep])
        return failures


def _names_addresses(groups: Iterable[SecurityGroup]) -> bool:
    return any(rule.remote_addresses is not None for group in groups for rule in group.rules)


def _digest(text: str) -> int:
    """32 bits."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")
