"""Rows as a packet needs them: keyed by bytes of the wire. Looks up, and never decides what becomes of a packet."""

from __future__ import annotations

import ipaddress
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from weft.kit.errors import Rejected
from weft.policy import rows
from weft.policy.rows import Key, Qos, Row, Rule
from weft.reference import packet
from weft.reference.conntrack import Tracker
from weft.reference.learning import Learned
from weft.reference.qos import Bucket, Direction, limit_of

VSID_FIRST, VSID_LAST = 4096, 16_777_214
#: The smallest IPv4 MTU there may be (RFC 791), the largest that an IP packet can use.
MTU_FIRST, MTU_LAST = 68, 65_535


@dataclass(frozen=True, slots=True)
class Prefix:
    """A prefix of one family; matches no address of the other."""

    address_bytes: int
    shift: int
    bits: int

    def covers(self, address: bytes) -> bool:
        return len(address) == self.address_bytes and int.from_bytes(address, "big") >> self.shift == self.bits


@dataclass(frozen=True, slots=True)
class Host:
    """This host's place in the underlay."""

    pas: frozenset[bytes]
    source4: bytes | None
    source6: bytes | None
    uplinks: tuple[str, ...]
    mtu_bytes: int | None  # the smallest of the uplinks
    vlans: Mapping[str, int] = field(default_factory=dict)  # of those of whose PAs are in one
    networks: Mapping[str, str] = field(default_factory=dict)  # provider network -> the first uplink that is on it

    def source(self, pa: bytes) -> bytes | None:
        """Where packets to ``pa`` come from."""
        return self.source4 if len(pa) == 4 else self.source6


@dataclass(frozen=True, slots=True)
class Way:
    """How packets travel to a peer. mtu_bytes 0: as the uplink's."""

    source: bytes
    destination: bytes
    mtu_bytes: int = 0


NOWHERE = Host(frozenset(), None, None, (), None)


@dataclass(frozen=True, slots=True)
class Subnet:
    vsid: int
    rdid: str
    prefixes: tuple[Prefix, ...]
    gateway4: bytes | None
    gateway6: bytes | None
    router_mac: bytes
    router_link_local: bytes
    mtu_bytes: int
    broadcast: bool
    snooping: bool
    provider_group: bytes | None
    dhcp4: bool  # DHCPv4 is answered here
    dhcp6: bool  # DHCPv6 and router solicitations are
    accepts: frozenset[Rule]
    vlan: int  # in which it is bridged; 0: in none
    network: str
    bridged: bool  # what is for all, and for whom policy does not know, goes there

    def is_gateway(self, address: bytes) -> bool:
        return address in (self.gateway4, self.gateway6, self.router_link_local)

    def gateway(self, version: int) -> bytes | None:
        return self.gateway4 if version == 4 else self.gateway6


@dataclass(frozen=True, slots=True)
class Location:
    """Where an address or a MAC lives: a lookup record's value. also: the PA that it is moving to."""

    pa: bytes
    mac: bytes
    rule: Rule
    also: bytes | None = None
    groups: tuple[int, ...] = ()

    def is_at(self, pa: bytes) -> bool:
        """Whether what lives here may send from the PA: of two while it moves."""
        return pa in (self.pa, self.also)


@dataclass(frozen=True, slots=True)
class Route:
    prefix: str
    vsid: int
    next_hop: bytes | None


@dataclass(frozen=True, slots=True)
class SecurityRule:
    """row: all that it says. remote: the prefix, of which it says it in text."""

    row: rows.SecurityRule
    remote: Prefix | None


@dataclass(frozen=True, slots=True)
class SecurityGroup:
    stateful: bool
    rules: tuple[SecurityRule, ...]
    keep: bool = False


@dataclass(frozen=True, slots=True)
class Wire:
    """A VLAN of an uplink."""

    interface: str
    vlan: int


@dataclass(frozen=True, slots=True)
class Port:
    name: str
    vsid: int
    mac: bytes
    cas: tuple[bytes, ...]
    pairs: tuple[tuple[bytes, Prefix], ...]
    enabled: bool
    link_local: bytes
    macs: tuple[bytes, ...]  # further ones by which it is reached
    dhcp: bool  # answered, where its subnet is
    dhcp_server: bool
    qos: Qos | None
    parent: str | None  # of a sub-port: whose interface it is at
    vlan: int
    groups: tuple[int, ...] = ()
    port_security: bool = False
    arriving: bool = False
    leaving: bool = False


class Routes:
    """One routing domain's prefixes of one family, for the longest match."""

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._by_length: dict[int, dict[int, Route]] = {}
        self._lengths: list[int] = []  # longest first

    def __bool__(self) -> bool:
        return bool(self._by_length)

    def put(self, network: ipaddress.IPv4Network | ipaddress.IPv6Network, route: Route) -> None:
        length = network.prefixlen
        self._by_length.setdefault(length, {})[int(network.network_address) >> self._bits - length] = route
        self._lengths = sorted(self._by_length, reverse=True)

    def remove(self, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> None:
        length = network.prefixlen
        table = self._by_length[length]
        del table[int(network.network_address) >> self._bits - length]
        if not table:
            del self._by_length[length]
            self._lengths.remove(length)

    def longest(self, address: bytes) -> Route | None:
        number = int.from_bytes(address, "big")
        for length in self._lengths:
            route = self._by_length[length].get(number >> self._bits - length)
            if route is not None:
                return route
        return None


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        raise Rejected(f"{text!r} is not a prefix such as 10.0.1.0/24, host bits zero") from None
    if str(network) != text:
        raise Rejected(f"{text!r} is not in canonical form: write {str(network)!r}")
    return network


def _prefix(text: str) -> Prefix:
    network = _network(text)
    shift = network.max_prefixlen - network.prefixlen
    return Prefix(network.max_prefixlen // 8, shift, int(network.network_address) >> shift)


def _vsid(value: int) -> int:
    if not VSID_FIRST <= value <= VSID_LAST:
        raise Rejected(f"VSID {value} is outside {VSID_FIRST}..{VSID_LAST}")
    return value


def _rdid(text: str) -> str:
    try:
        canonical = str(uuid.UUID(text))
    except ValueError:
        canonical = ""
    if canonical != text:
        raise Rejected(f"RDID {text!r} is not a UUID such as 7f3c2d1e-0000-4000-8000-000000000001")
    return text


def _rule(rule: Rule) -> Rule:
    if rule not in tuple(Rule):
        raise Rejected(f"rule {rule!r} is none of {', '.join(known.value for known in Rule)}")
    return rule


def _host(row: rows.Host) -> Host:
    pas = [packet.address_bytes(pa) for pa in row.pas]
    for uplink in row.uplinks:
        if not MTU_FIRST <= uplink.mtu_bytes <= MTU_LAST:
            raise Rejected(f"MTU {uplink.mtu_bytes} of {uplink.interface} is outside {MTU_FIRST}..{MTU_LAST}")
    return Host(
        frozenset(pas),
        next((pa for pa in pas if len(pa) == 4), None),
        next((pa for pa in pas if len(pa) == 16), None),
        tuple(uplink.interface for uplink in row.uplinks),
        min((uplink.mtu_bytes for uplink in row.uplinks), default=None),
        {uplink.interface: uplink.vlan for uplink in row.uplinks if uplink.vlan},
        {uplink.network: uplink.interface for uplink in reversed(row.uplinks)},
    )


def _subnet(row: rows.Subnet) -> Subnet:
    # A router that is a machine in the VLAN is none here: it has no address, and a MAC that no packet is for.
    gateways = [] if row.external_gateway else [packet.address_bytes(gateway) for gateway in row.gateways]
    router_mac = packet.NOBODYS_MAC if row.external_gateway else packet.mac_bytes(row.router_mac)
    if not 0 <= row.vlan <= 4094:
        raise Rejected(f"VLAN {row.vlan} is outside 1..4094 (or 0: none)")
    if not 0 <= row.mtu_bytes <= MTU_LAST:
        raise Rejected(f"mtu_bytes {row.mtu_bytes} is outside 0..{MTU_LAST}")
    return Subnet(
        _vsid(row.vsid),
        _rdid(row.rdid),
        tuple(_prefix(prefix) for prefix in row.prefixes),
        next((gateway for gateway in gateways if len(gateway) == 4), None),
        next((gateway for gateway in gateways if len(gateway) == 16), None),
        router_mac,
        b"" if row.external_gateway else packet.link_local(router_mac),
        row.mtu_bytes,
        row.broadcast,
        row.snooping,
        None if row.provider_group is None else packet.address_bytes(row.provider_group),
        row.answers_dhcp4,
        row.answers_dhcp6,
        frozenset(map(_rule, row.accepts)),
        row.vlan if Rule.VLAN in row.accepts else 0,
        row.network,
        row.bridged,
    )


def _location(row: rows.Record | rows.MacRecord) -> Location:
    also = None if row.also is None else packet.address_bytes(row.also)
    groups = row.groups if isinstance(row, rows.Record) else ()
    return Location(packet.address_bytes(row.pa), packet.mac_bytes(row.mac), _rule(row.rule), also, groups)


def _peer(row: rows.Peer) -> None:
    _rdid(row.rdid)
    if not row.pas or row.pas[0] != row.pa or len(row.pas) != len(row.networks):
        raise Rejected(f"a peer's PAs begin with its first, {row.pa}, and each is in a network: {row.pas}")
    for pa in row.pas:
        packet.address_bytes(pa)


def _security_group(row: rows.SecurityGroup) -> SecurityGroup:
    for rule in row.rules:
        if rule.version not in {4, 6} or not 0 <= rule.first <= rule.last <= rows.PORT_LAST:
            raise Rejected(f"{rule.name} is of IP version 4 or 6 and of ports 0..65535 that rise: {rule}")
    return SecurityGroup(
        row.stateful,
        tuple(
            SecurityRule(rule, None if rule.remote_prefix is None else _prefix(rule.remote_prefix))
            for rule in row.rules
        ),
        row.keep,
    )


def _port(row: rows.Port) -> Port:
    mac = packet.mac_bytes(row.mac)
    return Port(
        row.port,
        _vsid(row.vsid),
        mac,
        tuple(packet.address_bytes(ca) for ca in row.cas),
        tuple((packet.mac_bytes(pair.mac), _prefix(pair.prefix)) for pair in row.pairs),
        row.enabled,
        packet.link_local(mac),
        tuple(packet.mac_bytes(each) for each in row.macs),
        row.dhcp,
        row.dhcp_server,
        row.qos,
        row.parent,
        _vlan(row),
        row.groups,
        row.port_security,
        row.arriving,
        row.leaving,
    )


def _vlan(row: rows.Port) -> int:
    if not (1 <= row.vlan <= 4094 if row.parent is not None else row.vlan == 0):
        raise Rejected(f"VLAN {row.vlan} of {row.port}: a sub-port has one of 1..4094, another port none")
    return row.vlan


@dataclass(slots=True)
class Lookups:
    """Everything that the pipeline asks. Changed only through ``put``, ``remove`` and ``bind``."""

    name: str  # of this host: hosts/h1
    rows: dict[Key, Row] = field(default_factory=dict)
    used: Counter[str] = field(default_factory=Counter)  # table -> rows
    bindings: dict[str, str] = field(default_factory=dict)  # port -> interface
    listeners: dict[str, frozenset[bytes]] = field(default_factory=dict)  # port -> multicast groups
    wanted: dict[tuple[int, bytes], tuple[frozenset[bytes], int]] = field(default_factory=dict)  # groups; until when
    host: Host = NOWHERE
    subnets: dict[int, Subnet] = field(default_factory=dict)
    security_groups: dict[int, SecurityGroup] = field(default_factory=dict)
    address_groups: dict[int, tuple[Prefix, ...]] = field(default_factory=dict)
    hits: Counter[int] = field(default_factory=Counter)  # by a rule's number: how often it has decided
    denials: Counter[tuple[str, int]] = field(default_factory=Counter)  # by port and rule (0: none speaks of it)
    now_ns: int = 0  # of the packet that is under way
    tracker: Tracker = field(default_factory=Tracker)
    _records: dict[tuple[int, bytes], Location] = field(default_factory=dict)
    _macs: dict[tuple[int, bytes], Location] = field(default_factory=dict)
    _members: dict[int, dict[bytes, Rule]] = field(default_factory=dict)  # VSID -> PA -> rule
    _routes: dict[tuple[str, int], Routes] = field(default_factory=dict)  # (RDID, bytes of an address)
    _aliases: dict[bytes, bytes] | None = None  # a peer's PA -> its first; None: to be made anew
    _ways: dict[bytes, tuple[Way, ...]] = field(default_factory=dict)  # a peer's first PA -> by a flow's place
    _rewritten: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)  # a PA -> whom it stands for
    _pas: dict[tuple[int, bytes], bytes] = field(default_factory=dict)  # and back
    _ports: dict[str, Port] = field(default_factory=dict)
    _subports: dict[tuple[str, int], Port] = field(default_factory=dict)  # (parent, VLAN)
    _local: dict[tuple[int, bytes], Port] | None = None  # bound ports; None: to be made anew
    _buckets: dict[tuple[str, Direction], Bucket] = field(default_factory=dict)
    learned: Learned = field(default_factory=Learned)

    # What the pipeline asks

    def record(self, vsid: int, ca: bytes) -> Location | None:
        return self._records.get((vsid, ca))

    def mac_record(self, vsid: int, mac: bytes) -> Location | None:
        return self._macs.get((vsid, mac))

    def members(self, vsid: int) -> Mapping[bytes, Rule]:
        """The PAs of the hosts that have a port in the subnet, this host's own among them."""
        return self._members.get(vsid, {})

    def local_ports(self, vsid: int) -> Iterator[Port]:
        """The bound ports of a subnet."""
        return (port for port in self._ports.values() if port.vsid == vsid and self.interface_of(port.name))

    def listens(self, port: str, group: bytes) -> bool:
        """Whether the port's guest has asked for the multicast group, or is a router that has to hear them all."""
        groups = self.listeners.get(port, frozenset())
        return group in groups or bytes(len(group)) in groups

    def wants(self, vsid: int, pa: bytes, group: bytes) -> bool:
        """Whether a guest of the subnet at another host may listen to the multicast group."""
        groups, until_ns = self.wanted.get((vsid, pa), (frozenset(), 0))
        return until_ns <= self.now_ns or group in groups

    def route(self, rdid: str, destination: bytes) -> Route | None:
        """The longest match."""
        routes = self._routes.get((rdid, len(destination)))
        return None if routes is None else routes.longest(destination)

    def port(self, name: str) -> Port | None:
        return self._ports.get(name)

    def subport(self, parent: str, vlan: int) -> Port | None:
        """The sub-port of a port whose frames are in the VLAN."""
        return self._subports.get((parent, vlan))

    @property
    def subports(self) -> Iterable[Port]:
        return self._subports.values()

    def interface_of(self, name: str) -> str | None:
        """Where a port is bound; a sub-port is where its parent is."""
        port = self._ports.get(name)
        return self.bindings.get(name if port is None or port.parent is None else port.parent)

    def local_port(self, vsid: int, mac: bytes) -> Port | None:
        """The bound port with the MAC in the subnet."""
        if self._local is None:
            bound = sorted((port for port in self._ports.values() if self.interface_of(port.name)), key=_by_name)
            # A port's own MAC before what another has announced.
            self._local = {(port.vsid, mac): port for port in reversed(bound) for mac in port.macs}
            self._local |= {(port.vsid, port.mac): port for port in reversed(bound)}
        return self._local.get((vsid, mac))

    def pa_of(self, vsid: int, ca: bytes) -> bytes | None:
        """The PA that stands for a CA in what is sent."""
        return self._pas.get((vsid, ca))

    def rewritten(self, pa: bytes) -> tuple[int, bytes] | None:
        """The VSID and the CA that a PA stands for."""
        return self._rewritten.get(pa)

    def way(self, pa: bytes, flow: int) -> Way | None:
        """How a flow travels to the host of a record's PA; None: this host has no PA of the family."""
        ways = self._ways.get(pa)
        if ways:
            return ways[flow % len(ways)]
        source = self.host.source(pa)
        return None if source is None else Way(source, pa)

    def _drop_stray_ways(self) -> None:
        """Those that begin or end at an address that is not the host's, or the peer's, any more."""
        self._aliases = None
        for pa, ways in list(self._ways.items()):
            if any(way.source not in self.host.pas or self.identity(way.destination) != pa for way in ways):
                del self._ways[pa]

    def identity(self, pa: bytes) -> bytes:
        """The first PA of the host that has this one: where records place its ports."""
        if self._aliases is None:
            peers = (row for row in self.rows.values() if isinstance(row, rows.Peer))
            self._aliases = {
                packet.address_bytes(each): packet.address_bytes(row.pa) for row in peers for each in row.pas
            }
        return self._aliases.get(pa, pa)

    def within_limit(self, port: Port, direction: Direction, frame_bytes: int) -> bool:
        """Whether the port's limit lets a frame of this length pass now; if so it is counted against it."""
        limit = None if port.qos is None else limit_of(port.qos, direction)
        if limit is None:
            return True
        return self._buckets.setdefault((port.name, direction), Bucket()).take(limit, self.now_ns, frame_bytes)

    def wire(self, subnet: Subnet) -> Wire | None:
        """Where a bridged subnet's VLAN is; None: not on this host."""
        interface = self.host.networks.get(subnet.network) if subnet.vlan else None
        return None if interface is None else Wire(interface, subnet.vlan)

    def segment(self, wire: Wire) -> Subnet | None:
        """Whose VLAN it is."""
        return next((subnet for subnet in self.subnets.values() if self.wire(subnet) == wire), None)

    def tenant_of(self, subnet: Subnet) -> str | None:
        """Whose a subnet is, as ports of its routing domain say; None: there is none here."""
        domain = {vsid for vsid, other in self.subnets.items() if other.rdid == subnet.rdid}
        ports = (rows.tenant_of_port(port.name) for port in self._ports.values() if port.vsid in domain)
        return min(ports, default=None)

    @property
    def accepts(self) -> frozenset[Rule]:
        """The rules that some subnet here accepts: what by none of them is the host's own stack's."""
        return frozenset().union(*(subnet.accepts for subnet in self.subnets.values()))

    @property
    def groups(self) -> frozenset[bytes]:
        """Of the underlay, of subnets that have ports here: what comes to another is the host's own stack's."""
        if not any(subnet.provider_group for subnet in self.subnets.values()):
            return frozenset()
        found = (self.subnets.get(port.vsid) for port in self._ports.values())
        return frozenset(subnet.provider_group for subnet in found if subnet is not None and subnet.provider_group)

    # What changes them

    def put(self, row: Row) -> None:
        """Make the row so, in place of the former of its key. Raises Rejected, and then nothing has changed."""
        match row:
            case rows.Host():
                if row.host != self.name:
                    raise Rejected(f"row of {row.host}, and this is {self.name}")
                self.host = _host(row)
            case rows.Subnet():
                self.subnets[row.vsid] = _subnet(row)
            case rows.Peer():
                _peer(row)
            case rows.Record():
                self._records[(_vsid(row.vsid), packet.address_bytes(row.ca))] = _location(row)
            case rows.MacRecord():
                self._macs[(_vsid(row.vsid), packet.mac_bytes(row.mac))] = _location(row)
            case rows.Rewrite():
                pa, place = packet.address_bytes(row.pa), (_vsid(row.vsid), packet.address_bytes(row.ca))
                if len(pa) != len(place[1]):
                    raise Rejected(f"{row.pa} cannot stand for {row.ca}: one is IPv4 and the other IPv6")
                self._forget_rewrite(pa)
                self._rewritten[pa] = place
                if row.sent:
                    self._pas[place] = pa
            case rows.Member():
                self._members.setdefault(_vsid(row.vsid), {})[packet.address_bytes(row.pa)] = _rule(row.rule)
            case rows.Route():
                next_hop = None if row.next_hop is None else packet.address_bytes(row.next_hop)
                network = _network(row.prefix)
                table = (_rdid(row.rdid), network.max_prefixlen // 8)
                route = Route(row.prefix, _vsid(row.vsid), next_hop)
                self._routes.setdefault(table, Routes(network.max_prefixlen)).put(network, route)
            case rows.AddressGroup():
                self.address_groups[row.number] = tuple(map(_prefix, row.prefixes))
            case rows.SecurityGroup():
                self._forget_hits(row.number, {rule.number for rule in row.rules})
                self.security_groups[row.number] = _security_group(row)
            case rows.Port():
                port = _port(row)
                former = self._ports.get(row.port)
                if former is not None and (former.parent, former.vlan) != (port.parent, port.vlan):
                    self._forget_subport(former)
                self._ports[row.port] = port
                if port.parent is not None:
                    self._subports[port.parent, port.vlan] = port
                self._local = None
            case _:
                assert_never(row)
        key = row.key
        self.used[key[0]] += key not in self.rows
        self.rows[key] = row
        if isinstance(row, rows.Host | rows.Peer):
            self._drop_stray_ways()

    def remove(self, key: Key) -> None:
        """Make the row absent. Absent already is fine."""
        row = self.rows.pop(key, None)
        if row is None:
            return
        self.used[key[0]] -= 1
        match row:
            case rows.Host():
                self.host = NOWHERE
                self._ways.clear()
            case rows.Subnet():
                del self.subnets[row.vsid]
            case rows.Peer():
                self._drop_stray_ways()
            case rows.Record():
                del self._records[(row.vsid, packet.address_bytes(row.ca))]
            case rows.MacRecord():
                del self._macs[(row.vsid, packet.mac_bytes(row.mac))]
            case rows.Rewrite():
                self._forget_rewrite(packet.address_bytes(row.pa))
            case rows.Member():
                del self._members[row.vsid][packet.address_bytes(row.pa)]
                if not self._members[row.vsid]:
                    del self._members[row.vsid]
            case rows.Route():
                network = _network(row.prefix)
                table = (row.rdid, network.max_prefixlen // 8)
                self._routes[table].remove(network)
                if not self._routes[table]:
                    del self._routes[table]
            case rows.AddressGroup():
                del self.address_groups[row.number]
            case rows.SecurityGroup():
                self._forget_hits(row.number, set())
                del self.security_groups[row.number]
            case rows.Port():
                self._forget_subport(self._ports.pop(row.port))
                self._forget_denials(port=row.port)
                self._local = None
            case _:
                assert_never(row)

    def _forget_hits(self, group: int, staying: set[int]) -> None:
        former = self.security_groups.get(group)
        for rule in () if former is None else former.rules:
            if rule.row.number not in staying:
                del self.hits[rule.row.number]
                self._forget_denials(rule=rule.row.number)

    def _forget_denials(self, *, port: str | None = None, rule: int | None = None) -> None:
        for key in [key for key in self.denials if key[0] == port or key[1] == rule]:
            del self.denials[key]

    def _forget_rewrite(self, pa: bytes) -> None:
        place = self._rewritten.pop(pa, None)
        # Its address may have another PA by now: puts come before deletes.
        if place is not None and self._pas.get(place) == pa:
            del self._pas[place]

    def _forget_subport(self, port: Port | None) -> None:
        if port is None or port.parent is None:
            return
        self.listeners.pop(port.name, None)
        for direction in Direction:
            self._buckets.pop((port.name, direction), None)
        if self._subports.get((port.parent, port.vlan)) is port:
            del self._subports[port.parent, port.vlan]

    def lead(self, pa: str, ways: Sequence[tuple[str, str, int]]) -> None:
        """The ways to a peer. Raises Rejected, and then nothing has changed."""
        if not any(isinstance(row, rows.Peer) and row.pa == pa for row in self.rows.values()):
            raise Rejected(f"{pa} is the first PA of no peer")
        found = tuple(
            Way(packet.address_bytes(source), packet.address_bytes(destination), mtu_bytes)
            for source, destination, mtu_bytes in ways
        )
        for way in found:
            if {len(way.source), len(way.destination)} != {len(packet.address_bytes(pa))}:
                raise Rejected(f"a way to {pa} is between PAs of its family")
        if found:
            self._ways[packet.address_bytes(pa)] = found
        else:
            self._ways.pop(packet.address_bytes(pa), None)

    def bind(self, bindings: Mapping[str, str]) -> None:
        # A bucket is the interface's: another interface begins with a full one.
        moved = {port for port, interface in self.bindings.items() if bindings.get(port) != interface}
        moved |= {port.name for port in self._ports.values() if port.parent in moved}
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if key[0] not in moved}
        self.bindings = dict(bindings)
        self.listeners = {port: groups for port, groups in self.listeners.items() if self.interface_of(port)}
        self._local = None

    def bound_rows(self) -> Iterable[Row]:
        """Every row; ports only when bound."""
        return (row for row in self.rows.values() if not isinstance(row, rows.Port) or self.interface_of(row.port))


def _by_name(port: Port) -> str:
    return port.name
