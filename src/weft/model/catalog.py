"""Every object there is, valid as a whole at any time. Never reads a clock or a file, and never half takes a batch.

The batch's end is what is judged: what it deletes and replaces is taken out first, what it puts goes in kind by kind,
and then what it did not touch is looked at where it may have lost its footing. See docs/design/model.md.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import assert_never

from weft.kit.errors import Conflict, Missing, Rejected
from weft.model import (
    announcements,
    domains,
    drafts,
    ports,
    rewrite,
    routes,
    security,
    shares,
    subnets,
    taps,
    trunk,
    underlay,
)
from weft.model.announcements import Announcement, Heard
from weft.model.drafts import Draft
from weft.model.features import ABILITIES, AbilityTable
from weft.model.indexes import Indexes, taken_on_host
from weft.model.names import Kind, Name, domain_of, find_kind, parse_name_of, tenant_of
from weft.model.objects import (
    KINDS,
    AddressGroup,
    CustomerRoute,
    Host,
    Object,
    Port,
    ProviderNetwork,
    RoutingDomain,
    SecurityGroup,
    SecurityGroupRule,
    Tenant,
    VirtualSubnet,
)
from weft.model.ordering import SortedNames
from weft.model.puts import Put
from weft.model.room import Room
from weft.model.shares import Arrival
from weft.model.values import Ip, Prefix, Rdid

_RANK = {kind: rank for rank, kind in enumerate(Kind)}


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one object: old None: it is new; new None: it is gone."""

    name: Name
    old: Object | None
    new: Object | None


@dataclass(slots=True)
class _Batch:
    """What is asked for, by kind. deletes: by rank in the request, and as the objects were."""

    tenants: list[domains.TenantPut] = field(default_factory=list)
    provider_networks: list[underlay.NetworkPut] = field(default_factory=list)
    hosts: list[underlay.HostPut] = field(default_factory=list)
    routing_domains: list[domains.DomainPut] = field(default_factory=list)
    virtual_subnets: list[subnets.SubnetPut] = field(default_factory=list)
    address_groups: list[security.AddressGroupPut] = field(default_factory=list)
    security_groups: list[security.GroupPut] = field(default_factory=list)
    security_group_rules: list[security.RulePut] = field(default_factory=list)
    ports: list[ports.PortPut] = field(default_factory=list)
    customer_routes: list[routes.RoutePut] = field(default_factory=list)
    deletes: list[tuple[int, Object]] = field(default_factory=list)
    before: dict[Name, Object | None] = field(default_factory=dict)  # all that is put
    beside: Mapping[Name, Port] = field(default_factory=dict)  # not put, and changed all the same: as they were


class Catalog:
    """Objects by name, with the questions that a compiler and a controller ask of them. One caller at a time."""

    def __init__(
        self, abilities: AbilityTable = ABILITIES, *, limits_can_be_said: Callable[[], bool] = lambda: True
    ) -> None:
        """limits_can_be_said: else no tenant is held to those that are usual, since nobody could allow it more."""
        self._abilities = abilities
        self._limits_can_be_said = limits_can_be_said
        self._ix = Indexes()
        self._room = Room(self._ix)
        self._sorted = {kind: SortedNames() for kind in Kind}

    # What changes it

    def apply(self, puts: Iterable[Draft], deletes: Iterable[str] = ()) -> tuple[Change, ...]:
        """Take a batch, all or nothing; what is the same before and after is no change.

        The order of puts and of deletes does not matter. Raises Rejected, Conflict or Missing.
        """
        ix = self._ix
        batch = self._sort(puts, deletes)
        for put in trunk.followers(ix, batch.ports, {old.name for _, old in batch.deletes}):
            batch.before[put.name] = put.old
            batch.ports.append(put)
        self._add_defaults(batch)
        self._room.catch_up()
        ix.settle()
        try:
            for old in batch.before.values():
                if old is not None:
                    ix.remove(old)
            for _, old in batch.deletes:
                ix.remove(old)
            domains.admit_tenants(ix, batch.tenants)
            underlay.admit_networks(ix, batch.provider_networks)
            underlay.admit(ix, batch.hosts, self._abilities)
            domains.admit(ix, batch.routing_domains)
            subnets.admit(ix, batch.virtual_subnets, self._abilities)
            security.admit_address_groups(ix, batch.address_groups)
            security.admit_groups(ix, batch.security_groups)
            security.admit_rules(ix, batch.security_group_rules)
            ports.admit(ix, batch.ports, self._abilities)
            bereft = announcements.admit(ix, batch.ports, batch.virtual_subnets)
            # As they were before either.
            batch.beside = rewrite.admit(ix, batch.ports, batch.virtual_subnets, batch.hosts, bereft) | bereft
            routes.admit(ix, batch.customer_routes)
            self._check_untouched(batch)
            for _, old in batch.deletes:
                ix.retire(old)
        except BaseException:
            ix.undo()
            raise
        ix.settle()
        changes = self._changes(batch)
        self._note(changes)
        return changes

    def revert(self, changes: Sequence[Change]) -> None:
        """Undo the last apply exactly; several are undone last first."""
        ix = self._ix
        for change in changes:
            if change.new is not None:
                ix.remove(change.new)
        for old in sorted((change.old for change in changes if change.old is not None), key=_rank):
            ix.insert(old)
        for change in changes:
            if change.old is None and change.new is not None:
                ix.retire(change.new)
        ix.settle()
        self._note([Change(change.name, change.new, change.old) for change in changes])

    def take(self, changes: Sequence[Change]) -> None:
        """What another catalog has made of the same objects, unjudged: it was judged there."""
        self.revert([Change(change.name, change.new, change.old) for change in changes])

    def hear(self, announced: Iterable[Announcement]) -> Heard:
        """What to put so that guests' announcements come true, as far as they may. Changes nothing itself."""
        try:
            return announcements.hear(self._ix, announced)
        finally:
            self._ix.undo()

    def load(self, objects: Iterable[Object]) -> None:
        """Take in objects that a catalog made, in any order, unjudged: they were judged when they were put."""
        for thing in sorted(objects, key=_rank):
            self._ix.insert(thing)
            self._ix.settle()
            self._sorted[KINDS[type(thing)]].add(thing.name)
        self._room.catch_up()  # now, and not while somebody waits for the first answer
        self._ix.settle()

    # What is there

    def get(self, name: str) -> Object | None:
        kind = find_kind(name)
        return None if kind is None else self._ix.find(kind, Name(name))

    def objects(self, kind: Kind) -> Mapping[Name, Object]:
        """By name, in no particular order. A view: it changes with the catalog."""
        match kind:
            case Kind.TENANT:
                return self.tenants
            case Kind.PROVIDER_NETWORK:
                return self.provider_networks
            case Kind.HOST:
                return self.hosts
            case Kind.ROUTING_DOMAIN:
                return self.routing_domains
            case Kind.VIRTUAL_SUBNET:
                return self.virtual_subnets
            case Kind.ADDRESS_GROUP:
                return self.address_groups
            case Kind.SECURITY_GROUP:
                return self.security_groups
            case Kind.SECURITY_GROUP_RULE:
                return self.security_group_rules
            case Kind.PORT:
                return self.ports
            case Kind.CUSTOMER_ROUTE:
                return self.customer_routes
            case _:
                assert_never(kind)

    def names(self, kind: Kind) -> Sequence[Name]:
        """Sorted, for lists that are read page by page. A view: good until the catalog changes."""
        return self._sorted[kind].read(self.objects(kind))

    @property
    def tenants(self) -> Mapping[Name, Tenant]:
        return MappingProxyType(self._ix.tenants)

    @property
    def provider_networks(self) -> Mapping[Name, ProviderNetwork]:
        return MappingProxyType(self._ix.provider_networks)

    @property
    def hosts(self) -> Mapping[Name, Host]:
        return MappingProxyType(self._ix.hosts)

    @property
    def routing_domains(self) -> Mapping[Name, RoutingDomain]:
        return MappingProxyType(self._ix.routing_domains)

    @property
    def virtual_subnets(self) -> Mapping[Name, VirtualSubnet]:
        return MappingProxyType(self._ix.virtual_subnets)

    @property
    def address_groups(self) -> Mapping[Name, AddressGroup]:
        return MappingProxyType(self._ix.address_groups)

    @property
    def security_groups(self) -> Mapping[Name, SecurityGroup]:
        return MappingProxyType(self._ix.security_groups)

    @property
    def security_group_rules(self) -> Mapping[Name, SecurityGroupRule]:
        return MappingProxyType(self._ix.security_group_rules)

    @property
    def ports(self) -> Mapping[Name, Port]:
        return MappingProxyType(self._ix.ports)

    @property
    def customer_routes(self) -> Mapping[Name, CustomerRoute]:
        return MappingProxyType(self._ix.customer_routes)

    def domain_with(self, rdid: Rdid) -> Name | None:
        return self._ix.rdids.get(rdid)

    def hosts_on(self, network: Name) -> Collection[Name]:
        """The hosts with an uplink on a provider network."""
        return self._ix.hosts_on.get(network, {}).keys()

    def subports_of(self, port: Name) -> Collection[Name]:
        """The sub-ports at a port's interface."""
        return self._ix.trunks.get(port, {}).values()

    def ports_on(self, host: Name) -> Collection[Name]:
        """The ports that a host runs, and those that are moving there."""
        return self._ix.ports_on.get(host, {}).keys()

    def hosts_in(self, domain: Name) -> Collection[Name]:
        """The hosts that run ports of a routing domain."""
        index = self._ix.domains.get(domain)
        return index.hosts.keys() if index is not None else ()

    def ports_in(self, subnet: Name) -> Collection[Name]:
        index = self._ix.subnets.get(subnet)
        return index.ports.keys() if index is not None else ()

    def subnets_of(self, domain: Name) -> Collection[Name]:
        index = self._ix.domains.get(domain)
        return index.subnets.keys() if index is not None else ()

    def routes_of(self, domain: Name) -> Collection[Name]:
        index = self._ix.domains.get(domain)
        return index.routes.keys() if index is not None else ()

    def routes_to(self, domain: Name, prefix: Prefix) -> Collection[Name]:
        """The customer routes of a domain to exactly this prefix."""
        index = self._ix.domains.get(domain)
        return index.claims.get(prefix, ()) if index is not None else ()

    def subnet_with(self, domain: Name, prefix: Prefix) -> Name | None:
        """The subnet of a domain that has exactly this prefix."""
        index = self._ix.domains.get(domain)
        return index.on_link.get(prefix) if index is not None else None

    def subnet_at(self, domain: Name, address: Ip) -> Name | None:
        """The subnet of a domain that an address is in."""
        index = self._ix.domains.get(domain)
        return index.subnet_at(address) if index is not None else None

    def port_at(self, domain: Name, address: Ip) -> Name | None:
        """The port that has a CA in a domain."""
        index = self._ix.domains.get(domain)
        holder = index.cas.get(address) if index is not None else None
        return holder if holder in self._ix.ports else None

    def rules_of(self, group: Name) -> Collection[Name]:
        """The rules of a security group."""
        index = self._ix.groups.get(group)
        return index.rules.keys() if index is not None else ()

    def ports_with(self, group: Name) -> Collection[Name]:
        """The ports that have a security group."""
        index = self._ix.groups.get(group)
        return index.ports.keys() if index is not None else ()

    @property
    def filled(self) -> frozenset[Name]:
        """The hosts on which the last batch took of the room for rules that all tenants share."""
        return self._room.filled

    def numbered(self, kind: Kind, number: int) -> Name | None:
        """The group, or the rule, that hosts know by a number."""
        return self._ix.numbers[kind].get(number)

    # How a batch is judged

    def _sort(self, puts: Iterable[Draft], deletes: Iterable[str]) -> _Batch:
        """A batch by kind, every name right and there but once."""
        ix, batch = self._ix, _Batch()
        before = batch.before
        for rank, draft in enumerate(puts):
            try:
                name = parse_name_of(drafts.KINDS[type(draft)], draft.name)
            except Rejected as fault:
                raise fault.at(f"puts[{rank}]") from None
            if name in before:
                raise Rejected(f"{name} is put twice in one request", f"puts[{rank}].name")
            match draft:
                case drafts.Port():
                    before[name] = port = ix.ports.get(name)
                    batch.ports.append(Put(rank, name, draft, port))
                case drafts.SecurityGroupRule():
                    before[name] = rule = ix.security_group_rules.get(name)
                    batch.security_group_rules.append(Put(rank, name, draft, rule))
                case drafts.SecurityGroup():
                    before[name] = group = ix.security_groups.get(name)
                    batch.security_groups.append(Put(rank, name, draft, group))
                case drafts.AddressGroup():
                    before[name] = addresses = ix.address_groups.get(name)
                    batch.address_groups.append(Put(rank, name, draft, addresses))
                case drafts.VirtualSubnet():
                    before[name] = subnet = ix.virtual_subnets.get(name)
                    batch.virtual_subnets.append(Put(rank, name, draft, subnet))
                case drafts.CustomerRoute():
                    before[name] = route = ix.customer_routes.get(name)
                    batch.customer_routes.append(Put(rank, name, draft, route))
                case drafts.RoutingDomain():
                    before[name] = domain = ix.routing_domains.get(name)
                    batch.routing_domains.append(Put(rank, name, draft, domain))
                case drafts.Host():
                    before[name] = host = ix.hosts.get(name)
                    batch.hosts.append(Put(rank, name, draft, host))
                case drafts.ProviderNetwork():
                    before[name] = network = ix.provider_networks.get(name)
                    batch.provider_networks.append(Put(rank, name, draft, network))
                case drafts.Tenant():
                    before[name] = tenant = ix.tenants.get(name)
                    batch.tenants.append(Put(rank, name, draft, tenant))
                case _:
                    assert_never(draft)
        going: set[str] = set()
        for rank, text in enumerate(deletes):
            old = self.get(text)
            if old is None:
                raise Missing(f"{text} does not exist", f"deletes[{rank}]")
            if text in before or text in going:
                also = "put" if text in before else "deleted already"
                raise Rejected(f"{text} is {also} in the same request", f"deletes[{rank}]")
            going.add(text)
            batch.deletes.append((rank, old))
        for rank, old in tuple(batch.deletes):
            for more in security.goes_with(ix, old):
                if more.name not in going and more.name not in before:
                    going.add(more.name)
                    batch.deletes.append((rank, more))
        return batch

    def _add_defaults(self, batch: _Batch) -> None:
        """The default groups of tenants that have none."""
        for put in tuple(security.made_with(self._ix, batch.tenants, batch.before.keys())):
            batch.before[put.name] = None
            if isinstance(put.draft, drafts.SecurityGroup):
                batch.security_groups.append(put)
            else:
                batch.security_group_rules.append(put)

    def _check_untouched(self, batch: _Batch) -> None:
        """What the batch left alone still has what it needs."""
        ix = self._ix
        for rank, old in batch.deletes:
            if isinstance(old, SecurityGroup) and (why := security.why_to_stay(ix, old)) is not None:
                raise Conflict(why, f"deletes[{rank}]")
            if (user := self._user_of(old)) is not None:
                raise Conflict(f"{old.name} cannot go: {user} refers to it", f"deletes[{rank}]")
        taps.check_mirrors(ix, batch.ports)
        for put in batch.hosts:
            underlay.check_ports_of(ix, put, self._abilities)
        underlay.check_families(ix, batch.hosts, batch.ports)
        security.check_changed(ix, batch.security_groups)
        security.check_told_apart(ix, batch.ports, batch.security_group_rules)
        self._room.check(batch.ports, batch.security_group_rules, batch.address_groups)
        placed: dict[Kind, Iterable[tuple[Name, str]]] = {
            Kind.VIRTUAL_SUBNET: ((put.name, put.field) for put in batch.virtual_subnets),
            Kind.CUSTOMER_ROUTE: ((put.name, put.field) for put in batch.customer_routes),
            Kind.PORT: ((put.name, put.field) for put in batch.ports),
        }
        if self._limits_can_be_said():
            shares.check(ix.tally, ix.limits, placed, lambda: self._arrivals(batch))
        # The routes of each domain are looked at once, and the first of its subnets that changed is blamed.
        blamed: dict[Name, str] = {}
        for subnet_put in batch.virtual_subnets:
            was, now = subnet_put.old, ix.virtual_subnets[subnet_put.name]
            if was is not None and (was.prefixes, was.gateways) != (now.prefixes, now.gateways):
                changed = "prefixes" if was.prefixes != now.prefixes else "gateways"
                blamed.setdefault(domain_of(was.name), f"{subnet_put.field}.spec.{changed}")
        for rank, old in batch.deletes:
            if isinstance(old, VirtualSubnet):
                blamed.setdefault(domain_of(old.name), f"deletes[{rank}]")
        for domain, place in blamed.items():
            if domain in ix.routing_domains:
                try:
                    routes.check_of(ix, domain)
                except Rejected as fault:
                    raise fault.at(place) from None

    def _arrivals(self, batch: _Batch) -> Iterator[Arrival]:
        """The ports of a batch that come to hosts where they were not."""
        for put in batch.ports:
            if put.old is None or not put.old.hosts:
                continue
            new, before = self._ix.ports[put.name], taken_on_host(put.old)
            taken = {share: min(number, before.get(share, 0)) for share, number in taken_on_host(new).items()}
            if taken:
                for host in new.hosts:
                    if host not in put.old.hosts:
                        yield Arrival(tenant_of(put.name), host, tuple(put.old.hosts), taken)

    def _user_of(self, old: Object) -> Name | None:
        """Somebody who still refers to an object that is to go."""
        ix = self._ix
        match old:
            case Port():
                return next(iter(ix.trunks.get(old.name, {}).values()), None) or next(
                    iter(ix.watched.get(old.name, ())), None
                )
            case CustomerRoute() | SecurityGroupRule():
                return None
            case SecurityGroup() | AddressGroup():
                return security.user_of(ix, old)
            case Tenant():
                if not ix.tenant_uses[old.name]:
                    return None
                below = f"{old.name}/"
                tables: tuple[Iterable[Name], ...] = (
                    ix.routing_domains, ix.ports, ix.security_groups, ix.address_groups,
                )  # fmt: skip
                for table in tables:
                    for name in table:
                        if name.startswith(below):
                            return name
                raise AssertionError(f"{old.name} is used, but by nobody")
            case ProviderNetwork():
                return next(iter(ix.hosts_on[old.name]), None) or next(iter(ix.subnets_on[old.name]), None)
            case Host():
                return next(iter(ix.ports_on[old.name]), None)
            case RoutingDomain():
                index = ix.domains[old.name]
                return next(iter(index.subnets), None) or next(iter(index.routes), None)
            case VirtualSubnet():
                for name in ix.subnets[old.name].ports:
                    return name
                for name in ix.domains[domain_of(old.name)].routes:
                    if ix.customer_routes[name].virtual_subnet == old.name:
                        return name
                return None
            case _:
                assert_never(old)

    def _changes(self, batch: _Batch) -> tuple[Change, ...]:
        ix, changes = self._ix, []
        for kind, puts in (
            (Kind.TENANT, batch.tenants),
            (Kind.PROVIDER_NETWORK, batch.provider_networks),
            (Kind.HOST, batch.hosts),
            (Kind.ROUTING_DOMAIN, batch.routing_domains),
            (Kind.VIRTUAL_SUBNET, batch.virtual_subnets),
            (Kind.ADDRESS_GROUP, batch.address_groups),
            (Kind.SECURITY_GROUP, batch.security_groups),
            (Kind.SECURITY_GROUP_RULE, batch.security_group_rules),
            (Kind.PORT, batch.ports),
            (Kind.CUSTOMER_ROUTE, batch.customer_routes),
        ):
            for put in puts:
                new = ix.find(kind, put.name)
                if put.old != new:
                    changes.append(Change(put.name, put.old, new))
        changes.extend(Change(name, old, ix.ports[name]) for name, old in batch.beside.items())
        changes.extend(Change(old.name, old, None) for _, old in batch.deletes)
        return tuple(changes)

    def _note(self, changes: Iterable[Change]) -> None:
        for change in changes:
            if change.old is None and change.new is not None:
                self._sorted[KINDS[type(change.new)]].add(change.name)
            elif change.new is None and change.old is not None:
                self._sorted[KINDS[type(change.old)]].remove(change.name)


def _rank(thing: Object) -> int:
    return _RANK[KINDS[type(thing)]]
