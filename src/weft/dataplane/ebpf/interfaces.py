"""What the kernel knows of this network namespace's interfaces. Only looks; never changes one.

rtnetlink by hand, and not through pyroute2: a look at 4,096 ports takes 50 ms so, and 2 s otherwise.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg
_ATTRIBUTE = struct.Struct("=HH")
_NUMBER = struct.Struct("=I")
_ERROR, _DONE, _NEWLINK, _GETLINK = 2, 3, 16, 18
_REQUEST_DUMP = 0x301
_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR
_TRIES = 5
_IFNAME, _MTU, _LINKINFO, _EXT_MASK, _LINK_NETNSID = 3, 4, 18, 29, 37
_INFO_KIND = 1
_SKIP_STATS = 8
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface. kind: as the kernel names its driver (veth, tun, …), empty for hardware."""

    name: str
    ifindex: int
    kind: str
    mtu_bytes: int
    has_link_elsewhere: bool  # its other end is in another network namespace

    @property
    def takes_peer_redirect(self) -> bool:
        """bpf_redirect_peer works: a veth or netkit whose other end is in another namespace."""
        return self.kind in ("veth", "netkit") and self.has_link_elsewhere


def interfaces() -> dict[str, Interface]:
    """All of this thread's network namespace, by name."""
    found: dict[str, Interface] = {}
    for _ in range(_TRIES):
        listed, whole = _list()
        found |= listed
        if whole:
            return listed
    return found


def _list() -> tuple[dict[str, Interface], bool]:
    """Whole: none came or went meanwhile. Else others may be missing: before Linux 6.11 the kernel loses its place."""
    mask = _ATTRIBUTE.pack(8, _EXT_MASK) + _NUMBER.pack(_SKIP_STATS)
    request = _LINK.pack(0, 0, 0, 0, 0) + mask
    found: dict[str, Interface] = {}
    whole = True
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.send(_HEADER.pack(_HEADER.size + len(request), _GETLINK, _REQUEST_DUMP, 1, 0) + request)
        while True:
            data = netlink.recv(1 << 18)
            at = 0
            while at < len(data):
                length, kind, flags, _, _ = _HEADER.unpack_from(data, at)
                whole &= not flags & _INTERRUPTED
                body = data[at + _HEADER.size : at + length]
                at += (length + 3) & ~3
                if kind == _DONE:
                    return found, whole
                if kind == _ERROR:
                    number = -struct.unpack_from("=i", body)[0]
                    raise OSError(number, f"the kernel does not list its interfaces: {os.strerror(number)}")
                if kind == _NEWLINK:
                    interface = _interface(body)
                    found[interface.name] = interface


def _interface(body: bytes) -> Interface:
    _, _, ifindex, _, _ = _LINK.unpack_from(body)
    name, kind, mtu_bytes, elsewhere = "", "", 0, False
    for attribute, value in _attributes(body[_LINK.size :]):
        if attribute == _IFNAME:
            name = os.fsdecode(value.rstrip(b"\0"))
        elif attribute == _MTU:
            (mtu_bytes,) = _NUMBER.unpack(value)
        elif attribute == _LINK_NETNSID:
            elsewhere = True
        elif attribute == _LINKINFO:
            for inner, words in _attributes(value):
                if inner == _INFO_KIND:
                    kind = words.rstrip(b"\0").decode()
    return Interface(name, ifindex, kind, mtu_bytes, elsewhere)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        yield kind & _TYPE_MASK, data[at + 4 : at + length]
        at += max(4, (length + 3) & ~3)
