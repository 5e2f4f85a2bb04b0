"""The network interfaces of this host, and word of their changes. Never changes one.

A netlink socket of a few lines rather than a library: all that is wanted is a name, an index and whether it is up, at
once, on the agent's own event loop.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

_RTMGRP_LINK = 1
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP, _NLM_F_DUMP_INTR = 0x1, 0x300, 0x10
_TRIES = 5
_IFLA_IFNAME = 3
_IFF_UP, _IFF_LOOPBACK, _IFF_RUNNING = 0x1, 0x8, 0x40

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_IFINFO = struct.Struct("=BxHiII")  # ifinfomsg: family, hardware type, index, flags, change mask
_ATTRIBUTE = struct.Struct("=HH")

_RECEIVE_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Link:
    """One interface. up: administratively, and with a carrier."""

    name: str
    index: int
    up: bool
    loopback: bool = False


class Links(Protocol):
    """What the agent needs to know of interfaces."""

    def by_name(self) -> Mapping[str, Link]: ...

    async def changed(self) -> None:
        """Returns when something has changed since the last call."""
        ...


class NetlinkLinks:
    """The kernel's own word. Made and closed on a running event loop."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._socket = _open(_RTMGRP_LINK)
        self._links = _dump()  # after the subscription: no change falls in between
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._read)

    def by_name(self) -> Mapping[str, Link]:
        return {link.name: link for link in self._links.values()}

    async def changed(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    def close(self) -> None:
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _read(self) -> None:
        before = dict(self._links)
        while True:
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError as fault:
                if fault.errno != errno.ENOBUFS:
                    raise
                self._links = _dump()  # more happened than the socket could hold: ask for all of it
                continue
            for kind, link in _links(data):
                if kind == _RTM_DELLINK:
                    self._links.pop(link.index, None)
                else:
                    self._links[link.index] = link
        if self._links != before:
            self._changed.set()


def _open(groups: int) -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        opened.bind((0, groups))
        opened.setblocking(False)
    except BaseException:
        opened.close()
        raise
    return opened


def _dump() -> dict[int, Link]:
    """Every interface there is now."""
    found: dict[int, Link] = {}
    for _ in range(_TRIES):
        listed, whole = _list()
        found |= listed
        if whole:
            return listed
    return found


def _list() -> tuple[dict[int, Link], bool]:
    """Whole: none came or went meanwhile. Else others may be missing: before Linux 6.11 the kernel loses its place."""
    whole = True
    found: dict[int, Link] = {}
    with _open(0) as asking:
        asking.setblocking(True)
        body = _IFINFO.pack(0, 0, 0, 0, 0)
        length = _HEADER.size + len(body)
        asking.send(_HEADER.pack(length, _RTM_GETLINK, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0) + body)
        while True:
            data = asking.recv(_RECEIVE_BYTES)
            found.update((link.index, link) for _, link in _links(data))
            whole &= not any(flags & _NLM_F_DUMP_INTR for _, flags, _ in _messages(data))
            if any(kind == _NLMSG_DONE for kind, _, _ in _messages(data)):
                return found, whole


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Kind, flags, body."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, _, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        body = data[offset + _HEADER.size : offset + length]
        if kind == _NLMSG_ERROR:
            (code,) = struct.unpack_from("=i", body)
            if code:
                raise OSError(-code, os.strerror(-code))
        yield kind, flags, body
        offset += (length + 3) & ~3


def _links(data: bytes) -> Iterator[tuple[int, Link]]:
    for kind, _, body in _messages(data):
        if kind not in (_RTM_NEWLINK, _RTM_DELLINK):
            continue
        family, _, index, flags, _ = _IFINFO.unpack_from(body)
        # A bridge speaks of its ports in the same words (family 7), and says "deleted" when one leaves it.
        if family != socket.AF_UNSPEC:
            continue
        offset = _IFINFO.size
        while offset + _ATTRIBUTE.size <= len(body):
            length, attribute = _ATTRIBUTE.unpack_from(body, offset)
            if length < _ATTRIBUTE.size:
                break
            if attribute == _IFLA_IFNAME:
                name = body[offset + _ATTRIBUTE.size : offset + length].rstrip(b"\0").decode(errors="replace")
                up = flags & (_IFF_UP | _IFF_RUNNING) == _IFF_UP | _IFF_RUNNING
                yield kind, Link(name, index, up, bool(flags & _IFF_LOOPBACK))
                break
            offset += (length + 3) & ~3
