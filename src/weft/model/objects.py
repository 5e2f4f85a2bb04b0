"""What tenants and operators have, each thing said: every field resolved and canonical. Made by the catalog only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from weft.model.features import (
    FALLBACK,
    LACKING,
    Action,
    DataPlaneKind,
    Direction,
    Family,
    Ipv6Mode,
    MirrorProtocol,
    Rule,
    SamplingProtocol,
)
from weft.model.names import Kind, Name
from weft.model.shares import USUAL_LIMITS, Limits
from weft.model.values import FLOOD_LIMIT_PPS, AdminState, Ip, Mac, Prefix, Rdid, Vsid

#: A day: an agent that is away for half of it harms nobody, since clients renew at half time.
LEASE_S = 86_400


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who owns networks and machines: the unit of isolation. limits: what it may take of what hosts share."""

    name: Name
    description: str = ""
    limits: Limits = USUAL_LIMITS


@dataclass(frozen=True, slots=True)
class Pool:
    """Addresses of a provider network from which PAs are drawn, first and last included."""

    prefix: Prefix
    first: Ip
    last: Ip


@dataclass(frozen=True, slots=True)
class ProviderNetwork:
    """A physical IP network."""

    name: Name
    pools: tuple[Pool, ...]
    mtu_bytes: int


@dataclass(frozen=True, slots=True)
class Uplink:
    """A host's NIC on a provider network. pool: from where its PA was to be drawn, if that was said.

    vlan: the IEEE 802.1Q VLAN that its PAs are in; 0: untagged.
    """

    interface: str
    provider_network: Name
    pas: tuple[Ip, ...]
    pool: Prefix | None = None
    vlan: int = 0


@dataclass(frozen=True, slots=True)
class Sampling:
    """One in ``rate`` frames, the first ``header_bytes`` of each, to a collector's UDP port."""

    rate: int
    collector: Ip
    port: int
    protocol: SamplingProtocol
    header_bytes: int


@dataclass(frozen=True, slots=True)
class Host:
    """A machine that runs guests."""

    name: Name
    uplinks: tuple[Uplink, ...]
    data_plane: DataPlaneKind
    sampling: Sampling | None = None

    @property
    def pas(self) -> tuple[Ip, ...]:
        """Every PA."""
        return tuple(pa for uplink in self.uplinks for pa in uplink.pas)

    @property
    def networks(self) -> tuple[Name, ...]:
        """The provider network of every PA, in the order of ``pas``."""
        return tuple(uplink.provider_network for uplink in self.uplinks for _ in uplink.pas)

    @property
    def first_pa(self) -> Ip | None:
        """Where records of its ports point."""
        for uplink in self.uplinks:
            if uplink.pas:
                return uplink.pas[0]
        return None


@dataclass(frozen=True, slots=True)
class RoutingDomain:
    """One customer network. Nothing crosses from one to another."""

    name: Name
    rdid: Rdid


@dataclass(frozen=True, slots=True)
class RuleChange:
    """What hosts do on the way to another rule. accepted: what receivers take, in the order of Rule; never empty."""

    sending: Rule
    accepted: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class DhcpRoute:
    """A destination to tell guests of. next_hop None: the subnet's gateway."""

    prefix: Prefix
    next_hop: Ip | None = None


@dataclass(frozen=True, slots=True)
class Dhcp:
    """What the guests of a subnet are told. router: that the gateway is their way to everywhere."""

    enabled: bool = True
    router: bool = True
    dns_servers: tuple[Ip, ...] = ()
    search_domains: tuple[str, ...] = ()
    ntp_servers: tuple[Ip, ...] = ()
    routes: tuple[DhcpRoute, ...] = ()
    lease_s: int = LEASE_S
    ipv6_mode: Ipv6Mode = Ipv6Mode.STATEFUL


@dataclass(frozen=True, slots=True)
class PortDhcp:
    """What is otherwise for one port. router None: as its subnet says."""

    enabled: bool = True
    router: bool | None = None


@dataclass(frozen=True, slots=True)
class VirtualSubnet:
    """One IP subnet and broadcast domain. prefixes and gateways go in pairs, IPv4 first.

    rule: how its packets are to travel. rule_change: how they do until all hosts do it so; None: they do
    (``weft.model.rules``). vlan, provider_network: where it is bridged to, where the rule is VLAN (kept, and unused,
    with another). external_gateway: its router is a machine behind the switch; nothing of it is routed here.
    """

    name: Name
    vsid: Vsid
    prefixes: tuple[Prefix, ...]
    gateways: tuple[Ip, ...]
    router_mac: Mac
    rule: Rule
    mtu_bytes: int
    rule_change: RuleChange | None
    broadcast: bool = True
    snooping: bool = True
    provider_group: Ip | None = None
    flood_limit_pps: int = FLOOD_LIMIT_PPS
    dhcp: Dhcp = Dhcp()
    vlan: int = 0  # 0: none
    provider_network: Name | None = None
    external_gateway: bool = False

    @property
    def sending_rule(self) -> Rule:
        """How hosts send now."""
        return self.rule if self.rule_change is None else self.rule_change.sending

    @property
    def accepted_rules(self) -> tuple[Rule, ...]:
        """What hosts take now."""
        return (self.rule,) if self.rule_change is None else self.rule_change.accepted

    @property
    def carried_rules(self) -> tuple[Rule, ...]:
        """What hosts take now, with what goes without saying: what a rule does not carry travels all the same."""
        taken = self.accepted_rules
        if LACKING.isdisjoint(taken) or FALLBACK in taken:
            return taken
        return tuple(rule for rule in Rule if rule in taken or rule is FALLBACK)

    @property
    def is_rewritten(self) -> bool:
        """Whether its ports' CAs need PAs of their own."""
        return Rule.REWRITE in self.accepted_rules

    @property
    def segment(self) -> tuple[Name, int] | None:
        """The provider network and the VLAN that it is bridged to; None: it is not."""
        if Rule.VLAN not in self.accepted_rules or self.provider_network is None:
            return None
        return self.provider_network, self.vlan


@dataclass(frozen=True, slots=True)
class AddressGroup:
    """Prefixes that rules name together. number: what hosts know it by; never changed."""

    name: Name
    number: int
    prefixes: tuple[Prefix, ...]


@dataclass(frozen=True, slots=True)
class SecurityGroup:
    """What ports that have it may send and receive: its rules. number: what hosts know it by; never changed.

    operator: it is the operator's, and is given to ports by the operator; its rules may deny, and have a priority.
    keep_connections: of ports all of whose groups say so, connections outlive the rule that let them begin.
    """

    name: Name
    number: int
    stateful: bool = True
    operator: bool = False
    keep_connections: bool = False


@dataclass(frozen=True, slots=True)
class SecurityGroupRule:
    """What may pass. Of the remotes at most one is given; none: whoever it is. number: as a group's.

    port_min, port_max: both or neither; None: any, as of icmp_type and icmp_code.
    """

    name: Name
    number: int
    direction: Direction
    family: Family
    protocol: int | None = None  # None: any
    port_min: int | None = None
    port_max: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    remote_prefix: Prefix | None = None
    remote_group: Name | None = None
    remote_address_group: Name | None = None
    action: Action = Action.ALLOW
    priority: int = 0
    log: bool = False


@dataclass(frozen=True, slots=True)
class AddressPair:
    """A further source that a port may use. mac None: the port's own, whatever that is."""

    prefix: Prefix
    mac: Mac | None = None


@dataclass(frozen=True, slots=True)
class Limit:
    """How much may pass one way: a token bucket of bits, and one of packets. None: any rate; its burst is 0 then."""

    rate_bits_per_s: int | None = None
    burst_bytes: int = 0
    rate_packets_per_s: int | None = None
    burst_packets: int = 0


@dataclass(frozen=True, slots=True)
class Qos:
    """dscp: what the guest's packets are marked with; None: as they are. outer_dscp None: copied from inside."""

    from_guest: Limit | None = None
    to_guest: Limit | None = None
    dscp: int | None = None
    outer_dscp: int | None = 0


@dataclass(frozen=True, slots=True)
class AnnouncedAddress:
    """An address that a guest has said it has, and may have; mac: by which it is reached there."""

    address: Ip
    mac: Mac


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where copies of a port's frames go: exactly one of port (of the same tenant, on the same host) and address."""

    port: Name | None
    address: Ip | None
    protocol: MirrorProtocol = MirrorProtocol.ERSPAN
    session: int = 1
    from_guest: bool = True
    to_guest: bool = True


@dataclass(frozen=True, slots=True)
class Rewrite:
    """The PA that stands for an address of a port on the wire, where the rule is IP rewrite.

    destination: on the host that the port is moving to; while it moves both are taken, and nothing is sent by either.
    """

    address: Ip
    pa: Ip
    destination: bool = False


@dataclass(frozen=True, slots=True)
class Trunk:
    """Where a sub-port is: at the interface of another port, in frames with an IEEE 802.1Q tag."""

    parent: Name
    vlan: int  # 1..4094


@dataclass(frozen=True, slots=True)
class Port:
    """A guest's virtual NIC. host None: it runs nowhere. destination: the host that it is moving to.

    dhcp_server: it may answer DHCP, and say it is a router. trunk: of a sub-port, which is where its parent is.
    security_groups, operator_groups: in the order of their names. port_security: packets are held to these, or, if
    there are none, to what answers the guest; with groups it is always on.
    """

    name: Name
    virtual_subnet: Name
    mac: Mac
    addresses: tuple[Ip, ...]
    host: Name | None
    allowed_address_pairs: tuple[AddressPair, ...]
    admin_state: AdminState
    qos: Qos = Qos()
    flood_limit_pps: int | None = None  # None: the subnet's
    dhcp: PortDhcp = PortDhcp()
    dhcp_server: bool = False
    destination: Name | None = None
    announced_addresses: tuple[AnnouncedAddress, ...] = ()
    sampling_rate: int | None = None  # None: its host's; 0: none
    mirror: Mirror | None = None
    rewrites: tuple[Rewrite, ...] = ()
    trunk: Trunk | None = None
    security_groups: tuple[Name, ...] = ()
    operator_groups: tuple[Name, ...] = ()
    port_security: bool = False

    @property
    def hosts(self) -> tuple[Name, ...]:
        """Where it is held: while it moves, two hosts are ready to run it."""
        if self.host is None:
            return ()
        return (self.host,) if self.destination is None else (self.host, self.destination)

    @property
    def groups(self) -> tuple[Name, ...]:
        """Every security group that it has."""
        return self.security_groups + self.operator_groups

    @property
    def further_macs(self) -> tuple[Mac, ...]:
        """MACs other than its own by which it is reached, each once."""
        return tuple(dict.fromkeys(said.mac for said in self.announced_addresses if said.mac != self.mac))


@dataclass(frozen=True, slots=True)
class CustomerRoute:
    """A destination of a routing domain. Exactly one of next_hop and virtual_subnet (on-link there) is given."""

    name: Name
    prefix: Prefix
    next_hop: Ip | None
    virtual_subnet: Name | None
    metric: int


Object: TypeAlias = (
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

KINDS: dict[type[Object], Kind] = {
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
