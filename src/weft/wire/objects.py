"""Specs as JSON: from what callers write to drafts, and from objects to what is stored and shown. Judges types only.

Whether a MAC is one, a reference leads somewhere or a prefix overlaps is the catalog's to say. The structs below are
also what /openapi.json is generated from, so their field names are the API.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from typing import Annotated, TypeAlias, TypeVar, assert_never

import msgspec

from weft.kit.errors import Rejected
from weft.model import drafts, objects, qos, security, shares, taps
from weft.model.features import Action, DataPlaneKind, Direction, Family, Ipv6Mode, Rule
from weft.model.names import Kind, Name, kind_of
from weft.model.values import AdminState, Ip, Mac, Prefix, Rdid, Vsid


class Malformed(Rejected):
    """What was given is not JSON at all."""


_Address = Annotated[str, msgspec.Meta(description="an IPv4 or IPv6 address", examples=["10.0.1.5", "fd00:1::5"])]
_Prefix = Annotated[str, msgspec.Meta(description="address/length", examples=["10.0.1.0/24", "fd00:1::/64"])]
_Mac = Annotated[str, msgspec.Meta(description="a MAC address", examples=["02:00:00:00:00:01"])]

_FloodLimit = Annotated[
    int, msgspec.Meta(description="broadcast and multicast that a guest may send, packets/s; 0: no limit")
]


def _reference(description: str) -> msgspec.Meta:
    return msgspec.Meta(description=description)


class _Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class LimitsSpec(_Spec, frozen=True):
    """What a tenant may take of what hosts share; what is left out is as usual."""

    subnets: int | None = None
    routes: int | None = None
    records: int | None = None
    macs: int | None = None
    members: int | None = None
    subports: int | None = None
    sources: int | None = None


class TenantSpec(_Spec, frozen=True):
    description: str | None = None
    limits: LimitsSpec | None = None


class PoolSpec(_Spec, frozen=True):
    prefix: _Prefix
    first: _Address | None = None
    last: _Address | None = None


class ProviderNetworkSpec(_Spec, frozen=True):
    pools: tuple[PoolSpec, ...]
    mtu_bytes: int | None = None


class UplinkSpec(_Spec, frozen=True):
    interface: str
    provider_network: Annotated[str, _reference("provider-networks/N, or N")]
    pas: tuple[_Address, ...] | None = None
    pool: _Prefix | None = None
    vlan: Annotated[int, msgspec.Meta(description="802.1Q VLAN of the PAs, 1..4094; 0: untagged")] | None = None


class SamplingSpec(_Spec, frozen=True):
    rate: Annotated[int, msgspec.Meta(description="one frame in so many")]
    collector: _Address
    port: Annotated[int, msgspec.Meta(description="default: 6343 of sFlow, 4739 of IPFIX")] | None = None
    protocol: Annotated[str, msgspec.Meta(description="sflow (the default) or ipfix")] | None = None
    header_bytes: Annotated[int, msgspec.Meta(description="of each frame: 14..256; default: 128")] | None = None


class HostSpec(_Spec, frozen=True):
    uplinks: tuple[UplinkSpec, ...]
    data_plane: str | None = None
    sampling: SamplingSpec | None = None


class RoutingDomainSpec(_Spec, frozen=True):
    rdid: Annotated[str, msgspec.Meta(description="a UUID")] | None = None


class RuleChangeSpec(_Spec, frozen=True):
    """How hosts go over to another rule. The controller's own: what a PUT says of it is not heeded."""

    sending: Annotated[str, msgspec.Meta(description="the rule by which hosts send now")]
    accepted: Annotated[tuple[str, ...], msgspec.Meta(description="the rules that hosts take now")]


class DhcpRouteSpec(_Spec, frozen=True):
    prefix: _Prefix
    next_hop: (
        Annotated[str, msgspec.Meta(description="an IPv4 address of the subnet; the gateway if absent")] | None
    ) = None


class DhcpSpec(_Spec, frozen=True):
    """What the guests of a subnet are told by DHCPv4, DHCPv6 and router advertisements."""

    enabled: bool | None = None
    router: Annotated[bool, msgspec.Meta(description="whether the gateway is the guests' default route")] | None = None
    dns_servers: tuple[_Address, ...] | None = None
    search_domains: tuple[str, ...] | None = None
    ntp_servers: tuple[_Address, ...] | None = None
    routes: tuple[DhcpRouteSpec, ...] | None = None
    lease_s: Annotated[int, msgspec.Meta(description="60..4294967295; 4294967295: without end")] | None = None
    ipv6_mode: Annotated[str, msgspec.Meta(description="stateful, stateless, slaac or none")] | None = None


class PortDhcpSpec(_Spec, frozen=True):
    """What is otherwise for one port."""

    enabled: bool | None = None
    router: Annotated[bool, msgspec.Meta(description="absent: as the subnet says")] | None = None


class VirtualSubnetSpec(_Spec, frozen=True):
    prefixes: tuple[_Prefix, ...]
    vsid: Annotated[int, msgspec.Meta(description="4096..16777214")] | None = None
    gateways: tuple[_Address, ...] | None = None
    router_mac: _Mac | None = None
    rule: str | None = None
    mtu_bytes: Annotated[int, msgspec.Meta(description="0: what the underlay leaves")] | None = None
    rule_change: RuleChangeSpec | None = None
    broadcast: Annotated[bool, msgspec.Meta(description="broadcast and multicast are carried")] | None = None
    snooping: (
        Annotated[bool, msgspec.Meta(description="a multicast group reaches only who has asked for it")] | None
    ) = None
    provider_group: (
        Annotated[str, msgspec.Meta(description="a multicast address of the underlay; empty: none")] | None
    ) = None
    flood_limit_pps: _FloodLimit | None = None
    dhcp: DhcpSpec | None = None
    vlan: Annotated[int, msgspec.Meta(description="of rule vlan: the 802.1Q VLAN, 1..4094")] | None = None
    provider_network: (
        Annotated[str, msgspec.Meta(description="of rule vlan: the provider network that has the VLAN")] | None
    ) = None
    external_gateway: (
        Annotated[bool, msgspec.Meta(description="of rule vlan: the gateway is a machine behind the switch")] | None
    ) = None


_Number = Annotated[
    int, msgspec.Meta(description="what hosts know it by: the controller's own, and not heeded in a PUT")
]
_SecurityGroup = Annotated[str, _reference("tenants/T/security-groups/G of the same tenant, or G")]


class AddressGroupSpec(_Spec, frozen=True):
    """Prefixes that rules of security groups name together."""

    prefixes: tuple[_Prefix, ...]
    number: _Number | None = None


class SecurityGroupSpec(_Spec, frozen=True):
    """What ports that have it may send and receive is what its rules say, and nothing else."""

    stateful: Annotated[bool, msgspec.Meta(description="what answers passes, too; default: true")] | None = None
    operator: (
        Annotated[bool, msgspec.Meta(description="the operator's: its rules may deny; for good; default: false")] | None
    ) = None
    number: _Number | None = None
    keep_connections: (
        Annotated[
            bool,
            msgspec.Meta(
                description="of ports all of whose groups say so, connections outlive the rule that let them begin; "
                "default: false, they are cut"
            ),
        ]
        | None
    ) = None


class SecurityGroupRuleSpec(_Spec, frozen=True):
    direction: Annotated[str, msgspec.Meta(description="ingress (to the guest) or egress (from it)")]
    family: Annotated[str, msgspec.Meta(description="ipv4 or ipv6; default: remote_prefix's, or ipv4")] | None = None
    protocol: (
        Annotated[int | str, msgspec.Meta(description="tcp, udp, icmp, icmpv6, sctp, any, or 1..255; default: any")]
        | None
    ) = None
    port_min: Annotated[int, msgspec.Meta(description="of the destination port, 0..65535")] | None = None
    port_max: Annotated[int, msgspec.Meta(description="default: port_min")] | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    remote_prefix: _Prefix | None = None
    remote_group: _SecurityGroup | None = None
    remote_address_group: Annotated[str, _reference("tenants/T/address-groups/A of the same tenant, or A")] | None = (
        None
    )
    action: Annotated[str, msgspec.Meta(description="allow (the default), or an operator's deny")] | None = None
    priority: (
        Annotated[int, msgspec.Meta(description="of an operator's rule, 0..65535; the highest decides; default: 100")]
        | None
    ) = None
    log: Annotated[bool, msgspec.Meta(description="what it decides is logged, sampled")] | None = None
    number: _Number | None = None


class AddressPairSpec(_Spec, frozen=True):
    prefix: _Prefix
    mac: _Mac | None = None


class LimitSpec(_Spec, frozen=True):
    rate_bits_per_s: Annotated[int, msgspec.Meta(description="of whole Ethernet frames; absent: any")] | None = None
    burst_bytes: Annotated[int, msgspec.Meta(description="default: 225 ms of the rate, at least ten frames")] | None = (
        None
    )
    rate_packets_per_s: int | None = None
    burst_packets: Annotated[int, msgspec.Meta(description="default: 225 ms of the rate, at least 10")] | None = None


class QosSpec(_Spec, frozen=True):
    from_guest: LimitSpec | None = None
    to_guest: LimitSpec | None = None
    dscp: Annotated[int, msgspec.Meta(description="0..63: what the guest's packets are marked with")] | None = None
    outer_dscp: Annotated[int | str, msgspec.Meta(description='0..63, or "copy" of the inner; default: 0')] | None = (
        None
    )


class AnnouncedAddressSpec(_Spec, frozen=True):
    address: _Address
    mac: _Mac


class MirrorSpec(_Spec, frozen=True):
    port: (
        Annotated[str, _reference("tenants/T/ports/P of the same tenant, or P; seen while it is on the same host")]
        | None
    ) = None
    address: _Address | None = None
    protocol: Annotated[str, msgspec.Meta(description="to an address: erspan (type II, the default) or gre")] | None = (
        None
    )
    session: Annotated[int, msgspec.Meta(description="0..1023; default: 1")] | None = None
    directions: Annotated[str, msgspec.Meta(description="both (the default), from_guest or to_guest")] | None = None


class RewriteSpec(_Spec, frozen=True):
    address: _Address
    pa: _Address
    destination: Annotated[bool, msgspec.Meta(description="on the host that the port is moving to")] = False


class TrunkSpec(_Spec, frozen=True):
    """Where a sub-port is."""

    parent: Annotated[str, _reference("tenants/T/ports/P, or P: the port whose interface it is at")]
    vlan: Annotated[int, msgspec.Meta(description="802.1Q VLAN of its frames there, 1..4094")]


class PortSpec(_Spec, frozen=True):
    virtual_subnet: Annotated[str, _reference("tenants/T/routing-domains/D/virtual-subnets/S, or D/S")]
    mac: _Mac | None = None
    addresses: tuple[_Address, ...] | None = None
    host: Annotated[str, _reference("hosts/H, or H; null: nowhere")] | None = None
    allowed_address_pairs: tuple[AddressPairSpec, ...] | None = None
    admin_state: Annotated[str, msgspec.Meta(description="up or down")] | None = None
    qos: QosSpec | None = None
    flood_limit_pps: _FloodLimit | None = None
    dhcp: PortDhcpSpec | None = None
    dhcp_server: (
        Annotated[bool, msgspec.Meta(description="may answer DHCP and advertise itself as a router")] | None
    ) = None
    destination: Annotated[str, _reference("hosts/H, or H, that it is moving to; null: it does not move")] | None = None
    announced_addresses: (
        Annotated[
            tuple[AnnouncedAddressSpec, ...],
            msgspec.Meta(description="what its guest has announced; left out: as it is"),
        ]
        | None
    ) = None
    sampling_rate: Annotated[int, msgspec.Meta(description="one in so many; 0: none; absent: as its host")] | None = (
        None
    )
    mirror: MirrorSpec | None = None
    rewrites: (
        Annotated[
            tuple[RewriteSpec, ...],
            msgspec.Meta(description="the PA of each address where the rule is rewrite; left out: kept, or drawn"),
        ]
        | None
    ) = None
    trunk: TrunkSpec | None = None
    security_groups: (
        Annotated[tuple[_SecurityGroup, ...], msgspec.Meta(description="left out: as they are; of a new port none")]
        | None
    ) = None
    operator_groups: (
        Annotated[tuple[_SecurityGroup, ...], msgspec.Meta(description="those with operator: true; likewise")] | None
    ) = None
    port_security: (
        Annotated[
            bool,
            msgspec.Meta(
                description="with groups: true; without: true lets in what answers the guest, false lets in everything"
            ),
        ]
        | None
    ) = None


class CustomerRouteSpec(_Spec, frozen=True):
    prefix: _Prefix
    next_hop: Annotated[str, msgspec.Meta(description="an address in a subnet of the domain")] | None = None
    virtual_subnet: Annotated[str, _reference("on-link there: full name, or S")] | None = None
    metric: int | None = None


Spec: TypeAlias = (
    TenantSpec
    | ProviderNetworkSpec
    | HostSpec
    | RoutingDomainSpec
    | VirtualSubnetSpec
    | AddressGroupSpec
    | SecurityGroupSpec
    | SecurityGroupRuleSpec
    | PortSpec
    | CustomerRouteSpec
)

SPECS: Mapping[Kind, type[Spec]] = {
    Kind.TENANT: TenantSpec,
    Kind.PROVIDER_NETWORK: ProviderNetworkSpec,
    Kind.HOST: HostSpec,
    Kind.ROUTING_DOMAIN: RoutingDomainSpec,
    Kind.VIRTUAL_SUBNET: VirtualSubnetSpec,
    Kind.ADDRESS_GROUP: AddressGroupSpec,
    Kind.SECURITY_GROUP: SecurityGroupSpec,
    Kind.SECURITY_GROUP_RULE: SecurityGroupRuleSpec,
    Kind.PORT: PortSpec,
    Kind.CUSTOMER_ROUTE: CustomerRouteSpec,
}

_DECODE = {kind: msgspec.json.Decoder(spec).decode for kind, spec in SPECS.items()}
_encode = msgspec.json.Encoder().encode

_T = TypeVar("_T")


def decode_spec(name: Name, raw: bytes | msgspec.Raw) -> drafts.Draft:
    """What a caller wrote of an object; faults are reported at ``spec.…``."""
    kind = kind_of(name)
    try:
        spec = _DECODE[kind](raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _rejected(error, "spec", raw, SPECS[kind], kind) from error
    match spec:
        case PortSpec():
            pairs, announced = spec.allowed_address_pairs, spec.announced_addresses
            return drafts.Port(
                name=name,
                virtual_subnet=spec.virtual_subnet,
                mac=spec.mac,
                addresses=spec.addresses,
                host=spec.host,
                allowed_address_pairs=None
                if pairs is None
                else tuple(drafts.AddressPair(pair.prefix, pair.mac) for pair in pairs),
                admin_state=spec.admin_state,
                qos=None if spec.qos is None else _qos_draft(spec.qos),
                flood_limit_pps=spec.flood_limit_pps,
                dhcp=None if spec.dhcp is None else drafts.PortDhcp(spec.dhcp.enabled, spec.dhcp.router),
                dhcp_server=spec.dhcp_server,
                sampling_rate=spec.sampling_rate,
                mirror=None if spec.mirror is None else drafts.Mirror(**msgspec.structs.asdict(spec.mirror)),
                destination=spec.destination,
                announced_addresses=None
                if announced is None
                else tuple(drafts.AnnouncedAddress(said.address, said.mac) for said in announced),
                rewrites=None
                if spec.rewrites is None
                else tuple(drafts.Rewrite(each.address, each.pa, each.destination) for each in spec.rewrites),
                trunk=None if spec.trunk is None else drafts.Trunk(spec.trunk.parent, spec.trunk.vlan),
                security_groups=spec.security_groups,
                operator_groups=spec.operator_groups,
                port_security=spec.port_security,
            )
        case SecurityGroupRuleSpec():
            said = msgspec.structs.asdict(spec)
            del said["number"]
            return drafts.SecurityGroupRule(name, **said)
        case SecurityGroupSpec():
            return drafts.SecurityGroup(name, spec.stateful, spec.operator, spec.keep_connections)
        case AddressGroupSpec():
            return drafts.AddressGroup(name, spec.prefixes)
        case TenantSpec():
            limits = None if spec.limits is None else msgspec.structs.asdict(spec.limits)
            return drafts.Tenant(name, spec.description, limits)
        case ProviderNetworkSpec():
            pools = tuple(drafts.Pool(pool.prefix, pool.first, pool.last) for pool in spec.pools)
            return drafts.ProviderNetwork(name, pools, spec.mtu_bytes)
        case HostSpec():
            uplinks = tuple(
                drafts.Uplink(uplink.interface, uplink.provider_network, uplink.pas, uplink.pool, uplink.vlan)
                for uplink in spec.uplinks
            )
            sampling = spec.sampling
            return drafts.Host(
                name,
                uplinks,
                spec.data_plane,
                None if sampling is None else drafts.Sampling(**msgspec.structs.asdict(sampling)),
            )
        case RoutingDomainSpec():
            return drafts.RoutingDomain(name, spec.rdid)
        case VirtualSubnetSpec():
            return drafts.VirtualSubnet(
                name=name,
                prefixes=spec.prefixes,
                vsid=spec.vsid,
                gateways=spec.gateways,
                router_mac=spec.router_mac,
                rule=spec.rule,
                mtu_bytes=spec.mtu_bytes,
                broadcast=spec.broadcast,
                snooping=spec.snooping,
                provider_group=spec.provider_group,
                flood_limit_pps=spec.flood_limit_pps,
                dhcp=None if spec.dhcp is None else _dhcp_draft(spec.dhcp),
                vlan=spec.vlan,
                provider_network=spec.provider_network,
                external_gateway=spec.external_gateway,
            )
        case CustomerRouteSpec():
            return drafts.CustomerRoute(name, spec.prefix, spec.next_hop, spec.virtual_subnet, spec.metric)
        case _:
            assert_never(spec)


def encode_spec(value: objects.Object) -> bytes:
    """An object's spec, every field said; what is None is left out. ``load`` reads it back."""
    return _encode(_spec_of(value))


def load(name: Name, raw: bytes) -> objects.Object:
    """An object as ``encode_spec`` wrote it. Trusts it: only what was valid is ever stored."""
    spec = _DECODE[kind_of(name)](raw)
    match spec:
        case PortSpec():
            return objects.Port(
                name=name,
                virtual_subnet=Name(spec.virtual_subnet),
                mac=Mac(_said(spec.mac)),
                addresses=tuple(map(Ip, _said(spec.addresses))),
                host=None if spec.host is None else Name(spec.host),
                allowed_address_pairs=tuple(
                    objects.AddressPair(Prefix(pair.prefix), None if pair.mac is None else Mac(pair.mac))
                    for pair in _said(spec.allowed_address_pairs)
                ),
                admin_state=AdminState(_said(spec.admin_state)),
                qos=objects.Qos() if spec.qos is None else _qos(spec.qos),
                flood_limit_pps=spec.flood_limit_pps,
                dhcp=objects.PortDhcp() if spec.dhcp is None else _dhcp_of_port(spec.dhcp),
                dhcp_server=bool(spec.dhcp_server),
                sampling_rate=spec.sampling_rate,
                mirror=None
                if spec.mirror is None
                else taps.mirror(drafts.Mirror(**msgspec.structs.asdict(spec.mirror)), name),
                destination=None if spec.destination is None else Name(spec.destination),
                announced_addresses=tuple(
                    objects.AnnouncedAddress(Ip(said.address), Mac(said.mac)) for said in spec.announced_addresses or ()
                ),
                rewrites=tuple(
                    objects.Rewrite(Ip(each.address), Ip(each.pa), each.destination) for each in spec.rewrites or ()
                ),
                trunk=None if spec.trunk is None else objects.Trunk(Name(spec.trunk.parent), spec.trunk.vlan),
                security_groups=tuple(map(Name, spec.security_groups or ())),
                operator_groups=tuple(map(Name, spec.operator_groups or ())),
                port_security=bool(spec.port_security),
            )
        case SecurityGroupRuleSpec():
            return _security_group_rule(name, spec)
        case SecurityGroupSpec():
            return objects.SecurityGroup(
                name, _said(spec.number), _said(spec.stateful), bool(spec.operator), bool(spec.keep_connections)
            )
        case AddressGroupSpec():
            return objects.AddressGroup(name, _said(spec.number), tuple(map(Prefix, spec.prefixes)))
        case TenantSpec():
            limits = {} if spec.limits is None else msgspec.structs.asdict(spec.limits)
            return objects.Tenant(name, _said(spec.description), shares.Limits(**limits))
        case ProviderNetworkSpec():
            pools = tuple(
                objects.Pool(Prefix(pool.prefix), Ip(_said(pool.first)), Ip(_said(pool.last))) for pool in spec.pools
            )
            return objects.ProviderNetwork(name, pools, _said(spec.mtu_bytes))
        case HostSpec():
            uplinks = tuple(
                objects.Uplink(
                    interface=uplink.interface,
                    provider_network=Name(uplink.provider_network),
                    pas=tuple(map(Ip, _said(uplink.pas))),
                    pool=None if uplink.pool is None else Prefix(uplink.pool),
                    vlan=uplink.vlan or 0,
                )
                for uplink in spec.uplinks
            )
            return objects.Host(name, uplinks, DataPlaneKind(_said(spec.data_plane)), _sampling(spec.sampling))
        case RoutingDomainSpec():
            return objects.RoutingDomain(name, Rdid(_said(spec.rdid)))
        case VirtualSubnetSpec():
            return objects.VirtualSubnet(
                name=name,
                vsid=Vsid(_said(spec.vsid)),
                prefixes=tuple(map(Prefix, spec.prefixes)),
                gateways=tuple(map(Ip, _said(spec.gateways))),
                router_mac=Mac(_said(spec.router_mac)),
                rule=Rule(_said(spec.rule)),
                mtu_bytes=_said(spec.mtu_bytes),
                rule_change=None
                if (change := spec.rule_change) is None
                else objects.RuleChange(Rule(change.sending), tuple(map(Rule, change.accepted))),
                broadcast=_said(spec.broadcast),
                snooping=_said(spec.snooping),
                provider_group=None if spec.provider_group is None else Ip(spec.provider_group),
                flood_limit_pps=_said(spec.flood_limit_pps),
                dhcp=_dhcp(_said(spec.dhcp)),
                vlan=spec.vlan or 0,
                provider_network=None if spec.provider_network is None else Name(spec.provider_network),
                external_gateway=spec.external_gateway is True,
            )
        case CustomerRouteSpec():
            return objects.CustomerRoute(
                name=name,
                prefix=Prefix(spec.prefix),
                next_hop=None if spec.next_hop is None else Ip(spec.next_hop),
                virtual_subnet=None if spec.virtual_subnet is None else Name(spec.virtual_subnet),
                metric=_said(spec.metric),
            )
        case _:
            assert_never(spec)


def decode_body(
    raw: bytes, decode: msgspec.json.Decoder[_T], of: type[msgspec.Struct] | None = None, whole: str = "the request"
) -> _T:
    """A request's body; faults are reported at the field's own path, such as ``puts[3].name``. of: says which fields
    there are when one is not; whole: what it is.
    """
    try:
        return decode.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _rejected(error, "", raw, of, None, whole) from error


def _spec_of(value: objects.Object) -> Spec:
    match value:
        case objects.Port():
            return PortSpec(
                virtual_subnet=value.virtual_subnet,
                mac=value.mac,
                addresses=value.addresses,
                host=value.host,
                allowed_address_pairs=tuple(
                    AddressPairSpec(pair.prefix, pair.mac) for pair in value.allowed_address_pairs
                ),
                admin_state=value.admin_state,
                qos=None if value.qos == objects.Qos() else _qos_spec(value.qos),
                flood_limit_pps=value.flood_limit_pps,
                dhcp=None if value.dhcp == objects.PortDhcp() else PortDhcpSpec(value.dhcp.enabled, value.dhcp.router),
                dhcp_server=value.dhcp_server or None,
                sampling_rate=value.sampling_rate,
                mirror=_mirror_spec(value.mirror),
                destination=value.destination,
                # None is left out: who puts back what was read then undoes nothing that was announced since.
                announced_addresses=tuple(
                    AnnouncedAddressSpec(said.address, said.mac) for said in value.announced_addresses
                )
                or None,
                rewrites=tuple(RewriteSpec(each.address, each.pa, each.destination) for each in value.rewrites) or None,
                trunk=None if value.trunk is None else TrunkSpec(value.trunk.parent, value.trunk.vlan),
                security_groups=value.security_groups or None,
                operator_groups=value.operator_groups or None,
                port_security=value.port_security or None,
            )
        case objects.SecurityGroupRule():
            return _security_group_rule_spec(value)
        case objects.SecurityGroup():
            return SecurityGroupSpec(
                value.stateful, value.operator or None, value.number, value.keep_connections or None
            )
        case objects.AddressGroup():
            return AddressGroupSpec(value.prefixes, value.number)
        case objects.Tenant():
            limits = LimitsSpec(**dataclasses.asdict(value.limits))
            return TenantSpec(value.description, None if limits == LimitsSpec() else limits)
        case objects.ProviderNetwork():
            pools = tuple(PoolSpec(pool.prefix, pool.first, pool.last) for pool in value.pools)
            return ProviderNetworkSpec(pools, value.mtu_bytes)
        case objects.Host():
            uplinks = tuple(
                UplinkSpec(uplink.interface, uplink.provider_network, uplink.pas, uplink.pool, uplink.vlan or None)
                for uplink in value.uplinks
            )
            return HostSpec(uplinks, value.data_plane, _sampling_spec(value.sampling))
        case objects.RoutingDomain():
            return RoutingDomainSpec(value.rdid)
        case objects.VirtualSubnet():
            return VirtualSubnetSpec(
                prefixes=value.prefixes,
                vsid=value.vsid,
                gateways=value.gateways,
                router_mac=value.router_mac,
                rule=value.rule,
                mtu_bytes=value.mtu_bytes,
                rule_change=None
                if (change := value.rule_change) is None
                else RuleChangeSpec(change.sending, change.accepted),
                broadcast=value.broadcast,
                snooping=value.snooping,
                provider_group=value.provider_group,
                flood_limit_pps=value.flood_limit_pps,
                dhcp=_dhcp_spec(value.dhcp),
                vlan=value.vlan or None,
                provider_network=value.provider_network,
                external_gateway=value.external_gateway or None,
            )
        case objects.CustomerRoute():
            return CustomerRouteSpec(value.prefix, value.next_hop, value.virtual_subnet, value.metric)
        case _:
            assert_never(value)


def _security_group_rule(name: Name, spec: SecurityGroupRuleSpec) -> objects.SecurityGroupRule:
    protocol = spec.protocol
    return objects.SecurityGroupRule(
        name,
        _said(spec.number),
        Direction(spec.direction),
        Family(_said(spec.family)),
        security.PROTOCOLS[protocol] if isinstance(protocol, str) else protocol,
        spec.port_min,
        spec.port_max,
        spec.icmp_type,
        spec.icmp_code,
        None if spec.remote_prefix is None else Prefix(spec.remote_prefix),
        None if spec.remote_group is None else Name(spec.remote_group),
        None if spec.remote_address_group is None else Name(spec.remote_address_group),
        Action(spec.action or Action.ALLOW),
        spec.priority or 0,
        bool(spec.log),
    )


def _security_group_rule_spec(value: objects.SecurityGroupRule) -> SecurityGroupRuleSpec:
    protocol = value.protocol
    return SecurityGroupRuleSpec(
        direction=value.direction,
        family=value.family,
        protocol=None if protocol is None else security.PROTOCOL_NAMES.get(protocol, protocol),
        port_min=value.port_min,
        port_max=value.port_max,
        icmp_type=value.icmp_type,
        icmp_code=value.icmp_code,
        remote_prefix=value.remote_prefix,
        remote_group=value.remote_group,
        remote_address_group=value.remote_address_group,
        action=value.action,
        # What is a tenant's rule has none; an operator's may have 0, which is not what one has that says nothing.
        priority=value.priority,
        log=value.log or None,
        number=value.number,
    )


def _sampling(spec: SamplingSpec | None) -> objects.Sampling | None:
    return None if spec is None else taps.sampling(drafts.Sampling(**msgspec.structs.asdict(spec)))


def _sampling_spec(of: objects.Sampling | None) -> SamplingSpec | None:
    return None if of is None else SamplingSpec(of.rate, of.collector, of.port, of.protocol, of.header_bytes)


def _mirror_spec(of: objects.Mirror | None) -> MirrorSpec | None:
    return None if of is None else MirrorSpec(of.port, of.address, of.protocol, of.session, taps.directions(of))


def _qos_draft(spec: QosSpec) -> drafts.Qos:
    def limit(of: LimitSpec | None) -> drafts.Limit | None:
        return None if of is None else drafts.Limit(**msgspec.structs.asdict(of))

    return drafts.Qos(limit(spec.from_guest), limit(spec.to_guest), spec.dscp, spec.outer_dscp)


def _qos(spec: QosSpec) -> objects.Qos:
    def limit(of: LimitSpec | None) -> objects.Limit | None:
        if of is None:
            return None
        return objects.Limit(of.rate_bits_per_s, of.burst_bytes or 0, of.rate_packets_per_s, of.burst_packets or 0)

    outer = 0 if spec.outer_dscp is None else spec.outer_dscp
    return objects.Qos(
        limit(spec.from_guest), limit(spec.to_guest), spec.dscp, None if isinstance(outer, str) else outer
    )


def _qos_spec(value: objects.Qos) -> QosSpec:
    def limit(of: objects.Limit | None) -> LimitSpec | None:
        if of is None:
            return None
        return LimitSpec(of.rate_bits_per_s, of.burst_bytes or None, of.rate_packets_per_s, of.burst_packets or None)

    outer = qos.COPY if value.outer_dscp is None else value.outer_dscp
    return QosSpec(limit(value.from_guest), limit(value.to_guest), value.dscp, outer)


def _dhcp_draft(spec: DhcpSpec) -> drafts.Dhcp:
    return drafts.Dhcp(
        enabled=spec.enabled,
        router=spec.router,
        dns_servers=spec.dns_servers,
        search_domains=spec.search_domains,
        ntp_servers=spec.ntp_servers,
        routes=None
        if spec.routes is None
        else tuple(drafts.DhcpRoute(route.prefix, route.next_hop) for route in spec.routes),
        lease_s=spec.lease_s,
        ipv6_mode=spec.ipv6_mode,
    )


def _dhcp_spec(value: objects.Dhcp) -> DhcpSpec:
    return DhcpSpec(
        enabled=value.enabled,
        router=value.router,
        dns_servers=value.dns_servers,
        search_domains=value.search_domains,
        ntp_servers=value.ntp_servers,
        routes=tuple(DhcpRouteSpec(route.prefix, route.next_hop) for route in value.routes),
        lease_s=value.lease_s,
        ipv6_mode=value.ipv6_mode,
    )


def _dhcp(spec: DhcpSpec) -> objects.Dhcp:
    return objects.Dhcp(
        enabled=_said(spec.enabled),
        router=_said(spec.router),
        dns_servers=tuple(map(Ip, _said(spec.dns_servers))),
        search_domains=_said(spec.search_domains),
        ntp_servers=tuple(map(Ip, _said(spec.ntp_servers))),
        routes=tuple(
            objects.DhcpRoute(Prefix(route.prefix), None if route.next_hop is None else Ip(route.next_hop))
            for route in _said(spec.routes)
        ),
        lease_s=_said(spec.lease_s),
        ipv6_mode=Ipv6Mode(_said(spec.ipv6_mode)),
    )


def _dhcp_of_port(spec: PortDhcpSpec) -> objects.PortDhcp:
    return objects.PortDhcp(_said(spec.enabled), spec.router)


def _said(value: _T | None) -> _T:
    if value is None:
        raise ValueError("a stored object lacks a field that every object of its kind has")
    return value


# msgspec says where at the end of its message: "Expected `int`, got `str` - at `$.pools[0].prefix`".
_WHERE = re.compile(r"(?P<what>.*?)(?: - at `(?P<where>\$.*)`)?", re.DOTALL)
_MISMATCH = re.compile(r"Expected `(?P<wanted>[^`]*)`, got `(?P<found>[^`]*)`")
_TYPES = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "null": "nothing",
    "object": "a mapping",
    "str": "a string",
}
_MISSING = re.compile(r"Object missing required field `(?P<field>.*)`", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>.*)`", re.DOTALL)


_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]")
#: Of what was given no more is said.
_MOST_SHOWN = 60


def _rejected(
    error: Exception,
    root: str,
    raw: bytes | msgspec.Raw,
    of: type[msgspec.Struct] | None,
    kind: Kind | None,
    whole: str = "the request",
) -> Rejected:
    """What msgspec found, in our words and at our path. raw: what was given; of: what it should have been."""
    if isinstance(error, RecursionError):
        return Malformed("this JSON is nested too deeply to be anything of ours", root)
    if not isinstance(error, msgspec.ValidationError):
        return Malformed(f"this is not JSON: {error}", root)
    found = _WHERE.fullmatch(str(error))
    what, where = (found["what"], found["where"] or "$") if found else (str(error), "$")
    path = f"{root}{where[1:]}".lstrip(".")
    if missing := _MISSING.fullmatch(what):
        return Rejected("this field is needed, and is not there", _below(path, missing["field"]))
    if unknown := _UNKNOWN.fullmatch(what):
        owner = f"a {kind.value}" if kind and where == "$" else path or whole
        known = () if of is None else _fields_at(of, where)
        these = f"; it has {', '.join(known)}" if known else ""
        for meant in difflib.get_close_matches(unknown["field"], known, 1):
            these = f", but {meant}{these}"
        return Rejected(f"{owner} has no such field{these}", _below(path, unknown["field"]))
    return Rejected(f"{_given_at(raw, where)}{_in_words(what)}", path)


def _in_words(what: str) -> str:
    """Types as whoever writes YAML knows them. That a field may be null as well is left out."""
    if mismatch := _MISMATCH.fullmatch(what):
        wanted = [_TYPES.get(each, each) for each in mismatch["wanted"].split(" | ") if each != "null"]
        what = f"expected {' or '.join(wanted)}, got {_TYPES.get(mismatch['found'], mismatch['found'])}"
    return f"{what[:1].lower()}{what[1:].replace('`', '')}"


def _given_at(raw: bytes | msgspec.Raw, where: str) -> str:
    """What was given there, to begin a message with; nothing where it is too much to say."""
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # behind the fault that was found it is no JSON
        return ""
    for name, number in _STEP.findall(where):
        try:
            value = value[name] if name else value[int(number)]
        except (KeyError, IndexError, TypeError):
            return ""
    text = msgspec.json.encode(value).decode()
    return f"{text}: " if len(text) <= _MOST_SHOWN else ""


def _fields_at(of: type[msgspec.Struct], where: str) -> tuple[str, ...]:
    """The fields that there are in a spec at a path."""
    here: msgspec.inspect.Type = msgspec.inspect.type_info(of)
    for name, _ in _STEP.findall(where):
        if isinstance(here, msgspec.inspect.StructType):
            here = next(field.type for field in here.fields if field.encode_name == name)
        elif isinstance(here, msgspec.inspect.ListType | msgspec.inspect.VarTupleType):
            here = here.item_type
        if isinstance(here, msgspec.inspect.UnionType):
            here = next(each for each in here.types if not isinstance(each, msgspec.inspect.NoneType))
    return tuple(field.encode_name for field in here.fields) if isinstance(here, msgspec.inspect.StructType) else ()


def _below(path: str, field: str) -> str:
    return f"{path}.{field}" if path else field
