"""Small values and how they are read: what has been parsed here is canonical text or a number in range, for good.

Addresses stay text, since text is what rows, feeds and maps of names are made of. A parse function never guesses: what
could be meant in two ways is refused, with what was given and what would be right.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from enum import Enum, StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NewType

from weft.kit.errors import Rejected
from weft.model.features import DataPlaneKind, Rule

Mac = NewType("Mac", str)  #: lower case with colons, unicast
Ip = NewType("Ip", str)  #: as ipaddress writes it; never IPv4 mapped into IPv6
Prefix = NewType("Prefix", str)  #: address/length, host bits zero
Vsid = NewType("Vsid", int)
Rdid = NewType("Rdid", str)  #: a UUID, lower case with hyphens

VSID_FIRST, VSID_LAST = 4096, 16_777_214  # RFC 7637 3.3 reserves 0..0xFFF and 0xFFFFFF
NUMBER_LAST = 2**31 - 1  #: of groups and their rules; data planes have use for the other half of 32 bits
ROUTER_MAC = Mac("02:57:45:46:54:01")
METRIC_LAST = 4_294_967_295
MTU_LAST = 65_535
FLOOD_LIMIT_PPS, FLOOD_LIMIT_LAST_PPS = 1000, 1_000_000_000
MTU_FIRST_IPV4, MTU_FIRST_IPV6 = 68, 1280  # RFC 791, RFC 8200 section 5

_LINK_LOCAL_GROUPS = IPv4Network("224.0.0.0/24")
_RDIDS = uuid.uuid5(uuid.NAMESPACE_URL, "urn:weft:routing-domain")


class AdminState(StrEnum):
    """Whether a port may send and receive."""

    UP = "up"
    DOWN = "down"


_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_is_ipv4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}").fullmatch
_is_canonical_mac = re.compile("[0-9a-f]{2}(?::[0-9a-f]{2}){5}").fullmatch
_is_mac = re.compile("[0-9A-Fa-f]{2}([:-])[0-9A-Fa-f]{2}(?:\\1[0-9A-Fa-f]{2}){4}").fullmatch
_is_length = re.compile("[0-9]{1,3}").fullmatch
_is_uuid = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch
_is_interface = re.compile(r"[!-.0-~]{1,15}").fullmatch  # what Linux takes: printable, no slash, no space


def parse_mac(text: str) -> Mac:
    """The MAC of one interface: never a group's, never all zero."""
    if not _is_canonical_mac(text):
        if not _is_mac(text):
            raise Rejected(f"{text!r} is not a MAC address such as 02:00:00:00:00:01")
        text = text.lower().replace("-", ":")
    if text[1] in "13579bdf":
        raise Rejected(
            f"{text!r} is a group's MAC address: an interface's has an even first byte, as 02:00:00:00:00:01"
        )
    if text == "00:00:00:00:00:00":
        raise Rejected(f"{text!r} is nobody's MAC address; one such as 02:00:00:00:00:01 would be right")
    return Mac(text)


def parse_ip(text: str) -> Ip:
    """An IPv4 or IPv6 address."""
    if _is_ipv4(text):
        return Ip(text)
    try:
        address = ip_address(text)
    except ValueError:
        raise Rejected(f"{text!r} is not an IP address such as 10.0.1.5 or fd00:1::5") from None
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            raise Rejected(f"{text!r} is an IPv4 address in IPv6 clothes; write {address.ipv4_mapped}")
        if address.scope_id is not None:
            raise Rejected(f"{text!r} has a zone; write {str(address).partition('%')[0]}")
    return Ip(str(address))


def parse_prefix(text: str) -> Prefix:
    """A prefix; an address alone is a prefix of full length."""
    head, slash, length = text.partition("/")
    if "%" in head or (slash and not _is_length(length)):  # ip_network would take a netmask, too
        raise Rejected(f"{text!r} is not a prefix such as 10.0.1.0/24 or fd00:1::/64")
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise Rejected(f"{text!r} is not a prefix such as 10.0.1.0/24 or fd00:1::/64") from None
    if isinstance(network, IPv6Network) and network.prefixlen >= 96 and network.network_address.ipv4_mapped is not None:
        raise Rejected(f"{text!r} is an IPv4 prefix in IPv6 clothes; write it as one of IPv4")
    if network.network_address != ip_address(head):
        raise Rejected(f"{text!r} has bits set beyond its length; {network} is the prefix that it is in")
    return Prefix(str(network))


def parse_vsid(value: int) -> Vsid:
    if not VSID_FIRST <= value <= VSID_LAST:
        raise Rejected(f"VSID {value} is outside {VSID_FIRST}..{VSID_LAST}")
    return Vsid(value)


def parse_rdid(text: str) -> Rdid:
    if not _is_uuid(text.lower()):
        raise Rejected(f"{text!r} is not a UUID such as 0f0c2b9e-4d1f-5d55-9a43-6c9f6b1f2a10")
    return Rdid(text.lower())


def parse_interface(text: str) -> str:
    """The name of a network interface."""
    if not _is_interface(text) or text in {".", ".."}:
        raise Rejected(f"{text!r} is not an interface's name such as eth1: 1 to 15 characters, no space, no slash")
    return text


def parse_admin_state(text: str) -> AdminState:
    try:
        return AdminState(text)
    except ValueError:
        raise Rejected(f"{text!r} is not an admin state; 'up' and 'down' are") from None


def parse_rule(text: str) -> Rule:
    try:
        return Rule(text)
    except ValueError:
        raise Rejected(f"{text!r} is not an isolation rule; {_listed(Rule)}") from None


def parse_provider_group(text: str) -> Ip:
    """A multicast address that routers of the underlay may carry."""
    group = parse_ip(text)
    address = ip_address(group)
    narrow = address in _LINK_LOCAL_GROUPS if isinstance(address, IPv4Address) else address.packed[1] & 15 <= 2
    if not address.is_multicast or narrow:
        raise Rejected(
            f"{text!r} is not a multicast address beyond one link; one such as 239.1.2.3 or ff15::1:2:3 would be right"
        )
    return group


def parse_flood_limit(value: int) -> int:
    if not 0 <= value <= FLOOD_LIMIT_LAST_PPS:
        raise Rejected(f"flood_limit_pps {value} is outside 0..{FLOOD_LIMIT_LAST_PPS}")
    return value


def parse_data_plane(text: str) -> DataPlaneKind:
    try:
        return DataPlaneKind(text)
    except ValueError:
        raise Rejected(f"{text!r} is not a data plane; {_listed(DataPlaneKind)}") from None


def parse_metric(value: int) -> int:
    if not 0 <= value <= METRIC_LAST:
        raise Rejected(f"metric {value} is outside 0..{METRIC_LAST}")
    return value


def parse_vlan(value: int) -> int:
    """0: untagged."""
    if not 0 <= value <= 4094:
        raise Rejected(f"VLAN {value} is outside 1..4094 (or 0, for no tag)")
    return value


def parse_mtu(value: int, first: int) -> int:
    """An IP MTU in bytes."""
    if not first <= value <= MTU_LAST:
        raise Rejected(f"MTU {value} is outside {first}..{MTU_LAST} bytes")
    return value


def ip_version(text: str) -> int:
    """4 or 6, of an address or prefix that has been parsed."""
    return 6 if ":" in text else 4


def ip_number(address: Ip) -> int:
    """An address that has been parsed, as a number."""
    if ":" in address:
        return int(IPv6Address(address))
    a, b, c, d = address.split(".")
    return int(a) << 24 | int(b) << 16 | int(c) << 8 | int(d)


def ipv4_text(number: int) -> Ip:
    """The inverse of ip_number. Four times as fast as ipaddress, which counts when ports are born by the thousand."""
    return Ip(f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}")


def ipv6_text(number: int) -> Ip:
    return Ip(str(IPv6Address(number)))


def is_link_local(address: Ip) -> bool:
    """Whether an address is in fe80::/64, where every IPv6 host has one (RFC 4291 section 2.5.6)."""
    return ip_version(address) == 6 and ip_number(address) >> 64 == 0xFE80 << 48


def link_local(mac: Mac) -> Ip:
    """The link-local address that a MAC makes (modified EUI-64, RFC 4291 appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes((octets[0] ^ 2, *octets[1:3], 0xFF, 0xFE, *octets[3:]))
    return ipv6_text(0xFE80 << 112 | int.from_bytes(identifier, "big"))


def mac_behind(address: Ip) -> Mac | None:
    """The MAC whose link-local address this is; None when it is no MAC's."""
    if not is_link_local(address):
        return None
    identifier = (ip_number(address) & (1 << 64) - 1).to_bytes(8, "big")
    if identifier[3:5] != b"\xff\xfe":
        return None
    return Mac(bytes((identifier[0] ^ 2, *identifier[1:3], *identifier[5:])).hex(":"))


def network_of(prefix: Prefix) -> IPv4Network | IPv6Network:
    return ip_network(prefix)


def default_rdid(name: str, attempt: int = 0) -> Rdid:
    """What a routing domain's RDID is when nobody says; attempt: how many before it were taken."""
    return Rdid(str(uuid.uuid5(_RDIDS, f"{name}#{attempt}" if attempt else name)))


def default_vsid(name: str) -> Vsid:
    """Where the search for a free VSID begins."""
    return Vsid(VSID_FIRST + _hash(name, 8) % (VSID_LAST - VSID_FIRST + 1))


def next_vsid(vsid: Vsid) -> Vsid:
    return Vsid(vsid + 1 if vsid < VSID_LAST else VSID_FIRST)


def default_number(name: str, attempt: int = 0) -> int:
    """What hosts know a group or a rule by; attempt: how many before it were taken."""
    return 1 + (_hash(name, 8) + attempt) % NUMBER_LAST


def default_mac(name: str, attempt: int = 0) -> Mac:
    """What a port's MAC is when nobody says: locally administered; attempt: how many before it were taken."""
    digest = hashlib.blake2b(name.encode(), digest_size=5).digest()
    if attempt:
        digest = ((int.from_bytes(digest, "big") + attempt) % 2**40).to_bytes(5, "big")
    return Mac("02:" + digest.hex(":"))


def why_not_unicast(network: IPv4Network | IPv6Network) -> str | None:
    """Why hosts or guests cannot have addresses of this network, or None when they can."""
    unusable = _UNUSABLE_V4 if isinstance(network, IPv4Network) else _UNUSABLE_V6
    for other, why in unusable:
        if network.overlaps(other):
            return f"{other} is {why}"
    return None


_UNUSABLE_V4 = [
    (IPv4Network("0.0.0.0/8"), "not for use as addresses (RFC 1122)"),
    (IPv4Network("127.0.0.0/8"), "loopback"),
    (IPv4Network("224.0.0.0/4"), "multicast"),
    (IPv4Network("240.0.0.0/4"), "reserved (RFC 1112)"),
]
_UNUSABLE_V6 = [
    (IPv6Network("::/127"), "unspecified and loopback"),
    (IPv6Network("::ffff:0:0/96"), "IPv4 in IPv6 clothes"),
    (IPv6Network("fe80::/10"), "link-local"),
    (IPv6Network("ff00::/8"), "multicast"),
]


def address_network(address: Ip) -> IPv4Network | IPv6Network:
    """An address as the network that holds it alone."""
    parsed: IPv4Address | IPv6Address = ip_address(address)
    return ip_network(parsed)


def _listed(values: type[Enum]) -> str:
    known = [repr(member.value) for member in values]
    if len(known) == 1:
        return f"{known[0]} is"
    return f"{', '.join(known[:-1])} and {known[-1]} are"


def _hash(name: str, size: int) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=size).digest(), "big")


def within(address: Ip, prefix: Prefix) -> bool:
    """Whether an address is in a prefix; never one of the other IP version."""
    network = network_of(prefix)
    return ip_version(address) == network.version and address_network(address).network_address in network
