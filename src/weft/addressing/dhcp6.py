"""DHCPv6 (RFC 8415): what a client says, read and answered from a port's terms. Keeps nothing of a conversation."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from weft.addressing import domains
from weft.addressing.terms import INFINITE_S, Ipv6, Terms
from weft.reference import packet
from weft.reference.packet import Ip

SERVER_PORT, CLIENT_PORT = 547, 546
#: All_DHCP_Relay_Agents_and_Servers: ff02::1:2.
GROUP = bytes.fromhex("ff020000000000000000000000010002")
DUID_BYTES = range(3, 131)  # RFC 8415 section 11.1: a type of 2 bytes, and 1 to 128 behind it

#: Identity associations that are answered; a host has one for each interface.
MOST_ASSOCIATIONS = 4
#: RFC 8415 section 7.7: the least that an information refresh time may be.
REFRESH_LEAST_S = 600


class Kind(IntEnum):
    """Message types."""

    SOLICIT = 1
    ADVERTISE = 2
    REQUEST = 3
    CONFIRM = 4
    RENEW = 5
    REBIND = 6
    REPLY = 7
    RELEASE = 8
    DECLINE = 9
    INFORMATION_REQUEST = 11


class Option(IntEnum):
    """RFC 8415 section 21 and those named beside."""

    CLIENT_ID = 1
    SERVER_ID = 2
    IA_NA = 3
    IA_TA = 4
    ADDRESS = 5
    REQUESTED = 6
    STATUS = 13
    RAPID_COMMIT = 14
    DNS_SERVERS = 23  # RFC 3646
    SEARCH = 24  # RFC 3646
    IA_PD = 25
    REFRESH_TIME = 32
    NTP = 56  # RFC 5908


class Status(IntEnum):
    """RFC 8415 section 21.13."""

    SUCCESS = 0
    NO_ADDRESSES = 2
    NO_BINDING = 3
    NOT_ON_LINK = 4
    USE_MULTICAST = 5
    NO_PREFIX = 6


_Options: TypeAlias = list[tuple[int, bytes]]

_WHY = {
    Status.SUCCESS: b"",
    Status.NO_ADDRESSES: b"no address for this",
    Status.NO_BINDING: b"not an address of this port",
    Status.NOT_ON_LINK: b"not an address of this port",
    Status.USE_MULTICAST: b"ask ff02::1:2",
    Status.NO_PREFIX: b"no prefix to delegate",
}

#: RFC 8415 sections 16.2 to 16.12: those that must name the server, and those that must not.
_TO_ONE_SERVER = frozenset({Kind.REQUEST, Kind.RENEW, Kind.RELEASE, Kind.DECLINE})
_TO_EVERY_SERVER = frozenset({Kind.SOLICIT, Kind.CONFIRM, Kind.REBIND})
_ASSOCIATIONS = frozenset({Option.IA_NA, Option.IA_TA, Option.IA_PD})


@dataclass(frozen=True, slots=True)
class Association:
    """An identity association (IA). addresses: that the client has, or would like."""

    option: int
    iaid: bytes
    addresses: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """What a client said."""

    kind: Kind
    transaction: bytes
    client: bytes | None
    server: bytes | None
    associations: tuple[Association, ...]
    requested: frozenset[int] | None
    rapid: bool


def duid(router_mac: bytes) -> bytes:
    """The server's: the same on every host and for ever (DUID-LL, RFC 8415 section 11.4)."""
    return b"\x00\x03\x00\x01" + router_mac


def decode(data: bytes) -> Message | None:
    """None: no message that a client may send."""
    if len(data) < 4 or data[0] not in _TO_ONE_SERVER | _TO_EVERY_SERVER | {Kind.INFORMATION_REQUEST}:
        return None
    options = _options(data[4:])
    if options is None:
        return None
    found = dict(reversed(options))  # of those that may come once, the first
    client, server = found.get(Option.CLIENT_ID), found.get(Option.SERVER_ID)
    if client is not None and len(client) not in DUID_BYTES:
        return None
    associations: list[Association] = []
    for option, value in options:
        if option in _ASSOCIATIONS and len(associations) < MOST_ASSOCIATIONS:
            association = _association(option, value)
            if association is None:
                return None
            associations.append(association)
    asked = found.get(Option.REQUESTED)
    return Message(
        Kind(data[0]),
        data[1:4],
        client,
        server,
        tuple(associations),
        None
        if asked is None
        else frozenset(int.from_bytes(asked[at : at + 2], "big") for at in range(0, len(asked), 2)),
        Option.RAPID_COMMIT in found,
    )


def _options(data: bytes) -> _Options | None:
    """None: one is cut off."""
    found: _Options = []
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            return None
        option, length = struct.unpack_from("!HH", data, at)
        if at + 4 + length > len(data):
            return None
        found.append((option, data[at + 4 : at + 4 + length]))
        at += 4 + length
    return found


def _association(option: int, value: bytes) -> Association | None:
    head = 4 if option == Option.IA_TA else 12  # IAID; and T1, T2
    if len(value) < head:
        return None
    inner = _options(value[head:])
    if inner is None:
        return None
    addresses = tuple(each[:16] for kind, each in inner if kind == Option.ADDRESS and len(each) >= 24)
    return Association(option, value[:4], addresses)


def answer(terms: Terms, asked: Ip) -> bytes | None:
    """The frame that answers a client's packet; None: silence is right."""
    ipv6 = terms.ipv6
    message = decode(asked.payload[8:])
    if ipv6 is None or message is None or not _for_us(terms, message):
        return None
    if asked.destination != GROUP:  # RFC 8415 section 18.4: nobody was told that he may
        if message.kind not in _TO_ONE_SERVER:
            return None
        body: _Options | None = [_status(Status.USE_MULTICAST)]
        kind = Kind.REPLY
    else:
        kind = Kind.ADVERTISE if message.kind is Kind.SOLICIT and not message.rapid else Kind.REPLY
        body = _body(terms, ipv6, message)
    if body is None:
        return None
    head: _Options = [(Option.SERVER_ID, duid(terms.router_mac))]
    if message.client is not None:
        head.append((Option.CLIENT_ID, message.client))
    data = bytes((kind,)) + message.transaction + _encode([*head, *body])
    return _frame(terms, asked, data)


def _for_us(terms: Terms, message: Message) -> bool:
    ours = message.server == duid(terms.router_mac)
    if message.kind is Kind.INFORMATION_REQUEST:
        return (message.server is None or ours) and not message.associations
    if message.client is None:
        return False
    return ours if message.kind in _TO_ONE_SERVER else message.server is None


def _body(terms: Terms, ipv6: Ipv6, message: Message) -> _Options | None:
    match message.kind:
        case Kind.SOLICIT | Kind.REQUEST:
            given = _given(terms, ipv6, message)
            rapid: _Options = [(Option.RAPID_COMMIT, b"")] if message.kind is Kind.SOLICIT and message.rapid else []
            return [*rapid, *given, *_parameters(terms, ipv6, message)]
        case Kind.RENEW | Kind.REBIND:
            return [*_renewed(terms, ipv6, message), *_parameters(terms, ipv6, message)]
        case Kind.CONFIRM:
            # Stricter than "on link" (RFC 8415 18.3.3): an address that is not the port's any more is of no use.
            has = [address for each in message.associations for address in each.addresses]
            if not has:
                return None
            return [_status(Status.SUCCESS if all(a in _own(ipv6) for a in has) else Status.NOT_ON_LINK)]
        case Kind.RELEASE | Kind.DECLINE:  # change nothing: the address is the port's
            return [_status(Status.SUCCESS), *_unbound(ipv6, message)]
        case Kind.INFORMATION_REQUEST:
            return _parameters(terms, ipv6, message, refresh=True)
        case _:
            return None


def _own(ipv6: Ipv6) -> tuple[bytes, ...]:
    """What DHCPv6 gives: nothing to a guest that makes its own."""
    return ipv6.addresses if ipv6.by_dhcp else ()


def _given(terms: Terms, ipv6: Ipv6, message: Message) -> Iterator[tuple[int, bytes]]:
    """The port's addresses to the first association that may have them."""
    own = _own(ipv6)
    for each in message.associations:
        wrong = [address for address in each.addresses if int.from_bytes(address, "big") not in _span(ipv6)]
        if each.option == Option.IA_NA and wrong and message.kind is Kind.REQUEST:
            yield _refused(each, Status.NOT_ON_LINK)
        elif each.option == Option.IA_NA and own:
            yield _granted(terms, each, own, ())
            own = ()
        else:
            yield _refused(each, Status.NO_PREFIX if each.option == Option.IA_PD else Status.NO_ADDRESSES)


def _span(ipv6: Ipv6) -> range:
    return range(int(ipv6.network.network_address), int(ipv6.network.broadcast_address) + 1)


def _renewed(terms: Terms, ipv6: Ipv6, message: Message) -> Iterator[tuple[int, bytes]]:
    """The port's addresses anew; what the client has beside them ends now."""
    own = _own(ipv6)
    for each in message.associations:
        gone = tuple(address for address in each.addresses if address not in own)
        if each.option == Option.IA_NA and (own or gone):
            yield _granted(terms, each, own, gone)
            own = ()
        else:
            yield _refused(each, Status.NO_BINDING)


def _unbound(ipv6: Ipv6, message: Message) -> Iterator[tuple[int, bytes]]:
    for each in message.associations:
        if each.option != Option.IA_NA or not all(address in _own(ipv6) for address in each.addresses):
            yield _refused(each, Status.NO_BINDING)


def _granted(
    terms: Terms, association: Association, own: tuple[bytes, ...], gone: tuple[bytes, ...]
) -> tuple[int, bytes]:
    lease_s = terms.lease_s
    times = (INFINITE_S, INFINITE_S) if lease_s == INFINITE_S else (lease_s // 2, lease_s * 4 // 5)
    addresses = [(address, lease_s) for address in own] + [(address, 0) for address in gone]
    inner = _encode((Option.ADDRESS, address + struct.pack("!II", time, time)) for address, time in addresses)
    return association.option, association.iaid + struct.pack("!II", *times) + inner


def _refused(association: Association, status: Status) -> tuple[int, bytes]:
    times = b"" if association.option == Option.IA_TA else bytes(8)
    return association.option, association.iaid + times + _encode([_status(status)])


def _status(status: Status) -> tuple[int, bytes]:
    return Option.STATUS, status.to_bytes(2, "big") + _WHY[status]


def _parameters(terms: Terms, ipv6: Ipv6, message: Message, *, refresh: bool = False) -> _Options:
    known: _Options = []
    if ipv6.dns_servers:
        known.append((Option.DNS_SERVERS, b"".join(ipv6.dns_servers)))
    if terms.search_domains:
        known.append((Option.SEARCH, domains.search_list(terms.search_domains)))
    if ipv6.ntp_servers:
        servers = b"".join(struct.pack("!HH", 1, 16) + server for server in ipv6.ntp_servers)
        known.append((Option.NTP, servers))
    if refresh:
        known.append((Option.REFRESH_TIME, max(REFRESH_LEAST_S, terms.lease_s).to_bytes(4, "big")))
    return [(option, value) for option, value in known if message.requested is None or option in message.requested]


def _encode(options: Iterable[tuple[int, bytes]]) -> bytes:
    return b"".join(struct.pack("!HH", option, len(value)) + value for option, value in options)


def _frame(terms: Terms, asked: Ip, data: bytes) -> bytes:
    source = terms.router_link_local
    datagram = struct.pack("!HHHH", SERVER_PORT, CLIENT_PORT, 8 + len(data), 0) + data
    check = packet.transport_checksum(source, asked.source, packet.UDP, datagram) or 0xFFFF
    whole = packet.ipv6(source, asked.source, packet.UDP, datagram[:6] + check.to_bytes(2, "big") + datagram[8:])
    return packet.ethernet(asked.source_mac, terms.router_mac, packet.ETH_IPV6, whole)
