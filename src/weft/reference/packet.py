"""Packets as bytes: parse, build, checksum. Decides nothing: what a packet may do is the pipeline's affair.

Addresses are 4 or 16 bytes, MACs 6, as on the wire. Header numbers: RFC 791, 8200, 826, 792, 4443, 4861, 2784, 7637.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import TypeAlias

from weft.kit.errors import Rejected
from weft.policy.drop import DropReason

ETHERNET_BYTES = 14
ETH_IPV4 = 0x0800
ETH_ARP = 0x0806
ETH_IPV6 = 0x86DD
ETH_TAGS = frozenset({0x8100, 0x88A8})

ICMP, TCP, UDP, IPV6_FRAGMENT, GRE, ICMPV6 = 1, 6, 17, 44, 47, 58
ECHO_REQUEST, ECHO_REPLY = 8, 0
ECHO_REQUEST6, ECHO_REPLY6 = 128, 129
NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT = 135, 136
CHAINED_HEADERS = (0, 43, 60)  # hop-by-hop options, routing, destination options
#: Messages that must not be answered with an error (RFC 1122 3.2.2; RFC 4443 2.4 e): v6 errors are those below 128.
ICMP_ERRORS = frozenset({3, 4, 5, 11, 12})
ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT, REDIRECT6 = 133, 134, 137
ARP_REQUEST, ARP_REPLY = 1, 2

IPV4_BYTES, IPV6_BYTES, ARP_BYTES = 20, 40, 28
HOP_LIMIT = 64
#: Ethernet, IP, version 0, key present, Transparent Ethernet Bridging (RFC 7637 3.2).
GRE_WORD = b"\x20\x00\x65\x58"  # key and nothing else; Transparent Ethernet Bridging
GRE_BYTES = 8

UNSPECIFIED4, UNSPECIFIED6 = bytes(4), bytes(16)
ALL_NODES = bytes.fromhex("ff020000000000000000000000000001")
ALL_NODES_MAC = bytes.fromhex("333300000001")
BROADCAST_MAC = b"\xff" * 6
NOBODYS_MAC = b"\x01" + bytes(5)  # a group's, of which there is none
MAPPED_PREFIX = bytes(10) + b"\xff\xff"
LINK_LOCAL_PREFIX = b"\xfe\x80" + bytes(6)

CE = 3  # RFC 3168: congestion experienced


# Text


def mac_bytes(text: str) -> bytes:
    """A MAC of its canonical text."""
    try:
        value = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        value = b""
    if len(value) != 6 or mac_text(value) != text:
        raise Rejected(f"{text!r} is not a MAC address such as 02:00:00:00:00:01")
    return value


def mac_text(mac: bytes) -> str:
    return mac.hex(":")


def address_bytes(text: str) -> bytes:
    """An address of its canonical text. Takes no mapped address: IPv4 is written as IPv4."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise Rejected(f"{text!r} is not an IP address such as 10.0.1.4 or 2001:db8::4") from None
    if str(address) != text:
        raise Rejected(f"{text!r} is not in canonical form: write {str(address)!r}")
    if is_mapped(address.packed):
        raise Rejected(f"{text!r} is an IPv4-mapped address: write the IPv4 address")
    return address.packed


def address_text(address: bytes) -> str:
    if len(address) == 4:
        return ".".join(map(str, address))
    return str(ipaddress.IPv6Address(address))


# Numbers


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071). Zero when ``data`` holds a right one."""
    if len(data) % 2:
        data += b"\0"
    number = int.from_bytes(data, "big")
    # 2^16 is 1 modulo 0xffff, so the remainder is the one's complement sum; only a sum of zeros is zero.
    return 0xFFFF - ((number % 0xFFFF or 0xFFFF) if number else 0)


def checksum_update(old: int, before: int, after: int) -> int:
    """RFC 1624 equation 3, for one 16-bit word; applied also to a word that stays the same."""
    total = (old ^ 0xFFFF) + (before ^ 0xFFFF) + after
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def with_word(data: bytes, at: int, checksum_at: int, word: int) -> bytes:
    """``data`` with the 16-bit word at ``at`` set, and the checksum over it updated."""
    (before,) = struct.unpack_from("!H", data, at)
    (old,) = struct.unpack_from("!H", data, checksum_at)
    changed = bytearray(data)
    struct.pack_into("!H", changed, at, word)
    struct.pack_into("!H", changed, checksum_at, checksum_update(old, before, word))
    return bytes(changed)


def is_group(mac: bytes) -> bool:
    """Broadcast or multicast."""
    return bool(mac[0] & 1)


def is_mapped(address: bytes) -> bool:
    return len(address) == 16 and address[:12] == MAPPED_PREFIX


def is_multicast(address: bytes) -> bool:
    return address[0] >> 4 == 0xE if len(address) == 4 else address[0] == 0xFF


def is_many(address: bytes) -> bool:
    """Whether it is no single machine's: a multicast address, or 255.255.255.255."""
    return is_multicast(address) or address == b"\xff" * 4


def is_unspecified(address: bytes) -> bool:
    return not any(address)


def is_link_local6(address: bytes) -> bool:
    """In fe80::/10."""
    return len(address) == 16 and address[0] == 0xFE and address[1] & 0xC0 == 0x80


def link_local(mac: bytes) -> bytes:
    """fe80::/64 with the modified EUI-64 of the MAC (RFC 4291 appendix A)."""
    return LINK_LOCAL_PREFIX + bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:]


def mac_of_link_local(address: bytes) -> bytes | None:
    """The MAC that a link-local address was made of, or None when it was made otherwise."""
    if address[:8] != LINK_LOCAL_PREFIX or address[11:13] != b"\xff\xfe":
        return None
    return bytes((address[8] ^ 2,)) + address[9:11] + address[13:]


# Parsing


@dataclass(frozen=True, slots=True)
class Ip:
    """A frame whose IPv4 or IPv6 header is sound. Says nothing of what is behind the header."""

    frame: bytes
    version: int  # 4 or 6
    header_bytes: int
    ip_length: int  # IPv4: total length; IPv6: 40 + payload length
    source: bytes
    destination: bytes
    protocol: int  # IPv6: first next header
    hop_limit: int
    fragment: bool  # IPv4: MF set or offset not 0
    later_fragment: bool  # offset not 0, or (IPv6) not to be told

    @property
    def destination_mac(self) -> bytes:
        return self.frame[:6]

    @property
    def source_mac(self) -> bytes:
        return self.frame[6:12]

    @property
    def l3_length(self) -> int:
        return len(self.frame) - ETHERNET_BYTES

    @property
    def payload_at(self) -> int:
        return ETHERNET_BYTES + self.header_bytes

    @property
    def payload(self) -> bytes:
        """What is behind the IP header, without what trails the IP length."""
        return self.frame[self.payload_at : ETHERNET_BYTES + self.ip_length]

    @property
    def packet(self) -> bytes:
        """From the IP header on, without what trails the IP length."""
        return self.frame[ETHERNET_BYTES : ETHERNET_BYTES + self.ip_length]

    @property
    def ecn(self) -> int:
        return self.frame[15] & 3 if self.version == 4 else self.frame[15] >> 4 & 3

    @property
    def dscp(self) -> int:
        """RFC 2474: the upper six bits of the TOS or the traffic class."""
        if self.version == 4:
            return self.frame[15] >> 2
        return (self.frame[14] & 15) << 2 | self.frame[15] >> 6


@dataclass(frozen=True, slots=True)
class Arp:
    """A frame that holds ARP for IPv4 over Ethernet."""

    frame: bytes
    opcode: int
    sender_mac: bytes
    sender: bytes
    target: bytes

    @property
    def source_mac(self) -> bytes:
        return self.frame[6:12]


Parsed: TypeAlias = Ip | Arp


def parse(frame: bytes) -> Parsed | DropReason:
    """What the frame holds, or why it cannot go on. Never looks behind the network header."""
    if len(frame) < ETHERNET_BYTES:
        return DropReason.TRUNCATED
    ethertype = frame[12] << 8 | frame[13]
    if ethertype in ETH_TAGS:
        return DropReason.VLAN_TAG
    if ethertype == ETH_IPV4:
        return _ipv4(frame)
    if ethertype == ETH_IPV6:
        return _ipv6(frame)
    if ethertype == ETH_ARP:
        return _arp(frame)
    return DropReason.ETHERTYPE


def _ipv4(frame: bytes) -> Ip | DropReason:
    there = len(frame) - ETHERNET_BYTES
    if there < IPV4_BYTES:
        return DropReason.TRUNCATED
    first, _, total, _, offset, hop_limit, protocol, _, source, destination = struct.unpack_from(
        "!BBHHHBBH4s4s", frame, ETHERNET_BYTES
    )
    header_bytes = (first & 15) * 4
    if first >> 4 != 4 or header_bytes < IPV4_BYTES or total < header_bytes:
        return DropReason.MALFORMED
    if total > there:
        return DropReason.TRUNCATED
    return Ip(
        frame, 4, header_bytes, total, source, destination, protocol, hop_limit,
        fragment=bool(offset & 0x3FFF), later_fragment=bool(offset & 0x1FFF),
    )  # fmt: skip


def _ipv6(frame: bytes) -> Ip | DropReason:
    there = len(frame) - ETHERNET_BYTES
    if there < IPV6_BYTES:
        return DropReason.TRUNCATED
    first, _, _, length, protocol, hop_limit, source, destination = struct.unpack_from(
        "!BBHHBB16s16s", frame, ETHERNET_BYTES
    )
    if first >> 4 != 6:
        return DropReason.MALFORMED
    total = IPV6_BYTES + length
    if total > there:
        return DropReason.TRUNCATED
    if source[:12] == MAPPED_PREFIX or destination[:12] == MAPPED_PREFIX:
        return DropReason.MALFORMED
    later = False
    if protocol == IPV6_FRAGMENT:
        later = length < 8 or bool((frame[56] << 8 | frame[57]) & 0xFFF8)
    return Ip(
        frame, 6, IPV6_BYTES, total, source, destination, protocol, hop_limit, fragment=False, later_fragment=later
    )


def _arp(frame: bytes) -> Arp | DropReason:
    if len(frame) < ETHERNET_BYTES + ARP_BYTES:
        return DropReason.TRUNCATED
    kind, opcode, sender_mac, sender, target = struct.unpack_from("!6sH6s4s6x4s", frame, ETHERNET_BYTES)
    if kind != b"\x00\x01\x08\x00\x06\x04":
        return DropReason.MALFORMED
    return Arp(frame, opcode, sender_mac, sender, target)


def neighbour_message(ip: Ip) -> int | None:
    """The type, when this is a neighbour solicitation or advertisement (RFC 4861 7.1: only with hop limit 255)."""
    if ip.version != 6 or ip.protocol != ICMPV6 or ip.hop_limit != 255 or ip.ip_length < IPV6_BYTES + 24:
        return None
    kind, code = ip.payload[:2]
    return kind if code == 0 and kind in (NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT) else None


def redirects(ip: Ip) -> bool:
    """Whether it makes somebody it names a router."""
    return ip.version == 6 and ip.protocol == ICMPV6 and ip.hop_limit == 255 and ip.payload[:1] == bytes((REDIRECT6,))


def may_hide_discovery(ip: Ip) -> bool:
    """Whether neighbour discovery may lie behind extension headers (RFC 7113): what is not looked for there."""
    return ip.version == 6 and ip.hop_limit == 255 and ip.protocol in CHAINED_HEADERS


def ports(ip: Ip) -> bytes | None:
    """The first 4 bytes of a whole TCP or UDP packet (source and destination port)."""
    if ip.protocol not in (TCP, UDP) or ip.fragment:
        return None
    head = ip.payload[:4]
    return head if len(head) == 4 else None


def flow_hash(ip: Ip) -> int:
    """32 bits, the same for every packet of a flow; the first ones are the best mixed."""
    mixed = ip.protocol
    for (word,) in struct.iter_unpack("!I", ip.source):
        mixed ^= word
    for (word,) in struct.iter_unpack("!I", ip.destination):
        mixed ^= (word << 7 | word >> 25) & 0xFFFF_FFFF
    head = ports(ip)
    if head is not None:
        mixed ^= int.from_bytes(head, "big")
    return mixed * 0x9E37_79B1 & 0xFFFF_FFFF


def flow_id(ip: Ip) -> int:
    """8 bits, the same for every packet of a flow."""
    return flow_hash(ip) >> 24


# Building


def ethernet(destination: bytes, source: bytes, ethertype: int, payload: bytes) -> bytes:
    return destination + source + ethertype.to_bytes(2, "big") + payload


def ipv4(source: bytes, destination: bytes, protocol: int, payload: bytes, tos: int = 0) -> bytes:
    """An IPv4 packet as this data plane sends it: no options, id 0, DF, TTL 64."""
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, tos, IPV4_BYTES + len(payload), 0, 0x4000, HOP_LIMIT, protocol, 0, source, destination
    )
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload


def ipv6(
    source: bytes, destination: bytes, protocol: int, payload: bytes, tclass: int = 0, hop_limit: int = HOP_LIMIT
) -> bytes:
    """An IPv6 packet as this data plane sends it: flow label 0, no extension header."""
    head = struct.pack("!IHBB", 6 << 28 | tclass << 20, len(payload), protocol, hop_limit)
    return head + source + destination + payload


def icmp(kind: int, code: int, rest: bytes, body: bytes) -> bytes:
    """An ICMP message; ``rest`` is the second half of its 8 byte header."""
    message = bytes((kind, code, 0, 0)) + rest + body
    return message[:2] + checksum(message).to_bytes(2, "big") + message[4:]


def transport_checksum(source: bytes, destination: bytes, protocol: int, segment: bytes) -> int:
    """The checksum of ``segment`` (its own field zero) with the pseudo header of its family."""
    if len(source) == 4:
        pseudo = struct.pack("!4s4sxBH", source, destination, protocol, len(segment))
    else:
        pseudo = struct.pack("!16s16sI3xB", source, destination, len(segment), protocol)
    return checksum(pseudo + segment)


def icmpv6(source: bytes, destination: bytes, kind: int, code: int, rest: bytes, body: bytes) -> bytes:
    message = bytes((kind, code, 0, 0)) + rest + body
    return message[:2] + transport_checksum(source, destination, ICMPV6, message).to_bytes(2, "big") + message[4:]


def arp_request(mac: bytes, sender: bytes, target: bytes) -> bytes:
    body = struct.pack("!HHBBH6s4s6x4s", 1, ETH_IPV4, 6, 4, ARP_REQUEST, mac, sender, target)
    return ethernet(BROADCAST_MAC, mac, ETH_ARP, body)


def arp_reply(request: Arp, mac: bytes) -> bytes:
    """The request in place, answered with ``mac``; what trails it stays."""
    body = struct.pack(
        "!6sH6s4s6s4s", request.frame[14:20], ARP_REPLY, mac, request.target, request.sender_mac, request.sender
    )
    trailing = request.frame[ETHERNET_BYTES + ARP_BYTES :]
    return ethernet(request.source_mac, mac, ETH_ARP, body + trailing)


def neighbour_solicitation(mac: bytes, source: bytes, target: bytes) -> bytes:
    """To the target's solicited-node group (RFC 4291 2.7.1)."""
    group = bytes.fromhex("ff0200000000000000000001ff") + target[13:]
    message = icmpv6(source, group, NEIGHBOUR_SOLICITATION, 0, bytes(4), target + b"\x01\x01" + mac)
    return ethernet(b"\x33\x33" + group[12:], mac, ETH_IPV6, ipv6(source, group, ICMPV6, message, hop_limit=255))


def neighbour_advertisement(asker_mac: bytes, asker: bytes, target: bytes, mac: bytes, *, router: bool) -> bytes:
    """The answer to a solicitation for ``target``; to all nodes when the asker has no address yet."""
    nameless = is_unspecified(asker)
    destination = ALL_NODES if nameless else asker
    flags = (0x80 if router else 0) | (0 if nameless else 0x40) | 0x20  # R, S, O
    message = icmpv6(
        target, destination, NEIGHBOUR_ADVERTISEMENT, 0, bytes((flags, 0, 0, 0)), target + b"\x02\x01" + mac
    )
    packet = ipv6(target, destination, ICMPV6, message, hop_limit=255)
    return ethernet(ALL_NODES_MAC if nameless else asker_mac, mac, ETH_IPV6, packet)


def with_macs(frame: bytes, destination: bytes, source: bytes) -> bytes:
    return destination + source + frame[12:]


def with_hop_limit(ip: Ip, frame: bytes, hop_limit: int) -> bytes:
    """``frame`` (of the shape of ``ip``) with another TTL or hop limit; IPv4's checksum is updated."""
    if ip.version == 4:
        return with_word(frame, 22, 24, hop_limit << 8 | ip.protocol)
    return frame[:21] + bytes((hop_limit,)) + frame[22:]


def with_dscp(ip: Ip, frame: bytes, dscp: int) -> bytes:
    """``frame`` (of the shape of ``ip``) with another DSCP; the ECN bits stay, IPv4's checksum is updated."""
    if ip.version == 4:
        return with_word(frame, 14, 24, frame[14] << 8 | dscp << 2 | frame[15] & 3)
    return frame[:14] + bytes((frame[14] & 0xF0 | dscp >> 2, dscp << 6 & 0xC0 | frame[15] & 0x3F)) + frame[16:]


def with_ce(ip: Ip) -> bytes:
    """The frame with Congestion Experienced set."""
    frame = ip.frame
    if ip.version == 4:
        return with_word(frame, 14, 24, frame[14] << 8 | frame[15] | CE)
    return frame[:15] + bytes((frame[15] | CE << 4,)) + frame[16:]


def with_tag(frame: bytes, vlan: int) -> bytes:
    """The frame in an IEEE 802.1Q VLAN."""
    return frame[:12] + b"\x81\x00" + vlan.to_bytes(2, "big") + frame[12:]


def without_tag(frame: bytes, vlan: int) -> bytes | None:
    """The frame out of an IEEE 802.1Q VLAN, whatever its priority; None: it is in none, another, or one more inside."""
    if frame[12:14] != b"\x81\x00" or len(frame) < ETHERNET_BYTES + 4:
        return None
    if int.from_bytes(frame[14:16], "big") & 0xFFF != vlan or frame[16:18] in (b"\x81\x00", b"\x88\xa8"):
        return None
    return frame[:12] + frame[16:]
