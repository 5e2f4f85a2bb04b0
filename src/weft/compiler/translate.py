"""One object at a time into rows. Looks nothing up: what an object rests on is given beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from weft.model import objects
from weft.model.features import FALLBACK, Action, Rule
from weft.model.names import Name
from weft.model.values import AdminState, Ip, ip_version
from weft.policy import rows
from weft.policy.rows import Row


def host_row(host: objects.Host, networks: Mapping[Name, objects.ProviderNetwork]) -> rows.Host:
    uplinks = tuple(
        rows.Uplink(up.interface, networks[up.provider_network].mtu_bytes, up.provider_network, up.pas, up.vlan)
        for up in host.uplinks
    )
    return rows.Host(host.name, host.pas, uplinks, host.sampling)


def subnet_row(subnet: objects.VirtualSubnet, domain: objects.RoutingDomain) -> rows.Subnet:
    return rows.Subnet(
        subnet.vsid,
        domain.rdid,
        subnet.prefixes,
        subnet.gateways,
        subnet.router_mac,
        subnet.mtu_bytes,
        subnet.carried_rules,
        subnet.broadcast,
        subnet.snooping,
        subnet.provider_group,
        dhcp=dhcp_of(subnet),
        vlan=subnet.vlan if subnet.segment is not None else 0,
        network=subnet.provider_network or "" if subnet.segment is not None else "",
        bridged=subnet.sending_rule is Rule.VLAN,
        external_gateway=subnet.external_gateway,
    )


def dhcp_of(subnet: objects.VirtualSubnet) -> rows.Dhcp | None:
    """What a subnet's guests are told, every next hop said."""
    told = subnet.dhcp
    if not told.enabled:
        return None
    gateways = {ip_version(gateway): gateway for gateway in subnet.gateways}
    return rows.Dhcp(
        told.router,
        told.dns_servers,
        told.search_domains,
        told.ntp_servers,
        tuple(
            rows.DhcpRoute(route.prefix, route.next_hop or gateways[ip_version(route.prefix)]) for route in told.routes
        ),
        told.lease_s,
        told.ipv6_mode,
    )


def address_group_row(group: objects.AddressGroup) -> rows.AddressGroup:
    return rows.AddressGroup(group.number, group.name, group.prefixes)


def security_group_row(
    group: objects.SecurityGroup,
    rules: Iterable[objects.SecurityGroupRule],
    groups: Mapping[Name, int],
    address_groups: Mapping[Name, int],
) -> rows.SecurityGroup:
    """groups, address_groups: the numbers of those that the rules name."""
    found = (_security_rule(rule, groups, address_groups) for rule in rules)
    return rows.SecurityGroup(
        group.number,
        group.name,
        group.stateful,
        tuple(sorted(found, key=lambda rule: rule.number)),
        group.keep_connections,
    )


def _security_rule(
    rule: objects.SecurityGroupRule, groups: Mapping[Name, int], address_groups: Mapping[Name, int]
) -> rows.SecurityRule:
    first, last = 0, rows.PORT_LAST
    if rule.icmp_type is not None:
        codes = (0, 255) if rule.icmp_code is None else (rule.icmp_code, rule.icmp_code)
        first, last = (rule.icmp_type << 8 | code for code in codes)
    elif rule.port_min is not None and rule.port_max is not None:
        first, last = rule.port_min, rule.port_max
    return rows.SecurityRule(
        rule.number,
        rule.name,
        rule.direction,
        rule.family.version,
        rule.protocol,
        first,
        last,
        rule.remote_prefix,
        None if rule.remote_group is None else groups[rule.remote_group],
        None if rule.remote_address_group is None else address_groups[rule.remote_address_group],
        rule.action is Action.ALLOW,
        rule.priority,
        rule.log,
    )


def port_row(
    port: objects.Port, subnet: objects.VirtualSubnet, groups: tuple[int, ...] = (), *, there: bool = False
) -> rows.Port:
    """groups: the numbers of its security groups, rising. there: as the host is told that it is moving to."""
    pairs = port.allowed_address_pairs
    return rows.Port(
        port.name,
        subnet.vsid,
        port.mac,
        port.addresses,
        tuple(rows.Pair(pair.mac or port.mac, pair.prefix) for pair in pairs) if pairs else (),
        port.admin_state is AdminState.UP,
        None if port.qos == objects.Qos() else port.qos,
        port.further_macs if port.announced_addresses else (),
        flood_limit_pps=subnet.flood_limit_pps if port.flood_limit_pps is None else port.flood_limit_pps,
        dhcp=port.dhcp.enabled,
        dhcp_router=port.dhcp.router,
        dhcp_server=port.dhcp_server,
        sampling_rate=port.sampling_rate,
        mirror=port.mirror,
        pas=tuple(each.pa for each in port.rewrites if each.destination == there) if port.rewrites else (),
        parent=None if port.trunk is None else port.trunk.parent,
        vlan=0 if port.trunk is None else port.trunk.vlan,
        groups=groups,
        port_security=port.port_security,
        arriving=there,
        leaving=port.destination is not None and not there,
        comes_from=port.host if there and port.host is not None else "",
    )


def record_rows(
    port: objects.Port, subnet: objects.VirtualSubnet, groups: tuple[int, ...], pa: Ip, also: Ip | None = None
) -> Iterator[Row]:
    """Where a port, its CAs and what it has announced live; a port that is down lives there all the same.

    groups: as for its own row. also: of where it is moving to.
    """
    rule, bare = subnet.sending_rule, _of_what_has_no_pa(subnet)
    for ca in port.addresses:
        yield rows.Record(subnet.vsid, ca, pa, port.mac, rule, also, groups)
    yield rows.MacRecord(subnet.vsid, port.mac, pa, bare, also)
    if port.announced_addresses:
        for said in port.announced_addresses:
            yield rows.Record(subnet.vsid, said.address, pa, said.mac, rule, also, groups)
        for mac in port.further_macs:
            yield rows.MacRecord(subnet.vsid, mac, pa, bare, also)
    if port.rewrites:
        for each in port.rewrites:
            yield rows.Rewrite(each.pa, subnet.vsid, each.address, port.destination is None)


def _of_what_has_no_pa(subnet: objects.VirtualSubnet) -> Rule:
    """How frames travel in a subnet that are not from one address of it to another."""
    return FALLBACK if subnet.sending_rule is Rule.REWRITE else subnet.sending_rule


def peer_row(host: objects.Host, domain: objects.RoutingDomain) -> rows.Peer | None:
    """What the other hosts of a domain know of one that runs its ports; None: nobody can reach it."""
    return rows.Peer(domain.rdid, host.first_pa, host.pas, host.networks) if host.first_pa is not None else None


def member_row(subnet: objects.VirtualSubnet, pa: Ip) -> rows.Member:
    """A host that has a port in the subnet."""
    return rows.Member(subnet.vsid, pa, _of_what_has_no_pa(subnet))


def on_link_row(domain: objects.RoutingDomain, prefix: str, subnet: objects.VirtualSubnet) -> rows.Route:
    return rows.Route(domain.rdid, prefix, subnet.vsid)


def route_row(domain: objects.RoutingDomain, route: objects.CustomerRoute, subnet: objects.VirtualSubnet) -> rows.Route:
    """A customer route; subnet: the one that its next hop is in, or that it is on-link in."""
    return rows.Route(domain.rdid, route.prefix, subnet.vsid, route.next_hop)
