"""Security groups, their rules, and address groups: when they are right. Chooses their numbers; knows no packet.

As OpenStack has them: what no rule of a port's groups allows is denied. Each tenant has a group that is made and goes
with it, and lets everything out and its own members in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from types import MappingProxyType
from typing import TypeAlias, TypeVar

from weft.kit.errors import Conflict, Rejected
from weft.model import domains, drafts, values
from weft.model.features import AbilityTable, Action, Direction, Family, Feature
from weft.model.indexes import Indexes
from weft.model.names import Kind, Name, group_of, join, label_of, resolve, tenant_of
from weft.model.objects import AddressGroup, Host, Object, Port, SecurityGroup, SecurityGroupRule, Tenant
from weft.model.puts import Put, humane, read
from weft.model.values import Prefix, ip_version

RULES_LAST = 1024  #: of one group
PREFIXES_LAST = 4096  #: of one address group
GROUPS_LAST = 16  #: of one port
#: Of groups that rules name, as ports of one tenant have them together: what hosts tell apart.
SETS_LAST = 4096
PRIORITY_LAST = 65_535
#: Of an operator's rule; tenants' rules have 0.
OPERATOR_PRIORITY = 100

DEFAULT = "default"

PROTOCOLS: Mapping[str, int] = MappingProxyType({"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132})
PROTOCOL_NAMES: Mapping[int, str] = MappingProxyType({number: name for name, number in PROTOCOLS.items()})
#: Those whose first 4 bytes are a source and a destination port: DCCP (RFC 4340) and UDP-Lite (RFC 3828), too.
WITH_PORTS = frozenset({6, 17, 33, 132, 136})
_ICMP = {Family.IPV4: 1, Family.IPV6: 58}

GroupPut: TypeAlias = Put[drafts.SecurityGroup, SecurityGroup]
RulePut: TypeAlias = Put[drafts.SecurityGroupRule, SecurityGroupRule]
AddressGroupPut: TypeAlias = Put[drafts.AddressGroup, AddressGroup]

N = TypeVar("N", AddressGroupPut, GroupPut, RulePut)


# The group that each tenant has


def default_of(tenant: Name) -> Name:
    return join(Kind.SECURITY_GROUP, label_of(tenant), DEFAULT)


def made_with(
    ix: Indexes, tenants: Sequence[domains.TenantPut], put_too: Collection[Name]
) -> Iterator[GroupPut | RulePut]:
    """Puts of the default groups that tenants of a batch lack. Who puts the group says its rules, too."""
    for put in tenants:
        group = default_of(put.name)
        if group not in ix.security_groups and group not in put_too:
            yield Put(put.rank, group, drafts.SecurityGroup(group), None)
            for draft in _default_rules(group):
                if draft.name not in put_too:
                    yield Put(put.rank, Name(draft.name), draft, None)


def _default_rules(group: Name) -> Iterator[drafts.SecurityGroupRule]:
    """Everything goes out, and what other members send comes in."""
    for family in Family:
        yield drafts.SecurityGroupRule(f"{group}/rules/egress-{family}", Direction.EGRESS, family)
        yield drafts.SecurityGroupRule(f"{group}/rules/ingress-{family}", Direction.INGRESS, family, remote_group=group)


def goes_with(ix: Indexes, old: Object) -> Iterator[Object]:
    """What is deleted when an object is, without being named: a tenant's default group, a group's rules."""
    match old:
        case Tenant():
            if (group := ix.security_groups.get(default_of(old.name))) is not None:
                yield group
                yield from goes_with(ix, group)
        case SecurityGroup():
            yield from (ix.security_group_rules[name] for name in ix.groups[old.name].rules)
        case _:
            pass


# What is put


def admit_address_groups(ix: Indexes, puts: Sequence[AddressGroupPut]) -> None:
    for put, number in _numbered(ix, Kind.ADDRESS_GROUP, puts):
        try:
            domains.require_tenant(ix, put.name)
            ix.insert(AddressGroup(put.name, number, read("spec.prefixes", _prefixes, put.draft.prefixes)))
        except Rejected as fault:
            raise fault.at(put.field) from None


def _prefixes(given: Sequence[str]) -> tuple[Prefix, ...]:
    if len(given) > PREFIXES_LAST:
        raise Rejected(f"{len(given)} prefixes are more than the {PREFIXES_LAST} that an address group may have")
    found: dict[Prefix, None] = {}
    for rank, text in enumerate(given):
        prefix = read(f"[{rank}]", values.parse_prefix, text)
        if prefix in found:
            raise Rejected(f"{prefix} is listed twice", f"[{rank}]")
        found[prefix] = None
    return tuple(found)


def admit_groups(ix: Indexes, puts: Sequence[GroupPut]) -> None:
    for put, number in _numbered(ix, Kind.SECURITY_GROUP, puts):
        draft, old = put.draft, put.old
        stateful = draft.stateful if draft.stateful is not None else old.stateful if old is not None else True
        operator = bool(draft.operator) if old is None else old.operator
        former = old is not None and old.keep_connections
        keep = former if draft.keep_connections is None else draft.keep_connections
        try:
            domains.require_tenant(ix, put.name)
            if draft.operator not in {None, operator}:
                raise Conflict(f"{put.name} has operator: {str(operator).lower()} for good", "spec.operator")
        except Rejected as fault:
            raise fault.at(put.field) from None
        ix.insert(SecurityGroup(put.name, number, stateful, operator, keep))


def admit_rules(ix: Indexes, puts: Sequence[RulePut]) -> None:
    for put, number in _numbered(ix, Kind.SECURITY_GROUP_RULE, puts):
        try:
            ix.insert(_rule(ix, put, number))
            rules = ix.groups[group_of(put.name)].rules
            if len(rules) > RULES_LAST:
                raise Conflict(f"{group_of(put.name)} would have {len(rules)} rules; {RULES_LAST} are the most", "name")
        except Rejected as fault:
            raise fault.at(put.field) from None


def _numbered(ix: Indexes, kind: Kind, puts: Sequence[N]) -> Iterator[tuple[N, int]]:
    """Puts in an order of their own, each with the number that it has, or else gets: the next that is free."""
    taken = ix.numbers[kind]
    fresh = []
    for put in puts:
        if put.old is None:
            fresh.append(put)
        else:
            yield put, put.old.number
    for put in sorted(fresh, key=lambda put: humane(put.name)):
        yield put, next(number for n in count() if (number := values.default_number(put.name, n)) not in taken)


def _rule(ix: Indexes, put: RulePut, number: int) -> SecurityGroupRule:
    draft = put.draft
    group = ix.security_groups.get(group_of(put.name))
    if group is None:
        raise Rejected(f"{put.name} belongs to {group_of(put.name)}, which does not exist", "name")
    prefix = (
        None if draft.remote_prefix is None else read("spec.remote_prefix", values.parse_prefix, draft.remote_prefix)
    )
    family = _family(draft, prefix)
    protocol = None if draft.protocol is None else read("spec.protocol", _protocol, draft.protocol)
    if protocol is not None and protocol in _ICMP.values() and protocol != _ICMP[family]:
        right = PROTOCOL_NAMES[_ICMP[family]]
        raise Rejected(f"{draft.protocol!r} is not of {family}; {right!r} is", "spec.protocol")
    return SecurityGroupRule(
        put.name,
        number,
        read("spec.direction", _direction, draft.direction),
        family,
        protocol,
        *_ports(draft, protocol),
        *_icmp(draft, protocol),
        remote_prefix=prefix,
        remote_group=_remote(ix, put, Kind.SECURITY_GROUP, draft.remote_group, "spec.remote_group"),
        remote_address_group=_remote(
            ix, put, Kind.ADDRESS_GROUP, draft.remote_address_group, "spec.remote_address_group"
        ),
        action=_action(draft, group),
        priority=_priority(draft, group),
        log=bool(draft.log),
    )


def _family(draft: drafts.SecurityGroupRule, prefix: Prefix | None) -> Family:
    remotes = [
        text for text in (draft.remote_prefix, draft.remote_group, draft.remote_address_group) if text is not None
    ]
    if len(remotes) > 1:
        raise Rejected(
            "a rule has at most one of remote_prefix, remote_group and remote_address_group; "
            f"{' and '.join(map(repr, remotes))} are given",
            "spec",
        )
    of_prefix = Family.IPV4 if prefix is None or ip_version(prefix) == 4 else Family.IPV6
    if draft.family is None:
        return of_prefix
    try:
        family = Family(draft.family)
    except ValueError:
        raise Rejected(f"{draft.family!r} is not a family; 'ipv4' and 'ipv6' are", "spec.family") from None
    if prefix is not None and family is not of_prefix:
        raise Rejected(f"{prefix} is not of {family}, which the rule is of", "spec.remote_prefix")
    return family


def _direction(text: str) -> Direction:
    try:
        return Direction(text)
    except ValueError:
        raise Rejected(f"{text!r} is not a direction; 'ingress' and 'egress' are") from None


def _protocol(given: int | str) -> int | None:
    if given == "any":
        return None
    if isinstance(given, str) and given.isdecimal() and given.isascii() and len(given) < 4:
        given = int(given)
    number = PROTOCOLS.get(given.lower()) if isinstance(given, str) else given
    if number is None or not 1 <= number <= 255:
        raise Rejected(
            f"{given!r} is not a protocol: {', '.join(map(repr, PROTOCOLS))} are, and 1..255; leave it out for any"
        )
    return number


def _ports(draft: drafts.SecurityGroupRule, protocol: int | None) -> tuple[int | None, int | None]:
    first, last = draft.port_min, draft.port_max
    if first is None and last is None:
        return None, None
    if protocol not in WITH_PORTS:
        known = ", ".join(repr(name) for name, number in PROTOCOLS.items() if number in WITH_PORTS)
        field = "spec.port_max" if first is None else "spec.port_min"
        given = "no protocol is given" if draft.protocol is None else f"the protocol is {draft.protocol!r}"
        raise Rejected(f"only protocols such as {known} have ports, and {given}", field)
    if first is None:
        raise Rejected(f"port_max is {last}, and port_min is not given: {last} for that port alone", "spec.port_min")
    last = first if last is None else last
    for field, port in (("spec.port_min", first), ("spec.port_max", last)):
        if not 0 <= port <= 65_535:
            raise Rejected(f"port {port} is outside 0..65535", field)
    if last < first:
        raise Rejected(f"port_max {last} is less than port_min {first}", "spec.port_max")
    return first, last


def _icmp(draft: drafts.SecurityGroupRule, protocol: int | None) -> tuple[int | None, int | None]:
    of_type, code = draft.icmp_type, draft.icmp_code
    if of_type is None and code is None:
        return None, None
    if protocol not in _ICMP.values():
        raise Rejected("only the protocols 'icmp' and 'icmpv6' have types and codes", "spec.icmp_type")
    if of_type is None:
        raise Rejected(f"icmp_code is {code}, and icmp_type is not given", "spec.icmp_type")
    for field, number in (("spec.icmp_type", of_type), ("spec.icmp_code", code)):
        if number is not None and not 0 <= number <= 255:
            raise Rejected(f"{number} is outside 0..255", field)
    return of_type, code


def _remote(ix: Indexes, put: RulePut, kind: Kind, given: str | None, field: str) -> Name | None:
    """A group of the rule's own tenant."""
    if given is None:
        return None
    name = read(field, lambda text: resolve(kind, text, put.name), given)
    if ix.find(kind, name) is None:
        raise Rejected(f"{name} does not exist", field)
    if tenant_of(name) != tenant_of(put.name):
        raise Rejected(f"{name} is another tenant's; a rule names groups of its own, {tenant_of(put.name)}", field)
    return name


_NOT_THEIRS = "of a group with operator: true; other groups' rules allow, and what none allows is denied"


def _action(draft: drafts.SecurityGroupRule, group: SecurityGroup) -> Action:
    try:
        action = Action.ALLOW if draft.action is None else Action(draft.action)
    except ValueError:
        raise Rejected(f"{draft.action!r} is not an action; 'allow' and 'deny' are", "spec.action") from None
    if action is Action.DENY and not group.operator:
        raise Rejected(f"a rule may deny if it is {_NOT_THEIRS}", "spec.action")
    return action


def _priority(draft: drafts.SecurityGroupRule, group: SecurityGroup) -> int:
    if draft.priority is None:
        return OPERATOR_PRIORITY if group.operator else 0
    if not 0 <= draft.priority <= PRIORITY_LAST:
        raise Rejected(f"priority {draft.priority} is outside 0..{PRIORITY_LAST}", "spec.priority")
    if draft.priority and not group.operator:
        raise Rejected(f"a rule may have a priority if it is {_NOT_THEIRS}", "spec.priority")
    return draft.priority


# What ports have


@dataclass(frozen=True, slots=True)
class OfPort:
    """What a port has; each sorted. operators: groups that only an operator gives, and takes."""

    tenants: tuple[Name, ...]
    operators: tuple[Name, ...]
    port_security: bool


NONE = OfPort((), (), port_security=False)


#: By tenant, what is written, and whether operators' groups are meant: many ports of a batch say the same.
Read: TypeAlias = dict[tuple[Name, Sequence[str], bool], tuple[Name, ...]]


def of_port(ix: Indexes, put: Put[drafts.Port, Port], known: Read) -> OfPort:
    """What is left out is as it was; with groups, port security is on."""
    draft, old = put.draft, put.old
    had, had_operators = ((), ()) if old is None else (old.security_groups, old.operator_groups)
    tenants = _groups(ix, put.name, draft.security_groups, had, known, operator=False)
    operators = _groups(ix, put.name, draft.operator_groups, had_operators, known, operator=True)
    groups = tenants + operators
    if groups and draft.port_security is False:
        raise Rejected(
            f"a port with groups, such as {groups[0]}, has port_security: take them away to let everything pass",
            "spec.port_security",
        )
    _check_alike(ix, groups, put.name)
    was = old is not None and old.port_security
    return OfPort(tenants, operators, bool(groups) or (was if draft.port_security is None else draft.port_security))


def _groups(
    ix: Indexes, port: Name, given: Sequence[str] | None, had: Sequence[Name], known: Read, *, operator: bool
) -> tuple[Name, ...]:
    named = had if given is None else given
    if not named:
        return ()
    asked = (tenant_of(port), named, operator)
    answer = known.get(asked)
    if answer is None:
        answer = known[asked] = _found(ix, port, named, operator=operator)
    return answer


def _found(ix: Indexes, port: Name, named: Sequence[str], *, operator: bool) -> tuple[Name, ...]:
    field = "spec.operator_groups" if operator else "spec.security_groups"
    if len(named) > GROUPS_LAST:
        raise Rejected(f"{len(named)} groups are more than the {GROUPS_LAST} that a port may have", field)
    found: dict[Name, None] = {}
    for rank, text in enumerate(named):
        at = f"{field}[{rank}]"
        name = read(at, lambda text: resolve(Kind.SECURITY_GROUP, text, port), text)
        if (group := ix.security_groups.get(name)) is None:
            raise Rejected(f"{name} does not exist", at)
        if tenant_of(name) != tenant_of(port):
            raise Rejected(f"{name} is another tenant's; a port of {tenant_of(port)} has groups of its own", at)
        if group.operator is not operator:
            right = "operator_groups" if group.operator else "security_groups"
            raise Rejected(f"{name} has operator: {str(group.operator).lower()}, and belongs into {right}", at)
        if name in found:
            raise Rejected(f"{name} is listed twice", at)
        found[name] = None
    return tuple(sorted(found))


def _check_alike(ix: Indexes, groups: Sequence[Name], port: Name) -> None:
    """Answers pass by all groups of a port, or by none: data planes track a port's packets, or do not."""
    by_kind = {ix.security_groups[name].stateful: name for name in groups}
    if len(by_kind) > 1:
        raise Conflict(
            f"{port} would have {by_kind[True]}, which is stateful, and {by_kind[False]}, which is not: "
            "groups of one port are all of one kind",
            "spec.security_groups",
        )


def check_changed(ix: Indexes, puts: Sequence[GroupPut]) -> None:
    """What a batch has left alone still fits the groups that it changed."""
    for put in puts:
        old, group = put.old, ix.security_groups[put.name]
        if old is None:
            continue
        if old.stateful != group.stateful:
            for port in sorted(ix.groups[put.name].ports):
                try:
                    _check_alike(ix, ix.ports[port].groups, port)
                except Conflict as fault:
                    raise Conflict(fault.message, f"{put.field}.spec.stateful") from None


def check_told_apart(ix: Indexes, ports: Sequence[Put[drafts.Port, Port]], rules: Sequence[RulePut]) -> None:
    """That hosts can tell a tenant's ports apart by the groups that its rules name. What was there before is let be."""
    more: dict[Name, str] = {}
    having: Counter[tuple[Name, tuple[Name, ...]]] = Counter()
    for port_put in ports:
        port, had = ix.ports[port_put.name], () if port_put.old is None else port_put.old.groups
        if port.groups and port.groups != had:
            tenant = tenant_of(port.name)
            having[tenant, port.groups] += 1
            if having[tenant, port.groups] == ix.group_sets[tenant][port.groups]:  # nobody had them before
                more.setdefault(tenant, f"{port_put.field}.spec.security_groups")
    naming: Counter[Name] = Counter()
    for rule_put in rules:
        rule = ix.security_group_rules[rule_put.name]
        if rule.remote_group is not None and (rule_put.old is None or rule_put.old.remote_group != rule.remote_group):
            naming[rule.remote_group] += 1
            if naming[rule.remote_group] == len(ix.groups[rule.remote_group].named_by):
                more.setdefault(tenant_of(rule.name), f"{rule_put.field}.spec.remote_group")
    for tenant, field in more.items():
        sets = ix.group_sets.get(tenant, {})
        if len(sets) <= SETS_LAST:
            continue
        apart = {tuple(group for group in groups if ix.groups[group].named_by) for groups in sets} - {()}
        if len(apart) > SETS_LAST:
            raise Conflict(
                f"ports of {tenant} would have {len(apart)} different sets of groups that rules name; "
                f"{SETS_LAST} are the most that hosts tell apart",
                field,
            )


def why_not_on(host: Host, port_security: bool, abilities: AbilityTable) -> str | None:
    """Why a port with this cannot run on a host, or None when it can."""
    if not port_security or Feature.SECURITY_GROUPS in abilities[host.data_plane].features:
        return None
    return f"{host.name} has data plane {host.data_plane}, which lacks {Feature.SECURITY_GROUPS}"


def user_of(ix: Indexes, old: SecurityGroup | AddressGroup) -> Name | None:
    """Somebody who refers to a group that is to go. What goes with it is gone already."""
    if isinstance(old, AddressGroup):
        return min(ix.address_group_named_by[old.name], default=None)
    index = ix.groups[old.name]
    return min(index.ports or index.named_by or index.rules, default=None)


def why_to_stay(ix: Indexes, old: SecurityGroup) -> str | None:
    """Why a group may not be deleted, whoever refers to it. ix: without what the batch deletes."""
    if label_of(old.name) == DEFAULT and tenant_of(old.name) in ix.tenants:
        return f"{old.name} cannot go: it goes with {tenant_of(old.name)}; its rules can go"
    return None
