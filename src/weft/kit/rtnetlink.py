"""Reads the kernel's list of network interfaces and addresses, word of their changes, and routes. Changes none.

By hand, and not through pyroute2: a look at 4,096 interfaces takes 50 ms so, and 2 s otherwise; and a socket that is
read as it is fits any event loop.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

IFLA_IFNAME, IFLA_MTU, IFLA_LINKINFO, IFLA_LINK_NETNSID = 3, 4, 18, 37
IFLA_INFO_KIND = 1
IFF_UP, IFF_LOOPBACK, IFF_RUNNING = 0x1, 0x8, 0x40
RECEIVE_BYTES = 1 << 18

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, hardware type, index, flags, change mask
_ATTRIBUTE = struct.Struct("=HH")
_NUMBER = struct.Struct("=I")
_ERROR, _DONE = 2, 3
_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_REQUEST_DUMP, _INTERRUPTED = 0x301, 0x10  # NLM_F_REQUEST | NLM_F_DUMP; NLM_F_DUMP_INTR
_NEWROUTE, _GETROUTE, _REQUEST = 24, 26, 1
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg: family, lengths of destination and source, …, flags
_FIB_MATCH = 0x2000  # RTM_F_FIB_MATCH: the route itself, and not what has been learnt of a path
_RTA_DST, _RTA_SRC, _RTA_METRICS = 1, 2, 8
_RTAX_LOCK, _RTAX_MTU = 1, 2
_NEWADDRESS, _DELADDRESS, _GETADDRESS = 20, 21, 22
_ADDRESS = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, length of the prefix, flags, scope, index
_IFA_ADDRESS, _IFA_LOCAL = 1, 2  # of a point-to-point link the former is the other end's
_GROUPS = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_EXT_MASK, _SKIP_STATS = 29, 8
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_TRIES = 5


@dataclass(frozen=True, slots=True)
class LinkMessage:
    """What the kernel says of one interface. attributes: see ``attributes``."""

    deleted: bool
    index: int
    flags: int
    packed: bytes

    @property
    def attributes(self) -> Iterator[tuple[int, bytes]]:
        """Type (IFLA_…) and value of each."""
        return attributes(self.packed)


@dataclass(frozen=True, slots=True)
class AddressMessage:
    """What the kernel says of one IP address of an interface; address: as ``ipaddress`` writes it."""

    deleted: bool
    index: int
    address: str


def subscribe() -> socket.socket:
    """A socket that hears of every change, read without blocking; ``link_messages`` and ``address_messages`` read what
    it receives.
    """
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        opened.bind((0, _GROUPS))
        opened.setblocking(False)
    except BaseException:
        opened.close()
        raise
    return opened


def dump_links() -> dict[int, LinkMessage]:
    """Every interface of this thread's network namespace, by index. Raises OSError when the kernel does not list them.

    A list that a change interrupted is asked for again: before Linux 6.11 the kernel loses its place in it.
    """
    request = _LINK.pack(0, 0, 0, 0, 0) + _ATTRIBUTE.pack(8, _EXT_MASK) + _NUMBER.pack(_SKIP_STATS)
    found: dict[int, LinkMessage] = {}
    for _ in range(_TRIES):
        listed, whole = _list(_GETLINK, request)
        links = {message.index: message for data in listed for message in link_messages(data)}
        if whole:
            return links
        found |= links
    return found


def dump_addresses() -> frozenset[tuple[int, str]]:
    """Every IP address of this thread's network namespace, with the interface's index; as ``dump_links``."""
    found: frozenset[tuple[int, str]] = frozenset()
    for _ in range(_TRIES):
        listed, whole = _list(_GETADDRESS, _ADDRESS.pack(0, 0, 0, 0, 0))
        addresses = frozenset((each.index, each.address) for data in listed for each in address_messages(data))
        if whole:
            return addresses
        found |= addresses
    return found


class Routes:
    """Asks the kernel for its routes. Blocks only as long as the kernel takes to answer, which is at once."""

    def __init__(self) -> None:
        self._netlink: socket.socket | None = None

    def close(self) -> None:
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def locked_mtu(self, source: str, destination: str) -> int:
        """What an operator has said that the route takes (``mtu lock``); 0: nothing, or there is no route."""
        family = socket.AF_INET6 if ":" in destination else socket.AF_INET
        ends = [socket.inet_pton(family, each) for each in (destination, source)]
        bits = 8 * len(ends[0])
        request = _ROUTE.pack(family, bits, bits, 0, 0, 0, 0, 0, _FIB_MATCH)
        for kind, end in zip((_RTA_DST, _RTA_SRC), ends, strict=True):
            request += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(end), kind) + end
        try:
            if self._netlink is None:
                self._netlink = socket.socket(
                    socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
                )
            self._netlink.send(_HEADER.pack(_HEADER.size + len(request), _GETROUTE, _REQUEST, 1, 0) + request)
            messages = list(_messages(self._netlink.recv(RECEIVE_BYTES)))
        except OSError:
            return 0
        for kind, _, body in messages:
            if kind == _NEWROUTE:
                metrics = dict(attributes(dict(attributes(body[_ROUTE.size :])).get(_RTA_METRICS, b"")))
                (lock,) = _NUMBER.unpack(metrics.get(_RTAX_LOCK, bytes(4)))
                (mtu_bytes,) = _NUMBER.unpack(metrics.get(_RTAX_MTU, bytes(4)))
                return int(mtu_bytes) if lock & 1 << _RTAX_MTU else 0
        return 0


def link_messages(data: bytes) -> Iterator[LinkMessage]:
    """Of what was received at once. Raises OSError for what the kernel says is wrong."""
    for kind, _, body in _messages(data):
        if kind in (_NEWLINK, _DELLINK):
            family, _, index, flags, _ = _LINK.unpack_from(body)
            # A bridge speaks of its ports in the same words (family 7), and says "deleted" when one leaves it.
            if family == socket.AF_UNSPEC:
                yield LinkMessage(kind == _DELLINK, index, flags, body[_LINK.size :])


def address_messages(data: bytes) -> Iterator[AddressMessage]:
    """As ``link_messages``. None of IPv6 link-local addresses: each interface that comes up has one."""
    for kind, _, body in _messages(data):
        if kind in (_NEWADDRESS, _DELADDRESS):
            *_, index = _ADDRESS.unpack_from(body)
            found = dict(attributes(body[_ADDRESS.size :]))
            packed = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
            if packed is None:
                continue
            address = ipaddress.ip_address(packed)
            if address.version == 4 or not address.is_link_local:
                yield AddressMessage(kind == _DELADDRESS, index, str(address))


def attributes(packed: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and value of each, also of those nested in another's value."""
    at = 0
    while at + _ATTRIBUTE.size <= len(packed):
        length, kind = _ATTRIBUTE.unpack_from(packed, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _TYPE_MASK, packed[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def text(value: bytes) -> str:
    """A name among the attributes' values."""
    return os.fsdecode(value.rstrip(b"\0"))


def _list(what: int, request: bytes) -> tuple[list[bytes], bool]:
    """What is received of a list, and whether it is whole: nothing changed meanwhile."""
    found: list[bytes] = []
    whole = True
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.send(_HEADER.pack(_HEADER.size + len(request), what, _REQUEST_DUMP, 1, 0) + request)
        while True:
            data = netlink.recv(RECEIVE_BYTES)
            found.append(data)
            for kind, flags, _ in _messages(data):
                whole &= not flags & _INTERRUPTED
                if kind == _DONE:
                    return found, whole


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, flags, body."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, _, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        body = data[at + _HEADER.size : at + length]
        if kind == _ERROR:
            (code,) = struct.unpack_from("=i", body)
            if code:
                raise OSError(-code, f"the kernel does not list its interfaces: {os.strerror(-code)}")
        yield kind, flags, body
        at += (length + 3) & ~3
