"""What the gateway itself says: errors and echo replies (datapath.md, ICMP from the gateway). Never forwards."""

from __future__ import annotations

from enum import Enum

from weft.policy.drop import DropReason
from weft.reference import packet
from weft.reference.lookups import Subnet
from weft.reference.packet import Ip
from weft.reference.verdict import Answer, Drop, Verdict

#: The whole error fits in 576 bytes (RFC 1812 4.3.2.3) and 1280 (RFC 4443 2.4 c).
QUOTED_BYTES = {4: 548, 6: 1232}
ICMP_BYTES = 8
MAX_MTU4 = 0xFFFF


class Error(Enum):
    """(type, code) in ICMPv4, (type, code) in ICMPv6."""

    NO_ROUTE = ((3, 0), (1, 0))
    PORT_UNREACHABLE = ((3, 3), (1, 4))
    TIME_EXCEEDED = ((11, 0), (3, 0))
    ADDRESS_UNREACHABLE = ((3, 1), (1, 3))
    TOO_BIG = ((3, 4), (2, 0))

    def type_code(self, version: int) -> tuple[int, int]:
        return self.value[0] if version == 4 else self.value[1]


def refuse(
    subnet: Subnet, ip: Ip, error: Error, reason: DropReason, steps: list[str], next_hop_mtu: int = 0
) -> Verdict:
    """Drop the packet, and tell its sender why if it may be told. subnet: of the port that it came from."""
    gateway = subnet.gateway(ip.version)
    kind, code = error.type_code(ip.version)
    name = error.name.lower().replace("_", " ")
    if gateway is None:
        steps.append(f"no ICMP ({name}): the subnet has no IPv{ip.version} gateway")
        return Drop(reason)
    if not may_be_told(ip):
        steps.append(f"no ICMP ({name}): such a packet must not be answered with an error")
        return Drop(reason)
    quote = ip.packet[: QUOTED_BYTES[ip.version]]
    if ip.version == 4:
        message = packet.icmp(kind, code, min(next_hop_mtu, MAX_MTU4).to_bytes(4, "big"), quote)
        answer = packet.ipv4(gateway, ip.source, packet.ICMP, message)
        ethertype = packet.ETH_IPV4
    else:
        message = packet.icmpv6(gateway, ip.source, kind, code, next_hop_mtu.to_bytes(4, "big"), quote)
        answer = packet.ipv6(gateway, ip.source, packet.ICMPV6, message)
        ethertype = packet.ETH_IPV6
    told = f", next-hop MTU {next_hop_mtu}" if next_hop_mtu else ""
    steps.append(f"ICMP {kind}/{code} ({name}{told}) from {packet.address_text(gateway)}")
    return Answer(packet.ethernet(ip.source_mac, subnet.router_mac, ethertype, answer), reason)


def may_be_told(ip: Ip) -> bool:
    """No errors about errors, about later fragments, or to a source that is no single machine's."""
    if ip.later_fragment or packet.is_unspecified(ip.source) or packet.is_many(ip.source):
        return False
    if ip.protocol != (packet.ICMP if ip.version == 4 else packet.ICMPV6):
        return True
    kind = ip.payload[:1]
    if not kind:
        return False
    if ip.version == 4:
        return kind[0] not in packet.ICMP_ERRORS
    return kind[0] >= 128 and kind[0] != packet.REDIRECT6


def to_gateway(subnet: Subnet, ip: Ip, steps: list[str]) -> Verdict:
    """The gateway answers ping, and says of everything else that it is not its affair."""
    if _is_echo_request(ip):
        steps.append(f"to the gateway {packet.address_text(ip.destination)}: answers the echo request")
        return Answer(_echo_reply(subnet, ip))
    steps.append(f"to the gateway {packet.address_text(ip.destination)}: takes echo requests only")
    if ip.protocol in (packet.TCP, packet.UDP) and not ip.fragment:
        return refuse(subnet, ip, Error.PORT_UNREACHABLE, DropReason.TO_GATEWAY, steps)
    return Drop(DropReason.TO_GATEWAY)


def _is_echo_request(ip: Ip) -> bool:
    protocol, kind = (packet.ICMP, packet.ECHO_REQUEST) if ip.version == 4 else (packet.ICMPV6, packet.ECHO_REQUEST6)
    message = ip.payload
    return (
        ip.protocol == protocol and not ip.fragment and len(message) >= ICMP_BYTES and message[:2] == bytes((kind, 0))
    )


def _echo_reply(subnet: Subnet, ip: Ip) -> bytes:
    """The request in place: both ends swapped, whatever trails it stays."""
    at = ip.payload_at
    kind = packet.ECHO_REPLY if ip.version == 4 else packet.ECHO_REPLY6
    frame = packet.with_macs(ip.frame, ip.source_mac, subnet.router_mac)
    frame = packet.with_word(frame, at, at + 2, kind << 8)
    frame = packet.with_hop_limit(ip, frame, packet.HOP_LIMIT)
    first = packet.ETHERNET_BYTES + (12 if ip.version == 4 else 8)
    last = first + 2 * len(ip.source)
    return frame[:first] + ip.destination + ip.source + frame[last:]
