"""All that one port's guest is told, in wire form, as it follows from policy. Keeps no leases: policy is the lease.

So there is nothing to lose and nothing to agree on: every host that has the port says the same.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from weft.model.features import FALLBACK, LACKING, overhead_bytes
from weft.policy import rows
from weft.policy.rows import Ipv6Mode
from weft.reference import packet

INFINITE_S = 0xFFFF_FFFF  # RFC 2131 section 3.3, RFC 8415 section 7.7
MTU_MOST = 0xFFFF


@dataclass(frozen=True, slots=True)
class Ipv4:
    """addresses: at least one; the first is offered. routes: (destination, next hop)."""

    addresses: tuple[bytes, ...]
    network: IPv4Network
    gateway: bytes
    dns_servers: tuple[bytes, ...]
    ntp_servers: tuple[bytes, ...]
    routes: tuple[tuple[IPv4Network, bytes], ...]


@dataclass(frozen=True, slots=True)
class Ipv6:
    """addresses: perhaps none. by_guest: the guest makes its address itself; by_dhcp: it asks for it."""

    addresses: tuple[bytes, ...]
    network: IPv6Network
    dns_servers: tuple[bytes, ...]
    ntp_servers: tuple[bytes, ...]
    routes: tuple[IPv6Network, ...]
    by_guest: bool
    by_dhcp: bool
    other_by_dhcp: bool  # addresses apart, DHCPv6 has answers


@dataclass(frozen=True, slots=True)
class Terms:
    """mtu_bytes 0: nothing is known of it. router: that the gateway is the way to everywhere."""

    mac: bytes
    router_mac: bytes
    hostname: str
    mtu_bytes: int
    lease_s: int
    router: bool
    search_domains: tuple[str, ...]
    ipv4: Ipv4 | None
    ipv6: Ipv6 | None

    @property
    def router_link_local(self) -> bytes:
        return packet.link_local(self.router_mac)


def terms_of(port: rows.Port, subnet: rows.Subnet, host: rows.Host | None, path_mtu_bytes: int = 0) -> Terms | None:
    """None: nobody answers this port here. path_mtu_bytes: as in ``mtu_of``."""
    told = subnet.dhcp
    if told is None or not port.dhcp:
        return None
    mac = packet.mac_bytes(port.mac)
    return Terms(
        mac=mac,
        router_mac=packet.mac_bytes(subnet.router_mac),
        hostname=port.port.rpartition("/")[2],
        mtu_bytes=mtu_of(subnet, host, path_mtu_bytes),
        lease_s=told.lease_s,
        router=told.router if port.dhcp_router is None else port.dhcp_router,
        search_domains=told.search_domains,
        ipv4=_ipv4(port, subnet, told) if subnet.answers_dhcp4 else None,
        ipv6=_ipv6(port, subnet, told, mac) if subnet.answers_dhcp6 else None,
    )


def mtu_of(subnet: rows.Subnet, host: rows.Host | None, path_mtu_bytes: int = 0) -> int:
    """The MTU that guests of a subnet are told: its own, else what this host's underlay leaves, else 0 (not known).

    path_mtu_bytes: the largest outer packet that gets through to every peer; 0: as large as the uplinks take.
    """
    if subnet.mtu_bytes:
        return min(subnet.mtu_bytes, MTU_MOST)
    if host is None or not host.pas or not host.uplinks:
        return 0
    version = 6 if ":" in host.pas[0] else 4
    # While a subnet goes over to another rule, what fits each of them is right. What falls back beside IP rewrite is
    # little, and is told when it is too large; so is what is routed into a VLAN, where all have one MTU.
    beside = set() if LACKING.isdisjoint(subnet.accepts) else {FALLBACK}
    overhead = max((overhead_bytes(rule, version) for rule in subnet.accepts if rule not in beside), default=0)
    underlay = min(uplink.mtu_bytes for uplink in host.uplinks)
    return max(0, min(MTU_MOST, underlay, path_mtu_bytes or underlay) - overhead)


def _ipv4(port: rows.Port, subnet: rows.Subnet, told: rows.Dhcp) -> Ipv4 | None:
    addresses = tuple(packet.address_bytes(ca) for ca in port.cas if ":" not in ca)
    if not addresses:
        return None
    return Ipv4(
        addresses,
        IPv4Network(next(prefix for prefix in subnet.prefixes if ":" not in prefix)),
        next(packet.address_bytes(gateway) for gateway in subnet.gateways if ":" not in gateway),
        _of(4, told.dns_servers),
        _of(4, told.ntp_servers),
        tuple(
            (IPv4Network(route.prefix), packet.address_bytes(route.next_hop))
            for route in told.routes
            if ":" not in route.prefix
        ),
    )


def _ipv6(port: rows.Port, subnet: rows.Subnet, told: rows.Dhcp, mac: bytes) -> Ipv6:
    network = IPv6Network(next(prefix for prefix in subnet.prefixes if ":" in prefix))
    addresses = tuple(packet.address_bytes(ca) for ca in port.cas if ":" in ca)
    own = network.network_address.packed[:8] + packet.link_local(mac)[8:]
    # A guest whose own making is not the port's address would be forged_source's: it is told to ask instead.
    by_guest = told.ipv6_mode.by_guest and network.prefixlen == 64 and own in addresses
    return Ipv6(
        addresses,
        network,
        _of(6, told.dns_servers),
        _of(6, told.ntp_servers),
        tuple(IPv6Network(route.prefix) for route in told.routes if ":" in route.prefix),
        by_guest=by_guest,
        by_dhcp=not by_guest,
        other_by_dhcp=not by_guest or told.ipv6_mode is Ipv6Mode.STATELESS,
    )


def _of(version: int, addresses: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(address.packed for address in map(ipaddress.ip_address, addresses) if address.version == version)
