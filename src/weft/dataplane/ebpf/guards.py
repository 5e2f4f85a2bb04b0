"""What ports' security groups and their records' say, kept in the programs' maps. Sees no packet.

Policies and identities are numbered by what they say, so an agent that starts anew says the same of them as the former
did, and nothing moves. A port's rules change by one write, of its guard: what the guard names is there before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from weft.contracts.dataplane import Failure
from weft.dataplane.ebpf import layout, security
from weft.dataplane.ebpf.security import Flag
from weft.dataplane.ebpf.shares import Owner, Shares
from weft.dataplane.ebpf.tables import Table
from weft.kit.errors import Rejected
from weft.policy.rows import AddressGroup, Direction, Key, Port, Record, SecurityGroup
from weft.policy.security import compile_identity, compile_policy, names_groups, remote_groups, told_apart

_FIRST_POLICY = 2
_DENIED = "ports here whose rules name groups deny it"
_OPEN_OUT = {look: security.EVERYTHING if look[0] is Direction.EGRESS else security.NOTHING for look in security.LOOKS}


def is_guarded(row: Port) -> bool:
    """Whether anything is asked of the port's packets."""
    return row.port_security or bool(row.groups)


@dataclass(slots=True)
class Policies:
    """Of one set of groups: the numbers of its policies, and their entries. of: what they say of identities."""

    groups: tuple[SecurityGroup, ...]
    said: bytes  # a digest of all that they are made of: of two that say the same, one will do
    numbers: dict[tuple[Direction, int], int]
    classes: dict[bytes, bytes] = field(default_factory=dict)
    rules: dict[bytes, bytes] = field(default_factory=dict)
    of: dict[int, dict[bytes, bytes]] = field(default_factory=dict)  # by identity
    names: frozenset[int] = frozenset()  # of security groups whose members rules speak of

    def identity(self, number: int, bears: Collection[int]) -> dict[bytes, bytes]:
        """Entries of the map rules for the addresses of an identity."""
        found: dict[bytes, bytes] = {}
        if not self.names.isdisjoint(bears):
            for (direction, version), policy in self.numbers.items():
                found |= security.rules(policy, compile_identity(self.groups, direction, version, number, bears))
        return found


class Guards:
    """The maps guards, identities, classes and rules. ``changed``: since it was last set to False.

    ``missing``: keys of records of which nothing says whose they are. They must not be there, and while there are some
    an address without a record is denied in their routing domains where rules name groups.
    """

    def __init__(
        self,
        guards: Table,
        identities: Table,
        classes: Table,
        rules: Table,
        *,
        outlast: Callable[[], None],
        domain_of: Callable[[bytes], bytes] = bytes,
    ) -> None:
        """outlast: returns when no run of a program is under way any more that had begun before. domain_of: the routing
        domain of a VSID.
        """
        self.guards, self.identities, self.classes, self.rules = guards, identities, classes, rules
        ports = guards.map.max_entries
        self._of_classes, self._of_rules = Shares(classes, ports), Shares(rules, ports)
        self._outlast, self._domain_of = outlast, domain_of
        self.changed = False
        self.missing: set[bytes] = set()
        self._groups: dict[int, SecurityGroup] = {}
        self._address_groups: dict[int, AddressGroup] = {}
        self._policies: dict[tuple[int, ...], Policies] = {}  # by the groups of a port: what it has, or is to have
        self._former: list[Policies] = []  # others, which guards still name: of ports whose own rules do not fit
        self._refused: dict[tuple[int, ...], list[str]] = {}  # till settle() is done: why a set's rules do not fit
        self._ports: dict[layout.Seat, Port] = {}
        self._named: dict[int, frozenset[int]] = {}  # by group: those that its rules name
        self._names: frozenset[int] = frozenset()  # all groups that records are told apart by
        self._groups_of: dict[bytes, tuple[int, ...]] = {}  # of records that have some, by their keys
        self._bearers: dict[tuple[int, ...], set[bytes]] = {}  # and records by their groups
        self._bears: dict[int, tuple[int, ...]] = {}  # by identity
        self._identity: dict[tuple[int, ...], int] = {}
        self._untold: dict[tuple[int, ...], str] = {}  # what could have no identity, and why
        self._unsaid: list[Failure] = []  # of records, till settle() says them
        self._stale = False  # groups are others than ports have
        self._current: set[tuple[int, ...]] = set()  # sets of groups whose policies are of groups as they are now
        self._litter = False  # maps may have entries that nobody needs
        self._missing_in: frozenset[bytes] = frozenset()  # routing domains of missing
        self._partial = self._missing_in  # what guards say of them

    @property
    def tables(self) -> tuple[Table, ...]:
        """What is the host's, and no port's."""
        return (self.rules, self.classes, self.identities)

    @property
    def in_use(self) -> bool:
        return bool(self._ports)

    @property
    def unidentified(self) -> int:
        """Records whose groups no rule can tell."""
        untold = sum(len(keys) for groups, keys in self._bearers.items() if self._tell(groups) in self._untold)
        return untold + sum(self._tell(self._groups_of[key]) not in self._untold for key in self.missing)

    @property
    def identified(self) -> int:
        """How many identities there are."""
        return len(self._bears)

    def bears(self, key: bytes) -> tuple[int, ...]:
        """The groups of a record."""
        return self._groups_of.get(key, ())

    # Records

    def identify(self, rows: Iterable[Record]) -> list[Failure]:
        """The groups of records that are to be there, which but for those of ``missing`` then may be."""
        keys: dict[bytes, Key] = {}
        for row in rows:
            try:
                key = layout.map_key(row.key)
            except Rejected:
                continue  # as a record it is refused, too
            if row.groups or key in self._groups_of:
                self._bear(key, row.groups)
                keys[key] = row.key
        return self._place(keys)

    def forget(self, keys: Iterable[bytes]) -> None:
        """Records that are gone."""
        known = [key for key in keys if key in self._groups_of]
        for key in known:
            self._bear(key, ())
        self._place({key: layout.record_keys(key)[0] for key in known})

    def _bear(self, key: bytes, groups: tuple[int, ...]) -> None:
        former = self._groups_of.get(key, ())
        if former == groups:
            return
        self._litter = True
        if former:
            del self._groups_of[key]
            self._bearers[former].discard(key)
            if not self._bearers[former]:
                del self._bearers[former]
        if groups:
            self._groups_of[key] = groups
            self._bearers.setdefault(groups, set()).add(key)

    def _tell(self, groups: tuple[int, ...]) -> tuple[int, ...]:
        return told_apart(groups, self._names)

    def _place(self, keys: Mapping[bytes, Key]) -> list[Failure]:
        """Records' identities as they are by now; what rules say of a new one is there first."""
        numbers: dict[tuple[int, ...], int] = {}  # by groups
        entries: dict[bytes, bytes] = {}
        gone: list[bytes] = []
        failures: list[Failure] = []
        for key, row in keys.items():
            groups = self._groups_of.get(key, ())
            number = numbers.get(groups)
            if number is None:
                number = numbers[groups] = self._number_of(self._tell(groups))
            if number:
                entries[key] = layout.NUMBER.pack(number)
            elif key in self.identities.told:
                gone.append(key)
            if number == security.UNKNOWN:
                failures.append(Failure(row, f"{self._untold[self._tell(groups)]}: {_DENIED}"))
        fresh = {key: value for key, value in entries.items() if self.identities.told.get(key) != value}
        if fresh or gone:
            self.changed = True
        refused = self.identities.refused(fresh)
        self.identities.drop(gone)
        self.missing.difference_update(keys)
        self.missing.update(refused)
        self._look_for_missing()
        return failures + [Failure(keys[key], f"{why}: {_DENIED}") for key, why in refused.items()]

    def _number_of(self, bears: tuple[int, ...]) -> int:
        """0: none is needed; UNKNOWN: there is no room for what rules say of it."""
        known = self._identity.get(bears)
        if known is not None or not bears:
            return known or 0
        number = _digest(repr(bears)) >> 1
        while not 0 < number < security.UNKNOWN or number in self._bears:
            number = (number + 1) % security.UNKNOWN
        said = [(policies, policies.identity(number, bears)) for policies in self._all()]
        entries: dict[bytes, bytes] = {}
        for _, some in said:
            entries |= some
        refused = self._of_rules.put(entries)
        if refused:
            self._of_rules.drop(entries)
            self._untold[bears] = refused[0]
            return security.UNKNOWN
        self._untold.pop(bears, None)
        self._identity[bears], self._bears[number] = number, bears
        for policies, some in said:
            if some:
                policies.of[number] = some
        return number

    def _tell_by(self, names: frozenset[int]) -> list[Failure]:
        """Records are told apart by these groups from here on."""
        others, self._names = names ^ self._names, names
        if not others:
            return []
        self._litter = True
        keys = [key for groups, some in self._bearers.items() if not others.isdisjoint(groups) for key in some]
        return self._place({key: layout.record_keys(key)[0] for key in keys})

    # Groups

    def update(self, rows: Iterable[SecurityGroup | AddressGroup]) -> list[Failure]:
        """They are in effect with the next settle(). Failures are of records."""
        for row in rows:
            if isinstance(row, SecurityGroup):
                self._groups[row.number] = row
                self._named[row.number] = remote_groups([row])
            else:
                self._address_groups[row.number] = row
            self._stale = True
            self._current.clear()
        # Those that are named no more are told apart until no port's rules name them, either.
        return self._tell_by(self._names.union(*self._named.values()))

    def delete(self, keys: Iterable[Key]) -> None:
        for table, number, *_ in keys:
            self._stale = True
            self._current.clear()
            if table == "security_groups":
                self._groups.pop(int(number), None)
                self._named.pop(int(number), None)
            else:
                self._address_groups.pop(int(number), None)

    def prune(self, wanted: Collection[Key]) -> None:
        """Of all that was told, and of records that a former agent left, what is not wanted goes."""
        self.delete([row.key for row in self.rows() if row.key not in wanted])
        self.forget([key for key in self._groups_of if layout.record_keys(key)[0] not in wanted])
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
            self.changed = True  # what it begins under later rules is of a later epoch than its connections now

    def _guard(self, seat: layout.Seat, row: Port) -> list[str]:
        flags = (Flag.ARRIVING if row.arriving else Flag(0)) | (Flag.LEAVING if row.leaving else Flag(0))
        numbers: Mapping[tuple[Direction, int], int] = _OPEN_OUT
        if row.groups:
            policies, refused = self._of(row.groups)
            if policies is None:
                # The former rules stay: a guard names all of a policy, or none of it.
                former = self.guards.told.get(seat.key)
                return refused + (
                    [] if former is None else self._write(seat, security.partial(former, partial=self._is_partial(row)))
                )
            numbers = policies.numbers
            if not all(group.stateful for group in policies.groups):
                flags |= Flag.STATELESS
            if len(policies.groups) == len(row.groups) and all(group.keep for group in policies.groups):
                flags |= Flag.KEEP
        if self._is_partial(row):
            flags |= Flag.PARTIAL
        return self._write(seat, security.guard(row.port, row.vsid, numbers, flags))

    def _look_for_missing(self) -> None:
        if self.missing or self._missing_in:
            self._missing_in = frozenset(self._domain_of(key[:4]) for key in self.missing)

    def _is_partial(self, row: Port) -> bool:
        return bool(self._missing_in) and self._domain_of(layout.NUMBER.pack(row.vsid)) in self._missing_in

    def _write(self, seat: layout.Seat, value: bytes) -> list[str]:
        if self.guards.told.get(seat.key) != value:
            self.changed = True
        return self.guards.put({seat.key: value})

    def _all(self) -> Iterator[Policies]:
        """All that a guard may name."""
        return chain(self._policies.values(), self._former)

    def _of(self, groups: Sequence[int]) -> tuple[Policies | None, list[str]]:
        """The policies of a set of groups, programmed; or why they are not, which is the same for all of its ports."""
        numbers = tuple(sorted(groups))
        known = self._policies.get(numbers)
        # A port that gets groups whose rules change in the same call goes from what it had to these as they will be.
        if known is not None and (not self._stale or self._is_current(numbers, known)):
            return known, []
        if numbers in self._refused:
            return None, self._refused[numbers]
        having, text = self._said(numbers)
        said = _digest_of(text, 16)
        made = next((policies for policies in (known, *self._former) if policies and policies.said == said), None)
        if made is None:
            made = self._compile(having, text)
            self._litter = True
            refused = self._of_classes.put(made.classes) + self._of_rules.put(made.rules)
            if refused:
                self._refused[numbers] = list(dict.fromkeys(refused))
                return None, self._refused[numbers]
        else:
            self._former = [policies for policies in self._former if policies is not made]
        if known is not None and known is not made:
            self._former.append(known)  # guards name it until each is written
        self._policies[numbers] = made
        self._current.add(numbers)
        for number, entries in list(made.of.items()):
            if why := self._of_rules.put(entries):
                self._untell(number, why[0])
        return made, []

    def _untell(self, number: int, why: str) -> None:
        """There is no room for what rules say of an identity: those who have it are nobody that rules know."""
        bears = self._bears.pop(number)
        del self._identity[bears]
        self._untold[bears] = why
        keys = [key for groups, some in self._bearers.items() if self._tell(groups) == bears for key in some]
        unknown = layout.NUMBER.pack(security.UNKNOWN)
        self.identities.put({key: unknown for key in keys if key in self.identities.told})  # each is there already
        self._unsaid += (Failure(layout.record_keys(key)[0], f"{why}: {_DENIED}") for key in keys)
        self.changed = True
        for policies in self._all():
            policies.of.pop(number, None)
        self._litter = True  # its entries go with the rest: a run that is under way may still ask for them

    def _is_current(self, numbers: tuple[int, ...], policies: Policies) -> bool:
        if numbers in self._current:
            return True
        groups = tuple(self._groups[number] for number in numbers if number in self._groups)
        return groups == policies.groups and not _names_addresses(groups)

    def _said(self, numbers: tuple[int, ...]) -> tuple[tuple[SecurityGroup, ...], str]:
        """Groups as they are now, and all that their policies are made of, as text."""
        groups = tuple(self._groups[number] for number in numbers if number in self._groups)
        named = {rule.remote_addresses for group in groups for rule in group.rules if rule.remote_addresses is not None}
        addresses = [self._address_groups[number] for number in sorted(named) if number in self._address_groups]
        return groups, repr((groups, addresses))

    def _compile(self, groups: tuple[SecurityGroup, ...], said: str) -> Policies:
        taken = {number for of in self._all() for number in of.numbers.values()}
        made = Policies(groups, _digest_of(said, 16), {}, names=remote_groups(groups))
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
            if names_groups(groups, direction, version):
                made.rules |= security.denies_unknown(number)
        for number, bears in self._bears.items():
            if entries := made.identity(number, bears):
                made.of[number] = entries
        owner = Owner(made.numbers[security.LOOKS[0]], next((_tenant_of(group) for group in groups), ""))
        for shares in (self._of_classes, self._of_rules):
            shares.give(made.numbers.values(), owner)
        return made

    def settle(self, *, prune: bool = False) -> list[Failure]:
        """Rules as they are now, for every port; then what none has any more goes. prune: a former agent's, too."""
        failures: list[Failure] = []
        self._look_for_missing()
        if self._stale or self._missing_in != self._partial:
            failures = self._guard_all()
        self._let_go()
        named = (*self._named.values(), *(policies.names for policies in self._all()))
        failures += self._tell_by(frozenset().union(*named))
        if self._litter or prune:
            self._litter = False
            self._tidy(prune=prune)
        if self._missing_in != self._partial:
            failures += self._guard_all()
        self._refused.clear()
        failures += self._unsaid
        self._unsaid = []
        return failures

    def _guard_all(self) -> list[Failure]:
        self._partial = self._missing_in
        self._refused.clear()
        refused = ((row, self._guard(seat, row)) for seat, row in self._ports.items())
        failures = [Failure(row.key, why) for row, reasons in refused for why in reasons]
        self._stale = bool(failures)
        return failures

    def _let_go(self) -> None:
        """Policies of sets that no port has go, and former ones, unless a guard still names them."""
        in_use = {tuple(sorted(row.groups)) for row in self._ports.values() if row.groups}
        spare = [numbers for numbers in self._policies if numbers not in in_use]
        self._former += (self._policies.pop(numbers) for numbers in spare)
        if former := self._former:
            named = {number for value in self.guards.told.values() for number in security.policies_of(value)}
            self._former = [of for of in former if not named.isdisjoint(of.numbers.values())]
            self._litter |= len(self._former) < len(former)

    def _tidy(self, *, prune: bool) -> None:
        """Identities that nobody has, and entries that no policy has, go."""
        told = {self._tell(groups) for groups in self._bearers}
        self._untold = {bears: why for bears, why in self._untold.items() if bears in told}
        for bears in [bears for bears in self._identity if bears not in told]:
            number = self._identity.pop(bears)
            del self._bears[number]
            for policies in self._all():
                policies.of.pop(number, None)
        known = {number for policies in self._all() for number in policies.numbers.values()}
        needed: tuple[tuple[Table, Shares, set[bytes]], ...] = (
            (self.rules, self._of_rules, {key for policies in self._all() for key in _all_rules(policies)}),
            (self.classes, self._of_classes, {key for policies in self._all() for key in policies.classes}),
        )
        spare = [[key for key in table.told if key not in keep] for table, _, keep in needed]
        left = [[key for key, _ in table.entries() if key not in keep] if prune else [] for table, _, keep in needed]
        if any(spare) or any(left):
            # Whoever has read a guard, or an identity, before it was written finds all that it spoke of.
            self._outlast()
        for (table, shares, _), gone, foreign in zip(needed, spare, left, strict=True):
            shares.drop(gone)
            shares.forget(known)
            table.drop(foreign)


def _all_rules(policies: Policies) -> dict[bytes, bytes]:
    found = dict(policies.rules)
    for entries in policies.of.values():
        found |= entries
    return found


def _tenant_of(group: SecurityGroup) -> str:
    """By the group's name: tenants/blue/security-groups/web."""
    return group.name.partition("/security-groups/")[0]


def _names_addresses(groups: Iterable[SecurityGroup]) -> bool:
    return any(rule.remote_addresses is not None for group in groups for rule in group.rules)


def _digest(text: str) -> int:
    """32 bits."""
    return int.from_bytes(_digest_of(text, 4), "big")


def _digest_of(text: str, size_bytes: int) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=size_bytes).digest()
