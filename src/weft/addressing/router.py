"""Router advertisements (RFC 4861, 4191, 8106), made of a port's terms, asked for or not. Reads nobody else's."""

from __future__ import annotations

import struct

from weft.addressing import domains
from weft.addressing.terms import Ipv6, Terms
from weft.reference import packet
from weft.reference.packet import Ip

MANAGED, OTHER = 0x80, 0x40
ON_LINK, AUTONOMOUS = 0x80, 0x40

#: As long as it can be (RFC 8319): whoever is told otherwise is told at once, and an agent that is away harms nobody.
LIFETIME_S = 65_535
#: RFC 4861 section 6.2.1: AdvValidLifetime, AdvPreferredLifetime.
VALID_S, PREFERRED_S = 2_592_000, 604_800
#: RFC 8200 section 5: no link's MTU is smaller.
MTU_LEAST = 1280

SOLICITATION_BYTES = 8
_SOURCE_LINK_LAYER, _PREFIX, _MTU, _ROUTE, _DNS_SERVERS, _SEARCH = 1, 3, 5, 24, 25, 31


def answer(terms: Terms, asked: Ip) -> bytes | None:
    """To whoever solicits; to all of the port's guest while it has no address. None: silence is right."""
    message = asked.payload
    if len(message) < SOLICITATION_BYTES or message[1] != 0:  # RFC 4861 section 6.1.1
        return None
    if packet.is_unspecified(asked.source):
        return advertisement(terms)
    return _frame(terms, asked.source_mac, asked.source)


def advertisement(terms: Terms) -> bytes | None:
    """Unasked, to all nodes behind the port. None: there is nothing to say of IPv6."""
    return _frame(terms, packet.ALL_NODES_MAC, packet.ALL_NODES)


def farewell(router_mac: bytes) -> bytes:
    """The router is none any more (RFC 4861 section 6.2.5), and says nothing else."""
    return _packed(router_mac, packet.ALL_NODES_MAC, packet.ALL_NODES, struct.pack("!BBHII", 64, 0, 0, 0, 0))


def sender(advertised: bytes) -> bytes:
    """The router MAC of an advertisement that was made here."""
    return advertised[6:12]


def _frame(terms: Terms, to_mac: bytes, to: bytes) -> bytes | None:
    ipv6 = terms.ipv6
    if ipv6 is None:
        return None
    flags = (MANAGED if ipv6.by_dhcp else 0) | (OTHER if ipv6.other_by_dhcp else 0)
    head = struct.pack("!BBHII", packet.HOP_LIMIT, flags, LIFETIME_S if terms.router else 0, 0, 0)
    return _packed(terms.router_mac, to_mac, to, head + _options(terms, ipv6))


def _packed(router_mac: bytes, to_mac: bytes, to: bytes, body: bytes) -> bytes:
    source = packet.link_local(router_mac)
    message = packet.icmpv6(source, to, packet.ROUTER_ADVERTISEMENT, 0, body[:4], body[4:])
    whole = packet.ipv6(source, to, packet.ICMPV6, message, hop_limit=255)
    return packet.ethernet(to_mac, router_mac, packet.ETH_IPV6, whole)


def _options(terms: Terms, ipv6: Ipv6) -> bytes:
    options = [_option(_SOURCE_LINK_LAYER, terms.router_mac)]
    if terms.mtu_bytes >= MTU_LEAST:
        options.append(_option(_MTU, struct.pack("!HI", 0, terms.mtu_bytes)))
    flags = ON_LINK | (AUTONOMOUS if ipv6.by_guest else 0)
    options.append(
        _option(
            _PREFIX,
            struct.pack("!BBIII", ipv6.network.prefixlen, flags, VALID_S, PREFERRED_S, 0)
            + ipv6.network.network_address.packed,
        )
    )
    for route in ipv6.routes:
        used = 0 if route.prefixlen == 0 else 8 if route.prefixlen <= 64 else 16
        prefix = route.network_address.packed[:used]
        options.append(_option(_ROUTE, struct.pack("!BBI", route.prefixlen, 0, LIFETIME_S) + prefix))
    if ipv6.dns_servers:
        options.append(_option(_DNS_SERVERS, struct.pack("!HI", 0, LIFETIME_S) + b"".join(ipv6.dns_servers)))
    if terms.search_domains:
        names = domains.search_list(terms.search_domains)
        options.append(_option(_SEARCH, struct.pack("!HI", 0, LIFETIME_S) + names))
    return b"".join(options)


def _option(kind: int, body: bytes) -> bytes:
    """RFC 4861 section 4.6: in units of 8 bytes, zeros behind."""
    length = (2 + len(body) + 7) // 8
    return (bytes((kind, length)) + body).ljust(8 * length, b"\0")
