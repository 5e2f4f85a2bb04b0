"""What guests are told of their addresses: when it is right. Chooses nothing but what is USUAL."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from weft.kit.errors import Rejected
from weft.model import drafts, values
from weft.model.features import Ipv6Mode
from weft.model.objects import Dhcp, DhcpRoute, PortDhcp
from weft.model.puts import read
from weft.model.values import Ip, Mac, Prefix, ip_version, network_of

#: So that every answer fits what each client takes (RFC 2131 section 2: 576 bytes) but for what it can do without,
#: and a router advertisement fits 1280 bytes.
MOST_SERVERS, MOST_ROUTES, MOST_SEARCH_BYTES = 8, 16, 240

LEASE_FIRST_S, LEASE_LAST_S = 60, 4_294_967_295
INFINITE_S = LEASE_LAST_S  # RFC 2131 section 3.3, RFC 8415 section 7.7

_is_label = re.compile("[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?").fullmatch

_G = TypeVar("_G")
_V = TypeVar("_V")


USUAL, USUAL_OF_PORT = Dhcp(), PortDhcp()


def parse(draft: drafts.Dhcp, prefixes: Sequence[Prefix]) -> Dhcp:
    """A subnet's, whole: what is not said is as usual, not as it was. Faults are reported at the field within."""
    mode = USUAL.ipv6_mode if draft.ipv6_mode is None else read("ipv6_mode", _mode, draft.ipv6_mode)
    by_version = {ip_version(prefix): prefix for prefix in prefixes}
    if mode.by_guest and 6 in by_version and network_of(by_version[6]).prefixlen != 64:
        raise Rejected(
            f"guests make addresses of their own in a /64 only (RFC 4862), and {by_version[6]} is none; "
            f"'{Ipv6Mode.STATEFUL}' gives them addresses of any prefix",
            "ipv6_mode",
        )
    lease_s = USUAL.lease_s if draft.lease_s is None else draft.lease_s
    if not LEASE_FIRST_S <= lease_s <= LEASE_LAST_S:
        raise Rejected(f"a lease of {lease_s} s is outside {LEASE_FIRST_S}..{LEASE_LAST_S} (without end)", "lease_s")
    search = _each("search_domains", draft.search_domains, _domain, MOST_SEARCH_BYTES)
    if (size := sum(len(domain) + 2 for domain in search)) > MOST_SEARCH_BYTES:
        raise Rejected(f"{size} bytes of search domains; {MOST_SEARCH_BYTES} fit an answer", "search_domains")
    return Dhcp(
        enabled=USUAL.enabled if draft.enabled is None else draft.enabled,
        router=USUAL.router if draft.router is None else draft.router,
        dns_servers=_each("dns_servers", draft.dns_servers, _server, MOST_SERVERS),
        search_domains=search,
        ntp_servers=_each("ntp_servers", draft.ntp_servers, _server, MOST_SERVERS),
        routes=_each("routes", draft.routes, lambda route: _route(route, by_version), MOST_ROUTES),
        lease_s=lease_s,
        ipv6_mode=mode,
    )


def parse_of_port(draft: drafts.PortDhcp) -> PortDhcp:
    """A port's, whole."""
    return PortDhcp(USUAL_OF_PORT.enabled if draft.enabled is None else draft.enabled, draft.router)


def as_written(dhcp: Dhcp) -> drafts.Dhcp:
    """A subnet's as somebody would write it: what is kept at a later PUT is judged anew, by the prefixes of then."""
    return drafts.Dhcp(
        enabled=dhcp.enabled,
        router=dhcp.router,
        dns_servers=dhcp.dns_servers,
        search_domains=dhcp.search_domains,
        ntp_servers=dhcp.ntp_servers,
        routes=tuple(drafts.DhcpRoute(route.prefix, route.next_hop) for route in dhcp.routes),
        lease_s=dhcp.lease_s,
        ipv6_mode=dhcp.ipv6_mode,
    )


def eui64(prefix: Prefix, mac: Mac) -> Ip:
    """The address that a guest makes of a /64 and its MAC (RFC 4291 appendix A)."""
    high, low = bytes.fromhex(mac[:8].replace(":", "")), bytes.fromhex(mac[9:].replace(":", ""))
    interface = bytes((high[0] ^ 2,)) + high[1:] + b"\xff\xfe" + low
    return values.ipv6_text(int(network_of(prefix).network_address) | int.from_bytes(interface, "big"))


def _each(field: str, given: Sequence[_G] | None, parse: Callable[[_G], _V], most: int) -> tuple[_V, ...]:
    found: list[_V] = []
    for rank, each in enumerate(given or ()):
        if rank == most:
            raise Rejected(f"{len(given or ())} are too many to fit an answer; {most} is the most", field)
        value = read(f"{field}[{rank}]", parse, each)
        if value in found:
            raise Rejected(f"{value} is listed twice", f"{field}[{rank}]")
        found.append(value)
    return tuple(found)


def _mode(text: str) -> Ipv6Mode:
    try:
        return Ipv6Mode(text)
    except ValueError:
        these = ", ".join(f"'{mode}'" for mode in Ipv6Mode)
        raise Rejected(f"{text!r} is not an IPv6 mode; {these} are") from None


def _server(text: str) -> Ip:
    address = values.parse_ip(text)
    if (why := values.why_not_unicast(network_of(values.parse_prefix(address)))) is not None:
        raise Rejected(f"{address} is no server's address: {why}")
    return address


def _domain(text: str) -> str:
    """A domain name as resolvers take it, lower case, without the dot at its end."""
    name = text.lower().removesuffix(".")
    if len(name) > 253 or not all(_is_label(label) for label in name.split(".")):
        raise Rejected(f"{text!r} is not a domain name such as example.com")
    return name


def _route(draft: drafts.DhcpRoute, by_version: dict[int, Prefix]) -> DhcpRoute:
    prefix = read("prefix", values.parse_prefix, draft.prefix)
    version = ip_version(prefix)
    within = by_version.get(version)
    if within is None:
        raise Rejected(f"{prefix} is IPv{version}, and the subnet has no IPv{version} prefix", "prefix")
    if prefix.endswith("/0"):
        raise Rejected(f"{prefix} is the default route: say router: true for that", "prefix")
    if draft.next_hop is None:
        return DhcpRoute(prefix)
    if version == 6:
        # RFC 4191: a route information option means the router that sends it, and DHCPv6 has no option for routes.
        raise Rejected("guests can be told of IPv6 routes by way of the gateway only: leave next_hop out", "next_hop")
    next_hop = read("next_hop", values.parse_ip, draft.next_hop)
    network = network_of(within)
    if ip_version(next_hop) != 4 or values.ip_number(next_hop) not in range(
        int(network.network_address) + 1, int(network.broadcast_address)
    ):
        raise Rejected(f"next hop {next_hop} is no address of {within}, where the guest could reach it", "next_hop")
    return DhcpRoute(prefix, next_hop)
