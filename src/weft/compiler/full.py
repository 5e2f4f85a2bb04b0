"""Everything at once, from nothing but the catalog: what the incremental compiler is proved against. Keeps nothing."""

from __future__ import annotations

from weft.compiler import translate
from weft.model.catalog import Catalog
from weft.model.names import Name, domain_of
from weft.model.objects import Port
from weft.model.values import Prefix
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


def compile_all(catalog: Catalog) -> tuple[dict[Scope, dict[Key, Row]], dict[str, frozenset[Scope]]]:
    """The rows of every scope, and the scopes of every host."""
    rows: dict[Scope, dict[Key, Row]] = {}
    scopes: dict[str, frozenset[Scope]] = {}
    for host in catalog.hosts:
        rows[host_scope(host)] = host_rows(catalog, host)
        scopes[host] = frozenset({host_scope(host)} | _domain_scopes(catalog, host) | _group_scopes(catalog, host))
    for name, domain in catalog.routing_domains.items():
        rows[domain_scope(domain.rdid)] = domain_rows(catalog, name)
    for name, group in catalog.security_groups.items():
        rows[security_group_scope(group.number)] = security_group_rows(catalog, name)
    for name, addresses in catalog.address_groups.items():
        rows[address_group_scope(addresses.number)] = address_group_rows(catalog, name)
    return rows, scopes


def security_group_rows(catalog: Catalog, name: Name) -> dict[Key, Row]:
    """A security group's one row."""
    rules = [catalog.security_group_rules[rule] for rule in catalog.rules_of(name)]
    groups, sets = catalog.security_groups, catalog.address_groups
    named = [rule.remote_group for rule in rules if rule.remote_group is not None]
    sets_named = [rule.remote_address_group for rule in rules if rule.remote_address_group is not None]
    row = translate.security_group_row(
        groups[name],
        rules,
        {each: groups[each].number for each in named},
        {each: sets[each].number for each in sets_named},
    )
    return {row.key: row}


def address_group_rows(catalog: Catalog, name: Name) -> dict[Key, Row]:
    """An address group's one row."""
    row = translate.address_group_row(catalog.address_groups[name])
    return {row.key: row}


def group_numbers(catalog: Catalog, port: Port) -> tuple[int, ...]:
    """Of the security groups that a port has, rising."""
    return tuple(sorted(catalog.security_groups[group].number for group in port.groups))


def host_rows(catalog: Catalog, name: Name) -> dict[Key, Row]:
    """A host's own rows: itself, and the ports on it or moving there."""
    found: dict[Key, Row] = {}
    row: Row = translate.host_row(catalog.hosts[name], catalog.provider_networks)
    found[row.key] = row
    ports, subnets = catalog.ports, catalog.virtual_subnets
    for port_name in catalog.ports_on(name):
        port = ports[port_name]
        there = name == port.destination
        row = translate.port_row(port, subnets[port.virtual_subnet], group_numbers(catalog, port), there=there)
        found[row.key] = row
    return found


def domain_rows(catalog: Catalog, name: Name) -> dict[Key, Row]:
    """A routing domain's rows: its subnets, the routes that win, and where its ports live."""
    found: dict[Key, Row] = {}
    row: Row
    domain = catalog.routing_domains[name]
    ports, hosts, subnets = catalog.ports, catalog.hosts, catalog.virtual_subnets
    running: dict[Name, None] = {}
    for subnet_name in catalog.subnets_of(name):
        subnet = subnets[subnet_name]
        row = translate.subnet_row(subnet, domain)
        found[row.key] = row
        for port_name in catalog.ports_in(subnet_name):
            port = ports[port_name]
            running.update(dict.fromkeys(port.hosts))
            pa = hosts[port.host].first_pa if port.host is not None else None
            also = hosts[port.destination].first_pa if port.destination is not None else None
            if pa is not None:
                for each in (pa, also):
                    if each is not None:
                        member = translate.member_row(subnet, each)
                        found[member.key] = member
                for row in translate.record_rows(port, subnet, group_numbers(catalog, port), pa, also):
                    found[row.key] = row
    for host in running:
        if (peer := translate.peer_row(hosts[host], domain)) is not None:
            found[peer.key] = peer
    for prefix in prefixes_of(catalog, name):
        if (route := winner(catalog, name, prefix)) is not None:
            found[route.key] = route
    return found


def prefixes_of(catalog: Catalog, domain: Name) -> dict[Prefix, None]:
    """Every destination of a routing domain, each once: its subnets' prefixes, and its customer routes'."""
    found: dict[Prefix, None] = {}
    for subnet in catalog.subnets_of(domain):
        found.update(dict.fromkeys(catalog.virtual_subnets[subnet].prefixes))
    for route in catalog.routes_of(domain):
        found[catalog.customer_routes[route].prefix] = None
    return found


def winner(catalog: Catalog, domain: Name, prefix: Prefix) -> Route | None:
    """The route to a prefix: the subnet that has it, else the customer route of the lowest metric, then first name."""
    subnets = catalog.virtual_subnets
    on_link = catalog.subnet_with(domain, prefix)
    if on_link is not None and not subnets[on_link].external_gateway:
        return translate.on_link_row(catalog.routing_domains[domain], prefix, subnets[on_link])
    claims = [catalog.customer_routes[name] for name in catalog.routes_to(domain, prefix)]
    if not claims:
        return None
    best = min(claims, key=lambda route: (route.metric, route.name))
    via = best.virtual_subnet if best.next_hop is None else catalog.subnet_at(domain, best.next_hop)
    if via is None:
        raise AssertionError(f"the catalog let {best.name} lead nowhere")
    return translate.route_row(catalog.routing_domains[domain], best, subnets[via])


def _group_scopes(catalog: Catalog, host: Name) -> set[Scope]:
    """Of the security groups that its ports have, and of the address groups that rules of these name."""
    found = set()
    for group in {group for port in catalog.ports_on(host) for group in catalog.ports[port].groups}:
        found.add(security_group_scope(catalog.security_groups[group].number))
        for rule in catalog.rules_of(group):
            if (addresses := catalog.security_group_rules[rule].remote_address_group) is not None:
                found.add(address_group_scope(catalog.address_groups[addresses].number))
    return found


def _domain_scopes(catalog: Catalog, host: Name) -> set[Scope]:
    domains = {domain_of(catalog.ports[port].virtual_subnet) for port in catalog.ports_on(host)}
    return {domain_scope(catalog.routing_domains[domain].rdid) for domain in domains}
