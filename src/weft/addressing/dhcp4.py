"""DHCPv4 (RFC 2131, 2132): what a client says, read and answered from a port's terms. Keeps nothing of a conversation.

A codec of our own: a hundred lines that are typed, bounded and hold no state. Of the libraries there are, scapy is GPL,
and the others are made for clients, or to be read by, not to be given what hostile guests send.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Network
from types import MappingProxyType

from weft.addressing import domains
from weft.addressing.terms import INFINITE_S, Ipv4, Terms
from weft.reference import packet
from weft.reference.packet import Ip

SERVER_PORT, CLIENT_PORT = 67, 68
MAGIC = b"\x63\x82\x53\x63"
BOOTREQUEST, BOOTREPLY = 1, 2
ETHERNET = b"\x01\x06"  # hardware type, address length
BROADCAST_FLAG = 0x8000

#: RFC 1542 section 2.1: older clients take no message under 300 bytes. RFC 2131 section 2: each takes a packet of 576;
#: no packet of ours is larger than Ethernet's 1500.
LEAST_BYTES, EVERYBODYS_PACKET_BYTES, MOST_PACKET_BYTES = 300, 576, 1500
IP_UDP_BYTES = 28

#: op, hardware, hops, xid, secs, flags, ciaddr, yiaddr, siaddr, giaddr, chaddr, sname, file, magic
_FIXED = struct.Struct("!B2sBIHH4s4s4s4s16s64s128s4s")
_PAD, _END = 0, 255
_OVERLOADED_FILE, _OVERLOADED_NAME = 1, 2


class Option(IntEnum):
    """RFC 2132 and those named beside."""

    SUBNET_MASK = 1
    ROUTER = 3
    DNS_SERVERS = 6
    HOST_NAME = 12
    DOMAIN_NAME = 15
    MTU = 26
    BROADCAST = 28
    NTP_SERVERS = 42
    REQUESTED_ADDRESS = 50
    LEASE_TIME = 51
    OVERLOAD = 52
    MESSAGE_TYPE = 53
    SERVER_ID = 54
    PARAMETERS = 55
    MESSAGE = 56
    MOST_BYTES = 57
    RENEWAL_TIME = 58
    REBINDING_TIME = 59
    CLIENT_ID = 61
    RAPID_COMMIT = 80  # RFC 4039
    SEARCH = 119  # RFC 3397
    CLASSLESS_ROUTES = 121  # RFC 3442


class Kind(IntEnum):
    """DHCP message types."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


@dataclass(frozen=True, slots=True)
class Message:
    """What a client said, its options each whole (RFC 3396)."""

    xid: int
    flags: int
    ciaddr: bytes
    giaddr: bytes
    chaddr: bytes
    options: Mapping[int, bytes]

    @property
    def kind(self) -> int:
        value = self.options.get(Option.MESSAGE_TYPE, b"")
        return value[0] if len(value) == 1 else 0

    def address(self, option: Option) -> bytes | None:
        """None: not there, or no address."""
        value = self.options.get(option)
        return value if value is not None and len(value) == 4 else None

    @property
    def ciaddr_given(self) -> bytes | None:
        return self.ciaddr if any(self.ciaddr) else None


def decode(data: bytes) -> Message | None:
    """None: no DHCP request of an Ethernet client."""
    if len(data) < _FIXED.size:
        return None
    op, hardware, _, xid, _, flags, ciaddr, _, _, giaddr, chaddr, name, file, magic = _FIXED.unpack_from(data)
    if op != BOOTREQUEST or hardware != ETHERNET or magic != MAGIC:
        return None
    options: dict[int, bytes] = {}
    if not _read_options(data[_FIXED.size :], options):
        return None
    overload = options.get(Option.OVERLOAD, b"\0")[:1] or b"\0"
    for bit, field in ((_OVERLOADED_FILE, file), (_OVERLOADED_NAME, name)):
        if overload[0] & bit and not _read_options(field, options):
            return None
    return Message(xid, flags, ciaddr, giaddr, chaddr[:6], MappingProxyType(options))


def _read_options(data: bytes, into: dict[int, bytes]) -> bool:
    """False: an option is cut off. Those that come again are continued (RFC 3396 section 7)."""
    at = 0
    while at < len(data) and data[at] != _END:
        if data[at] == _PAD:
            at += 1
            continue
        if at + 2 > len(data) or at + 2 + data[at + 1] > len(data):
            return False
        into[data[at]] = into.get(data[at], b"") + data[at + 2 : at + 2 + data[at + 1]]
        at += 2 + data[at + 1]
    return True


def answer(terms: Terms, asked: Ip) -> bytes | None:
    """The frame that answers a client's packet; None: silence is right."""
    ipv4 = terms.ipv4
    message = decode(asked.payload[8:])
    # A relay agent would be another subnet's; and an answer for another's MAC is not this port's to have.
    if ipv4 is None or message is None or any(message.giaddr) or message.chaddr != terms.mac:
        return None
    match message.kind:
        case Kind.DISCOVER:
            wanted = _granted(ipv4, message.address(Option.REQUESTED_ADDRESS)) or ipv4.addresses[0]
            rapid = Option.RAPID_COMMIT in message.options
            return _reply(terms, ipv4, message, Kind.ACK if rapid else Kind.OFFER, wanted, rapid=rapid)
        case Kind.REQUEST:
            return _requested(terms, ipv4, message)
        case Kind.INFORM:
            if _granted(ipv4, message.ciaddr_given) is None:
                return None
            return _reply(terms, ipv4, message, Kind.ACK, None)
        case _:  # DECLINE and RELEASE change nothing: the address is the port's
            return None


def _granted(ipv4: Ipv4, wanted: bytes | None) -> bytes | None:
    return wanted if wanted in ipv4.addresses else None


def _requested(terms: Terms, ipv4: Ipv4, message: Message) -> bytes | None:
    """RFC 2131 section 4.3.2. SELECTING names a server; INIT-REBOOT no server and no ciaddr; RENEWING and REBINDING a
    ciaddr.
    """
    server = message.options.get(Option.SERVER_ID)
    if server is not None and server != ipv4.gateway:
        return None  # it has chosen another
    wanted = message.ciaddr_given or message.address(Option.REQUESTED_ADDRESS)
    if wanted is None:
        return None
    granted = _granted(ipv4, wanted)
    if granted is None:
        return _refusal(terms, ipv4, message)
    return _reply(terms, ipv4, message, Kind.ACK, granted)


def _refusal(terms: Terms, ipv4: Ipv4, message: Message) -> bytes:
    options = [
        (Option.MESSAGE_TYPE, bytes((Kind.NAK,))),
        (Option.SERVER_ID, ipv4.gateway),
        (Option.MESSAGE, b"not an address of this port"),
        *_echo(message),
    ]
    data = _encode(message, bytes(4), bytes(4), options, EVERYBODYS_PACKET_BYTES - IP_UDP_BYTES)
    return _frame(terms, ipv4, packet.BROADCAST_MAC, b"\xff" * 4, data)


def _reply(
    terms: Terms, ipv4: Ipv4, message: Message, kind: Kind, address: bytes | None, *, rapid: bool = False
) -> bytes:
    """OFFER or ACK. address None: the client has it already, and asks for the rest (INFORM)."""
    options = [(Option.MESSAGE_TYPE, bytes((kind,))), (Option.SERVER_ID, ipv4.gateway)]
    if rapid:
        options.append((Option.RAPID_COMMIT, b""))
    if address is not None:
        options += _times(terms.lease_s)
    options += _echo(message)
    options += _parameters(terms, ipv4, message)
    most = message.options.get(Option.MOST_BYTES, b"")
    room = max(EVERYBODYS_PACKET_BYTES, min(MOST_PACKET_BYTES, int.from_bytes(most, "big") if len(most) == 2 else 0))
    data = _encode(message, message.ciaddr, address or bytes(4), options, room - IP_UDP_BYTES)
    known = message.ciaddr_given
    if known is not None:
        return _frame(terms, ipv4, terms.mac, known, data)
    if message.flags & BROADCAST_FLAG or address is None:
        return _frame(terms, ipv4, packet.BROADCAST_MAC, b"\xff" * 4, data)
    return _frame(terms, ipv4, terms.mac, address, data)


def _echo(message: Message) -> list[tuple[Option, bytes]]:
    """RFC 6842: a client's identifier goes back to it."""
    client = message.options.get(Option.CLIENT_ID)
    return [] if client is None else [(Option.CLIENT_ID, client)]


def _times(lease_s: int) -> list[tuple[Option, bytes]]:
    times = [(Option.LEASE_TIME, lease_s)]
    if lease_s != INFINITE_S:
        times += [(Option.RENEWAL_TIME, lease_s // 2), (Option.REBINDING_TIME, lease_s * 7 // 8)]
    return [(option, seconds.to_bytes(4, "big")) for option, seconds in times]


def _parameters(terms: Terms, ipv4: Ipv4, message: Message) -> list[tuple[Option, bytes]]:
    """Those that were asked for, the most needed first: what does not fit is left out from the end."""
    asked = message.options.get(Option.PARAMETERS)
    known: list[tuple[Option, bytes]] = [(Option.SUBNET_MASK, ipv4.network.netmask.packed)]
    if terms.mtu_bytes:
        known.append((Option.MTU, terms.mtu_bytes.to_bytes(2, "big")))
    if terms.router:
        known.append((Option.ROUTER, ipv4.gateway))
    if ipv4.routes:
        # RFC 3442: who heeds this heeds no router option, so the default route is in here, too.
        default = [b"\0" + ipv4.gateway] if terms.router else []
        known.append((Option.CLASSLESS_ROUTES, b"".join([*default, *(_route(*route) for route in ipv4.routes)])))
    known.append((Option.BROADCAST, ipv4.network.broadcast_address.packed))
    if ipv4.dns_servers:
        known.append((Option.DNS_SERVERS, b"".join(ipv4.dns_servers)))
    known.append((Option.HOST_NAME, terms.hostname.encode("ascii")))
    if terms.search_domains:
        known.append((Option.DOMAIN_NAME, terms.search_domains[0].encode("ascii")))
        known.append((Option.SEARCH, domains.search_list(terms.search_domains)))
    if ipv4.ntp_servers:
        known.append((Option.NTP_SERVERS, b"".join(ipv4.ntp_servers)))
    return [(option, value) for option, value in known if asked is None or option in asked or option in _UNASKED]


#: Told also to those that do not ask: without them the address is of little use.
_UNASKED = frozenset({Option.SUBNET_MASK, Option.MTU, Option.CLASSLESS_ROUTES})


def _route(network: IPv4Network, next_hop: bytes) -> bytes:
    """RFC 3442: the length, as many bytes of the destination as it needs, the next hop."""
    return bytes((network.prefixlen,)) + network.network_address.packed[: (network.prefixlen + 7) // 8] + next_hop


def _encode(message: Message, ciaddr: bytes, yiaddr: bytes, options: list[tuple[Option, bytes]], room: int) -> bytes:
    """A reply of ``room`` bytes at most. An option over 255 bytes is continued in further ones (RFC 3396)."""
    head = _FIXED.pack(
        BOOTREPLY, ETHERNET, 0, message.xid, 0, message.flags & BROADCAST_FLAG, ciaddr, yiaddr, bytes(4), bytes(4),
        message.chaddr, b"", b"", MAGIC,
    )  # fmt: skip
    body = b""
    for option, value in options:
        parts = [value[at : at + 255] for at in range(0, len(value), 255)] or [b""]
        packed = b"".join(bytes((option, len(part))) + part for part in parts)
        if len(head) + len(body) + len(packed) + 1 <= room:
            body += packed
    return (head + body + bytes((_END,))).ljust(LEAST_BYTES, b"\0")


def _frame(terms: Terms, ipv4: Ipv4, to_mac: bytes, to: bytes, data: bytes) -> bytes:
    datagram = struct.pack("!HHHH", SERVER_PORT, CLIENT_PORT, 8 + len(data), 0) + data
    # RFC 768: a computed zero is sent as all ones.
    check = packet.transport_checksum(ipv4.gateway, to, packet.UDP, datagram) or 0xFFFF
    datagram = datagram[:6] + check.to_bytes(2, "big") + datagram[8:]
    whole = packet.ipv4(ipv4.gateway, to, packet.UDP, datagram)
    return packet.ethernet(to_mac, terms.router_mac, packet.ETH_IPV4, whole)
