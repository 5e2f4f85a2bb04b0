"""Changes of objects into changes of rows, touching only what follows from them. Never walks what did not change.

What a changed object had for rows is not remembered: it is worked out again from the object as it was, resting on the
others as they were. So a change costs what it changes, and a port that rests costs nothing here, but for scopes that
somebody has asked for: their rows are kept, and kept up to date. That this equals ``full`` is proved in the tests.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar, cast

from weft.compiler import full, translate
from weft.compiler.affected import Affected, affected_by
from weft.model.catalog import Catalog, Change
from weft.model.names import Kind, Name, domain_of, group_of
from weft.model.objects import (
    AddressGroup,
    Host,
    Object,
    Port,
    RoutingDomain,
    SecurityGroup,
    SecurityGroupRule,
    VirtualSubnet,
)
from weft.model.values import Ip, Prefix, Rdid
from weft.policy import delta
from weft.policy.rows import (
    Key,
    Route,
    Row,
    Scope,
    address_group_scope,
    domain_scope,
    host_scope,
    security_group_scope,
)

T = TypeVar("T")

_HOST, _DOMAIN = host_scope(""), domain_scope("")
_GROUP, _ADDRESSES = (scope(0).removesuffix("0") for scope in (security_group_scope, address_group_scope))


#: Raised when the same intent compiles to other rows than before: hosts then take everything anew, instead of what
#: changed since.
EDITION = 8


class Compiler:
    """Follows a catalog: is told of each of its changes, once, in order. Never changes the catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._kept: dict[Scope, dict[Key, Row]] = {}
        self._routes: dict[Name, dict[Prefix, Route]] = {}  # the winners, by domain
        self._running: dict[Name, dict[Name, int]] = {}  # host -> domain -> how many ports, moving there or not
        self._present: Counter[_Presence] = Counter()  # how many ports of a subnet are on a host or moving there
        self._having: dict[Name, dict[Name, int]] = {}  # host -> security group -> how many of its ports have it
        self._naming: dict[Name, dict[Name, int]] = {}  # security group -> address group -> how many rules name it
        for rule in catalog.security_group_rules.values():
            self._count_rule(rule, 1)
        for port in catalog.ports.values():
            self._count(port, 1)
        for domain in catalog.routing_domains:
            self._route(domain, full.prefixes_of(catalog, domain))

    def rows(self, scope: Scope) -> Mapping[Key, Row]:
        """The rows of a scope; none when there is no such scope. A view: it changes with the next apply."""
        if scope not in self._kept:
            compiled = self._compile(scope)
            if not compiled:
                return MappingProxyType({})
            self._kept[scope] = compiled
        return MappingProxyType(self._kept[scope])

    def scopes_of(self, host: str) -> frozenset[Scope]:
        """What a host needs, and all that it may be told; nothing when there is no such host."""
        name = Name(host)
        if name not in self._catalog.hosts:
            return frozenset()
        domains = self._catalog.routing_domains
        groups, addresses = self._catalog.security_groups, self._catalog.address_groups
        return frozenset(
            {
                host_scope(name),
                *(domain_scope(domains[domain].rdid) for domain in self._running.get(name, ())),
                *(security_group_scope(groups[group].number) for group in self._having.get(name, ())),
                *(address_group_scope(addresses[each].number) for each in self._named_on(name)),
            }
        )

    def apply(self, changes: Sequence[Change]) -> delta.ScopedDelta:
        """What follows for each scope, and for who is in it. The catalog has taken the changes already.

        To undo: revert the catalog, and apply the changes turned round.
        """
        was = {change.name: change.old for change in changes}
        before, after = _Side(self._catalog, was), _Side(self._catalog, {})
        affected = affected_by(self._catalog, changes)
        for side in (before, after):
            side.add(affected)
        self._add_members(changes, before, after)
        for old, new in self._reroute(affected):
            for side, route in ((before, old), (after, new)):
                if route is not None:
                    side.rows[domain_scope(route.rdid)][route.key] = route
        entered, left = self._move(changes, before, after)
        scopes = {}
        for scope in dict.fromkeys((*before.rows, *after.rows)):
            if difference := delta.between(before.rows.get(scope, {}), after.rows.get(scope, {})):
                scopes[scope] = difference
                self._patch(scope, difference)
        return delta.ScopedDelta(scopes, entered, left)

    def _add_members(self, changes: Sequence[Change], before: _Side, after: _Side) -> None:
        """Who is a member of a subnet rests on all of its ports there, and most of them have not changed."""
        steps: Counter[_Presence] = Counter()
        for change in changes:
            for port, step in ((change.old, -1), (change.new, 1)):
                if isinstance(port, Port):
                    steps.update({(port.virtual_subnet, host): step for host in port.hosts})
        for presence in dict.fromkeys((*before.presences, *after.presences)):
            were = self._present[presence]
            if were:
                before.add_member(*presence)
            if were + steps[presence]:
                after.add_member(*presence)

    def _compile(self, scope: Scope) -> dict[Key, Row]:
        if scope.startswith(_HOST):
            host = Name(scope.removeprefix(_HOST))
            return full.host_rows(self._catalog, host) if host in self._catalog.hosts else {}
        if scope.startswith(_GROUP):
            group = self._catalog.numbered(Kind.SECURITY_GROUP, int(scope.removeprefix(_GROUP)))
            return full.security_group_rows(self._catalog, group) if group is not None else {}
        if scope.startswith(_ADDRESSES):
            group = self._catalog.numbered(Kind.ADDRESS_GROUP, int(scope.removeprefix(_ADDRESSES)))
            return full.address_group_rows(self._catalog, group) if group is not None else {}
        domain = self._catalog.domain_with(Rdid(scope.removeprefix(_DOMAIN)))
        return full.domain_rows(self._catalog, domain) if domain is not None else {}

    def _patch(self, scope: Scope, difference: delta.Delta) -> None:
        if (kept := self._kept.get(scope)) is not None:
            for row in difference.puts:
                kept[row.key] = row
            for key in difference.deletes:
                del kept[key]
            if not kept:
                del self._kept[scope]  # the scope may be gone, and costs nothing to compile again if it is not

    # Routes: the only rows that several objects contend for, so the winners are remembered.

    def _reroute(self, affected: Affected) -> Iterable[tuple[Route | None, Route | None]]:
        for domain in affected.routed_anew:
            every = (*self._routes.get(domain, ()), *full.prefixes_of(self._catalog, domain))
            yield from self._route(domain, dict.fromkeys(every))
        for domain, prefixes in affected.prefixes.items():
            if domain not in affected.routed_anew:
                yield from self._route(domain, prefixes)

    def _route(self, domain: Name, prefixes: Iterable[Prefix]) -> list[tuple[Route | None, Route | None]]:
        """The winners of these prefixes as they were and as they are."""
        winners = self._routes.setdefault(domain, {})
        found = []
        for prefix in prefixes:
            old, new = winners.pop(prefix, None), full.winner(self._catalog, domain, prefix)
            if new is not None:
                winners[prefix] = new
            found.append((old, new))
        if not winners:
            del self._routes[domain]
        return found

    # Membership: a host is in the domains that it runs ports of, or awaits ports of.

    def _count(self, port: Port, step: int) -> None:
        for host in port.hosts:
            presence = (port.virtual_subnet, host)
            self._present[presence] += step
            if not self._present[presence]:
                del self._present[presence]
        domain = domain_of(port.virtual_subnet)
        for host in port.hosts:
            running = self._running.setdefault(host, {})
            count = running.get(domain, 0) + step
            if count:
                running[domain] = count
            else:
                del running[domain]
                if not running:
                    del self._running[host]
            for group in port.groups:
                _step(self._having, host, group, step)

    def _count_rule(self, rule: SecurityGroupRule, step: int) -> None:
        if rule.remote_address_group is not None:
            _step(self._naming, group_of(rule.name), rule.remote_address_group, step)

    def _named_on(self, host: Name) -> set[Name]:
        """The address groups that rules name of the security groups that ports on a host have."""
        return {each for group in self._having.get(host, ()) for each in self._naming.get(group, ())}

    def _held_groups(self, hosts: Iterable[Name], side: _Side) -> Iterable[tuple[str, Scope]]:
        """Who is told of which groups, as ports and rules are counted now."""
        for host in hosts:
            for group in self._having.get(host, ()):
                yield host, security_group_scope(side.group(group).number)
            for addresses in self._named_on(host):
                yield host, address_group_scope(side.addresses(addresses).number)

    def _touched_by_groups(self, changes: Sequence[Change]) -> dict[Name, None]:
        """The hosts that may be told of other groups than before."""
        touched: dict[Name, None] = {}
        naming: dict[Name, None] = {}  # security groups with rules that may name other address groups than before
        for change in changes:
            for thing in (change.old, change.new):
                match thing:
                    case Port():
                        if thing.groups:
                            touched.update(dict.fromkeys(thing.hosts))
                    case SecurityGroupRule():
                        if thing.remote_address_group is not None:
                            naming[group_of(thing.name)] = None
                    case _:
                        pass
        if naming:
            touched.update(
                (host, None) for host, groups in self._having.items() if not naming.keys().isdisjoint(groups)
            )
        return touched

    def _move(self, changes: Sequence[Change], before: _Side, after: _Side) -> tuple[_Pairs, _Pairs]:
        """Count ports over, and compare the memberships that this can have changed; with them go the Peer rows."""
        now = self._catalog.routing_domains
        touched: dict[tuple[Name, Name], None] = {}
        were: set[tuple[str, Scope]] = set()
        are: set[tuple[str, Scope]] = set()
        for change in changes:
            if isinstance(change.old, Host):
                were.add((change.name, host_scope(change.name)))
            if isinstance(change.new, Host):
                are.add((change.name, host_scope(change.name)))
            if isinstance(change.old, RoutingDomain):
                for host, running in self._running.items():
                    if change.name in running:
                        touched[host, change.name] = None
            for port in (change.old, change.new):
                if isinstance(port, Port):
                    for host in port.hosts:
                        touched[host, domain_of(port.virtual_subnet)] = None
        # Who a host is among the others of its domains follows from the host, too.
        seen = dict(touched)
        for change in changes:
            if isinstance(change.old, Host) and isinstance(change.new, Host) and _moved(change.old, change.new):
                seen.update(((change.name, domain), None) for domain in self._running.get(change.name, ()))
        for host, domain in seen:
            if domain in self._running.get(host, ()):
                before.add_peer(host, domain)
        for host, domain in touched:
            if domain in self._running.get(host, ()):
                were.add((host, domain_scope(before.domain(domain).rdid)))
        grouped = self._touched_by_groups(changes)
        were.update(self._held_groups(grouped, before))
        for change in changes:
            for thing, step in ((change.old, -1), (change.new, 1)):
                if isinstance(thing, Port):
                    self._count(thing, step)
                elif isinstance(thing, SecurityGroupRule):
                    self._count_rule(thing, step)
        are.update(self._held_groups(grouped, after))
        for host, domain in seen:
            if domain in self._running.get(host, ()):
                after.add_peer(host, domain)
        for host, domain in touched:
            if domain in self._running.get(host, ()):
                are.add((host, domain_scope(now[domain].rdid)))
        return tuple(sorted(are - were)), tuple(sorted(were - are))


_Pairs = tuple[tuple[str, Scope], ...]
_Presence = tuple[Name, Name]  # of a subnet, on a host


def _step(counts: dict[Name, dict[Name, int]], owner: Name, of: Name, step: int) -> None:
    """Count one more, or one less; what comes to nothing is forgotten."""
    mine = counts.setdefault(owner, {})
    if count := mine.get(of, 0) + step:
        mine[of] = count
    else:
        del mine[of]
        if not mine:
            del counts[owner]


def _moved(old: Host, new: Host) -> bool:
    """Whether the host is elsewhere in the underlay."""
    return (old.pas, old.networks) != (new.pas, new.networks)


class _Side:
    """The rows of what is affected, by scope: as they are, or (with what changed objects were) as they were.

    What many ports rest on, their subnet and host, is looked up once.
    """

    def __init__(self, catalog: Catalog, was: Mapping[Name, Object | None]) -> None:
        self.rows: defaultdict[Scope, dict[Key, Row]] = defaultdict(dict)
        self.presences: dict[_Presence, None] = {}  # of the ports that are affected
        self._was = was
        self._networks, self._hosts, self._ports = catalog.provider_networks, catalog.hosts, catalog.ports
        self._domains, self._subnets = catalog.routing_domains, catalog.virtual_subnets
        self._groups, self._addresses = catalog.security_groups, catalog.address_groups
        self._rules, self._rules_of = catalog.security_group_rules, catalog.rules_of
        self._numbers: dict[tuple[Name, ...], tuple[int, ...]] = {(): ()}  # of the security groups that ports have
        self._by_subnet: dict[Name, tuple[VirtualSubnet, dict[Key, Row]]] = {}
        self._by_host: dict[Name, tuple[Ip | None, dict[Key, Row]]] = {}

    def domain(self, name: Name) -> RoutingDomain:
        return self._need(self._domains, name)

    def group(self, name: Name) -> SecurityGroup:
        return self._need(self._groups, name)

    def addresses(self, name: Name) -> AddressGroup:
        return self._need(self._addresses, name)

    def add(self, affected: Affected) -> None:
        for name in affected.hosts:
            if (host := self._find(self._hosts, name)) is not None:
                networks = {up.provider_network: self._need(self._networks, up.provider_network) for up in host.uplinks}
                row: Row = translate.host_row(host, networks)
                self.rows[host_scope(name)][row.key] = row
        for name in affected.subnets:
            if (subnet := self._find(self._subnets, name)) is not None:
                domain = self.domain(domain_of(name))
                row = translate.subnet_row(subnet, domain)
                self.rows[domain_scope(domain.rdid)][row.key] = row
        for name in affected.address_groups:
            if (addresses := self._find(self._addresses, name)) is not None:
                row = translate.address_group_row(addresses)
                self.rows[address_group_scope(addresses.number)][row.key] = row
        for name, changed in affected.security_groups.items():
            if (group := self._find(self._groups, name)) is not None:
                self._add_group(group, changed)
        for name in affected.ports:
            port = self._find(self._ports, name)
            if port is not None and port.host is not None:
                self._add_port(port)

    def add_peer(self, host: Name, domain: Name) -> None:
        row = translate.peer_row(self._need(self._hosts, host), self.domain(domain))
        if row is not None:
            self.rows[domain_scope(row.rdid)][row.key] = row

    def _add_group(self, group: SecurityGroup, changed: Iterable[Name]) -> None:
        """changed: rules of it that may not be among those that it has now, or not have been."""
        names = dict.fromkeys((*self._rules_of(group.name), *changed))
        rules = [rule for name in names if (rule := self._find(self._rules, name)) is not None]
        named = [rule.remote_group for rule in rules if rule.remote_group is not None]
        addresses = [rule.remote_address_group for rule in rules if rule.remote_address_group is not None]
        row = translate.security_group_row(
            group,
            rules,
            {name: self.group(name).number for name in named},
            {name: self.addresses(name).number for name in addresses},
        )
        self.rows[security_group_scope(group.number)][row.key] = row

    def _numbers_of(self, groups: tuple[Name, ...]) -> tuple[int, ...]:
        numbers = self._numbers.get(groups)
        if numbers is None:
            numbers = self._numbers[groups] = tuple(sorted(self.group(name).number for name in groups))
        return numbers

    def _add_port(self, port: Port) -> None:
        subnet, domain_rows = self._by_subnet.get(port.virtual_subnet) or self._ground(port.virtual_subnet)
        groups = self._numbers_of(port.groups)
        row: Row = translate.port_row(port, subnet, groups)
        pas: list[Ip | None] = []
        for host in port.hosts:
            pa, host_rows = self._by_host.get(host) or self._abode(host)
            if host == port.destination:
                row = translate.port_row(port, subnet, groups, there=True)
            host_rows[row.key] = row
            self.presences[port.virtual_subnet, host] = None
            pas.append(pa)
        pa, *others = pas
        if pa is not None:
            for row in translate.record_rows(port, subnet, groups, pa, *others):
                domain_rows[row.key] = row

    def add_member(self, subnet_name: Name, host: Name) -> None:
        """The host runs some port of the subnet."""
        subnet, domain_rows = self._by_subnet.get(subnet_name) or self._ground(subnet_name)
        pa, _ = self._by_host.get(host) or self._abode(host)
        if pa is not None:
            row = translate.member_row(subnet, pa)
            domain_rows[row.key] = row

    def _ground(self, name: Name) -> tuple[VirtualSubnet, dict[Key, Row]]:
        scope = domain_scope(self.domain(domain_of(name)).rdid)
        found = self._by_subnet[name] = self._need(self._subnets, name), self.rows[scope]
        return found

    def _abode(self, name: Name) -> tuple[Ip | None, dict[Key, Row]]:
        pa = self._need(self._hosts, name).first_pa
        found = self._by_host[name] = pa, self.rows[host_scope(name)]
        return found

    def _find(self, table: Mapping[Name, T], name: Name) -> T | None:
        if name in self._was:
            # A name says its kind: what it named before is of the kind that the table holds.
            return cast("T | None", self._was[name])
        return table.get(name)

    def _need(self, table: Mapping[Name, T], name: Name) -> T:
        found = self._find(table, name)
        if found is None:
            raise AssertionError(f"{name} is referred to where it does not exist")
        return found
