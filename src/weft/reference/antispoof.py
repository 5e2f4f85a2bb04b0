"""Who may send as whom: datapath.md, from a guest's port, 4. Never looks at where the packet goes."""

from __future__ import annotations

from weft.policy.drop import DropReason
from weft.reference import packet
from weft.reference.lookups import Port
from weft.reference.packet import Arp, Ip

DHCP_CLIENT, DHCP_SERVER = 68, 67
DHCP_PORTS = DHCP_CLIENT.to_bytes(2, "big") + DHCP_SERVER.to_bytes(2, "big")
UDP_BYTES = 8


def check(port: Port, parsed: Ip | Arp) -> DropReason | None:
    """Why the frame must not be from this port; None when it may."""
    match parsed:
        case Arp():
            if parsed.source_mac != parsed.sender_mac:
                return DropReason.SPOOFED_MAC
            probe = parsed.sender_mac == port.mac and packet.is_unspecified(parsed.sender)  # RFC 5227
            return None if probe else address(port, parsed.sender_mac, parsed.sender)
        case Ip():
            if parsed.source_mac == port.mac and _nameless(parsed):
                return None
            return address(port, parsed.source_mac, parsed.source)


def address(port: Port, mac: bytes, source: bytes) -> DropReason | None:
    """Why the port must not use the pair."""
    if port.may_send_from(mac, source):
        return None
    if mac != port.mac:
        return DropReason.SPOOFED_MAC
    return None if source == port.link_local else DropReason.SPOOFED_CA


def _nameless(ip: Ip) -> bool:
    """A packet of one who has no address yet: DHCP, or duplicate address detection."""
    if ip.source == packet.UNSPECIFIED4:
        return (
            ip.protocol == packet.UDP
            and not ip.fragment
            and len(ip.payload) >= UDP_BYTES
            and ip.payload[:4] == DHCP_PORTS
        )
    return ip.source == packet.UNSPECIFIED6 and packet.neighbour_message(ip) == packet.NEIGHBOUR_SOLICITATION
