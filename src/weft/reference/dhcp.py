"""What guests ask about their addresses, and what only who gives them may say: datapath.md, from a guest's port, 6a.

Never answers: that is the agent's.
"""

from __future__ import annotations

from weft.policy.drop import DropReason
from weft.policy.upcall import UpcallKind
from weft.reference import flows, packet
from weft.reference.lookups import Port, Subnet
from weft.reference.packet import Ip
from weft.reference.verdict import Drop, ToAgent

#: The largest frame that the agent is handed.
MOST_FRAME_BYTES = 1536
UDP_BYTES = 8

_TO_CLIENT = {4: b"\x00\x44", 6: b"\x02\x22"}  # destination ports 68 and 546
_FROM_CLIENT = {4: b"\x00\x44\x00\x43", 6: b"\x02\x22\x02\x23"}  # 68 to 67, 546 to 547
_HIDDEN = {
    DropReason.GUEST_SERVER: "answers DHCP, which this port may not",
    DropReason.MALFORMED: "what it is cannot be told",
}
_KINDS = {4: UpcallKind.DHCP4, 6: UpcallKind.DHCP6}


def check(port: Port, subnet: Subnet, ip: Ip, steps: list[str]) -> ToAgent | Drop | None:
    """Handed up, or dropped; None: it is an ordinary packet."""
    if _serves(ip):
        if port.dhcp_server:
            steps.append(f"{port.name} may answer DHCP and say that it is a router")
            return None
        steps.append("answers DHCP or says that it is a router, which this port may not")
        return Drop(DropReason.GUEST_SERVER)
    if not port.dhcp_server and (hidden := _hidden_server(ip)) is not None:
        steps.append(f"behind IPv6's extension headers, or in a fragment: {_HIDDEN[hidden]}")
        return Drop(hidden)
    kind = _asks(ip)
    if kind is None or not port.dhcp or not (subnet.dhcp4 if kind is UpcallKind.DHCP4 else subnet.dhcp6):
        return None
    steps.append(f"asks about its addresses ({kind.label}): for the agent")
    return ToAgent(kind, ip.frame) if len(ip.frame) <= MOST_FRAME_BYTES else Drop(DropReason.UPCALL_LIMIT)


def solicits_router(ip: Ip) -> bool:
    return _router_message(ip, packet.ROUTER_SOLICITATION)


def is_dhcp4_request(ip: Ip) -> bool:
    return ip.version == 4 and _asks(ip) is UpcallKind.DHCP4


def _asks(ip: Ip) -> UpcallKind | None:
    if solicits_router(ip):
        return UpcallKind.ROUTER_SOLICITATION
    whole = ip.protocol == packet.UDP and not ip.fragment and len(ip.payload) >= UDP_BYTES
    return _KINDS[ip.version] if whole and ip.payload[:4] == _FROM_CLIENT[ip.version] else None


def _serves(ip: Ip) -> bool:
    """By its destination alone, since clients look at no other port; and in a first fragment, too."""
    if ip.protocol == packet.UDP and not ip.later_fragment:
        return ip.payload[2:4] == _TO_CLIENT[ip.version]
    return _router_message(ip, packet.ROUTER_ADVERTISEMENT)


def _hidden_server(ip: Ip) -> DropReason | None:
    """DHCPv6 as a server sends it, behind IPv6's headers, where clients find it. Where those end is to be there,
    as in every first fragment (RFC 7112).
    """
    if ip.version == 4 or ip.protocol not in (*flows.EXTENSIONS, packet.IPV6_FRAGMENT):
        return None
    behind = flows.behind_extensions(ip.packet, ip.protocol, packet.IPV6_BYTES)
    if behind is not None and behind[0] == packet.IPV6_FRAGMENT:
        at = behind[1]
        head = ip.packet[at : at + 8]
        if len(head) < 8:
            return DropReason.MALFORMED
        if int.from_bytes(head[2:4], "big") & 0xFFF8:
            return None
        behind = flows.behind_extensions(ip.packet, head[0], at + 8)
    if behind is None or behind[0] == packet.IPV6_FRAGMENT:
        return DropReason.MALFORMED
    protocol, at = behind
    ports = ip.packet[at : at + 4]
    if protocol != packet.UDP:
        return None
    if len(ports) < 4:
        return DropReason.MALFORMED
    return DropReason.GUEST_SERVER if ports[2:] == _TO_CLIENT[6] else None


def _router_message(ip: Ip, kind: int) -> bool:
    return ip.version == 6 and ip.protocol == packet.ICMPV6 and ip.hop_limit == 255 and ip.payload[:1] == bytes((kind,))
