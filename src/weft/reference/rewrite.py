"""IP rewrite: CAs become PAs on the way out, and CAs again on the way in: datapath.md, IP rewrite. Adds no byte."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

from weft.model.features import FALLBACK
from weft.policy.drop import DropReason
from weft.policy.rows import Rule
from weft.reference import packet
from weft.reference.lookups import Location, Lookups, Port, Subnet
from weft.reference.packet import Arp, Ip

UDP_CHECKSUM_AT, TCP_CHECKSUM_AT, ICMPV6_CHECKSUM_AT = 6, 16, 2
FRAGMENT_BYTES = 8
ICMP_BYTES, TCP_BYTES = 8, 20
#: What an error quotes of a packet behind its IP header, at least.
QUOTED_BYTES = 8
#: Destination unreachable (fragmentation needed), time exceeded, parameter problem; in IPv6 packet too big besides.
ERRORS4, ERRORS6 = frozenset({3, 11, 12}), frozenset({1, 2, 3, 4})
#: RFC 4884, by IP version: the byte that says how much is quoted, where extensions follow; they name the router's
#: interfaces and addresses (RFC 5837). IPv6's is the highest of a packet too big's MTU and of a bad field's pointer,.
EXTENDED = {4: 5, 6: 4}


@dataclass(frozen=True, slots=True)
class NotOurs:
    """For the host's own stack."""


@dataclass(frozen=True, slots=True)
class Bad:
    """Taken, and dropped."""

    reason: DropReason


@dataclass(frozen=True, slots=True)
class Arrived:
    """For a port of this host: the frame as its guest is to see it."""

    port: Port
    frame: bytes


Taken: TypeAlias = Arrived | NotOurs | Bad

NOT_OURS = NotOurs()


def carried(lookups: Lookups, vsid: int, ip: Ip, target: Subnet, location: Location) -> Location:
    """How a packet travels to a location whose rule is IP rewrite: by it only from one CA to another that have PAs."""
    if location.rule is not Rule.REWRITE or _pas(lookups, vsid, ip, target) is not None:
        return location
    return replace(location, rule=FALLBACK)


def _pas(lookups: Lookups, vsid: int, ip: Ip, target: Subnet) -> tuple[bytes, bytes] | None:
    source, destination = lookups.pa_of(vsid, ip.source), lookups.pa_of(target.vsid, ip.destination)
    return None if source is None or destination is None else (source, destination)


def out(lookups: Lookups, vsid: int, target: Subnet, frame: bytes) -> tuple[bytes, bytes]:
    """The destination PA, and the packet from its IP header on. frame: a sound IP frame that ``carried`` left so."""
    ip = packet.parse(frame)
    pas = _pas(lookups, vsid, ip, target) if isinstance(ip, Ip) else None
    if pas is None or not isinstance(ip, Ip):
        raise TypeError("only IP frames from one PA to another are rewritten")
    return pas[1], with_addresses(ip, *pas)[packet.ETHERNET_BYTES :]


def take(lookups: Lookups, frame: bytes, steps: list[str]) -> Taken:
    """What a frame from the uplink is that no tunnel's header explains."""
    destination = _destination(frame)
    found = None if destination is None or Rule.REWRITE not in lookups.accepts else lookups.rewritten(destination)
    here = None if found is None else lookups.record(*found)
    if destination is None or found is None or here is None or not lookups.host.pas & {here.pa, here.also}:
        return NOT_OURS
    vsid, ca = found
    text = packet.address_text(destination)
    steps.append(f"from the uplink: rewritten: {text} is {packet.address_text(ca)} in VSID {vsid}")
    parsed = packet.parse(frame)
    if isinstance(parsed, DropReason | Arp):
        return Bad(parsed if isinstance(parsed, DropReason) else DropReason.ETHERTYPE)
    if packet.is_group(parsed.destination_mac):
        return Bad(DropReason.MULTICAST)
    subnet = lookups.subnets.get(vsid)
    if subnet is None:
        return Bad(DropReason.UNKNOWN_VSID)
    if Rule.REWRITE not in subnet.accepts:
        return Bad(DropReason.RULE_NOT_ACCEPTED)
    sender = _sender(lookups, subnet, parsed.source)
    if sender is None and (told := _told_by_a_router(lookups, subnet, ca, parsed)) is not None:
        steps.append(f"an ICMP error from {packet.address_text(parsed.source)}, a router: as if the gateway said it")
        parsed, sender = told
    if sender is None:
        steps.append(f"source {packet.address_text(parsed.source)}: the PA of nobody in this routing domain elsewhere")
        return Bad(DropReason.FORGED_SOURCE)
    source, mac = sender
    steps.append(f"source {packet.address_text(parsed.source)} is {packet.address_text(source)}")
    port = lookups.local_port(vsid, here.mac)
    if port is None:
        return Bad(DropReason.VSID_ACL)
    if not port.enabled:
        return Bad(DropReason.PORT_DOWN)
    steps.append(f"to port {port.name}: {len(frame)} bytes")
    return Arrived(port, packet.with_macs(with_addresses(parsed, source, ca), here.mac, mac))


def _destination(frame: bytes) -> bytes | None:
    """Of a frame with a whole IP header."""
    head = frame[packet.ETHERNET_BYTES :]
    if frame[12:14] == b"\x08\x00" and len(head) >= packet.IPV4_BYTES and head[0] >> 4 == 4:
        return head[16:20]
    if frame[12:14] == b"\x86\xdd" and len(head) >= packet.IPV6_BYTES and head[0] >> 4 == 6:
        return head[24:40]
    return None


def _told_by_a_router(lookups: Lookups, subnet: Subnet, ca: bytes, ip: Ip) -> tuple[Ip, tuple[bytes, bytes]] | None:
    """What a router on the way says (ICMP) of a packet of the CA's, as its guest is to see it, and as if from whom.

    None: it is no such.
    """
    gateway = subnet.gateway(ip.version)
    kind = ip.payload[:1]
    icmp, errors = (packet.ICMP, ERRORS4) if ip.version == 4 else (packet.ICMPV6, ERRORS6)
    if gateway is None or ip.protocol != icmp or ip.fragment or not kind or kind[0] not in errors:
        return None
    nobody = packet.is_unspecified(ip.source) or packet.is_many(ip.source) or ip.source in lookups.host.pas
    if nobody or lookups.rewritten(ip.source) is not None:
        return None
    head = packet.IPV4_BYTES if ip.version == 4 else packet.IPV6_BYTES
    quote = ip.payload[ICMP_BYTES:]
    begins = quote[:1] == b"\x45" if ip.version == 4 else quote[:1] and quote[0] >> 4 == 6
    if len(quote) < head + QUOTED_BYTES or not begins or ip.payload[EXTENDED[ip.version]]:
        return None
    at = 12 if ip.version == 4 else 8
    size = len(ip.source)
    source, destination = quote[at : at + size], quote[at + size : at + 2 * size]
    peer = _sender(lookups, subnet, destination)
    if source != ip.destination or peer is None:
        return None
    frame = bytearray(ip.frame)
    start = ip.payload_at + ICMP_BYTES
    addresses = ca + peer[0]
    frame[start + at : start + at + 2 * size] = addresses
    if ip.version == 4:
        _update(frame, start + 10, source + destination, addresses)
    _update_quoted_transport(frame, quote, start, head, source + destination, addresses)
    # All that has changed is within the header and the 20 bytes behind it.
    changed = slice(start, start + head + (TCP_BYTES if len(quote) >= head + TCP_BYTES else QUOTED_BYTES))
    _update(frame, ip.payload_at + 2, ip.frame[changed], bytes(frame[changed]))
    return replace(ip, frame=bytes(frame)), (gateway, subnet.router_mac)


def _update_quoted_transport(
    frame: bytearray, quote: bytes, start: int, head: int, before: bytes, after: bytes
) -> None:
    protocol = quote[9] if head == packet.IPV4_BYTES else quote[6]
    later = head == packet.IPV4_BYTES and int.from_bytes(quote[6:8], "big") & 0x1FFF
    offsets = {packet.UDP: UDP_CHECKSUM_AT}
    if len(quote) >= head + TCP_BYTES:
        offsets[packet.TCP] = TCP_CHECKSUM_AT
    if head == packet.IPV6_BYTES:
        offsets[packet.ICMPV6] = ICMPV6_CHECKSUM_AT
    offset = offsets.get(protocol)
    if later or offset is None:
        return
    at = start + head + offset
    if protocol == packet.UDP and frame[at : at + 2] == b"\0\0":
        return
    _update(frame, at, before, after)
    if protocol == packet.UDP and frame[at : at + 2] == b"\0\0":
        frame[at : at + 2] = b"\xff\xff"


def _sender(lookups: Lookups, subnet: Subnet, pa: bytes) -> tuple[bytes, bytes] | None:
    """The CA of a PA elsewhere, and the MAC that a packet of it has when it arrives; None: nobody's it may be from."""
    found = lookups.rewritten(pa)
    record = None if found is None else lookups.record(*found)
    # One that is moving from here may send from there already.
    if found is None or record is None or (record.pa in lookups.host.pas and record.also is None):
        return None
    vsid, ca = found
    theirs = lookups.subnets.get(vsid)
    if theirs is None or theirs.rdid != subnet.rdid or Rule.REWRITE not in theirs.accepts:
        return None
    return ca, record.mac if vsid == subnet.vsid else subnet.router_mac


def with_addresses(ip: Ip, source: bytes, destination: bytes) -> bytes:
    """The frame from one address to another, every checksum that covers them updated."""
    frame = bytearray(ip.frame)
    before, after = ip.source + ip.destination, source + destination
    at = packet.ETHERNET_BYTES + (12 if ip.version == 4 else 8)
    frame[at : at + len(after)] = after
    if ip.version == 4:
        _update(frame, packet.ETHERNET_BYTES + 10, before, after)
    transport = _checksum_at(ip)
    if transport is not None:
        checksum_at, udp = transport
        _update(frame, checksum_at, before, after)
        # RFC 768: a computed zero is sent as all ones.
        if udp and frame[checksum_at : checksum_at + 2] == b"\0\0":
            frame[checksum_at : checksum_at + 2] = b"\xff\xff"
    return bytes(frame)


def _update(frame: bytearray, at: int, before: bytes, after: bytes) -> None:
    value = int.from_bytes(frame[at : at + 2], "big")
    for word in range(0, len(before), 2):
        was, now = (int.from_bytes(each[word : word + 2], "big") for each in (before, after))
        value = packet.checksum_update(value, was, now)
    frame[at : at + 2] = value.to_bytes(2, "big")


def _checksum_at(ip: Ip) -> tuple[int, bool] | None:
    """Where in the frame the transport's checksum is, when it covers the addresses, and whether it is UDP's."""
    if ip.later_fragment:
        return None
    protocol, start = ip.protocol, ip.payload_at
    if ip.version == 6 and protocol == packet.IPV6_FRAGMENT:
        protocol, start = ip.frame[start], start + FRAGMENT_BYTES
    offsets = {packet.TCP: TCP_CHECKSUM_AT, packet.UDP: UDP_CHECKSUM_AT}
    if ip.version == 6:
        offsets[packet.ICMPV6] = ICMPV6_CHECKSUM_AT
    offset = offsets.get(protocol)
    if offset is None or start + offset + 2 > packet.ETHERNET_BYTES + ip.ip_length:
        return None
    udp = protocol == packet.UDP
    if udp and ip.frame[start + offset : start + offset + 2] == b"\0\0":
        return None  # none was computed
    return start + offset, udp
