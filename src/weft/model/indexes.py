"""All objects, and what is needed to judge and to find them fast. Judges nothing itself: it believes what it is told.

What is indexed follows from the objects alone, so that removing an object and inserting it again changes nothing, and
a catalog that was loaded answers like one that grew. Every change is journaled, and the last batch can be undone.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar, assert_never

from weft.model.allocation import LowestFree
from weft.model.journal import Journal
from weft.model.names import Kind, Name, domain_of, group_of, tenant_of
from weft.model.objects import (
    AddressGroup,
    AnnouncedAddress,
    CustomerRoute,
    Host,
    Object,
    Port,
    ProviderNetwork,
    Rewrite,
    RoutingDomain,
    SecurityGroup,
    SecurityGroupRule,
    Tenant,
    VirtualSubnet,
)
from weft.model.shares import SOURCES_OF_PORT, USUAL_LIMITS, Limits, Share, Tally
from weft.model.values import (
    Ip,
    Mac,
    Prefix,
    Rdid,
    Vsid,
    ip_number,
    ip_version,
    ipv4_text,
    ipv6_text,
    network_of,
)

K = TypeVar("K")
V = TypeVar("V")

#: Kinds that hosts know by number.
NUMBERED = (Kind.ADDRESS_GROUP, Kind.SECURITY_GROUP, Kind.SECURITY_GROUP_RULE)


class Span(NamedTuple):
    """The addresses of one prefix of a subnet, as numbers."""

    first: int
    last: int
    subnet: Name


class Net:
    """One prefix of a virtual subnet, ready for the questions that every new port asks."""

    __slots__ = ("first", "free", "last", "prefix", "version")

    def __init__(self, prefix: Prefix) -> None:
        network = network_of(prefix)
        self.prefix = prefix
        self.version: int = network.version
        self.first = int(network.network_address)
        self.last = int(network.broadcast_address)
        # The first address names the network (IPv4) or any router of it (IPv6, RFC 4291 2.6.1). IPv6 has no broadcast.
        highest = self.last - 1 if self.version == 4 else self.last
        self.free = LowestFree(self.first + 1, highest, ipv4_text if self.version == 4 else ipv6_text)

    def complaint(self, address: Ip, number: int) -> str | None:
        """Why a host cannot have this address, which is one of the prefix's; None when it can."""
        if number == self.first:
            return f"{address} is the network address of {self.prefix}"
        if number == self.last and self.version == 4:
            return f"{address} is the broadcast address of {self.prefix}"
        return None


@dataclass(slots=True)
class DomainIndex:
    """What lives in one routing domain."""

    cas: dict[Ip, Name] = field(default_factory=dict)  # whose each is: a port's, or (a gateway) a subnet's
    macs: dict[Mac, Name] = field(default_factory=dict)  # of ports
    hosts: dict[Name, int] = field(default_factory=dict)  # how many of its ports each runs or awaits
    router_macs: dict[Mac, int] = field(default_factory=dict)  # how many subnets have it
    subnets: dict[Name, None] = field(default_factory=dict)
    announced_macs: dict[Mac, int] = field(default_factory=dict)  # no port's own: in how many subnets each is announced
    routes: dict[Name, None] = field(default_factory=dict)
    on_link: dict[Prefix, Name] = field(default_factory=dict)  # the subnet whose prefix it is
    claims: dict[Prefix, tuple[Name, ...]] = field(default_factory=dict)  # customer routes to it, sorted
    spans: dict[int, tuple[Span, ...]] = field(
        default_factory=lambda: {4: (), 6: ()}
    )  # by IP version, sorted, disjoint

    def subnet_at(self, address: Ip) -> Name | None:
        """The subnet that an address is in."""
        spans = self.spans[ip_version(address)]
        number = ip_number(address)
        rank = bisect_right(spans, number, key=_first)
        return spans[rank - 1].subnet if rank and number <= spans[rank - 1].last else None

    def overlapping(self, net: Net) -> Name | None:
        """A subnet that has some address of this prefix."""
        spans = self.spans[net.version]
        rank = bisect_right(spans, net.last, key=_first)
        return spans[rank - 1].subnet if rank and spans[rank - 1].last >= net.first else None


def _first(span: Span) -> int:
    return span.first


@dataclass(slots=True)
class SubnetIndex:
    """One virtual subnet, and the ports in it. nets: one per prefix, in the same order."""

    subnet: VirtualSubnet
    domain: DomainIndex
    nets: tuple[Net, ...]
    ports: dict[Name, None]
    announced: dict[Ip, Name]  # which port has announced it
    announced_macs: dict[Mac, Name]  # the same of MACs that are not the port's own

    def net_of(self, address: Ip, number: int) -> Net | None:
        """The prefix that an address is in."""
        version = ip_version(address)
        for net in self.nets:
            if net.version == version and net.first <= number <= net.last:
                return net
        return None

    def why_not(self, address: Ip) -> str | None:
        """Why no guest can have an address here, whoever else has it; None when one can."""
        number = ip_number(address)
        net = self.net_of(address, number)
        if net is None:
            return f"{address} is outside {' and '.join(self.subnet.prefixes)} of {self.subnet.name}"
        return net.complaint(address, number)


@dataclass(slots=True)
class GroupIndex:
    """Who rests on a security group."""

    ports: dict[Name, None] = field(default_factory=dict)  # that have it
    rules: dict[Name, None] = field(default_factory=dict)  # its own
    named_by: dict[Name, None] = field(default_factory=dict)  # rules whose remote it is, its own among them


@dataclass(slots=True)
class Stale:
    """What has to be counted anew of what rules take (``weft.model.room``)."""

    sets: dict[tuple[Name, ...], None] = field(default_factory=dict)  # that ports have, or had
    groups: dict[Name, None] = field(default_factory=dict)  # whose rules are others, or the prefixes that they name
    named: dict[Name, None] = field(default_factory=dict)  # groups that some rule names, or named

    def add(self, more: Stale) -> None:
        self.sets |= more.sets
        self.groups |= more.groups
        self.named |= more.named


class Indexes:
    """Objects by kind and by everything that is unique. An inserted object's references are there already."""

    def __init__(self) -> None:
        self.tenants: dict[Name, Tenant] = {}
        self.provider_networks: dict[Name, ProviderNetwork] = {}
        self.hosts: dict[Name, Host] = {}
        self.routing_domains: dict[Name, RoutingDomain] = {}
        self.virtual_subnets: dict[Name, VirtualSubnet] = {}
        self.ports: dict[Name, Port] = {}
        self.trunks: dict[Name, dict[int, Name]] = {}  # by parent: the sub-ports by VLAN
        self.watched: dict[Name, dict[Name, None]] = {}  # by the port that mirrors go to: those of whom they are
        self.customer_routes: dict[Name, CustomerRoute] = {}
        self.address_groups: dict[Name, AddressGroup] = {}
        self.security_groups: dict[Name, SecurityGroup] = {}
        self.security_group_rules: dict[Name, SecurityGroupRule] = {}

        self.rdids: dict[Rdid, Name] = {}
        self.vsids: dict[Vsid, Name] = {}
        self.pas: dict[Ip, Name] = {}
        self.tenant_uses: dict[Name, int] = {}  # how many domains, groups and ports a tenant has
        self.numbers: dict[Kind, dict[int, Name]] = {kind: {} for kind in NUMBERED}
        self.groups: dict[Name, GroupIndex] = {}
        self.group_sets: dict[Name, dict[tuple[Name, ...], int]] = {}  # tenant -> those of its ports -> how many ports
        self.sets_on: dict[Name, dict[tuple[Name, ...], int]] = {}  # host -> those of its ports -> how many ports
        self.spread: dict[tuple[Name, ...], dict[Name, int]] = {}  # and the same by what ports have
        self.address_group_named_by: dict[Name, dict[Name, None]] = {}
        self.hosts_on: dict[Name, dict[Name, None]] = {}  # by provider network
        self.subnets_on: dict[Name, dict[Name, None]] = {}  # likewise: those that name it
        self.segments: dict[tuple[Name, int], Name] = {}  # by provider network and VLAN: the subnet that is bridged
        self.ports_on: dict[Name, dict[Name, None]] = {}  # by host, those that are moving there among them
        self.domains: dict[Name, DomainIndex] = {}
        self.subnets: dict[Name, SubnetIndex] = {}
        self.limits: dict[Name, Limits] = {}  # of tenants that have their own
        self.members: dict[tuple[Name, Name], int] = {}  # by subnet and host: how many of its ports that has

        # Of a range of PAs, whoever's pool it is: PAs are taken once for all.
        self._pools: dict[tuple[Ip, Ip], LowestFree] = {}
        self._journal = Journal()
        self.tally = Tally(self._journal)
        self._stale, self._counted = Stale(), Stale()  # counted: since the last settle
        self._claimed: list[tuple[Name | None, Ip]] = []  # CAs (with their subnet) and PAs that undo makes free again

    def find(self, kind: Kind, name: Name) -> Object | None:
        match kind:
            case Kind.TENANT:
                return self.tenants.get(name)
            case Kind.PROVIDER_NETWORK:
                return self.provider_networks.get(name)
            case Kind.HOST:
                return self.hosts.get(name)
            case Kind.ROUTING_DOMAIN:
                return self.routing_domains.get(name)
            case Kind.VIRTUAL_SUBNET:
                return self.virtual_subnets.get(name)
            case Kind.PORT:
                return self.ports.get(name)
            case Kind.CUSTOMER_ROUTE:
                return self.customer_routes.get(name)
            case Kind.ADDRESS_GROUP:
                return self.address_groups.get(name)
            case Kind.SECURITY_GROUP:
                return self.security_groups.get(name)
            case Kind.SECURITY_GROUP_RULE:
                return self.security_group_rules.get(name)
            case _:
                assert_never(kind)

    def settle(self) -> None:
        """What was done since the last settle stays done."""
        self._journal.forget()
        self.tally.settle()
        self._counted = Stale()
        self._claimed.clear()

    def undo(self) -> None:
        """Take back everything since the last settle."""
        self._journal.undo()
        self.tally.settle()
        self._stale.add(self._counted)
        self._counted = Stale()
        for subnet, address in self._claimed:
            self.give_back(subnet, address)
        self._claimed.clear()

    def begin_counting(self) -> Stale:
        """What has to be counted anew; whoever asks does it. After an undo it has to be once more."""
        stale, self._stale = self._stale, Stale()
        self._counted.add(stale)
        return stale

    # Claims: made before the object itself is there, when what others want by name must be known before choosing.

    def claim_pa(self, host: Name, pa: Ip) -> None:
        self._journal.put(self.pas, pa, host)
        self._claimed.append((None, pa))

    def release_pa(self, pa: Ip) -> None:
        self._journal.drop(self.pas, pa)
        self.give_back(None, pa)

    def claim_rdid(self, domain: Name, rdid: Rdid) -> None:
        self._journal.put(self.rdids, rdid, domain)

    def claim_vsid(self, subnet: Name, vsid: Vsid) -> None:
        self._journal.put(self.vsids, vsid, subnet)

    def claim_mac(self, domain: DomainIndex, port: Name, mac: Mac) -> None:
        self._journal.put(domain.macs, mac, port)

    def claim_ca(self, subnet: SubnetIndex, port: Name, ca: Ip) -> None:
        self._journal.put(subnet.domain.cas, ca, port)
        self._claimed.append((subnet.subnet.name, ca))

    def pass_over(self, subnet: Name, ca: Ip) -> None:
        """A CA that is not to be chosen, whoever gets it: it may be chosen again after an undo."""
        self._claimed.append((subnet, ca))

    def free_pa(self, first: Ip, last: Ip) -> Ip | None:
        """The lowest free PA from first to last."""
        pool = self._pools.get((first, last))
        if pool is None:
            text = ipv4_text if ip_version(first) == 4 else ipv6_text
            pool = self._pools[first, last] = LowestFree(ip_number(first), ip_number(last), text)
        return pool.lowest(self.pas)

    def insert(self, thing: Object) -> None:
        """Take in an object whose name is free."""
        put = self._journal.put
        match thing:
            case Port():
                subnet = self.subnets[thing.virtual_subnet]
                self.claim_mac(subnet.domain, thing.name, thing.mac)
                for ca in thing.addresses:
                    self.claim_ca(subnet, thing.name, ca)
                for each in thing.rewrites:
                    self.claim_pa(thing.name, each.pa)
                self.place(thing, subnet)
            case Tenant():
                put(self.tenants, thing.name, thing)
                if thing.limits != USUAL_LIMITS:
                    put(self.limits, thing.name, thing.limits)
                if thing.name not in self.tenant_uses:
                    put(self.tenant_uses, thing.name, 0)
            case ProviderNetwork():
                put(self.provider_networks, thing.name, thing)
                if thing.name not in self.hosts_on:
                    put(self.hosts_on, thing.name, {})
                    put(self.subnets_on, thing.name, {})
            case Host():
                put(self.hosts, thing.name, thing)
                for uplink in thing.uplinks:
                    put(self.hosts_on[uplink.provider_network], thing.name, None)
                    for pa in uplink.pas:
                        self.claim_pa(thing.name, pa)
                if thing.name not in self.ports_on:
                    put(self.ports_on, thing.name, {})
            case RoutingDomain():
                put(self.routing_domains, thing.name, thing)
                self.claim_rdid(thing.name, thing.rdid)
                tenant = tenant_of(thing.name)
                put(self.tenant_uses, tenant, self.tenant_uses[tenant] + 1)
                if thing.name not in self.domains:
                    put(self.domains, thing.name, DomainIndex())
            case VirtualSubnet():
                self._insert_subnet(thing)
            case CustomerRoute():
                put(self.customer_routes, thing.name, thing)
                self.tally.add(Share.ROUTES, tenant_of(thing.name), 1)
                domain = self.domains[domain_of(thing.name)]
                put(domain.routes, thing.name, None)
                rivals = domain.claims.get(thing.prefix, ())
                put(domain.claims, thing.prefix, tuple(sorted((*rivals, thing.name))))
            case AddressGroup() | SecurityGroup():
                self._insert_group(thing)
            case SecurityGroupRule():
                put(self.security_group_rules, thing.name, thing)
                put(self.numbers[Kind.SECURITY_GROUP_RULE], thing.number, thing.name)
                put(self.groups[group_of(thing.name)].rules, thing.name, None)
                if thing.remote_group is not None:
                    put(self.groups[thing.remote_group].named_by, thing.name, None)
                if thing.remote_address_group is not None:
                    put(self.address_group_named_by[thing.remote_address_group], thing.name, None)
                self._note_rule(thing)
            case _:
                assert_never(thing)

    def place(self, port: Port, subnet: SubnetIndex) -> None:
        """Take in a port whose MAC and CAs are claimed already."""
        put = self._journal.put
        put(self.ports, port.name, port)
        put(subnet.ports, port.name, None)
        if port.trunk is not None:
            subports = self.trunks.get(port.trunk.parent)
            if subports is None:
                subports = {}
                put(self.trunks, port.trunk.parent, subports)
            put(subports, port.trunk.vlan, port.name)
        if port.mirror is not None and port.mirror.port is not None:
            watched = self.watched.get(port.mirror.port)
            if watched is None:
                watched = {}
                put(self.watched, port.mirror.port, watched)
            put(watched, port.name, None)
        hosts = subnet.domain.hosts
        for host in port.hosts:
            put(self.ports_on[host], port.name, None)
            put(hosts, host, hosts.get(host, 0) + 1)
        for group in port.groups:
            put(self.groups[group].ports, port.name, None)
        tenant = tenant_of(port.name)
        if port.groups:
            sets = self.group_sets.get(tenant)
            if sets is None:
                sets = {}
                put(self.group_sets, tenant, sets)
            put(sets, port.groups, sets.get(port.groups, 0) + 1)
            self._place_groups(port)
        put(self.tenant_uses, tenant, self.tenant_uses[tenant] + 1)
        self._tally_port(port, tenant, 1)
        self._note_announced(port, subnet)

    def _tally_port(self, port: Port, tenant: Name, sign: int) -> None:
        """What it has announced is counted by itself. sign: 1, it comes; -1, it goes."""
        add = self.tally.add
        add(Share.RECORDS, tenant, sign * len(port.addresses))
        add(Share.MACS, tenant, sign)
        on_host = taken_on_host(port)
        for host in port.hosts:
            at = port.virtual_subnet, host
            has = self.members.get(at, 0)
            if has + sign:
                self._journal.put(self.members, at, has + sign)
            else:
                self._journal.drop(self.members, at)
            if has + min(sign, 0) == 0:  # the first comes, or the last goes
                add(Share.MEMBERS, tenant, sign)
            for share, number in on_host.items():
                add(share, tenant, sign * number, host)

    def _place_groups(self, port: Port) -> None:
        self._stale.sets[port.groups] = None
        for host in port.hosts:
            self._count_one(self.sets_on, host, port.groups)
            self._count_one(self.spread, port.groups, host)

    def _displace_groups(self, port: Port) -> None:
        self._stale.sets[port.groups] = None
        for host in port.hosts:
            self._discount_one(self.sets_on, host, port.groups)
            self._discount_one(self.spread, port.groups, host)

    def _count_one(self, table: dict[K, dict[V, int]], owner: K, of: V) -> None:
        counts = table.get(owner)
        if counts is None:
            counts = {}
            self._journal.put(table, owner, counts)
        self._journal.put(counts, of, counts.get(of, 0) + 1)

    def _discount_one(self, table: dict[K, dict[V, int]], owner: K, of: V) -> None:
        counts = table[owner]
        if counts[of] > 1:
            self._journal.put(counts, of, counts[of] - 1)
        else:
            self._journal.drop(counts, of)
            if not counts:
                self._journal.drop(table, owner)

    def _note_rule(self, rule: SecurityGroupRule) -> None:
        self._stale.groups[group_of(rule.name)] = None
        if rule.remote_group is not None:
            self._stale.named[rule.remote_group] = None

    def _note_prefixes(self, group: AddressGroup) -> None:
        self._stale.groups.update((group_of(rule), None) for rule in self.address_group_named_by[group.name])

    def _insert_group(self, group: AddressGroup | SecurityGroup) -> None:
        put, tenant = self._journal.put, tenant_of(group.name)
        put(self.tenant_uses, tenant, self.tenant_uses[tenant] + 1)
        if isinstance(group, SecurityGroup):
            put(self.security_groups, group.name, group)
            put(self.numbers[Kind.SECURITY_GROUP], group.number, group.name)
            if group.name not in self.groups:
                put(self.groups, group.name, GroupIndex())
        else:
            put(self.address_groups, group.name, group)
            put(self.numbers[Kind.ADDRESS_GROUP], group.number, group.name)
            if group.name not in self.address_group_named_by:
                put(self.address_group_named_by, group.name, {})
            self._note_prefixes(group)

    def announce(self, port: Port, announced: tuple[AnnouncedAddress, ...]) -> None:
        """Give a port that is there these announced addresses in place of those it has."""
        subnet = self.subnets[port.virtual_subnet]
        self._forget_announced(port, subnet)
        changed = replace(port, announced_addresses=announced)
        self._journal.put(self.ports, port.name, changed)
        self._note_announced(changed, subnet)

    def rewrite(self, port: Port, rewrites: tuple[Rewrite, ...]) -> None:
        """Give a port that is there these PAs, which are claimed, in place of those it has."""
        changed = replace(port, rewrites=rewrites)
        self._journal.put(self.ports, port.name, changed)

    def _note_announced(self, port: Port, subnet: SubnetIndex) -> None:
        put, everywhere = self._journal.put, subnet.domain.announced_macs
        if port.announced_addresses:
            self._tally_announced(port, 1)
        for said in port.announced_addresses:
            put(subnet.announced, said.address, port.name)
            self._claimed.append((port.virtual_subnet, said.address))
        for mac in port.further_macs:
            put(subnet.announced_macs, mac, port.name)
            put(everywhere, mac, everywhere.get(mac, 0) + 1)

    def _forget_announced(self, port: Port, subnet: SubnetIndex) -> None:
        put, drop, everywhere = self._journal.put, self._journal.drop, subnet.domain.announced_macs
        if port.announced_addresses:
            self._tally_announced(port, -1)
        for said in port.announced_addresses:
            drop(subnet.announced, said.address)
            self.give_back(port.virtual_subnet, said.address)
        for mac in port.further_macs:
            drop(subnet.announced_macs, mac)
            if everywhere[mac] > 1:
                put(everywhere, mac, everywhere[mac] - 1)
            else:
                drop(everywhere, mac)

    def _tally_announced(self, port: Port, sign: int) -> None:
        tenant = tenant_of(port.name)
        self.tally.add(Share.RECORDS, tenant, sign * len(port.announced_addresses))
        self.tally.add(Share.MACS, tenant, sign * len(port.further_macs))

    def _insert_subnet(self, subnet: VirtualSubnet) -> None:
        put = self._journal.put
        put(self.virtual_subnets, subnet.name, subnet)
        self.claim_vsid(subnet.name, subnet.vsid)
        if subnet.provider_network is not None:
            put(self.subnets_on[subnet.provider_network], subnet.name, None)
        if subnet.segment is not None:
            put(self.segments, subnet.segment, subnet.name)
        domain = self.domains[domain_of(subnet.name)]
        before = self.subnets.get(subnet.name)
        if (
            before is not None
            and before.subnet.prefixes == subnet.prefixes
            and before.subnet.gateways == subnet.gateways
        ):
            nets = before.nets  # and what they know of free addresses
        else:
            nets = tuple(map(Net, subnet.prefixes))
        if before is not None:
            index = SubnetIndex(subnet, domain, nets, before.ports, before.announced, before.announced_macs)
        else:
            index = SubnetIndex(subnet, domain, nets, {}, {}, {})
        put(self.subnets, subnet.name, index)
        self._tally_subnet(subnet, 1)
        put(domain.subnets, subnet.name, None)
        put(domain.router_macs, subnet.router_mac, domain.router_macs.get(subnet.router_mac, 0) + 1)
        for gateway in subnet.gateways:
            put(domain.cas, gateway, subnet.name)
        for net in nets:
            put(domain.on_link, net.prefix, subnet.name)
            spans = domain.spans[net.version]
            span = Span(net.first, net.last, subnet.name)
            rank = bisect_left(spans, span)
            put(domain.spans, net.version, (*spans[:rank], span, *spans[rank:]))

    def remove(self, thing: Object) -> None:
        """Let go of an object that comes back in another form, or is retired next."""
        put, drop = self._journal.put, self._journal.drop
        match thing:
            case Port():
                drop(self.ports, thing.name)
                if thing.trunk is not None:
                    drop(self.trunks[thing.trunk.parent], thing.trunk.vlan)
                    if not self.trunks[thing.trunk.parent]:
                        drop(self.trunks, thing.trunk.parent)
                if thing.mirror is not None and thing.mirror.port is not None:
                    drop(self.watched[thing.mirror.port], thing.name)
                    if not self.watched[thing.mirror.port]:
                        drop(self.watched, thing.mirror.port)
                subnet = self.subnets[thing.virtual_subnet]
                drop(subnet.ports, thing.name)
                self._forget_announced(thing, subnet)
                drop(subnet.domain.macs, thing.mac)
                for ca in thing.addresses:
                    drop(subnet.domain.cas, ca)
                    self.give_back(thing.virtual_subnet, ca)
                for each in thing.rewrites:
                    self.release_pa(each.pa)
                hosts = subnet.domain.hosts
                for host in thing.hosts:
                    drop(self.ports_on[host], thing.name)
                    if hosts[host] > 1:
                        put(hosts, host, hosts[host] - 1)
                    else:
                        drop(hosts, host)
                for group in thing.groups:
                    drop(self.groups[group].ports, thing.name)
                tenant = tenant_of(thing.name)
                if thing.groups:
                    sets = self.group_sets[tenant]
                    if sets[thing.groups] > 1:
                        put(sets, thing.groups, sets[thing.groups] - 1)
                    else:
                        drop(sets, thing.groups)
                        if not sets:
                            drop(self.group_sets, tenant)
                    self._displace_groups(thing)
                put(self.tenant_uses, tenant, self.tenant_uses[tenant] - 1)
                self._tally_port(thing, tenant, -1)
            case Tenant():
                drop(self.tenants, thing.name)
                if thing.name in self.limits:
                    drop(self.limits, thing.name)
            case AddressGroup() | SecurityGroup():
                if isinstance(thing, SecurityGroup):
                    drop(self.security_groups, thing.name)
                    drop(self.numbers[Kind.SECURITY_GROUP], thing.number)
                else:
                    drop(self.address_groups, thing.name)
                    drop(self.numbers[Kind.ADDRESS_GROUP], thing.number)
                    self._note_prefixes(thing)
                tenant = tenant_of(thing.name)
                put(self.tenant_uses, tenant, self.tenant_uses[tenant] - 1)
            case SecurityGroupRule():
                drop(self.security_group_rules, thing.name)
                drop(self.numbers[Kind.SECURITY_GROUP_RULE], thing.number)
                drop(self.groups[group_of(thing.name)].rules, thing.name)
                if thing.remote_group is not None:
                    drop(self.groups[thing.remote_group].named_by, thing.name)
                if thing.remote_address_group is not None:
                    drop(self.address_group_named_by[thing.remote_address_group], thing.name)
                self._note_rule(thing)
            case ProviderNetwork():
                drop(self.provider_networks, thing.name)
            case Host():
                drop(self.hosts, thing.name)
                for network in {uplink.provider_network for uplink in thing.uplinks}:
                    drop(self.hosts_on[network], thing.name)
                for pa in thing.pas:
                    self.release_pa(pa)
            case RoutingDomain():
                drop(self.routing_domains, thing.name)
                drop(self.rdids, thing.rdid)
                tenant = tenant_of(thing.name)
                put(self.tenant_uses, tenant, self.tenant_uses[tenant] - 1)
            case VirtualSubnet():
                self._remove_subnet(thing)
            case CustomerRoute():
                drop(self.customer_routes, thing.name)
                self.tally.add(Share.ROUTES, tenant_of(thing.name), -1)
                domain = self.domains[domain_of(thing.name)]
                drop(domain.routes, thing.name)
                rest = tuple(name for name in domain.claims[thing.prefix] if name != thing.name)
                if rest:
                    put(domain.claims, thing.prefix, rest)
                else:
                    drop(domain.claims, thing.prefix)
            case _:
                assert_never(thing)

    def _remove_subnet(self, subnet: VirtualSubnet) -> None:
        put, drop = self._journal.put, self._journal.drop
        drop(self.virtual_subnets, subnet.name)
        self._tally_subnet(subnet, -1)
        drop(self.vsids, subnet.vsid)
        if subnet.provider_network is not None:
            drop(self.subnets_on[subnet.provider_network], subnet.name)
        if subnet.segment is not None:
            drop(self.segments, subnet.segment)
        index = self.subnets[subnet.name]
        domain = index.domain
        drop(domain.subnets, subnet.name)
        if domain.router_macs[subnet.router_mac] > 1:
            put(domain.router_macs, subnet.router_mac, domain.router_macs[subnet.router_mac] - 1)
        else:
            drop(domain.router_macs, subnet.router_mac)
        for gateway in subnet.gateways:
            drop(domain.cas, gateway)
        for net in index.nets:
            drop(domain.on_link, net.prefix)
            spans = domain.spans[net.version]
            rank = bisect_left(spans, Span(net.first, net.last, subnet.name))
            put(domain.spans, net.version, (*spans[:rank], *spans[rank + 1 :]))

    def _tally_subnet(self, subnet: VirtualSubnet, sign: int) -> None:
        tenant = tenant_of(subnet.name)
        self.tally.add(Share.SUBNETS, tenant, sign)
        self.tally.add(Share.ROUTES, tenant, sign * len(subnet.prefixes))

    def retire(self, thing: Object) -> None:
        """Forget the rest of a removed object that does not come back, and that nothing refers to."""
        match thing:
            case Tenant():
                self._journal.drop(self.tenant_uses, thing.name)
            case ProviderNetwork():
                self._journal.drop(self.hosts_on, thing.name)
                self._journal.drop(self.subnets_on, thing.name)
            case Host():
                self._journal.drop(self.ports_on, thing.name)
            case RoutingDomain():
                self._journal.drop(self.domains, thing.name)
            case VirtualSubnet():
                self._journal.drop(self.subnets, thing.name)
            case SecurityGroup():
                self._journal.drop(self.groups, thing.name)
            case AddressGroup():
                self._journal.drop(self.address_group_named_by, thing.name)
            case Port() | CustomerRoute() | SecurityGroupRule():
                pass
            case _:
                assert_never(thing)

    def give_back(self, subnet: Name | None, address: Ip) -> None:
        """Tell that an address may be free again: a CA of a subnet, or (None) a PA."""
        number = ip_number(address)
        if subnet is None:
            for (first, _), pool in self._pools.items():
                if ip_version(first) == ip_version(address):
                    pool.give_back(number)
        elif (index := self.subnets.get(subnet)) is not None and (net := index.net_of(address, number)) is not None:
            net.free.give_back(number)


def taken_on_host(port: Port) -> Mapping[Share, int]:
    """What a port takes of the shares that are counted on each of its hosts."""
    taken: dict[Share, int] = {}
    if port.trunk is not None:
        taken[Share.SUBPORTS] = 1
    if (beyond := len(port.addresses) + len(port.allowed_address_pairs) - SOURCES_OF_PORT) > 0:
        taken[Share.SOURCES] = beyond
    return taken
