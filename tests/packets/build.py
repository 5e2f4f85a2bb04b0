"""Frames by scapy, written out as the specification says them. Uses nothing of Weft's own packet code."""

from __future__ import annotations

import ipaddress
from typing import Any

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, GRE, Dot1Q, Ether
from scapy.packet import Packet, Raw
from scapy.utils import checksum

from packets.policy import PA1, PA1_6, ROUTER, WEB1

__all__ = [
    "ARP", "GRE", "ICMP", "IP", "TCP", "UDP", "Dot1Q", "Ether", "ICMPv6EchoReply", "ICMPv6EchoRequest", "ICMPv6ND_NA",
    "ICMPv6ND_NS", "ICMPv6ND_RA", "ICMPv6ND_RS", "ICMPv6ND_Redirect", "ICMPv6NDOptDstLLAddr", "ICMPv6NDOptSrcLLAddr",
    "IPv6", "IPv6ExtHdrDestOpt", "IPv6ExtHdrFragment", "IPv6ExtHdrHopByHop", "IPv6ExtHdrRouting", "Packet", "Raw",
]  # fmt: skip

W4, W6 = "10.0.1.4", "2001:db8:1::4"


def network(source: str, destination: str, hop_limit: int = 64, ecn: int = 0, **fields: Any) -> Packet:
    """An IP header of the addresses' family."""
    if ":" in source:
        return IPv6(src=source, dst=destination, hlim=hop_limit, tc=ecn, **fields)
    return IP(src=source, dst=destination, ttl=hop_limit, tos=ecn, **fields)


def eth(to: str, body: Packet | bytes, mac: str = WEB1, kind: int | None = None) -> bytes:
    """A whole frame."""
    if kind is None:
        kind = 0x0800 if isinstance(body, IP) else 0x86DD if isinstance(body, IPv6) else 0x0806
    return bytes(Ether(dst=to, src=mac, type=kind)) + bytes(body)


def echo(version: int, size: int = 24) -> Packet:
    body = Raw(bytes(index % 251 for index in range(size)))
    if version == 4:
        return ICMP(type=8, id=7, seq=1) / body
    return ICMPv6EchoRequest(id=7, seq=1) / body


def echo_reply(version: int, size: int = 24) -> Packet:
    body = Raw(bytes(index % 251 for index in range(size)))
    if version == 4:
        return ICMP(type=0, id=7, seq=1) / body
    return ICMPv6EchoReply(id=7, seq=1) / body


def version_of(address: str) -> int:
    return ipaddress.ip_address(address).version


def _rotated(word: int) -> int:
    return ((word << 7) | (word >> 25)) & 0xFFFFFFFF


def flow32(source: str, destination: str, protocol: int, ends: tuple[int, int] | None = None) -> int:
    """The hash of datapath.md."""
    result = protocol
    words = ipaddress.ip_address(source).max_prefixlen // 32
    for index in range(words):
        result ^= int(ipaddress.ip_address(source)) >> 32 * index & 0xFFFFFFFF
        result ^= _rotated(int(ipaddress.ip_address(destination)) >> 32 * index & 0xFFFFFFFF)
    if ends is not None:
        result ^= ends[0] << 16 | ends[1]
    return result * 0x9E3779B1 % 2**32


def flow(source: str, destination: str, protocol: int, ends: tuple[int, int] | None = None) -> int:
    """The FlowID of NVGRE."""
    return flow32(source, destination, protocol, ends) >> 24


def nvgre(pa: str, vsid: int, flow_id: int, inner: bytes, ecn: int = 0, source: str | None = None) -> bytes:
    """The packet on the wire, from the outer IP header on."""
    gre = GRE(key_present=1, proto=0x6558, key=vsid << 8 | flow_id) / Raw(inner)
    if ":" in pa:
        return bytes(IPv6(src=source or PA1_6, dst=pa, tc=ecn, fl=0, hlim=64, nh=47) / gre)
    return bytes(IP(src=source or PA1, dst=pa, tos=ecn, id=0, flags="DF", ttl=64, proto=47) / gre)


def _quote(frame: bytes, length: int) -> Raw:
    """The packet in the frame, up to ``length`` bytes, without what trails it."""
    if frame[12:14] == b"\x08\x00":
        total = int.from_bytes(frame[16:18], "big")
    else:
        total = 40 + int.from_bytes(frame[18:20], "big")
    return Raw(frame[14 : 14 + min(total, length)])


def icmp_error(
    frame: bytes, kind: int, code: int, gateway: str, to: str, mtu: int = 0, router: str = ROUTER, mac: str = WEB1
) -> bytes:
    """The error that the gateway sends about ``frame``."""
    if ":" in gateway:
        message = {
            1: ICMPv6DestUnreach(code=code),
            2: ICMPv6PacketTooBig(code=code, mtu=mtu),
            3: ICMPv6TimeExceeded(code=code),
        }[kind]
        body = IPv6(src=gateway, dst=to, hlim=64, tc=0, fl=0, nh=58) / message / _quote(frame, 1232)
        return eth(mac, body, router)
    # Raw header: scapy would pad a quote for RFC 4884.
    head = bytes((kind, code, 0, 0)) + mtu.to_bytes(4, "big") + bytes(_quote(frame, 548))
    packet = IP(src=gateway, dst=to, tos=0, id=0, flags="DF", ttl=64, proto=1) / Raw(_with_checksum(head))
    return eth(mac, packet, router)


def _with_checksum(message: bytes) -> bytes:
    return message[:2] + checksum(message).to_bytes(2, "big") + message[4:]


def arp(
    opcode: int, mac: str, sender: str, target: str, target_mac: str = "00:00:00:00:00:00", **fields: Any
) -> Packet:
    return ARP(op=opcode, hwsrc=mac, psrc=sender, hwdst=target_mac, pdst=target, **fields)


def solicitation(target: str, mac: str = WEB1, source: str = W6, option: bytes | Packet | None = None) -> Packet:
    """A neighbour solicitation, by default with the sender's link-layer address."""
    tail = ICMPv6NDOptSrcLLAddr(lladdr=mac) if option is None else Raw(bytes(option))
    return IPv6(src=source, dst="ff02::1:ff00:5", hlim=255) / ICMPv6ND_NS(tgt=target) / tail


def advertisement(
    target: str, answer: str, to: str = W6, to_mac: str = WEB1, *, router: bool, solicited: bool = True
) -> bytes:
    """The neighbour advertisement that answers."""
    body = (
        IPv6(src=target, dst=to, hlim=255, tc=0, fl=0)
        / ICMPv6ND_NA(tgt=target, R=int(router), S=int(solicited), O=1)
        / ICMPv6NDOptDstLLAddr(lladdr=answer)
    )
    return eth(to_mac, body, answer)


def syn(mss_options: list[Any], sport: int = 50000, dport: int = 80, flags: str = "S") -> Packet:
    return TCP(sport=sport, dport=dport, flags=flags, seq=1, window=65535, options=mss_options)
