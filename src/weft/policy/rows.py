"""What one host needs to know, as typed flat rows. Holds no reference to what tenants wrote, and decides nothing.

Text fields are canonical: addresses as ``str(ipaddress.ip_address(...))`` (IPv4 never mapped), MACs lower case
with colons, prefixes with host bits zero. A row is what goes over the feed, field by field, so a field's name is
part of the feed's contract.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from weft.model.features import Direction as Direction  # noqa: PLC0414 - a row's reader finds it here
from weft.model.features import Ipv6Mode as Ipv6Mode  # noqa: PLC0414 - a row's reader finds it here
from weft.model.features import MirrorProtocol as MirrorProtocol  # noqa: PLC0414 - likewise
from weft.model.features import Rule as Rule  # noqa: PLC0414 - a row's reader finds it here
from weft.model.features import SamplingProtocol as SamplingProtocol  # noqa: PLC0414 - likewise
from weft.model.objects import Limit as Limit  # noqa: PLC0414 - likewise
from weft.model.objects import Mirror as Mirror  # noqa: PLC0414 - likewise
from weft.model.objects import Qos as Qos  # noqa: PLC0414 - likewise
from weft.model.objects import Sampling as Sampling  # noqa: PLC0414 - likewise
from weft.model.values import FLOOD_LIMIT_PPS

PORT_LAST = 65_535


@dataclass(frozen=True, slots=True)
class Uplink:
    """One NIC of a host on the physical network."""

    interface: str
    mtu_bytes: int  # IP MTU of the provider network
    network: str = ""  # provider-networks/fabric
    pas: tuple[str, ...] = ()
    vlan: int = 0  # IEEE 802.1Q VLAN that PAs are in there; 0: untagged


@dataclass(frozen=True, slots=True)
class Host:
    """The host itself. Scope: the host."""

    host: str  # hosts/h1
    pas: tuple[str, ...]  # the first of each family is the source of what it sends
    uplinks: tuple[Uplink, ...]
    sampling: Sampling | None = None

    @property
    def key(self) -> HostKey:
        return ("hosts", self.host)


@dataclass(frozen=True, slots=True)
class DhcpRoute:
    """A destination that guests are told of."""

    prefix: str
    next_hop: str


@dataclass(frozen=True, slots=True)
class Dhcp:
    """What the guests of a subnet are told of addresses. router: that the gateway is their default route."""

    router: bool = True
    dns_servers: tuple[str, ...] = ()
    search_domains: tuple[str, ...] = ()
    ntp_servers: tuple[str, ...] = ()
    routes: tuple[DhcpRoute, ...] = ()
    lease_s: int = 86_400  # 4294967295: without end
    ipv6_mode: Ipv6Mode = Ipv6Mode.STATEFUL


@dataclass(frozen=True, slots=True)
class Subnet:
    """One virtual subnet. Scope: its routing domain."""

    vsid: int
    rdid: str
    prefixes: tuple[str, ...]  # at most one per family
    gateways: tuple[str, ...]  # one per prefix, in the same order
    router_mac: str
    mtu_bytes: int  # 0: what the underlay leaves
    accepts: tuple[Rule, ...] = (Rule.NVGRE,)  # what receivers take; a record's rule is what senders use
    broadcast: bool = True  # broadcast and multicast are carried
    snooping: bool = True  # a multicast group reaches only who has asked for it
    provider_group: str | None = None  # multicast goes to this address of the underlay; None: to each member's PA
    dhcp: Dhcp | None = None  # None: guests who ask are not answered here
    vlan: int = 0  # IEEE 802.1Q VLAN of provider network ``network``, where VLAN is accepted
    network: str = ""  # provider-networks/fabric
    bridged: bool = False  # guests send into the VLAN what is for all, and for whom policy does not know
    external_gateway: bool = False  # the gateways are machines in the VLAN; nothing is routed here

    @property
    def key(self) -> SubnetKey:
        return ("subnets", self.vsid)

    @property
    def answers_dhcp4(self) -> bool:
        """Whether hosts answer DHCPv4."""
        return self.dhcp is not None and any(":" not in gateway for gateway in self.gateways)

    @property
    def answers_dhcp6(self) -> bool:
        """Whether hosts answer DHCPv6 and router solicitations."""
        # What says who the router is, and how to get an IPv6 address, is the router's.
        told = self.dhcp is not None and self.dhcp.ipv6_mode is not Ipv6Mode.NONE and not self.external_gateway
        return told and any(":" in gateway for gateway in self.gateways)


@dataclass(frozen=True, slots=True)
class Rewrite:
    """The PA that stands for a CA on the wire, where IP rewrite is accepted. Scope: its routing domain.

    sent: else it is taken on receipt only: its port is moving, and has another one there.
    """

    pa: str
    vsid: int
    ca: str
    sent: bool = True

    @property
    def key(self) -> RewriteKey:
        return ("rewrites", self.pa)


@dataclass(frozen=True, slots=True)
class Record:
    """A lookup record: where a customer address lives and how to reach it. Scope: its routing domain.

    also: of a port that is moving, the PA of the host that it is moving to. groups: the numbers of the security groups
    of its port, rising.
    """

    vsid: int
    ca: str
    pa: str
    mac: str
    rule: Rule = Rule.NVGRE
    also: str | None = None
    groups: tuple[int, ...] = ()

    @property
    def key(self) -> RecordKey:
        return ("records", self.vsid, self.ca)


@dataclass(frozen=True, slots=True)
class MacRecord:
    """Where a port's MAC lives, for addresses that have no record. Scope: its routing domain."""

    vsid: int
    mac: str
    pa: str
    rule: Rule = Rule.NVGRE
    also: str | None = None  # as in Record

    @property
    def key(self) -> MacRecordKey:
        return ("macs", self.vsid, self.mac)


@dataclass(frozen=True, slots=True)
class Peer:
    """A host that runs ports of a routing domain, as the others see it in the underlay. Scope: the routing domain.

    pa: its first, where records place its ports, and so its identity. pas: all of them, the first first; networks: the
    provider network that each is in, in the same order.
    """

    rdid: str
    pa: str
    pas: tuple[str, ...]
    networks: tuple[str, ...]

    @property
    def key(self) -> PeerKey:
        return ("peers", self.rdid, self.pa)


@dataclass(frozen=True, slots=True)
class Member:
    """A PA whose host has a port in the subnet: where broadcast and multicast go. Scope: its routing domain."""

    vsid: int
    pa: str
    rule: Rule = Rule.NVGRE

    @property
    def key(self) -> MemberKey:
        return ("members", self.vsid, self.pa)


@dataclass(frozen=True, slots=True)
class Route:
    """A destination prefix of a routing domain; the winner among equals is chosen already. Scope: its routing domain.

    next_hop None: on-link in subnet ``vsid``; else the CA in subnet ``vsid`` to hand the packet to.
    """

    rdid: str
    prefix: str
    vsid: int
    next_hop: str | None = None

    @property
    def key(self) -> RouteKey:
        return ("routes", self.rdid, self.prefix)


@dataclass(frozen=True, slots=True)
class AddressGroup:
    """Prefixes that security groups' rules name together. Scope: itself, for hosts with a group that names it."""

    number: int  # 1..2^31-1, for as long as it lives; no other address group has it
    name: str  # tenants/blue/address-groups/offices
    prefixes: tuple[str, ...]

    @property
    def key(self) -> AddressGroupKey:
        return ("address_groups", self.number)


@dataclass(frozen=True, slots=True)
class SecurityRule:
    """What one rule of a security group matches, and whether that may pass.

    first, last: of the destination port (TCP, UDP, SCTP, DCCP, UDP-Lite); of ICMP and ICMPv6, type << 8 | code; the
    whole range where the rule asks for neither, and then packets match that have no such number. Of remote_prefix,
    remote_group and remote_addresses at most one is given; none: whoever it is.
    """

    number: int  # 1..2^31-1, for as long as it lives; no other rule has it
    name: str  # tenants/blue/security-groups/web/rules/http
    direction: Direction
    version: int  # of IP: 4 or 6
    protocol: int | None = None  # None: any
    first: int = 0
    last: int = PORT_LAST
    remote_prefix: str | None = None
    remote_group: int | None = None  # the number of a security group: addresses whose record has it
    remote_addresses: int | None = None  # the number of an address group
    allow: bool = True
    priority: int = 0  # the highest of all that match decides; of equals one that denies
    log: bool = False


@dataclass(frozen=True, slots=True)
class SecurityGroup:
    """What ports that have it may send and receive; all of its rules together, so that they change together.

    Scope: itself, for hosts with ports that have it.
    """

    number: int  # 1..2^31-1, for as long as it lives; no other security group has it
    name: str  # tenants/blue/security-groups/web
    stateful: bool = True  # answers pass; all groups of a port are, or none
    rules: tuple[SecurityRule, ...] = ()
    keep: bool = False  # connections outlive the rule that let them begin, of ports all of whose groups say so

    @property
    def key(self) -> SecurityGroupKey:
        return ("security_groups", self.number)


@dataclass(frozen=True, slots=True)
class Pair:
    """A further source that a port may use. A port's own (MAC, CA) pairs are not listed here."""

    mac: str
    prefix: str


@dataclass(frozen=True, slots=True)
class Port:
    """A guest's virtual NIC on this host. Scope: the host.

    parent: of a sub-port, the port whose interface it is at, in frames of the IEEE 802.1Q VLAN ``vlan``.
    groups: the numbers of its security groups, rising. port_security: what its guest sends and gets is held to them; if
    it has none, to what answers its guest. A port with groups has it, too.
    """

    port: str  # tenants/blue/ports/web-1
    vsid: int
    mac: str
    cas: tuple[str, ...]
    pairs: tuple[Pair, ...] = ()
    enabled: bool = True
    qos: Qos | None = None  # None: no limit, no mark, outer DSCP 0
    macs: tuple[str, ...] = ()  # further ones by which it is reached, such as a VRRP master's virtual MAC
    flood_limit_pps: int = FLOOD_LIMIT_PPS  # broadcast and multicast from the guest, packets/s; 0: no limit
    dhcp: bool = True  # answered, where its subnet is
    dhcp_router: bool | None = None  # None: as its subnet says
    dhcp_server: bool = False  # may answer DHCP, and say that it is a router
    sampling_rate: int | None = None  # None: the host's; 0: none
    mirror: Mirror | None = None
    pas: tuple[str, ...] = ()  # those that stand for its addresses, where IP rewrite is accepted
    parent: str | None = None  # tenants/blue/ports/web-1; None: it has an interface of its own
    vlan: int = 0
    groups: tuple[int, ...] = ()
    port_security: bool = False
    arriving: bool = False  # it is on its way here, from a host that has it, too
    leaving: bool = False  # it is on its way from here
    comes_from: str = ""  # while it is arriving, that host: hosts/h1

    @property
    def key(self) -> PortKey:
        return ("ports", self.port)


Row: TypeAlias = (
    Host | Subnet | Peer | Rewrite | Record | MacRecord | Member | Route | AddressGroup | SecurityGroup | Port
)

HostKey: TypeAlias = tuple[str, str]
SubnetKey: TypeAlias = tuple[str, int]
PeerKey: TypeAlias = tuple[str, str, str]
RewriteKey: TypeAlias = tuple[str, str]
RecordKey: TypeAlias = tuple[str, int, str]
MacRecordKey: TypeAlias = tuple[str, int, str]
MemberKey: TypeAlias = tuple[str, int, str]
RouteKey: TypeAlias = tuple[str, str, str]
AddressGroupKey: TypeAlias = tuple[str, int]
SecurityGroupKey: TypeAlias = tuple[str, int]
PortKey: TypeAlias = tuple[str, str]
Key: TypeAlias = tuple[str, str] | tuple[str, int] | tuple[str, int, str] | tuple[str, str, str]

#: Table name (a key's first item) -> row type, in the order in which puts are applied; deletes go in reverse.
TABLES: dict[str, type[Row]] = {
    "hosts": Host,
    "subnets": Subnet,
    "peers": Peer,
    "rewrites": Rewrite,
    "records": Record,
    "macs": MacRecord,
    "members": Member,
    "routes": Route,
    "address_groups": AddressGroup,
    "security_groups": SecurityGroup,
    "ports": Port,
}

ORDER: dict[str, int] = {table: rank for rank, table in enumerate(TABLES)}

#: A scope is ``host:hosts/h1``, ``rd:<RDID>``, ``security-group:<number>`` or ``prefixes:<number>`` (an address
#: group's).
#: A host is sent its own scope, those of the domains and the security groups of its ports, the ports that are moving
#: there among them, and those of the address groups that these security groups name.
Scope: TypeAlias = str


def tenant_of_port(port: str) -> str:
    """Of a port's name, whose it is: ``tenants/blue``."""
    return port.partition("/ports/")[0]


def host_scope(host: str) -> Scope:
    return f"host:{host}"


def is_host_scope(scope: Scope) -> bool:
    """Whether one host alone has the scope."""
    return scope.startswith("host:")


def domain_scope(rdid: str) -> Scope:
    return f"rd:{rdid}"


def security_group_scope(number: int) -> Scope:
    return f"security-group:{number}"


def address_group_scope(number: int) -> Scope:
    return f"prefixes:{number}"
