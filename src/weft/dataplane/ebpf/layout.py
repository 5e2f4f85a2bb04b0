"""Rows as the bytes of c/maps.h, and back. Pure: knows neither the kernel nor what is programmed.

A test holds every size and offset here to the compiled object's own type information.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from uuid import UUID

from weft.contracts.dataplane import WAYS, Sample, Traffic, Way
from weft.kit.errors import Rejected
from weft.policy.drop import DropReason
from weft.policy.rows import (
    Host,
    Key,
    Limit,
    MacRecord,
    Member,
    Mirror,
    MirrorProtocol,
    Pair,
    Peer,
    Port,
    Qos,
    Record,
    Rewrite,
    Route,
    Rule,
    Sampling,
    Subnet,
    tenant_of_port,
)
from weft.policy.upcall import UpcallKind

MAX_PAS = 8
HAS4, HAS6 = 1, 2  # SUBNET_HAS*
DHCP4, DHCP6, BROADCAST, SNOOPING, BRIDGED, GROUP = 4, 8, 16, 32, 64, 128  # SUBNET_*
HOST_PATHS, HOST_SAMPLED, HOST_VLANS, HOST_BRIDGES, HOST_GROUPS = 1, 2, 4, 8, 16
ACCEPTS_SHIFT = 8  # SUBNET_ACCEPTS
ENABLED, PEER, HAS_QOS, SAMPLED, MIRRORED, GUARDED = 1, 2, 4, 8, 16, 32  # PORT_*
DHCP, DHCP_SERVER = 0x100, 0x200  # PORT_DHCP*
MARK = COPY = 0x80  # DSCP_*
DIRECTIONS = (0, 1)  # DIRECTION_*
FAMILY4, FAMILY6 = 4, 6
MOVING = 0x8000  # RECORD_MOVING, beside the rule's number
RULES: Mapping[Rule, int] = {
    Rule.NVGRE: 1,
    Rule.VXLAN: 2,
    Rule.GENEVE: 3,
    Rule.GRE: 4,
    Rule.STT: 5,
    Rule.REWRITE: 6,
    Rule.VLAN: 7,
}
RULE_NAMES: Mapping[int, Rule] = {number: rule for rule, number in RULES.items()}


def accepts_mask(rules: Iterable[Rule]) -> int:
    """A bit for each rule, as subnets (shifted) and the host have it."""
    mask = 0
    for rule in rules:
        mask |= 1 << RULES[rule]
    return mask


#: Bits of a trie key before the prefix itself: (RDID, family) of routes, (ifindex, MAC, VLAN, family) of sources.
ROUTE_BITS, SOURCE_BITS = 160, 128

NUMBER = struct.Struct("=I")  # VSID, array index, value of sources
SEAT = struct.Struct("=Q")  # ifindex, and above it the VLAN
HOST = struct.Struct(f"={MAX_PAS * 16}s16s16sIHH")
ADDRESS = struct.Struct("=16s")
WAY = struct.Struct("=16s16sI")
PATH = struct.Struct("=" + "16s16sI" * WAYS)
SUBNET = struct.Struct("=16s16s4s6sHI")
RECORD_KEY = struct.Struct("=I16s")
RECORD = struct.Struct("=16s6sH")
MAC_KEY = struct.Struct("=I6sH")
ROUTE_KEY = struct.Struct("=I16sI16s")
ROUTE = struct.Struct("=II16s")
PORT = struct.Struct("=QI6sH16s16sIII")
LOCAL = struct.Struct("=IHHQI4x")
SOURCE_KEY = struct.Struct("=II6sHI16s")
COUNTERS = struct.Struct("=4Q64Q")
PLACE = struct.Struct("=II")  # VSID, number
MEMBER = struct.Struct("=16sII")
RECEIVER = struct.Struct("=IHH")
LISTENER_KEY = struct.Struct("=8s16s")
WANTED_KEY = struct.Struct("=I16s16s")
UPCALL = struct.Struct("=IIHH6sH16s")
QOS = struct.Struct("=" + 4 * "QqQ" + "BB6x")
BUCKET_KEY = struct.Struct("=QQ")
BUCKET = struct.Struct("=8xqqQ")
SAMPLING = struct.Struct("=IIII")
SAMPLE = struct.Struct("=IIII")  # what has been captured of the frame follows
MIRROR = struct.Struct("=16sIHBB")
COUNT = struct.Struct("=Q")
QUOTA = struct.Struct("=QI4x")  # how many, whose
TENANT = struct.Struct("=QQ6Q")  # beyond its own: connections, learned; of three rings
HIT = struct.Struct("=QQ")
DENIAL = struct.Struct("=QII")  # a port's number, a rule's
SEGMENT = struct.Struct("=IHH")
LEARNED = struct.Struct("=QII")  # when it was heard last, ifindex
HEARING = struct.Struct("=QQI4x")  # how many were learned, how often there was no room, whose it is
GUARD = struct.Struct("=Q4IIII4x")
CLASS_KEY = struct.Struct("=II16s")
RULE_KEY = struct.Struct("=IIIBB2s")
_POLICY = struct.Struct("=4xI")  # of both
RULING = struct.Struct("=IiI")
STATES = 32
TRACKING = struct.Struct(f"={STATES}QQIIIII2s2xI4x")
EXPECTED_KINDS = 8
TRACKED = struct.Struct(f"=QQQ{EXPECTED_KINDS}Q48x")
CONNECTION_KEY = struct.Struct("=Q16s16s2s2sBBH")
CONNECTION = struct.Struct("=4xBBHQQ2Q2Q8IIIIHBB2B6x24x")
CONNECTION_TAG_AT = CONNECTION.size - 24  # what the programs put there themselves
EXPECTATION = struct.Struct("=QQ48sIB3x")
DATAGRAM_PLACES = 2 * 64  # of a port, in both directions
DATAGRAM_KEY = struct.Struct("=QII")
DATAGRAM = struct.Struct("=4xI16s16sQI2s2sHBB32sB3xI4xQ")
LINE_PLACES = 2 * 16  # of a port, of both sides
LINE_KEY = struct.Struct("=QII")
LINE = struct.Struct("=48sQ14IBB6x8s16sQQ")
CONNECTION_EVENT = struct.Struct("=48sIBBBB4Q")

#: Map name -> (key, value): what the kernel's maps must agree with.
LAYOUTS: Mapping[str, tuple[struct.Struct, struct.Struct]] = {
    "host": (NUMBER, HOST),
    "changes": (NUMBER, NUMBER),
    "vlans": (NUMBER, NUMBER),
    "aliases": (ADDRESS, ADDRESS),
    "paths": (ADDRESS, PATH),
    "subnets": (NUMBER, SUBNET),
    "segments": (NUMBER, SEGMENT),
    "segment_vsids": (SEAT, NUMBER),
    "learned": (MAC_KEY, LEARNED),
    "hearing": (NUMBER, HEARING),
    "learning": (NUMBER, COUNT),
    "provider_groups": (NUMBER, ADDRESS),
    "groups": (ADDRESS, NUMBER),
    "group_uplinks": (NUMBER, NUMBER),
    "records": (RECORD_KEY, RECORD),
    "rewrites": (ADDRESS, RECORD_KEY),
    "pas": (RECORD_KEY, ADDRESS),
    "macs": (MAC_KEY, RECORD),
    "moving": (MAC_KEY, ADDRESS),
    "routes": (ROUTE_KEY, ROUTE),
    "ports": (SEAT, PORT),
    "local": (MAC_KEY, LOCAL),
    "sources": (SOURCE_KEY, NUMBER),
    "qos": (SEAT, QOS),
    "buckets": (BUCKET_KEY, BUCKET),
    "mirrors": (NUMBER, MIRROR),
    "sampling": (NUMBER, SAMPLING),
    "samples_lost": (NUMBER, COUNT),
    "counters": (NUMBER, COUNTERS),
    "counter_slots": (SEAT, NUMBER),
    "members": (PLACE, MEMBER),
    "receivers": (PLACE, RECEIVER),
    "listeners": (LISTENER_KEY, NUMBER),
    "wanted": (WANTED_KEY, COUNT),
    "guards": (SEAT, GUARD),
    "identities": (RECORD_KEY, NUMBER),
    "classes": (CLASS_KEY, NUMBER),
    "rules": (RULE_KEY, RULING),
    "hits": (NUMBER, HIT),
    "denials": (DENIAL, COUNT),
    "tracking": (NUMBER, TRACKING),
    "tracked": (NUMBER, TRACKED),
    "quotas": (COUNT, QUOTA),
    "tenants": (NUMBER, TENANT),
    "peers": (NUMBER, NUMBER),
    "connections": (CONNECTION_KEY, CONNECTION),
    "expectations": (CONNECTION_KEY, EXPECTATION),
    "expecting": (COUNT, COUNT),
    "datagrams": (DATAGRAM_KEY, DATAGRAM),
    "lines": (LINE_KEY, LINE),
}

#: What can be written over while programs read it, by number: enum overwritten in c/overwrite.h.
OVERWRITTEN = {
    name: number
    for number, name in enumerate((
        "aliases", "guards", "identities", "local", "macs", "members", "moving", "pas", "paths", "ports",
        "provider_groups", "qos", "receivers", "records", "sampling", "segment_vsids", "segments",
        "subnets", "vlans", "wanted",
    ))
}  # fmt: skip


def identity(name: str, value: bytes) -> bytes:
    """What of a value says who has its key: where that changes, half of it beside half of the former is nobody's."""
    match name:
        case "guards":
            return value[:8] + value[28:]  # the port's number, its VSID and tenant
        case "local":
            return value[8:16]
        case "ports":
            return value[:18]  # and its MAC
        case "subnets":
            return value[:16]  # the routing domain
        case _:
            return b""


#: Those whose values have one.
IDENTIFIED = frozenset({"guards", "local", "ports", "subnets"})

#: Ring buffers have neither keys nor values; what is in this one is UPCALL, then the frame.
UPCALLS = "upcalls"
#: And in this one SAMPLE, then what it has of the frame.
SAMPLES = "samples"
#: And in this one CONNECTION_EVENT.
CONNECTION_EVENTS = "connection_events"
#: Holds programs, which are put there as the object is loaded.
PROGRAMS = "programs"

THE_HOST = NUMBER.pack(0)  # key of the one entry of host
ALLOWED = NUMBER.pack(1)  # value of sources
NONE = bytes(16)
MAPPED = bytes(10) + b"\xff\xff"
_ZEROS = bytes(8)
#: The router's where the router is a machine in the VLAN: a group's, so that no packet is for it.
NOBODYS_MAC = b"\x01" + bytes(5)

_record_key, _record, _mac_key = RECORD_KEY.pack, RECORD.pack, MAC_KEY.pack


def address(text: str) -> bytes:
    """16 bytes; IPv4 as ::ffff:a.b.c.d."""
    try:
        if ":" not in text:
            return MAPPED + inet_pton(AF_INET, text)
        packed = inet_pton(AF_INET6, text)
    except (OSError, ValueError):
        packed = MAPPED
    if packed.startswith(MAPPED):
        raise Rejected(f"{text!r} is not an address such as 10.0.0.1 or fd00::1")
    return packed


def mac(text: str) -> bytes:
    """6 bytes."""
    try:
        packed = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        packed = b""
    if len(packed) != 6 or len(text) != 17:
        raise Rejected(f"{text!r} is not a MAC address such as 02:00:00:00:00:01")
    return packed


#: Addresses and numbers that many rows share: a host's PA is in the record of each of its ports.
_shared_address = lru_cache(1 << 16)(address)


@lru_cache(1 << 16)
def _rdid(text: str) -> bytes:
    try:
        return UUID(text).bytes
    except ValueError:
        raise Rejected(f"{text!r} is not an RDID such as 6ba7b810-9dad-11d1-80b4-00c04fd430c8") from None


def _prefix(text: str) -> tuple[bytes, int, int]:
    """(16 bytes, length from the 16 bytes' first bit, family)."""
    base, slash, digits = text.partition("/")
    packed = address(base)
    shift, family = (0, FAMILY6) if ":" in base else (96, FAMILY4)
    if not slash or not digits.isascii() or not digits.isdigit() or int(digits) + shift > 128:
        raise Rejected(f"{text!r} is not a prefix such as 10.0.0.0/24 or fd00::/64")
    return packed, int(digits) + shift, family


def _number(value: int) -> int:
    if not 0 <= value < 1 << 32:
        raise Rejected(f"{value} does not fit 32 bits")
    return value


def record(row: Record) -> tuple[bytes, bytes]:
    """Entry of the map records."""
    return (
        _record_key(_number(row.vsid), address(row.ca)),
        _record(_shared_address(row.pa), mac(row.mac), RULES[row.rule] | (MOVING if row.also is not None else 0)),
    )


def rewrite(row: Rewrite) -> tuple[bytes, bytes]:
    """Entry of the map rewrites; of the map pas, with key and value in each other's place."""
    pa, ca = address(row.pa), address(row.ca)
    if pa.startswith(MAPPED) != ca.startswith(MAPPED):
        raise Rejected(f"{row.pa} cannot stand for {row.ca}: one is IPv4 and the other IPv6")
    return pa, _record_key(_number(row.vsid), ca)


def read_rewrite(key: bytes, value: bytes, pas: Mapping[bytes, bytes]) -> Rewrite:
    """pas: the entries of the map pas."""
    vsid, ca = RECORD_KEY.unpack(value)
    return Rewrite(address_text(key), vsid, address_text(ca), pas.get(value) == key)


def rewrite_keys(packed: bytes) -> list[Key]:
    return [("rewrites", address_text(pa)) for (pa,) in ADDRESS.iter_unpack(packed)]


def mac_record(row: MacRecord) -> tuple[bytes, bytes]:
    """Entry of the map macs."""
    packed = mac(row.mac)
    rule = RULES[row.rule] | (MOVING if row.also is not None else 0)
    return _mac_key(_number(row.vsid), packed, 0), _record(_shared_address(row.pa), packed, rule)


def moving(row: MacRecord) -> tuple[bytes, bytes | None]:
    """Key of the map moving, and what it has there; None: the port does not move."""
    key = _mac_key(_number(row.vsid), mac(row.mac), 0)
    return key, None if row.also is None else _shared_address(row.also)


def subnet(row: Subnet) -> tuple[bytes, bytes]:
    """Entry of the map subnets."""
    gateway4, gateway6, flags = bytes(4), NONE, accepts_mask(row.accepts) << ACCEPTS_SHIFT
    flags |= (BROADCAST if row.broadcast else 0) | (SNOOPING if row.snooping else 0) | (BRIDGED if row.bridged else 0)
    if row.provider_group is not None:
        address(row.provider_group)
        flags |= GROUP
    router_mac = NOBODYS_MAC if row.external_gateway else mac(row.router_mac)
    if not 0 <= row.vlan <= 4094:
        raise Rejected(f"VLAN {row.vlan} is outside 1..4094 (or 0: none)")
    for text in () if row.external_gateway else row.gateways:
        packed = address(text)
        if ":" in text:
            gateway6, flags = packed, flags | HAS6
        else:
            gateway4, flags = packed[12:], flags | HAS4
    flags |= (DHCP4 if row.answers_dhcp4 else 0) | (DHCP6 if row.answers_dhcp6 else 0)
    return NUMBER.pack(_number(row.vsid)), SUBNET.pack(
        _rdid(row.rdid), gateway6, gateway4, router_mac, flags, _number(row.mtu_bytes)
    )


def route(row: Route) -> tuple[bytes, bytes]:
    """Entry of the map routes."""
    next_hop = NONE if row.next_hop is None else address(row.next_hop)
    return route_key(row.rdid, row.prefix), ROUTE.pack(_number(row.vsid), row.next_hop is not None, next_hop)


def route_key(rdid: str, prefix: str) -> bytes:
    packed, length, family = _prefix(prefix)
    return ROUTE_KEY.pack(ROUTE_BITS + length, _rdid(rdid), family, packed)


def policy_of(key: bytes) -> int:
    """Of a key of classes or rules."""
    return int(_POLICY.unpack_from(key)[0])


def segment(ifindex: int, vlan: int) -> bytes:
    """Value of the map segments."""
    return SEGMENT.pack(ifindex, vlan, 0)


def read_learned(key: bytes, value: bytes) -> tuple[int, str, int, int]:
    """VSID, MAC, ifindex of the uplink, and when it was heard last, in ns of the kernel's clock since it started."""
    vsid, packed, _ = MAC_KEY.unpack(key)
    seen_ns, ifindex, _ = LEARNED.unpack(value)
    return vsid, packed.hex(":"), ifindex, seen_ns


def host(
    row: Host,
    kernel_mtus: Mapping[str, int],
    accepts: int,
    *,
    paths: bool = False,
    bridges: bool = False,
    groups: bool = False,
) -> bytes:
    """Value of the map host. kernel_mtus: of the uplinks that exist; where one is smaller, it is the truth.

    accepts: the mask of all subnets. paths, bridges, groups: there is something in the map of them (of segments).
    """
    if len(row.pas) > MAX_PAS:
        raise Rejected(f"{len(row.pas)} PAs on {row.host}: the eBPF data plane takes {MAX_PAS}")
    pas = [address(pa) for pa in row.pas]
    source4 = next((pa for pa in pas if pa.startswith(MAPPED)), NONE)
    source6 = next((pa for pa in pas if not pa.startswith(MAPPED)), NONE)
    flags = (HOST_PATHS if paths else 0) | (HOST_VLANS if any(u.vlan for u in row.uplinks) else 0)
    mtus = [min(u.mtu_bytes, kernel_mtus.get(u.interface, u.mtu_bytes)) for u in row.uplinks]
    flags |= (HOST_SAMPLED if row.sampling is not None else 0) | (HOST_BRIDGES if bridges else 0)
    flags |= HOST_GROUPS if groups else 0
    return HOST.pack(b"".join(pas), source4, source6, _number(min(mtus, default=0)), accepts, flags)


def sampling(of: Sampling | None, rate: int | None = None) -> bytes | None:
    """Value of the map sampling; None: no samples. rate: of a port, where it is not its host's."""
    if of is None or rate == 0:
        return None
    chosen = rate or of.rate
    return SAMPLING.pack((1 << 32) // chosen - 1, chosen, of.header_bytes, 0)


def aliases(row: Peer) -> dict[bytes, bytes]:
    """Entries of the map aliases."""
    if not row.pas or row.pas[0] != row.pa or len(row.pas) != len(row.networks):
        raise Rejected(f"a peer's PAs begin with its first, {row.pa}, and each is in a network: {row.pas}")
    first = address(row.pa)
    return {address(pa): first for pa in row.pas[1:]}


def path(pa: str, ways: Sequence[Way]) -> bytes:
    """Value of the map paths."""
    key = address(pa)
    if len(ways) != WAYS:
        raise Rejected(f"{len(ways)} ways to {pa}; there are {WAYS}")
    fields: list[bytes | int] = []
    for way in ways:
        source, destination = address(way.source), address(way.destination)
        if any(key.startswith(MAPPED) != end.startswith(MAPPED) for end in (source, destination)):
            raise Rejected(f"the way from {way.source} to {way.destination} is not of the family of {pa}")
        fields += (source, destination, _number(way.mtu_bytes))
    return PATH.pack(*fields)


def member(row: Member) -> tuple[tuple[int, bytes], bytes]:
    """(VSID, PA), and the value of its place in the map members."""
    pa = _shared_address(row.pa)
    return (_number(row.vsid), pa), MEMBER.pack(pa, RULES[row.rule], 0)


def member_place(key: Key) -> tuple[int, bytes]:
    """(VSID, PA) of a member's key."""
    _, vsid, *pa = key
    return int(vsid), address(str(*pa))


def member_pa(value: bytes) -> bytes:
    """What tells members of a subnet apart."""
    return value[:16]


def receiver_seat(value: bytes) -> bytes:
    """What tells receivers of a subnet apart: the key of its seat."""
    return seat_in_local(value).key


def listener(seat: Seat, group: str) -> bytes:
    """Key of the map listeners."""
    return LISTENER_KEY.pack(seat.key, address(group))


def wanted(vsid: int, pa: str, groups: Iterable[str], until_ns: int) -> dict[bytes, bytes]:
    """Entries of the map wanted: all that a member has said of a subnet. The last says that this is all."""
    entries = {WANTED_KEY.pack(vsid, address(pa), address(group)): COUNT.pack(0) for group in groups}
    return entries | {WANTED_KEY.pack(vsid, address(pa), NONE): COUNT.pack(until_ns)}


@dataclass(frozen=True, slots=True, order=True)
class Seat:
    """Where a port is: an interface, and the VLAN of its frames there; 0: they have no tag."""

    ifindex: int
    vlan: int = 0

    @property
    def key(self) -> bytes:
        return SEAT.pack(self.vlan << 32 | self.ifindex)


def seat_of_key(key: bytes) -> Seat:
    """Of a key of ports, qos or counter_slots."""
    (number,) = SEAT.unpack(key)
    return Seat(number & 0xFFFFFFFF, number >> 32)


def seat_of_source(key: bytes) -> Seat:
    _, ifindex, _, vlan, _, _ = SOURCE_KEY.unpack(key)
    return Seat(ifindex, vlan)


def seat_in_local(value: bytes) -> Seat:
    """Also of a receiver's value."""
    ifindex, vlan, _ = RECEIVER.unpack_from(value)
    return Seat(ifindex, vlan)


def tagged(frame: bytes, vlan: int) -> bytes:
    """With an IEEE 802.1Q tag of priority 0; vlan 0: as it is."""
    return frame[:12] + (0x8100_0000 | vlan).to_bytes(4, "big") + frame[12:] if vlan else frame


@dataclass(frozen=True, slots=True)
class PortEntries:
    """What one bound port puts into the maps: map name -> entries."""

    sources: Mapping[bytes, bytes]
    ports: Mapping[bytes, bytes]
    local: Mapping[bytes, bytes]
    qos: Mapping[bytes, bytes]
    sampling: Mapping[bytes, bytes]
    receivers: Mapping[tuple[int, bytes], bytes]  # by place


def port_number(port: str) -> int:
    """The same on every host, and while the port has its name; of 64 bits, no two are the same by chance."""
    return int.from_bytes(hashlib.sha256(port.encode()).digest()[:8], "big")


@dataclass(frozen=True, slots=True)
class LeftPort:
    """What the maps say of a port, whoever has told them. further: by how many MACs it is reached beside its own."""

    number: int
    tenant: int
    further: int


def left_ports(ports: Iterable[tuple[bytes, bytes]], local: Iterable[tuple[bytes, bytes]]) -> dict[Seat, LeftPort]:
    reached = Counter(seat_in_local(value) for _, value in local)
    found = {}
    for key, value in ports:
        seat, (number, *_, tenant) = seat_of_key(key), PORT.unpack(value)
        found[seat] = LeftPort(number, tenant, max(reached[seat] - 1, 0))
    return found


def tenant_number(port: str) -> int:
    """Of whose it is; never 0. Two that fall together share a share, and nothing else."""
    return int.from_bytes(hashlib.sha256(tenant_of_port(port).encode()).digest()[:4], "big") or 1


def port(row: Port, ifindex: int, *, peer: bool, slot: int = 0, sampled: Sampling | None = None) -> PortEntries:
    """A Port row, bound to an interface. peer: bpf_redirect_peer reaches the guest's end; slot: of its counters, 0:
    nobody's; sampled: as its host is.
    """
    samples = sampling(sampled, row.sampling_rate)
    own = mac(row.mac)
    if not (1 <= row.vlan <= 4094 if row.parent is not None else row.vlan == 0):
        raise Rejected(f"VLAN {row.vlan} of {row.port}: a sub-port has one of 1..4094, another port none")
    seat, number = Seat(ifindex, row.vlan).key, port_number(row.port)
    flags = (ENABLED if row.enabled else 0) | (PEER if peer else 0) | (0 if row.qos is None else HAS_QOS)
    flags |= (0 if samples is None else SAMPLED) | (0 if row.mirror is None or row.vlan else MIRRORED)
    flags |= GUARDED if row.port_security or row.groups else 0
    flags |= (DHCP if row.dhcp else 0) | (DHCP_SERVER if row.dhcp_server else 0)
    cas = [address(ca) for ca in row.cas]
    ca4 = next((ca for ca in cas if ca.startswith(MAPPED)), NONE)
    ca6 = next((ca for ca in cas if not ca.startswith(MAPPED)), NONE)
    sources = [
        SOURCE_KEY.pack(SOURCE_BITS + 128, ifindex, own, row.vlan, FAMILY4 if ca.startswith(MAPPED) else FAMILY6, ca)
        for ca in cas
    ]
    for pair in row.pairs:
        packed, length, family = _prefix(pair.prefix)
        sources.append(SOURCE_KEY.pack(SOURCE_BITS + length, ifindex, mac(pair.mac), row.vlan, family, packed))
    numbers = _number(row.flood_limit_pps), slot, tenant_number(row.port)
    return PortEntries(
        dict.fromkeys(sources, ALLOWED),
        {seat: PORT.pack(number, _number(row.vsid), own, flags, ca4, ca6, *numbers)},
        dict.fromkeys(
            (_mac_key(row.vsid, each, 0) for each in (own, *map(mac, row.macs))),
            LOCAL.pack(ifindex, row.vlan, flags, number, slot),
        ),
        {} if row.qos is None else {seat: qos(row.qos)},
        {} if samples is None or row.vlan else {NUMBER.pack(ifindex): samples},
        {(row.vsid, seat): RECEIVER.pack(ifindex, row.vlan, flags)},
    )


#: The deepest debt, of bits and of packets: one packet's (MOST_BYTES in c/bucket.h; a packet has no more segments).
_NANO = 10**9
_DEBTS = (8 * (1 << 24) * _NANO, (1 << 24) * _NANO)


def qos(of: Qos) -> bytes:
    """Value of the map qos."""
    return QOS.pack(
        *_limit(of.from_guest),
        *_limit(of.to_guest),
        0 if of.dscp is None else MARK | of.dscp,
        COPY if of.outer_dscp is None else of.outer_dscp,
    )


def _limit(of: Limit | None) -> tuple[int, ...]:
    """Rate, what the bucket holds, and when it is full at the latest: of bits, then of packets."""
    limit = of or Limit()
    found: list[int] = []
    bursts = (limit.burst_bytes * 8 * _NANO, limit.burst_packets * _NANO)
    for rate, most, debt in zip((limit.rate_bits_per_s, limit.rate_packets_per_s), bursts, _DEBTS, strict=True):
        if rate is None:
            found += (0, 0, 0)
            continue
        if not 0 < rate < 1 << 60 or most >= 1 << 62:
            raise Rejected(f"a rate of {rate} with a burst of {most // _NANO} is more than a bucket has room for")
        found += (rate, most, (most + debt) // rate + 1)
    return tuple(found)


def domain_of_route(key: bytes) -> bytes:
    """RDID."""
    return key[4:20]


def place_of_source(key: bytes) -> bytes:
    """Interface and VLAN."""
    return key[4:8] + key[14:16]


def bucket_keys(seat: Seat) -> tuple[bytes, ...]:
    """Both directions'."""
    return tuple(seat.key + SEAT.pack(direction) for direction in DIRECTIONS)


#: Table -> the kernel's key for the rest of a row's key.
MAP_KEYS: Mapping[str, Callable[..., bytes]] = {
    "subnets": lambda vsid: NUMBER.pack(_number(vsid)),
    "records": lambda vsid, ca: _record_key(_number(vsid), address(ca)),
    "macs": lambda vsid, text: _mac_key(_number(vsid), mac(text), 0),
    "routes": route_key,
    "rewrites": address,
}


def map_key(key: Key) -> bytes:
    """The kernel's key of a subnet, record, MAC record or route."""
    return MAP_KEYS[key[0]](*key[1:])


# And back.


def address_text(packed: bytes) -> str:
    """Canonical text."""
    if packed[:12] == MAPPED:
        return inet_ntop(AF_INET, packed[12:])
    if packed[:8] == _ZEROS:
        return str(IPv6Address(packed))  # libc writes ::a.b.c.d here
    return inet_ntop(AF_INET6, packed)


_shared_text = lru_cache(1 << 16)(address_text)


def mac_text(packed: bytes) -> str:
    return packed.hex(":")


def _prefix_text(packed: bytes, length: int, family: int) -> str:
    return f"{address_text(packed)}/{length - 96 if family == FAMILY4 else length}"


@lru_cache(1 << 16)
def _rdid_text(packed: bytes) -> str:
    return str(UUID(bytes=packed))


def subnet_keys(packed: bytes) -> list[Key]:
    """Row keys of map keys in a row; so do the next three. In bulk, since prune() asks of every entry there is."""
    return [("subnets", vsid) for (vsid,) in NUMBER.iter_unpack(packed)]


def record_keys(packed: bytes) -> list[Key]:
    return [("records", vsid, address_text(ca)) for vsid, ca in RECORD_KEY.iter_unpack(packed)]


def mac_record_keys(packed: bytes) -> list[Key]:
    return [("macs", vsid, text.hex(":")) for vsid, text, _ in MAC_KEY.iter_unpack(packed)]


def route_keys(packed: bytes) -> list[Key]:
    return [
        ("routes", _rdid_text(rdid), _prefix_text(base, length - ROUTE_BITS, family))
        for length, rdid, family, base in ROUTE_KEY.iter_unpack(packed)
    ]


def is_record(value: bytes) -> bool:
    """Whether a value of records or macs is of a rule of ours."""
    return RECORD.unpack(value)[2] & ~MOVING in RULE_NAMES


def read_record(key: bytes, value: bytes, moves: Mapping[bytes, bytes]) -> Record:
    """moves: the map moving. Raises KeyError when the rule's number is none of ours; so do the next two for what is no
    row.
    """
    vsid, ca = RECORD_KEY.unpack(key)
    pa, packed, rule = RECORD.unpack(value)
    also = _read_also(vsid, packed, rule, moves)
    return Record(vsid, address_text(ca), _shared_text(pa), mac_text(packed), RULE_NAMES[rule & ~MOVING], also)


def read_mac_record(key: bytes, value: bytes, moves: Mapping[bytes, bytes]) -> MacRecord:
    vsid, packed, _ = MAC_KEY.unpack(key)
    pa, _, rule = RECORD.unpack(value)
    also = _read_also(vsid, packed, rule, moves)
    return MacRecord(vsid, mac_text(packed), _shared_text(pa), RULE_NAMES[rule & ~MOVING], also)


def _read_also(vsid: int, packed: bytes, rule: int, moves: Mapping[bytes, bytes]) -> str | None:
    also = moves.get(_mac_key(vsid, packed, 0)) if rule & MOVING else None
    return None if also is None else _shared_text(also)


def read_member(vsid: int, value: bytes) -> Member:
    pa, rule, _ = MEMBER.unpack(value)
    return Member(vsid, _shared_text(pa), RULE_NAMES[rule])


def read_listener(key: bytes) -> tuple[Seat, str]:
    """Who listens, and to which group."""
    seat, group = LISTENER_KEY.unpack(key)
    return seat_of_key(seat), address_text(group)


def read_route(key: bytes, value: bytes) -> Route:
    length, rdid, family, packed = ROUTE_KEY.unpack(key)
    vsid, via, next_hop = ROUTE.unpack(value)
    prefix = _prefix_text(packed, length - ROUTE_BITS, family)
    return Route(_rdid_text(rdid), prefix, vsid, address_text(next_hop) if via else None)


@dataclass(frozen=True, slots=True)
class ReadSubnet:
    """What the kernel knows of a subnet: everything but its prefixes."""

    vsid: int
    rdid: str
    gateways: tuple[str, ...]
    router_mac: str
    mtu_bytes: int
    accepts: tuple[Rule, ...]
    broadcast: bool
    snooping: bool

    def row(self, prefixes: tuple[str, ...], group: str | None = None) -> Subnet:
        return Subnet(
            self.vsid,
            self.rdid,
            prefixes,
            self.gateways,
            self.router_mac,
            self.mtu_bytes,
            self.accepts,
            self.broadcast,
            self.snooping,
            group,
        )


def read_subnet(key: bytes, value: bytes) -> ReadSubnet:
    (vsid,) = NUMBER.unpack(key)
    rdid, gateway6, gateway4, router_mac, flags, mtu_bytes = SUBNET.unpack(value)
    gateways: list[str] = []
    if flags & HAS4:
        gateways.append(inet_ntop(AF_INET, gateway4))
    if flags & HAS6:
        gateways.append(address_text(gateway6))
    accepts = tuple(rule for rule, number in RULES.items() if flags >> ACCEPTS_SHIFT >> number & 1)
    return ReadSubnet(
        vsid,
        _rdid_text(rdid),
        tuple(gateways),
        mac_text(router_mac),
        mtu_bytes,
        accepts,
        bool(flags & BROADCAST),
        bool(flags & SNOOPING),
    )


@dataclass(frozen=True, slots=True)
class ReadHost:
    pas: tuple[str, ...]
    uplink_mtu_bytes: int
    accepts: int


def read_host(value: bytes) -> ReadHost:
    packed, _, _, mtu_bytes, accepts, _ = HOST.unpack(value)
    pas = (packed[at : at + 16] for at in range(0, len(packed), 16))
    return ReadHost(tuple(address_text(pa) for pa in pas if pa != NONE), mtu_bytes, accepts)


def read_qos(value: bytes) -> Qos:
    *numbers, mark, outer_dscp = QOS.unpack(value)
    limits: list[Limit | None] = []
    for at in (0, 6):
        bits, bits_most, _, packets, packets_most, _ = numbers[at : at + 6]
        limit = Limit(bits or None, bits_most // (8 * _NANO), packets or None, packets_most // _NANO)
        limits.append(None if limit == Limit() else limit)
    return Qos(
        limits[0],
        limits[1],
        mark & ~MARK if mark & MARK else None,
        None if outer_dscp == COPY else outer_dscp,
    )


def read_port(name: str, value: bytes, source_keys: Iterable[bytes], qos_value: bytes | None = None) -> Port:
    """CAs beyond the first of each family come in no particular order, and a pair of the port's own MAC with one
    address reads as a CA: to the programs there is no difference.
    """
    _, vsid, own, flags, ca4, ca6, flood_limit_pps, _, _ = PORT.unpack(value)
    cas = [address_text(ca) for ca in (ca4, ca6) if ca != NONE]
    pairs: list[Pair] = []
    for key in sorted(source_keys):
        length, _, packed, _, family, prefix = SOURCE_KEY.unpack(key)
        if packed == own and length == SOURCE_BITS + 128:
            ca = address_text(prefix)
            if ca not in cas:
                cas.append(ca)
        else:
            pairs.append(Pair(mac_text(packed), _prefix_text(prefix, length - SOURCE_BITS, family)))
    return Port(
        name,
        vsid,
        mac_text(own),
        tuple(cas),
        tuple(pairs),
        bool(flags & ENABLED),
        qos=read_qos(qos_value) if flags & HAS_QOS and qos_value is not None else None,
        dhcp=bool(flags & DHCP),
        dhcp_server=bool(flags & DHCP_SERVER),
        flood_limit_pps=flood_limit_pps,
    )


@dataclass(frozen=True, slots=True)
class ReadUpcall:
    """What a program handed up, before it is known whose interface it is."""

    seat: Seat
    kind: UpcallKind
    mac: str
    address: str
    frame: bytes


def read_upcall(data: bytes) -> ReadUpcall:
    """Raises ValueError for a kind that is none of ours."""
    ifindex, _, kind, length, packed, vlan, packed_address = UPCALL.unpack_from(data)
    frame = data[UPCALL.size : UPCALL.size + length]
    return ReadUpcall(Seat(ifindex, vlan), UpcallKind(kind), mac_text(packed), address_text(packed_address), frame)


def mirror(of: Mirror, ifindex: int) -> bytes:
    """Value of the map mirrors. ifindex: of the port that it is to, or 0."""
    to = NONE if of.address is None else address(of.address)
    directions = of.from_guest << DIRECTIONS[0] | of.to_guest << DIRECTIONS[1]
    return MIRROR.pack(to, ifindex, of.session, of.protocol is MirrorProtocol.ERSPAN, directions)


def read_sample(data: bytes) -> Sample:
    ifindex, rate, frame_bytes, captured = SAMPLE.unpack_from(data)
    return Sample(ifindex, rate, frame_bytes, data[SAMPLE.size : SAMPLE.size + captured])


def traffic(value: bytes) -> Traffic:
    """Counters of all CPUs, added up."""
    received_packets, received_bytes, sent_packets, sent_bytes, *dropped = map(
        sum, zip(*COUNTERS.iter_unpack(value), strict=True)
    )
    drops = {reason: dropped[reason] for reason in DropReason if dropped[reason]}
    return Traffic(received_packets, received_bytes, sent_packets, sent_bytes, drops)
