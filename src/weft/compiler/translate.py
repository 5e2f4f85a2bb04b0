"""One object at a time into rows. Looks nothing up: what an object rests on is given beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from weft.model import objects
from weft.model.features import FALLBACK, Rule
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


def port_row(port: objects.Port, subnet: objects.VirtualSubnet) -> rows.Port:
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
        pas=tuple(each.pa for each in port.rewrites) if port.rewrites else (),
        parent=None if port.trunk is None else port.trunk.parent,
        vlan=0 if port.trunk is None else port.trunk.vlan,
    )


def record_rows(port: objects.Port, subnet: objects.VirtualSubnet, pa: Ip, also: Ip | None = None) -> Iterator[Row]:
    """Where a port, its CAs and what it has announced live; a port that is down lives there all the same.

    also: of where it is moving to.
    """
    rule, bare = subnet.sending_rule, _of_what_has_no_pa(subnet)
    for ca in port.addresses:
        yield rows.Record(subnet.vsid, ca, pa, port.mac, rule, also)
    yield rows.MacRecord(subnet.vsid, port.mac, pa, bare, also)
    if port.announced_addresses:
        for said in port.announced_addresses:
            yield rows.Record(subnet.vsid, said.address, pa, said.mac, rule, also)
        for mac in port.further_macs:
            yield rows.MacRecord(subnet.vsid, mac, pa, bare, also)
    if port.rewrites:
        for each in port.rewrites:
            yield rows.Rewrite(each.pa, subnet.vsid, each.address)


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
