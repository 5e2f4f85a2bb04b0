"""What a caller wrote, before it is an object: text as given, references short or full, None for what is not given.

A draft promises nothing. The catalog parses, resolves and chooses, and says which field is wrong, so nobody
else has to look at the values in here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from weft.model.names import Kind
from weft.model.objects import RuleChange


@dataclass(frozen=True, slots=True)
class Tenant:
    """limits: by what is limited; given, they are replaced as a whole."""

    name: str
    description: str | None = None
    limits: Mapping[str, int | None] | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    """first, last: by default the lowest and highest host address of the prefix."""

    prefix: str
    first: str | None = None
    last: str | None = None


@dataclass(frozen=True, slots=True)
class ProviderNetwork:
    name: str
    pools: tuple[Pool, ...]
    mtu_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Uplink:
    interface: str
    provider_network: str
    pas: tuple[str, ...] | None = None
    pool: str | None = None
    vlan: int | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    rate: int
    collector: str
    port: int | None = None
    protocol: str | None = None
    header_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Host:
    """sampling None means none, whether it was said or left out."""

    name: str
    uplinks: tuple[Uplink, ...]
    data_plane: str | None = None
    sampling: Sampling | None = None


@dataclass(frozen=True, slots=True)
class RoutingDomain:
    name: str
    rdid: str | None = None


@dataclass(frozen=True, slots=True)
class DhcpRoute:
    prefix: str
    next_hop: str | None = None


@dataclass(frozen=True, slots=True)
class Dhcp:
    """None: as usual."""

    enabled: bool | None = None
    router: bool | None = None
    dns_servers: tuple[str, ...] | None = None
    search_domains: tuple[str, ...] | None = None
    ntp_servers: tuple[str, ...] | None = None
    routes: tuple[DhcpRoute, ...] | None = None
    lease_s: int | None = None
    ipv6_mode: str | None = None


@dataclass(frozen=True, slots=True)
class PortDhcp:
    enabled: bool | None = None
    router: bool | None = None


@dataclass(frozen=True, slots=True)
class VirtualSubnet:
    """rule_change: the controller's own step towards ``rule``; what others say of it never gets here."""

    name: str
    prefixes: tuple[str, ...]
    vsid: int | None = None
    gateways: tuple[str, ...] | None = None
    router_mac: str | None = None
    rule: str | None = None
    mtu_bytes: int | None = None
    rule_change: RuleChange | None = None
    broadcast: bool | None = None
    snooping: bool | None = None
    provider_group: str | None = None  # "": none
    flood_limit_pps: int | None = None
    dhcp: Dhcp | None = None
    vlan: int | None = None
    provider_network: str | None = None
    external_gateway: bool | None = None


@dataclass(frozen=True, slots=True)
class AddressGroup:
    name: str
    prefixes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SecurityGroup:
    name: str
    stateful: bool | None = None
    operator: bool | None = None
    keep_connections: bool | None = None


@dataclass(frozen=True, slots=True)
class SecurityGroupRule:
    """None is any, or nobody in particular, whether it was said or left out; nothing is kept of what was before."""

    name: str
    direction: str
    family: str | None = None
    protocol: int | str | None = None
    port_min: int | None = None
    port_max: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    remote_prefix: str | None = None
    remote_group: str | None = None
    remote_address_group: str | None = None
    action: str | None = None
    priority: int | None = None
    log: bool | None = None


@dataclass(frozen=True, slots=True)
class AddressPair:
    prefix: str
    mac: str | None = None


@dataclass(frozen=True, slots=True)
class Limit:
    """A rate left out is no limit."""

    rate_bits_per_s: int | None = None
    burst_bytes: int | None = None
    rate_packets_per_s: int | None = None
    burst_packets: int | None = None


@dataclass(frozen=True, slots=True)
class Qos:
    """outer_dscp: a number, or "copy"."""

    from_guest: Limit | None = None
    to_guest: Limit | None = None
    dscp: int | None = None
    outer_dscp: int | str | None = None


@dataclass(frozen=True, slots=True)
class AnnouncedAddress:
    address: str
    mac: str


@dataclass(frozen=True, slots=True)
class Mirror:
    port: str | None = None
    address: str | None = None
    protocol: str | None = None
    session: int | None = None
    directions: str | None = None


@dataclass(frozen=True, slots=True)
class Rewrite:
    address: str
    pa: str
    destination: bool = False


@dataclass(frozen=True, slots=True)
class Trunk:
    parent: str
    vlan: int


@dataclass(frozen=True, slots=True)
class Port:
    """host None means nowhere, destination None that it does not move, flood_limit_pps None its subnet's,
    sampling_rate None its host's, mirror None none, trunk None that it has an interface of its own, whether that was
    said or left out.
    """

    name: str
    virtual_subnet: str
    mac: str | None = None
    addresses: tuple[str, ...] | None = None
    host: str | None = None
    allowed_address_pairs: tuple[AddressPair, ...] | None = None
    admin_state: str | None = None
    qos: Qos | None = None
    flood_limit_pps: int | None = None
    dhcp: PortDhcp | None = None
    dhcp_server: bool | None = None
    destination: str | None = None
    announced_addresses: tuple[AnnouncedAddress, ...] | None = None
    sampling_rate: int | None = None
    mirror: Mirror | None = None
    rewrites: tuple[Rewrite, ...] | None = None
    trunk: Trunk | None = None
    security_groups: tuple[str, ...] | None = None
    operator_groups: tuple[str, ...] | None = None
    port_security: bool | None = None


@dataclass(frozen=True, slots=True)
class CustomerRoute:
    name: str
    prefix: str
    next_hop: str | None = None
    virtual_subnet: str | None = None
    metric: int | None = None


Draft: TypeAlias = (
    Tenant
    | ProviderNetwork
    | Host
    | RoutingDomain
    | VirtualSubnet
    | AddressGroup
    | SecurityGroup
    | SecurityGroupRule
    | Port
    | CustomerRoute
)

KINDS: dict[type[Draft], Kind] = {
    Tenant: Kind.TENANT,
    ProviderNetwork: Kind.PROVIDER_NETWORK,
    Host: Kind.HOST,
    RoutingDomain: Kind.ROUTING_DOMAIN,
    VirtualSubnet: Kind.VIRTUAL_SUBNET,
    AddressGroup: Kind.ADDRESS_GROUP,
    SecurityGroup: Kind.SECURITY_GROUP,
    SecurityGroupRule: Kind.SECURITY_GROUP_RULE,
    Port: Kind.PORT,
    CustomerRoute: Kind.CUSTOMER_ROUTE,
}
