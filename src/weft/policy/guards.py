"""What a host keeps for its ports' security groups, and in which order it changes. Writes nothing itself.

A port's *guard* names four policies (``weft.policy.security``), by direction and IP version. A policy is never changed
in what it says: what groups say now becomes a policy of a new number, then guards change over to it, each by one
write, then the former goes. An *identity* is a host's number of those security groups, of an address's, that some rule
here names; a new one is known to every policy before an address has it. So whatever packet comes at whatever moment is
judged by all of the old rules or all of the new.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from weft.policy.rows import AddressGroup, Direction, SecurityGroup, SecurityRule
from weft.policy.security import Match, Prefix, compile_identity, compile_policy, remote_groups

NOTHING, EVERYTHING = 0, 1  #: policies without entries: the one denies, the other allows whatever it is
FIRST_POLICY, FIRST_IDENTITY = 2, 1

Place: TypeAlias = tuple[int, str]  # of a record: VSID and CA
Look: TypeAlias = tuple[Direction, int]  # and the IP version
Groups: TypeAlias = tuple[int, ...]  # numbers of security groups, rising

#: In which order guards have them.
LOOKS: tuple[Look, ...] = tuple((direction, version) for direction in Direction for version in (4, 6))


@dataclass(frozen=True, slots=True)
class Guard:
    """policies: numbers, by look. stateful: what answers passes, too."""

    policies: Mapping[Look, int]
    stateful: bool


@dataclass(slots=True)
class Plan:
    """To be done in the order of its fields; each of them in any order."""

    classes: dict[int, Mapping[Prefix, int]] = field(default_factory=dict)  # entries more, by policy
    rules: dict[int, dict[Match, SecurityRule]] = field(default_factory=dict)
    identities: dict[Place, int | None] = field(default_factory=dict)  # None: it has none any more
    guards: dict[str, Guard | None] = field(default_factory=dict)  # by port; None: nothing is asked of it
    gone_classes: dict[int, Sequence[Prefix]] = field(default_factory=dict)  # entries less
    gone_rules: dict[int, Sequence[Match]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any((self.classes, self.rules, self.identities, self.guards, self.gone_classes, self.gone_rules))


@dataclass(slots=True)
class _Built:
    """A policy as it is programmed. says: what it was compiled from; taught: the entries of each identity."""

    number: int
    look: Look
    says: object
    groups: tuple[SecurityGroup, ...]
    classes: Mapping[Prefix, int]
    rules: Mapping[Match, SecurityRule]
    taught: dict[Groups, tuple[Match, ...]] = field(default_factory=dict)


class Guards:
    """Is told rows, and asked what to do about them. One caller at a time."""

    def __init__(self, first_policy: int = FIRST_POLICY, first_identity: int = FIRST_IDENTITY) -> None:
        """Numbers below these may be a former agent's, in whose hands guards still are: they are not used."""
        self._next_policy = max(first_policy, FIRST_POLICY)
        self._next_identity = max(first_identity, FIRST_IDENTITY)
        self._groups: dict[int, SecurityGroup] = {}
        self._addresses: dict[int, AddressGroup] = {}
        self._ports: dict[str, Groups] = {}  # those of which something is asked
        self._records: dict[Place, Groups] = {}
        self._bearing: dict[Groups, dict[Place, None]] = {}  # records by the groups that they bear
        # What is programmed, as far as plans were carried out.
        self._built: dict[tuple[Groups, Look], _Built] = {}
        self._guards: dict[str, Guard] = {}
        self._identities: dict[Groups, int] = {}  # of groups that rules here name
        self._given: dict[Place, int] = {}
        self._stale: set[Place] = set()  # records that may need another identity
        self._named: frozenset[int] = frozenset()  # by rules of the policies that guards name
        self._known: frozenset[int] = frozenset()  # and by those of before: identities tell these apart
        self._dirty = False  # groups, or who has them, have changed since the last plan

    # What it is told

    def put(self, row: SecurityGroup | AddressGroup) -> None:
        self._dirty = True
        if isinstance(row, SecurityGroup):
            self._groups[row.number] = row
        else:
            self._addresses[row.number] = row

    def drop_group(self, number: int) -> None:
        self._dirty |= self._groups.pop(number, None) is not None

    def drop_addresses(self, number: int) -> None:
        self._dirty |= self._addresses.pop(number, None) is not None

    def put_port(self, port: str, groups: Groups, *, port_security: bool) -> None:
        """Of a port that is bound here."""
        if not (port_security or groups):
            self.drop_port(port)
        elif self._ports.get(port) != groups:
            self._ports[port] = groups
            self._dirty = True

    def drop_port(self, port: str) -> None:
        self._dirty |= self._ports.pop(port, None) is not None

    def put_record(self, place: Place, groups: Groups) -> None:
        former = self._records.get(place, ())
        if former == groups:
            return
        self.drop_record(place)
        if groups:
            self._records[place] = groups
            self._bearing.setdefault(groups, {})[place] = None
            self._stale.add(place)

    def drop_record(self, place: Place) -> None:
        former = self._records.pop(place, None)
        if former is not None:
            del self._bearing[former][place]
            if not self._bearing[former]:
                del self._bearing[former]
            self._stale.add(place)

    # What follows

    def plan(self) -> Plan:
        """What turns what was planned before into what should be. It counts as done: a caller for whom it was not
        begins anew, with numbers that are free.
        """
        plan = Plan()
        if self._dirty:
            wanted = {groups for groups in self._ports.values() if groups}
            self._name_anew({number for groups in wanted for number in groups})
            built = self._build(plan, wanted)
        else:
            built = self._built
        bearers = self._give_identities(plan)
        self._teach(plan, (*self._built.values(), *built.values()))
        if self._dirty:
            self._guard(plan, built)
            self._drop_policies(plan, built)
        self._forget_identities(plan, bearers)
        self._dirty = False
        return plan

    def _name_anew(self, of: Iterable[int]) -> None:
        """If rules name other groups than before, who bears one of those has another identity.

        While guards change over identities are of use to the former policies, too; what only these named is told apart
        until rules change again.
        """
        named = remote_groups(self._groups[number] for number in of if number in self._groups)
        known = named | self._named
        changed = known ^ self._known
        if changed:
            for groups, places in self._bearing.items():
                if not changed.isdisjoint(groups):
                    self._stale.update(places)
        self._named, self._known = named, known

    def _build(self, plan: Plan, wanted: Iterable[Groups]) -> dict[tuple[Groups, Look], _Built]:
        """The policies that there should be: those that say what they said, and new ones."""
        found: dict[tuple[Groups, Look], _Built] = {}
        for numbers in sorted(wanted):
            groups = tuple(self._groups[number] for number in numbers if number in self._groups)
            for look in LOOKS:
                rules = [rule for each in groups for rule in each.rules if (rule.direction, rule.version) == look]
                sets = sorted({rule.remote_addresses for rule in rules if rule.remote_addresses is not None})
                says = (rules, [self._addresses[each].prefixes for each in sets if each in self._addresses])
                former = self._built.get((numbers, look))
                if former is not None and former.says == says:
                    found[numbers, look] = former
                elif rules:
                    found[numbers, look] = self._compile(plan, groups, look, says)
                else:
                    found[numbers, look] = _Built(NOTHING, look, says, (), {}, {})
        return found

    def _compile(self, plan: Plan, groups: tuple[SecurityGroup, ...], look: Look, says: object) -> _Built:
        policy = compile_policy(groups, self._addresses, *look)
        number, self._next_policy = self._next_policy, self._next_policy + 1
        if policy.classes:
            plan.classes[number] = policy.classes
        if policy.rules:
            plan.rules[number] = dict(policy.rules)
        return _Built(number, look, says, groups, policy.classes, policy.rules)

    def _give_identities(self, plan: Plan) -> set[Groups]:
        """The sets of groups that addresses bear, of those that rules here name; new ones get a number."""
        bearers = {told for groups in self._bearing if (told := self._told(groups))}
        for told in sorted(bearers - self._identities.keys()):
            self._identities[told] = self._next_identity
            self._next_identity += 1
        for place in sorted(self._stale):
            told = self._told(self._records.get(place, ()))
            identity = self._identities[told] if told else None
            if identity == self._given.get(place):
                continue
            plan.identities[place] = identity
            if identity is None:
                del self._given[place]
            else:
                self._given[place] = identity
        self._stale.clear()
        return bearers

    def _told(self, groups: Groups) -> Groups:
        """Of the groups that an address bears, those that matter here."""
        return tuple(number for number in groups if number in self._known)

    def _teach(self, plan: Plan, policies: Iterable[_Built]) -> None:
        """Every policy knows every identity, those that are about to go, too: guards still name them."""
        for built in policies:
            for told in self._identities.keys() - built.taught.keys():
                direction, version = built.look
                more = compile_identity(built.groups, direction, version, self._identities[told], told)
                built.taught[told] = tuple(more)
                if more:
                    plan.rules.setdefault(built.number, {}).update(more)

    def _guard(self, plan: Plan, built: Mapping[tuple[Groups, Look], _Built]) -> None:
        guards: dict[str, Guard] = {}
        for port, groups in self._ports.items():
            there = [self._groups[number] for number in groups if number in self._groups]
            guards[port] = Guard(
                {look: built[groups, look].number if groups else _UNGROUPED[look[0]] for look in LOOKS},
                all(group.stateful for group in there),
            )
        plan.guards.update((port, guard) for port, guard in guards.items() if self._guards.get(port) != guard)
        plan.guards.update((port, None) for port in self._guards.keys() - guards.keys())
        self._guards = guards

    def _drop_policies(self, plan: Plan, built: dict[tuple[Groups, Look], _Built]) -> None:
        """What no guard names any more."""
        kept = {each.number for each in built.values()}
        for former in self._built.values():
            if former.number in kept or former.number == NOTHING:
                continue
            if former.classes:
                plan.gone_classes[former.number] = tuple(former.classes)
            taught = tuple(match for matches in former.taught.values() for match in matches)
            if former.rules or taught:
                plan.gone_rules[former.number] = (*former.rules, *taught)
        self._built = built

    def _forget_identities(self, plan: Plan, bearers: set[Groups]) -> None:
        """Those that no address has any more."""
        for told in self._identities.keys() - bearers:
            del self._identities[told]
            for built in self._built.values():
                if matches := built.taught.pop(told, ()):
                    plan.gone_rules[built.number] = (*plan.gone_rules.get(built.number, ()), *matches)


#: A port with port security and no group: what its guest does not begin does not come in.
_UNGROUPED = {Direction.EGRESS: EVERYTHING, Direction.INGRESS: NOTHING}
