"""What tenants' rules take of hosts' tables, and whether there is room for it. Counts; sees neither rows nor packets.

A host looks rules up in two tables: *rules* (what decides: by remote, protocol and port) and *prefixes* (whom rules
mean by an address). Ports with the same groups share what these take. ``OWN`` is every port's, whatever others have;
what a tenant's take beyond is held to ``OF_TENANT`` on each host, so that nobody uses up what others need, and of all
tenants together to ``SHARED``, so that it fits. Docs: model.md, Room for rules.

What is counted is never less than what a data plane makes of it (``weft.policy.security``), and the same where a port
has one group. It is remembered, and worked out again only where something has changed: ``Indexes.stale`` says where.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from weft.kit.errors import Conflict
from weft.model import drafts
from weft.model.features import Direction
from weft.model.indexes import Indexes
from weft.model.names import Name, group_of, tenant_of
from weft.model.objects import AddressGroup, Object, Port, SecurityGroupRule
from weft.model.puts import Put
from weft.model.values import Ip, Prefix, ip_number, ip_version

OWN = 64  #: entries of each table that a port's groups may take on its host, whatever others do
OF_TENANT = 65_536  #: that a tenant's ports may take beyond that, on one host
SHARED = 262_144  #: that all tenants' may together
PREFIXES_NAMED_LAST = 16_384  #: that the rules of one group name, those of each address group once

_PORT_BITS = 16
_LOOKS = tuple((direction, version) for direction in Direction for version in (4, 6))

Sets = tuple[Name, ...]  # the groups of a port


class Cost(NamedTuple):
    """Entries of each table."""

    rules: int
    prefixes: int

    @property
    def beyond(self) -> Cost:
        """What is not a port's own."""
        return Cost(max(self.rules - OWN, 0), max(self.prefixes - OWN, 0))


class Nest(NamedTuple):
    """What prefixes come to, in one direction and version: how many are kept, how many kinds of them there are, and the
    rules' entries of the largest kind, of all kinds, and of all that are kept.
    """

    kept: int
    kinds: int
    largest: int
    of_kinds: int
    of_kept: int


@dataclass(frozen=True, slots=True)
class Takes:
    """What one group's rules take. entries: whoever else has groups; by_group: by a group that is named, for each set
    that holds it and is told apart; nests: by direction and version.
    """

    entries: int
    by_group: Mapping[Name, int]
    nests: tuple[Nest | None, ...]


class Room:
    """Of all hosts. One caller at a time, as of the indexes."""

    def __init__(self, ix: Indexes) -> None:
        self._ix = ix
        self._named: set[Name] = set()  # groups that some rule names
        self._told: dict[Sets, Sets] = {}  # of sets that ports have: what is told apart
        self._alike: Counter[Sets] = Counter()  # how many sets are told as one
        self._bearing: Counter[Name] = Counter()  # by group: in how many of what is told apart
        self._with: dict[Name, dict[Sets, None]] = {}  # by group: the sets that hold it
        self._takes: dict[Name, Takes] = {}
        self._costs: dict[Sets, Cost] = {}  # of sets that are on a host
        self.filled: frozenset[Name] = frozenset()  # hosts where the last batch took of what all share

    def catch_up(self) -> dict[Sets, None]:
        """Everything as the objects are; the sets that take more than when they were last counted."""
        ix, stale = self._ix, self._ix.begin_counting()
        more: dict[Name, None] = {}  # groups that other sets hold than before
        fresh: list[Sets] = []
        renamed = [group for group in stale.named if self._is_named(group) != (group in self._named)]
        for group in renamed:
            self._named ^= {group}
            for groups in self._with.get(group, ()):
                self._forget(groups, more)
                self._tell(groups, more)
        for groups in stale.sets:
            present = groups in ix.group_sets.get(tenant_of(groups[0]), ())
            if groups not in ix.spread:
                self._costs.pop(groups, None)
            elif groups not in self._costs:
                fresh.append(groups)
            if present is (groups in self._told):
                continue
            for group in groups:
                holders = self._with.setdefault(group, {})
                if present:
                    holders[groups] = None
                else:
                    del holders[groups]
                    if not holders:
                        del self._with[group]
            if present:
                self._tell(groups, more)
            else:
                self._forget(groups, more)
        changed = dict.fromkeys(stale.groups)
        for group in changed:
            self._takes.pop(group, None)
        for group in more:
            named_by = ix.groups[group].named_by if group in ix.groups else ()
            changed.update((group_of(rule), None) for rule in named_by)
        return self._recount((*fresh, *(groups for group in changed for groups in self._with.get(group, ()))))

    def _is_named(self, group: Name) -> bool:
        index = self._ix.groups.get(group)
        return index is not None and bool(index.named_by)

    def _tell(self, groups: Sets, more: dict[Name, None]) -> None:
        told = self._told[groups] = tuple(group for group in groups if group in self._named)
        self._alike[told] += 1
        if self._alike[told] == 1:
            self._bearing.update(told)
            more.update(dict.fromkeys(told))

    def _forget(self, groups: Sets, more: dict[Name, None]) -> None:
        told = self._told.pop(groups)
        self._alike[told] -= 1
        if not self._alike[told]:
            del self._alike[told]
            for group in told:
                self._bearing[group] -= 1
                if not self._bearing[group]:
                    del self._bearing[group]
            more.update(dict.fromkeys(told))

    def _recount(self, sets: Iterable[Sets]) -> dict[Sets, None]:
        grown: dict[Sets, None] = {}
        for groups in dict.fromkeys(sets):
            before = self._costs.pop(groups, None)
            if groups not in self._ix.spread:
                continue
            now = self._costs[groups] = self._count(groups)
            if before is not None and (now.rules > before.rules or now.prefixes > before.prefixes):
                grown[groups] = None
        return grown

    def cost(self, groups: Sets) -> Cost:
        """What ports with these groups take, on each host that they are on."""
        known = self._costs.get(groups)
        if known is None:
            known = self._count(groups)
            if groups in self._ix.spread:
                self._costs[groups] = known
        return known

    def _count(self, groups: Sets) -> Cost:
        parts = [self._takes_of(group) for group in groups]
        rules = sum(part.entries for part in parts)
        for part in parts:
            rules += sum(entries * self._bearing[group] for group, entries in part.by_group.items())
        prefixes = 0
        for look in range(len(_LOOKS)):
            nests = [nest for part in parts if (nest := part.nests[look]) is not None]
            if nests:
                rules += _together(nests)
                prefixes += sum(nest.kept for nest in nests)
        return Cost(rules, prefixes)

    def _takes_of(self, group: Name) -> Takes:
        takes = self._takes.get(group)
        if takes is None:
            ix = self._ix
            rules = [ix.security_group_rules[name] for name in ix.groups[group].rules]
            takes = self._takes[group] = takes_of(rules, ix.address_groups)
        return takes

    # What is refused

    def check(
        self,
        ports: Sequence[Put[drafts.Port, Port]],
        rules: Sequence[Put[drafts.SecurityGroupRule, SecurityGroupRule]],
        address_groups: Sequence[Put[drafts.AddressGroup, AddressGroup]],
    ) -> None:
        """That there is room for what a batch makes of rules. What was there before is let be."""
        ix = self._ix
        ruling: tuple[_Put, ...] = (*rules, *address_groups)
        self._check_named([put for put in ruling if put.old != _now(ix, put)])
        puts: tuple[_Put, ...] = (*ruling, *ports)
        grown: dict[Name, dict[Name, None]] = {}  # by host: the tenants that take more there
        for groups in self.catch_up():
            if any(self._costs[groups].beyond):
                for host in ix.spread[groups]:
                    grown.setdefault(host, {})[tenant_of(groups[0])] = None
        for groups, host in _came(ix, ports):
            if any(self.cost(groups).beyond):
                grown.setdefault(host, {})[tenant_of(groups[0])] = None
        for host, tenants in grown.items():
            self._check_host(host, tenants, puts)
        self.filled = frozenset(grown)

    def _check_host(self, host: Name, tenants: Iterable[Name], puts: Sequence[_Put]) -> None:
        taken: dict[Name, list[int]] = {}
        for groups in self._ix.sets_on[host]:
            cost, of = self.cost(groups).beyond, taken.setdefault(tenant_of(groups[0]), [0, 0])
            of[0] += cost.rules
            of[1] += cost.prefixes
        for table, what in enumerate(_WHAT):
            for tenant in tenants:
                if (of_tenant := taken.get(tenant, (0, 0))[table]) > OF_TENANT:
                    raise self._refusal(
                        host, tenant, puts, of_tenant, what, f"{OF_TENANT:,} are the most of a tenant's"
                    )
            if sum(of[table] for of in taken.values()) > SHARED:
                tenant = next(iter(tenants))
                why = f"that is more than is left of the {SHARED:,} that all tenants' ports there share"
                raise self._refusal(host, tenant, puts, taken[tenant][table], what, why)

    def _refusal(self, host: Name, tenant: Name, puts: Sequence[_Put], entries: int, what: str, limit: str) -> Conflict:
        put, field = self._culprit(host, tenant, puts)
        return Conflict(
            f"with {put.name} the groups of ports of {tenant} on {host} would take {entries:,} entries for {what} "
            f"beyond the {OWN} of each; {limit}: {_RIGHT[what]}",
            f"{put.field}.{field}",
        )

    def _culprit(self, host: Name, tenant: Name, puts: Sequence[_Put]) -> tuple[_Put, str]:
        """What of a batch is to blame, and the field."""
        ix = self._ix
        mine = [put for put in puts if tenant_of(put.name) == tenant and put.old != _now(ix, put)]
        here = {group for groups in ix.sets_on[host] for group in groups}
        for put in mine:
            match _now(ix, put):
                case SecurityGroupRule():
                    if group_of(put.name) in here:
                        return put, "spec"
                case AddressGroup():
                    if any(group_of(rule) in here for rule in ix.address_group_named_by[put.name]):
                        return put, "spec.prefixes"
                case Port() as port:
                    if host in port.hosts and port.groups:
                        moved = isinstance(put.old, Port) and put.old.groups == port.groups
                        there = "spec.host" if port.host == host else "spec.destination"
                        return put, there if moved else "spec.security_groups"
                case _:
                    pass
        # Others' groups: what the rules of this host's ports tell apart is more than it was.
        put = next((put for put in mine if isinstance(_now(ix, put), Port)), mine[0])
        return put, "spec.security_groups" if isinstance(_now(ix, put), Port) else "spec"

    def _check_named(self, changed: Sequence[_Put]) -> None:
        """That no group's rules name more prefixes than a controller and a host can be expected to sort."""
        ix = self._ix
        groups: dict[Name, tuple[_Put, str]] = {}
        for put in changed:
            now = _now(ix, put)
            if (
                isinstance(now, SecurityGroupRule)
                and isinstance(put.old, SecurityGroupRule)
                and _names(now) == _names(put.old)
            ):
                continue
            match now:
                case SecurityGroupRule(remote_prefix=str()):
                    groups.setdefault(group_of(put.name), (put, "spec.remote_prefix"))
                case SecurityGroupRule(remote_address_group=str()):
                    groups.setdefault(group_of(put.name), (put, "spec.remote_address_group"))
                case AddressGroup() as addresses:
                    if not isinstance(put.old, AddressGroup) or len(addresses.prefixes) > len(put.old.prefixes):
                        for rule in ix.address_group_named_by[put.name]:
                            groups.setdefault(group_of(rule), (put, "spec.prefixes"))
                case _:
                    pass
        for group, (put, field) in groups.items():
            rules = [ix.security_group_rules[name] for name in ix.groups[group].rules]
            prefixes = {rule.remote_prefix for rule in rules if rule.remote_prefix is not None}
            named = {rule.remote_address_group for rule in rules if rule.remote_address_group is not None}
            count = len(prefixes) + sum(len(ix.address_groups[each].prefixes) for each in named)
            if count > PREFIXES_NAMED_LAST:
                raise Conflict(
                    f"with {put.name} the rules of {group} would name {count:,} prefixes; "
                    f"{PREFIXES_NAMED_LAST:,} are the most of a group: {_RIGHT[_PREFIXES]}",
                    f"{put.field}.{field}",
                )


_RULES, _PREFIXES = _WHAT = "rules", "prefixes"
_RIGHT = {
    _RULES: "let ports have the same groups, and rules whole ranges of ports (1..65534 takes 30 entries, 0..65535 "
    "takes 1), fewer remote groups, and fewer prefixes within each other",
    _PREFIXES: "let ports have the same groups, and rules name fewer or wider prefixes",
}

_Put = (
    Put[drafts.Port, Port] | Put[drafts.SecurityGroupRule, SecurityGroupRule] | Put[drafts.AddressGroup, AddressGroup]
)


def _now(ix: Indexes, put: _Put) -> Object:
    match put.draft:
        case drafts.Port():
            return ix.ports[put.name]
        case drafts.SecurityGroupRule():
            return ix.security_group_rules[put.name]
        case drafts.AddressGroup():
            return ix.address_groups[put.name]


def _names(rule: SecurityGroupRule) -> tuple[object, object]:
    """Whom a rule means by an address."""
    return rule.remote_prefix, rule.remote_address_group


def _came(ix: Indexes, ports: Iterable[Put[drafts.Port, Port]]) -> Iterator[tuple[Sets, Name]]:
    """Sets of groups that are on a host by a batch, and were not before."""
    came: Counter[tuple[Sets, Name]] = Counter()
    for put in ports:
        port, old = ix.ports[put.name], put.old
        if groups := port.groups:
            for host in port.hosts:
                if old is None or old.groups != groups or host not in old.hosts:
                    came[groups, host] += 1
    for (groups, host), count in came.items():
        if ix.spread[groups][host] == count:
            yield groups, host


# How much it is


def takes_of(rules: Iterable[SecurityGroupRule], address_groups: Mapping[Name, AddressGroup]) -> Takes:
    """What the rules of one group take."""
    entries = 0
    by_group: Counter[Name] = Counter()
    naming: set[tuple[Direction, int]] = set()
    sources: dict[tuple[Direction, int], Counter[tuple[Prefix, ...]]] = {}
    for rule in rules:
        look = rule.direction, rule.family.version
        takes = port_entries(*_range(rule))
        if rule.remote_group is not None:
            by_group[rule.remote_group] += takes
            naming.add(look)
        elif rule.remote_prefix is not None:
            sources.setdefault(look, Counter())[rule.remote_prefix,] += takes
        elif rule.remote_address_group is not None:
            sources.setdefault(look, Counter())[address_groups[rule.remote_address_group].prefixes] += takes
        else:
            entries += takes
    entries += len(naming)  # those of whom it is not known which groups they have are denied
    nests: list[Nest | None] = []
    for look in _LOOKS:
        nest, everybody = _nest(look[1], sources[look]) if look in sources else (None, 0)
        entries += everybody
        nests.append(nest)
    return Takes(entries, by_group, tuple(nests))


def _range(rule: SecurityGroupRule) -> tuple[int, int]:
    """Of the destination's ports, or of type and code."""
    if rule.icmp_type is not None:
        first = rule.icmp_type << 8 | (rule.icmp_code or 0)
        return first, first | (255 if rule.icmp_code is None else 0)
    if rule.port_min is None or rule.port_max is None:
        return 0, (1 << _PORT_BITS) - 1
    return rule.port_min, rule.port_max


@lru_cache(4096)
def port_entries(first: int, last: int) -> int:
    """How many prefixes of ports a range is: at most 30."""
    count = 0
    while first <= last:
        size = first & -first or 1 << _PORT_BITS
        while size > last - first + 1:
            size >>= 1
        first += size
        count += 1
    return count


class _Span(NamedTuple):
    """A prefix as the addresses in it."""

    first: int
    bits: int  # that do not count: the narrowest of those that begin alike come last


def _spans(prefixes: tuple[Prefix, ...], version: int) -> tuple[_Span, ...]:
    return _many_spans(prefixes, version) if len(prefixes) > 1 else _read_spans(prefixes, version)


def _read_spans(prefixes: tuple[Prefix, ...], version: int) -> tuple[_Span, ...]:
    return tuple(_span(prefix) for prefix in prefixes if ip_version(prefix) == version)


_many_spans = lru_cache(64)(_read_spans)


@lru_cache(1 << 14)
def _span(prefix: Prefix) -> _Span:
    base, _, length = prefix.partition("/")
    return _Span(ip_number(Ip(base)), (32 if ip_version(prefix) == 4 else 128) - int(length))


def _nest(version: int, sources: Mapping[tuple[Prefix, ...], int]) -> tuple[Nest, int]:
    """sources: prefixes that rules name together, and the entries of these rules. With it: those of rules that mean
    everybody.

    The rules of a prefix are its own and those of all that hold it: as a number, a bit for each source.
    """
    width = 32 if version == 4 else 128
    own: dict[_Span, int] = {}
    weights = list(sources.values())
    everybody = 0
    for rank, prefixes in enumerate(sources):
        for span in _spans(prefixes, version):
            if span.bits == width:
                everybody += weights[rank]
            else:
                own[span] = own.get(span, 0) | 1 << rank
    entries: dict[int, int] = {0: 0}  # by sources
    kept = of_kept = 0
    around: list[tuple[int, int]] = [(1 << width, 0)]  # the last address of what holds it, and the sources
    for span in sorted(own, key=lambda span: (span.first, -span.bits)):
        while around[-1][0] < span.first:
            around.pop()
        outer = around[-1][1]
        inner = outer | own[span]
        if inner != outer:
            if inner not in entries:
                entries[inner] = entries[outer] + sum(weights[rank] for rank in _ranks(inner & ~outer))
            kept += 1
            of_kept += entries[inner]
        around.append((span.first + (1 << span.bits) - 1, inner))
    return Nest(kept, len(entries) - 1, max(entries.values()), sum(entries.values()), of_kept), everybody


def _ranks(bits: int) -> Iterator[int]:
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def _together(nests: Sequence[Nest]) -> int:
    """The rules' entries of several groups' prefixes, however these lie within each other."""
    if len(nests) == 1:
        return nests[0].of_kinds
    largest = sum(nest.largest for nest in nests)
    kinds = 1
    for nest in nests:
        kinds *= nest.kinds + 1
    kept = sum(nest.kept for nest in nests)
    one_by_one = sum(nest.of_kept + nest.kept * (largest - nest.largest) for nest in nests)
    return min(one_by_one, min(kept, kinds - 1) * largest)
