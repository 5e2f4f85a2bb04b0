"""What the data plane needs to know of this network namespace's interfaces. Only looks; never changes one."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import lru_cache

from weft.kit import rtnetlink


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface. kind: as the kernel names its driver (veth, tun, …), empty for hardware."""

    name: str
    ifindex: int
    kind: str
    mtu_bytes: int
    has_link_elsewhere: bool  # its other end is in another network namespace
    has_link: bool = True  # it is up, and so is its carrier

    @property
    def takes_peer_redirect(self) -> bool:
        """bpf_redirect_peer works: a veth or netkit whose other end is in another namespace."""
        return self.kind in ("veth", "netkit") and self.has_link_elsewhere


def interfaces() -> dict[str, Interface]:
    """All of this thread's network namespace, by name."""
    return {each.name: each for each in map(_interface, rtnetlink.dump_links().values())}


@lru_cache(1 << 13)  # of most there is nothing new: 40 us each to read, and 1 KiB to know again
def _interface(link: rtnetlink.LinkMessage) -> Interface:
    name, kind, mtu_bytes, elsewhere = "", "", 0, False
    for attribute, value in link.attributes:
        if attribute == rtnetlink.IFLA_IFNAME:
            name = rtnetlink.text(value)
        elif attribute == rtnetlink.IFLA_MTU:
            mtu_bytes = int.from_bytes(value, sys.byteorder)
        elif attribute == rtnetlink.IFLA_LINK_NETNSID:
            elsewhere = True
        elif attribute == rtnetlink.IFLA_LINKINFO:
            for inner, words in rtnetlink.attributes(value):
                if inner == rtnetlink.IFLA_INFO_KIND:
                    kind = rtnetlink.text(words)
    return Interface(name, link.index, kind, mtu_bytes, elsewhere, bool(link.flags & rtnetlink.IFF_RUNNING))
