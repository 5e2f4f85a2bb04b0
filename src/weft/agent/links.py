"""The network interfaces of this host, their addresses, and word of their changes. Never changes one."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from weft.kit import rtnetlink

_WORKING = rtnetlink.IFF_UP | rtnetlink.IFF_RUNNING


@dataclass(frozen=True, slots=True)
class Link:
    """One interface. up: administratively, and with a carrier."""

    name: str
    index: int
    up: bool
    loopback: bool = False

    @classmethod
    def of(cls, message: rtnetlink.LinkMessage) -> Link:
        names = (value for attribute, value in message.attributes if attribute == rtnetlink.IFLA_IFNAME)
        return cls(
            rtnetlink.text(next(names, b"")),
            message.index,
            message.flags & _WORKING == _WORKING,
            bool(message.flags & rtnetlink.IFF_LOOPBACK),
        )


class Links(Protocol):
    """What the agent needs to know of interfaces."""

    def by_name(self) -> Mapping[str, Link]: ...

    def addresses(self) -> Mapping[str, Collection[str]]:
        """The IP addresses of this host by interface, but for IPv6 link-local ones."""
        ...

    async def changed(self) -> None:
        """Returns when something has changed since the last call."""
        ...


class NetlinkLinks:
    """The kernel's own word. Made and closed on a running event loop."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._socket = rtnetlink.subscribe()
        self._links = _all()  # after the subscription: no change falls in between
        self._addresses = set(rtnetlink.dump_addresses())
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._read)

    def by_name(self) -> Mapping[str, Link]:
        return {link.name: link for link in self._links.values()}

    def addresses(self) -> Mapping[str, Collection[str]]:
        found: dict[str, list[str]] = {}
        for index, address in sorted(self._addresses):
            if index in self._links:
                found.setdefault(self._links[index].name, []).append(address)
        return found

    async def changed(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    def close(self) -> None:
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _read(self) -> None:
        before = dict(self._links), set(self._addresses)
        while True:
            try:
                data = self._socket.recv(rtnetlink.RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError as fault:
                if fault.errno != errno.ENOBUFS:
                    raise
                # More happened than the socket could hold: ask for all of it.
                self._links, self._addresses = _all(), set(rtnetlink.dump_addresses())
                continue
            for message in rtnetlink.link_messages(data):
                if message.deleted:
                    self._links.pop(message.index, None)
                else:
                    self._links[message.index] = Link.of(message)
            for each in rtnetlink.address_messages(data):
                change = self._addresses.discard if each.deleted else self._addresses.add
                change((each.index, each.address))
        if (self._links, self._addresses) != before:
            self._changed.set()


def _all() -> dict[int, Link]:
    """Every interface there is now, by index."""
    return {index: Link.of(message) for index, message in rtnetlink.dump_links().items()}
