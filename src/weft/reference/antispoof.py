"""Who may send as whom: datapath.md, from a guest's port, 4. Never looks at where the packet goes."""

from __future__ import annotations

from dataclasses import dataclass

from weft.policy.drop import DropReason
from weft.reference import dhcp, packet
from weft.reference.lookups import Port
from weft.reference.packet import Arp, Ip


@dataclass(frozen=True, slots=True)
class Allowed:
    """The port may send this; because: as a sentence goes on after MAC and address."""

    because: str


OWN = Allowed("is the port's own")
PAIR = Allowed("is an address pair of the port")
LINK_LOCAL = Allowed("is the port's link-local address")
PROBE = Allowed("is a probe for an address that is not in use yet (RFC 5227)")
DHCP = Allowed("is DHCP before there is an address")
DETECTION = Allowed("is duplicate address detection")
SOLICITATION = Allowed("asks for routers before there is an address")


def check(port: Port, parsed: Ip | Arp) -> Allowed | DropReason:
    """Why the frame may, or must not, be from this port."""
    match parsed:
        case Arp():
            if parsed.source_mac != parsed.sender_mac:
                return DropReason.SPOOFED_MAC
            if parsed.sender_mac == port.mac and packet.is_unspecified(parsed.sender):
                return PROBE
            return address(port, parsed.sender_mac, parsed.sender)
        case Ip():
            allowed = address(port, parsed.source_mac, parsed.source)
            if allowed is DropReason.SPOOFED_CA:  # so the MAC is the port's own
                return _nameless(parsed) or allowed
            return allowed


def address(port: Port, mac: bytes, source: bytes) -> Allowed | DropReason:
    """Why the port may, or must not, use the pair."""
    if mac == port.mac and source in port.cas:
        return OWN
    if any(mac == pair_mac and prefix.covers(source) for pair_mac, prefix in port.pairs):
        return PAIR
    if mac != port.mac:
        return DropReason.SPOOFED_MAC
    return LINK_LOCAL if source == port.link_local else DropReason.SPOOFED_CA


def _nameless(ip: Ip) -> Allowed | None:
    """A packet of one who has no address yet."""
    if ip.source == packet.UNSPECIFIED6 and packet.neighbour_message(ip) == packet.NEIGHBOUR_SOLICITATION:
        return DETECTION
    if ip.source == packet.UNSPECIFIED6 and dhcp.solicits_router(ip):
        return SOLICITATION
    if ip.source == packet.UNSPECIFIED4 and dhcp.is_dhcp4_request(ip):
        return DHCP
    return None
