"""What a lab's YAML says, checked and complete: hosts, the underlay between them, guests' wishes, objects to apply.

Never touches the machine; the text comes in by argument.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, TypeAlias

from weft.cli import manifests
from weft.cli.manifests import Manifest
from weft.kit.errors import Missing, Rejected

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
#: A unix socket's path has 107 bytes, and the lab's name is in the path of each.
LONGEST_LAB_NAME = 32
MOST_HOSTS = 250
DEFAULT_UNDERLAY = "100.64.0.0/16"
FIELDS = {"lab", "underlay", "hosts", "guests", "objects", "include"}
PROVIDER_NETWORK = "provider-networks/fabric"


class Fabric(StrEnum):
    """What is between the hosts."""

    ROUTED = "routed"  # a router, and each host in a subnet of its own
    BRIDGED = "bridged"  # a switch that snoops IGMP and MLD, and asks; all hosts in one subnet


class Attach(StrEnum):
    """How a host's agent learns which interface is a port's."""

    AUTO = "auto"  # tap, where the name is unmistakable on its host; else explicit
    TAP = "tap"  # by the interface's name
    EXPLICIT = "explicit"  # told through the agent's socket


@dataclass(frozen=True, slots=True)
class Leg:
    """A host's place in one more network of the underlay, alone in its subnet there. network: the whole of it."""

    network: str
    subnet: str
    gateway: str
    pa: str


@dataclass(frozen=True, slots=True)
class LabHost:
    """One host, alone in its subnet of a routed underlay. gateway: the fabric's address there, pa: the host's."""

    name: str
    subnet: str
    gateway: str
    pa: str
    attach: Attach = Attach.AUTO
    further: tuple[Leg, ...] = ()  # uplinks eth1, eth2, …


@dataclass(frozen=True, slots=True)
class GuestWish:
    """What the YAML says of one guest; what it does not say follows from its port."""

    attach: Attach = Attach.AUTO
    mtu_bytes: int = 0  # 0: what the subnet and the underlay leave


@dataclass(frozen=True, slots=True)
class LabSpec:
    name: str
    mtu_bytes: int
    hosts: tuple[LabHost, ...]
    guests: Mapping[str, GuestWish]  # by the port's full name
    objects: tuple[Manifest, ...]  # hosts and their provider network included
    fabric: Fabric = Fabric.ROUTED

    def host(self, name: str) -> LabHost:
        for host in self.hosts:
            if host.name == name:
                return host
        known = ", ".join(host.name for host in self.hosts)
        raise Missing(f"{name!r} is no host of the lab {self.name}; it has {known}")


def parse(text: str, source: str, include: Callable[[str], str], name: str | None = None) -> LabSpec:
    """include: gives the text of a file named in the YAML, relative to it. name: instead of the YAML's own."""
    value = _mapping(manifests.one_document(text, source), "", FIELDS)
    name = lab_name(name or value.get("lab"))
    underlay = _mapping(value.get("underlay") or {}, "underlay", {"prefix", "further", "mtu_bytes", "fabric"})
    mtu_bytes = _integer(underlay.get("mtu_bytes", 1500), "underlay.mtu_bytes", 1280 + 62, 65_535)
    prefix = _network(underlay.get("prefix", DEFAULT_UNDERLAY), "underlay.prefix")
    further = underlay.get("further") or []
    if not isinstance(further, list):
        raise Rejected(f"{further!r} is not a list of prefixes", "underlay.further")
    fabric = _fabric(underlay.get("fabric", "routed"))
    hosts = _hosts(value.get("hosts"), prefix)
    if fabric is Fabric.BRIDGED:
        if further:
            raise Rejected("a bridged underlay has no further networks", "underlay.further")
        hosts = _together(hosts)
    networks = [_network(each, f"underlay.further[{rank}]") for rank, each in enumerate(further)]
    hosts = _with_legs(hosts, prefix, networks)
    objects = list(_objects(value, source, include))
    given = {each.name for each in objects}
    generated = [each for each in _infrastructure(hosts, mtu_bytes) if each.name not in given]
    return LabSpec(name, mtu_bytes, hosts, _guests(value.get("guests")), (*generated, *objects), fabric)


def lab_name(value: object) -> str:
    if not isinstance(value, str) or not LABEL.fullmatch(value) or len(value) > LONGEST_LAB_NAME:
        raise Rejected(
            f"{value!r} is no name for a lab; it is 1 to {LONGEST_LAB_NAME} of a-z, 0-9 and -, such as demo", "lab"
        )
    return value


def port_name(short: str, field: str) -> str:
    """``blue/web-1`` or the full name -> the full name."""
    match short.split("/"):
        case [tenant, port] | ["tenants", tenant, "ports", port] if LABEL.fullmatch(tenant) and LABEL.fullmatch(port):
            return f"tenants/{tenant}/ports/{port}"
    raise Rejected(f"{short!r} is no port's name such as blue/web-1", field)


def _hosts(value: object, prefix: Network) -> tuple[LabHost, ...]:
    if isinstance(value, list):
        value = dict.fromkeys(value)
    named = _mapping(value or {}, "hosts", None)
    if not named:
        raise Rejected("a lab has at least one host, such as hosts: {h1: {}}", "hosts")
    if len(named) > MOST_HOSTS:
        raise Rejected(f"{len(named)} hosts; {MOST_HOSTS} at the most", "hosts")
    entries = {name: _mapping(each or {}, f"hosts.{name}", {"subnet", "attach"}) for name, each in named.items()}
    given = {
        name: _network(each["subnet"], f"hosts.{name}.subnet") for name, each in entries.items() if "subnet" in each
    }
    free = _free_subnets(prefix, list(given.values()))
    hosts: list[LabHost] = []
    taken: dict[str, Network] = {}
    for name, each in entries.items():
        if not isinstance(name, str) or not LABEL.fullmatch(name) or len(name) > 63:
            raise Rejected(f"{name!r} is no name for a host; it is of a-z, 0-9 and -, such as h1", f"hosts.{name}")
        subnet = given.get(name) or next(free, None)
        if subnet is None:
            raise Rejected(f"{prefix} has no subnet left for host {name}; give a shorter prefix", "underlay.prefix")
        for other, theirs in taken.items():
            if subnet.version == theirs.version and subnet.overlaps(theirs):
                raise Rejected(f"{subnet} overlaps host {other}'s {theirs}", f"hosts.{name}.subnet")
        taken[name] = subnet
        attach = _attach(each.get("attach", "auto"), f"hosts.{name}.attach")
        hosts.append(LabHost(name, str(subnet), str(subnet[1]), str(subnet[2]), attach))
    return tuple(hosts)


def _together(hosts: tuple[LabHost, ...]) -> tuple[LabHost, ...]:
    """All in the first one's subnet."""
    subnet = ipaddress.ip_network(hosts[0].subnet)
    if subnet.num_addresses < len(hosts) + 3:
        raise Rejected(f"{subnet} has no room for {len(hosts)} hosts", "underlay.prefix")
    return tuple(
        replace(host, subnet=str(subnet), gateway=str(subnet[1]), pa=str(subnet[2 + rank]))
        for rank, host in enumerate(hosts)
    )


def _fabric(value: object) -> Fabric:
    try:
        return Fabric(str(value))
    except ValueError:
        raise Rejected(f"{value!r} is none of {', '.join(each.value for each in Fabric)}", "underlay.fabric") from None


def _with_legs(hosts: tuple[LabHost, ...], first: Network, networks: list[Network]) -> tuple[LabHost, ...]:
    """The hosts, each with a place in each further network."""
    taken = [first, *(ipaddress.ip_network(host.subnet) for host in hosts)]
    for rank, network in enumerate(networks):
        for other in taken:
            if other.version == network.version and other.overlaps(network):
                raise Rejected(f"{network} overlaps {other}", f"underlay.further[{rank}]")
        taken.append(network)
        free = _free_subnets(network, [])
        found = []
        for host in hosts:
            if (subnet := next(free, None)) is None:
                field = f"underlay.further[{rank}]"
                raise Rejected(f"{network} has no subnet left for host {host.name}; give a shorter prefix", field)
            leg = Leg(str(network), str(subnet), str(subnet[1]), str(subnet[2]))
            found.append(replace(host, further=(*host.further, leg)))
        hosts = tuple(found)
    return hosts


def _free_subnets(prefix: Network, taken: list[Network]) -> Iterator[Network]:
    length = 24 if prefix.version == 4 else 64
    if prefix.prefixlen > length:
        return
    for candidate in prefix.subnets(new_prefix=length):
        if candidate.network_address == prefix.network_address and prefix.prefixlen < length:
            continue  # the first is left out, so that host 1 is in subnet 1
        if not any(candidate.version == each.version and candidate.overlaps(each) for each in taken):
            yield candidate


def _guests(value: object) -> dict[str, GuestWish]:
    wishes: dict[str, GuestWish] = {}
    for short, each in _mapping(value or {}, "guests", None).items():
        field = f"guests.{short}"
        entry = _mapping(each or {}, field, {"attach", "mtu_bytes"})
        wishes[port_name(str(short), field)] = GuestWish(
            _attach(entry.get("attach", "auto"), f"{field}.attach"),
            _integer(entry["mtu_bytes"], f"{field}.mtu_bytes", 68, 65_535) if "mtu_bytes" in entry else 0,
        )
    return wishes


def _objects(value: dict[str, Any], source: str, include: Callable[[str], str]) -> Iterator[Manifest]:
    included, objects = value.get("include") or [], value.get("objects") or []
    for field, listed in (("include", included), ("objects", objects)):
        if not isinstance(listed, list):
            raise Rejected(f"{listed!r} is not a list", field)
    for index, file in enumerate(included):
        if not isinstance(file, str):
            raise Rejected(f"{file!r} is not the name of a file", f"include[{index}]")
        yield from manifests.manifests(include(file), file)
    for index, item in enumerate(objects):
        yield manifests.manifest(item, f"{source}: objects[{index}]")


def _infrastructure(hosts: tuple[LabHost, ...], mtu_bytes: int) -> Iterator[Manifest]:
    """The provider network and the hosts, as objects: a lab's YAML need not repeat them."""
    pools = [
        {"prefix": subnet, "first": first}
        for subnet, first in {host.subnet: host.pa for host in reversed(hosts)}.items()
    ]
    yield Manifest(PROVIDER_NETWORK, {"pools": pools, "mtu_bytes": mtu_bytes}, "the lab")
    for rank, network in enumerate(leg.network for leg in hosts[0].further):
        further = {"pools": [{"prefix": network}], "mtu_bytes": mtu_bytes}
        yield Manifest(further_network(rank), further, "the lab")
    for host in hosts:
        uplinks = [{"interface": "eth0", "provider_network": PROVIDER_NETWORK, "pas": [host.pa]}]
        uplinks += [
            {"interface": f"eth{rank + 1}", "provider_network": further_network(rank), "pas": [leg.pa]}
            for rank, leg in enumerate(host.further)
        ]
        yield Manifest(f"hosts/{host.name}", {"uplinks": uplinks}, "the lab")


def further_network(rank: int) -> str:
    return f"{PROVIDER_NETWORK}-{rank + 2}"


def _mapping(value: object, field: str, known: set[str] | None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Rejected(f"{value!r} is not a mapping of fields", field)
    if known is not None and (unknown := sorted(str(key) for key in value.keys() - known)):
        path = f"{field}.{unknown[0]}" if field else unknown[0]
        raise Rejected(f"{unknown[0]!r} is no field here; there are {', '.join(sorted(known))}", path)
    return value


def _network(value: object, field: str) -> Network:
    try:
        network = ipaddress.ip_network(str(value))
    except ValueError as error:
        raise Rejected(f"{value!r} is not a prefix such as {DEFAULT_UNDERLAY}: {error}", field) from error
    if network.num_addresses < 4:
        raise Rejected(f"{network} is too small: the fabric and the host need an address each", field)
    return network


def _integer(value: object, field: str, lowest: int, highest: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        raise Rejected(f"{value!r} is not a number in {lowest}..{highest}", field)
    return value


def _attach(value: object, field: str) -> Attach:
    try:
        return Attach(str(value))
    except ValueError:
        raise Rejected(f"{value!r} is none of {', '.join(each.value for each in Attach)}", field) from None
