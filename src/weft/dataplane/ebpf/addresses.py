"""PAs of guests on the uplinks: the kernel answers ARP and neighbour solicitations for them, and routers find them. And
groups of the underlay that subnets have, which the kernel joins for as long as they are there.

What we put there bears our mark (IFA_PROTO); no other address is ever touched. The host uses none of them itself: each
stands alone in its prefix, and is no choice for a source. What comes for them the programs take first.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Iterable, Mapping
from ipaddress import ip_address, ip_interface
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

_MARK = 0x57  # IFA_PROTO: who has put an address there
_GROUP_MARK = 0x58  # the same of a group
_FLAGS = 0x02 | 0x200  # IFA_F_NODAD, IFA_F_NOPREFIXROUTE
_JOIN = 0x400  # IFA_F_MCAUTOJOIN: the kernel joins the group that the address is, and says so by IGMP or MLD
_LABEL, _LONGEST_NAME = ":weft", 15
_SCOPE_HOST = 254  # RT_SCOPE_HOST: no choice for a source
_MOST = Path("/proc/sys/net/ipv4/igmp_max_memberships")
_FOR_EVER = 0xFFFFFFFF
_ETH_ARP, _ETH_IPV6 = 0x0806, 0x86DD


def make(wanted: Iterable[str], uplinks: Mapping[str, int], *, prune: bool) -> list[str]:
    """These PAs on the uplinks (name -> ifindex): each where its network is, else on the first. prune: and none of ours
    besides. Returns what could not be.
    """
    failures: list[str] = []
    with IPRoute() as netlink:
        there, networks = _read(netlink, uplinks)
        places = {pa: _place(pa, uplinks, networks) for pa in wanted} if uplinks else {}
        for pa, index in places.items():
            if there.get(pa) != index:
                if (why := _add(netlink, pa, index)) is not None:
                    failures.append(f"{pa}: {why}")
                    continue
                _announce(pa, next(name for name, each in uplinks.items() if each == index))
        for pa, index in there.items():
            if places.get(pa, None if prune else index) != index:
                _remove(netlink, pa, index)
    return failures


def join(wanted: Collection[str], uplinks: Mapping[str, int], *, prune: bool) -> list[str]:
    """These groups joined on each of the uplinks (name -> ifindex); prune: and none of ours besides. Returns what could
    not be.
    """
    failures: list[str] = []
    with IPRoute() as netlink:
        there = _joined(netlink)
        places = {(group, index) for group in wanted for index in uplinks.values()}
        _make_room(sum(":" not in group for group, _ in places))
        names = {index: name for name, index in uplinks.items()}
        for group, index in sorted(places - there):
            if (why := _add(netlink, group, index, group_on=names[index])) is not None:
                failures.append(f"{group}: {why}")
        for group, index in there - places if prune else ():
            _remove(netlink, group, index)
    return failures


def _joined(netlink: IPRoute) -> set[tuple[str, int]]:
    """Ours: (group, ifindex)."""
    found = set()
    for message in netlink.get_addr():
        address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        if message.get_attr("IFA_PROTO") == _GROUP_MARK and address is not None:
            found.add((str(ip_address(address)), message["index"]))
    return found


def _make_room(groups: int) -> None:
    """The kernel lets one socket join 20 IPv4 groups, and joins ours by one of its own."""
    if groups and int(_MOST.read_text(encoding="ascii")) < groups + 20:
        _MOST.write_text(str(groups + 20), encoding="ascii")


def clear() -> None:
    """None of ours on any interface."""
    with IPRoute() as netlink:
        everywhere = {str(link["index"]): link["index"] for link in netlink.get_links()}
        for pa, index in [*_read(netlink, everywhere)[0].items(), *_joined(netlink)]:
            _remove(netlink, pa, index)


def _read(netlink: IPRoute, uplinks: Mapping[str, int]) -> tuple[dict[str, int], list[tuple[str, int]]]:
    """Ours (PA -> ifindex), and the networks of the others (address/length, ifindex)."""
    ours: dict[str, int] = {}
    networks: list[tuple[str, int]] = []
    indexes = set(uplinks.values())
    for message in netlink.get_addr():
        address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        if message["index"] not in indexes or address is None:
            continue
        if message.get_attr("IFA_PROTO") == _MARK:
            ours[str(ip_address(address))] = message["index"]
        else:
            networks.append((f"{address}/{message['prefixlen']}", message["index"]))
    return ours, networks


def _place(pa: str, uplinks: Mapping[str, int], networks: Iterable[tuple[str, int]]) -> int:
    for network, index in networks:
        around = ip_interface(network).network
        if ip_address(pa).version == around.version and ip_address(pa) in around:
            return index
    return next(iter(uplinks.values()))


def _add(netlink: IPRoute, pa: str, index: int, group_on: str | None = None) -> str | None:
    """group_on: of a group, the interface's name."""
    version = ip_address(pa).version
    told: dict[str, object] = {
        "index": index,
        "address": pa,
        "prefixlen": 32 if version == 4 else 128,
        "family": socket.AF_INET if version == 4 else socket.AF_INET6,
        "IFA_PROTO": _MARK if group_on is None else _GROUP_MARK,
        "IFA_FLAGS": _FLAGS,
    }
    if group_on is not None:
        told |= {"IFA_FLAGS": _FLAGS | _JOIN, "scope": _SCOPE_HOST}
        # By its label, since it stands before the interface's own: SIOCGIFADDR is not to take it for that.
        if version == 4 and len(group_on) <= _LONGEST_NAME - len(_LABEL):
            told["IFA_LABEL"] = group_on + _LABEL
    if version == 6:
        told["IFA_CACHEINFO"] = {"ifa_preferred": 0, "ifa_valid": _FOR_EVER}
    try:
        netlink.addr("add", **told)
    except NetlinkError as error:
        if error.code == errno.EEXIST:
            return "this host has it already, and not from Weft"
        return str(error)
    return None


def _remove(netlink: IPRoute, pa: str, index: int) -> None:
    try:
        netlink.addr("del", index=index, address=pa, prefixlen=32 if ip_address(pa).version == 4 else 128)
    except NetlinkError as error:
        if error.code not in (errno.EADDRNOTAVAIL, errno.ENODEV):
            raise


def _announce(pa: str, interface: str) -> None:
    """Neighbours that knew the PA at another host hear that it is here (RFC 5227 2.3, RFC 4861 7.2.6)."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((interface, 0))
        mac = wire.getsockname()[4][:6]
        packed = ip_address(pa).packed
        if len(packed) == 4:
            body = b"\0\x01\x08\0\x06\x04\0\x01" + mac + packed + bytes(6) + packed
            frame = b"\xff" * 6 + mac + _ETH_ARP.to_bytes(2, "big") + body
        else:
            frame = _advertisement(mac, packed)
        try:
            wire.send(frame)
        except OSError as error:
            if error.errno not in (errno.ENETDOWN, errno.ENOBUFS):
                raise


def _advertisement(mac: bytes, address: bytes) -> bytes:
    everybody = bytes.fromhex("ff020000000000000000000000000001")
    message = b"\x88\0\0\0\x20\0\0\0" + address + b"\x02\x01" + mac
    pseudo = address + everybody + len(message).to_bytes(4, "big") + b"\0\0\0\x3a"
    total = sum(int.from_bytes((pseudo + message)[at : at + 2], "big") for at in range(0, len(pseudo + message), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    message = message[:2] + (~total & 0xFFFF).to_bytes(2, "big") + message[4:]
    head = b"\x60\0\0\0" + len(message).to_bytes(2, "big") + b"\x3a\xff" + address + everybody
    return bytes.fromhex("333300000001") + mac + _ETH_IPV6.to_bytes(2, "big") + head + message
