"""From a lab's spec to the steps that build it, as typed values. Never runs one of them.

Namespaces: ``weft.<lab>.fabric``, ``weft.<lab>.host.<host>``, ``weft.<lab>.guest.<tenant>.<port>``. A dot is in no name
of ours, so one lab's prefix is never another's.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from weft.kit.errors import Rejected
from weft.lab.spec import Attach, Fabric, LabHost, LabSpec
from weft.model.features import Rule, overhead_bytes

UPLINK = "eth0"
GUEST_INTERFACE = "eth0"
SWITCH = "switch"
ARRIVING = "arriving"  # a moving guest's second wire


@dataclass(frozen=True, slots=True)
class AddNamespace:
    name: str


@dataclass(frozen=True, slots=True)
class End:
    """One end of a veth pair."""

    namespace: str
    interface: str
    mac: str | None = None


@dataclass(frozen=True, slots=True)
class AddVeth:
    left: End
    right: End
    mtu_bytes: int


@dataclass(frozen=True, slots=True)
class AddSwitch:
    """A bridge that floods a multicast group only to who has asked for it, and asks."""

    namespace: str
    interface: str
    mtu_bytes: int


@dataclass(frozen=True, slots=True)
class Plug:
    """An interface becomes a port of a switch."""

    namespace: str
    interface: str
    switch: str


@dataclass(frozen=True, slots=True)
class DeleteLink:
    namespace: str
    interface: str


@dataclass(frozen=True, slots=True)
class Rename:
    """Goes down first: before Linux 6.2 an interface that is up has its name for good."""

    namespace: str
    interface: str
    to: str


@dataclass(frozen=True, slots=True)
class SetSysctl:
    """key: below /proc/sys/net, as a path."""

    namespace: str
    key: str
    value: int


@dataclass(frozen=True, slots=True)
class AddAddress:
    """address: with its prefix length. checked: IPv6 duplicate address detection runs."""

    namespace: str
    interface: str
    address: str
    checked: bool = False


@dataclass(frozen=True, slots=True)
class DeleteAddress:
    namespace: str
    interface: str
    address: str


@dataclass(frozen=True, slots=True)
class RenameLive:
    """Stays up, with all that it has. Needs Linux 6.2."""

    namespace: str
    interface: str
    to: str


@dataclass(frozen=True, slots=True)
class SetUp:
    namespace: str
    interface: str


@dataclass(frozen=True, slots=True)
class TurnDefaultRoute:
    """The default route of the gateway's family goes out by this interface from now on."""

    namespace: str
    via: str
    interface: str


@dataclass(frozen=True, slots=True)
class AddDefaultRoute:
    namespace: str
    via: str


@dataclass(frozen=True, slots=True)
class AddRoute:
    namespace: str
    to: str
    via: str


Step: TypeAlias = (
    AddNamespace
    | AddVeth
    | AddSwitch
    | Plug
    | DeleteLink
    | Rename
    | SetSysctl
    | AddAddress
    | DeleteAddress
    | RenameLive
    | TurnDefaultRoute
    | SetUp
    | AddDefaultRoute
    | AddRoute
)


@dataclass(frozen=True, slots=True)
class Guest:
    """A port's guest. interface: the host's end of its veth; explicit: the agent must be told of it."""

    port: str
    namespace: str
    host: str
    interface: str
    explicit: bool
    mac: str
    addresses: tuple[str, ...]  # with prefix lengths
    gateways: tuple[str, ...]
    mtu_bytes: int


def prefix(lab: str) -> str:
    return f"weft.{lab}."


def fabric_namespace(lab: str, rank: int = 0) -> str:
    """Of the underlay's first network, or a further one: each has a router of its own."""
    return f"{prefix(lab)}fabric{rank + 1 if rank else ''}"


def host_namespace(lab: str, host: str) -> str:
    return f"{prefix(lab)}host.{host}"


def guest_namespace(lab: str, port: str) -> str:
    _, tenant, _, name = port.split("/")
    return f"{prefix(lab)}guest.{tenant}.{name}"


def tap_name(port: str) -> str:
    """As OpenStack names taps; an agent binds such an interface without being told."""
    return "tap" + port.rsplit("/", 1)[1][:11]


def explicit_name(port: str) -> str:
    """Fits in the 15 characters of an interface's name, and is the port's alone."""
    return "guest" + hashlib.sha256(port.encode()).hexdigest()[:8]


def underlay_steps(spec: LabSpec) -> list[Step]:
    """The fabric, and each host on a wire of its own to it."""
    fabric = fabric_namespace(spec.name)
    hosts = [(index, host, host_namespace(spec.name, host.name)) for index, host in enumerate(spec.hosts, 1)]
    steps: list[Step] = [AddNamespace(fabric), *(AddNamespace(namespace) for _, _, namespace in hosts)]
    steps += [
        SetSysctl(fabric, "ipv4/ip_forward", 1),
        SetSysctl(fabric, "ipv6/conf/all/forwarding", 1),
        *_no_rp_filter(fabric),
    ]
    for _, _, namespace in hosts:
        # Its own stack must not carry what the data plane should: a host forwards nothing.
        steps += [
            SetSysctl(namespace, "ipv4/ip_forward", 0),
            SetSysctl(namespace, "ipv6/conf/all/forwarding", 0),
            *_no_rp_filter(namespace),
        ]
    steps += [
        AddVeth(End(fabric, f"host{index}"), End(namespace, UPLINK), spec.mtu_bytes) for index, _, namespace in hosts
    ]
    steps.append(SetUp(fabric, "lo"))
    if spec.fabric is Fabric.BRIDGED:
        steps += [AddSwitch(fabric, SWITCH, spec.mtu_bytes), SetUp(fabric, SWITCH)]
        steps.append(AddAddress(fabric, SWITCH, _in(spec.hosts[0], spec.hosts[0].gateway)))
    for index, host, _ in hosts:
        wire = f"host{index}"
        if spec.fabric is Fabric.BRIDGED:
            steps.append(Plug(fabric, wire, SWITCH))
        else:
            steps.append(AddAddress(fabric, wire, _in(host, host.gateway)))
        steps.append(SetUp(fabric, wire))
    for _, host, namespace in hosts:
        steps += [
            SetUp(namespace, "lo"),
            AddAddress(namespace, UPLINK, _in(host, host.pa)),
            SetUp(namespace, UPLINK),
            AddDefaultRoute(namespace, host.gateway),
        ]
    for rank in range(len(spec.hosts[0].further)):
        steps += _further_steps(spec, rank)
    return steps


def _further_steps(spec: LabSpec, rank: int) -> list[Step]:
    """One more network of the underlay, and each host on a wire to it. The default route stays the first's."""
    fabric, uplink = fabric_namespace(spec.name, rank + 1), f"eth{rank + 1}"
    hosts = [
        (f"host{index}", host.further[rank], host_namespace(spec.name, host.name))
        for index, host in enumerate(spec.hosts, 1)
    ]
    steps: list[Step] = [
        AddNamespace(fabric),
        SetSysctl(fabric, "ipv4/ip_forward", 1),
        SetSysctl(fabric, "ipv6/conf/all/forwarding", 1),
        *_no_rp_filter(fabric),
        SetUp(fabric, "lo"),
    ]
    for wire, leg, namespace in hosts:
        length = ipaddress.ip_network(leg.subnet).prefixlen
        steps += [
            AddVeth(End(fabric, wire), End(namespace, uplink), spec.mtu_bytes),
            AddAddress(fabric, wire, f"{leg.gateway}/{length}"),
            SetUp(fabric, wire),
            AddAddress(namespace, uplink, f"{leg.pa}/{length}"),
            SetUp(namespace, uplink),
            AddRoute(namespace, leg.network, leg.gateway),
        ]
    return steps


def guests(spec: LabSpec, ports: Iterable[Mapping[str, Any]], subnets: Mapping[str, Mapping[str, Any]]) -> list[Guest]:
    """A guest for each port on a host that has an interface of its own. ports: objects as the API gives them; subnets:
    specs by name.
    """
    placed = [each for each in ports if each["spec"].get("host") and not each["spec"].get("trunk")]
    taken: dict[tuple[str, str], int] = {}
    for each in placed:
        place = (_label(each["spec"]["host"]), tap_name(each["name"]))
        taken[place] = taken.get(place, 0) + 1
    found: list[Guest] = []
    for each in placed:
        name, host = each["name"], _label(each["spec"]["host"])
        subnet = subnets[each["spec"]["virtual_subnet"]]
        guest = _guest(spec, name, host, each["spec"], subnet)
        alone = taken[host, tap_name(name)] == 1
        found.append(_attached(spec, guest, alone))
    if lost := sorted(spec.guests.keys() - {guest.port for guest in found}):
        raise Rejected(f"{lost[0]} is no port on a host of this lab; see objects", f"guests.{lost[0]}")
    return found


def guest_steps(spec: LabSpec, built: Iterable[Guest]) -> list[Step]:
    """Namespaces first, then wires, then addresses: what the same tool does stands together."""
    built = list(built)
    steps: list[Step] = [AddNamespace(guest.namespace) for guest in built]
    for guest in built:
        steps += [
            SetSysctl(guest.namespace, "ipv6/conf/default/accept_ra", 0),
            SetSysctl(guest.namespace, "ipv6/conf/default/addr_gen_mode", 0),  # EUI-64: what anti-spoofing knows
        ]
    steps += [_wire(spec.name, guest, GUEST_INTERFACE) for guest in built]
    steps += [_mute(spec.name, guest) for guest in built]
    for host in spec.hosts:
        namespace = host_namespace(spec.name, host.name)
        steps += [SetUp(namespace, guest.interface) for guest in built if guest.host == host.name]
    for guest in built:
        steps.append(SetUp(guest.namespace, "lo"))
        steps += _dressed(guest, checked=True)
    return steps


def moved(spec: LabSpec, guest: Guest, host: str, others: Iterable[Guest]) -> Guest:
    """The same guest on another host."""
    spec.host(host)
    alone = all(tap_name(other.port) != tap_name(guest.port) for other in others if other.host == host)
    return _attached(spec, replace(guest, host=host), alone)


def arrival_steps(lab: str, guest: Guest) -> list[Step]:
    """The moved guest's new wire, ready beside the old one, which still carries."""
    namespace = host_namespace(lab, guest.host)
    return [
        _wire(lab, guest, ARRIVING),
        _mute(lab, guest),
        SetUp(namespace, guest.interface),
        SetUp(guest.namespace, ARRIVING),  # a wire whose other end is down has no carrier, and its port is not active
    ]


def welcome_steps(guest: Guest) -> list[Step]:
    """The guest hears by its new wire, too. The kernel takes a while until an IPv6 address is one."""
    return [AddAddress(guest.namespace, ARRIVING, address) for address in guest.addresses]


def change_over_steps(guest: Guest) -> list[Step]:
    """The guest speaks by its new wire, and hears by both: as a virtual machine that is moved, it misses nothing."""
    namespace = guest.namespace
    return [
        *(TurnDefaultRoute(namespace, gateway, ARRIVING) for gateway in guest.gateways),
        *(DeleteAddress(namespace, GUEST_INTERFACE, address) for address in guest.addresses),
    ]


def settling_steps(guest: Guest) -> list[Step]:
    """The old wire goes, and the new one has its name; nothing passes by the old one any more."""
    return [DeleteLink(guest.namespace, GUEST_INTERFACE), RenameLive(guest.namespace, ARRIVING, GUEST_INTERFACE)]


def handover_steps(guest: Guest) -> list[Step]:
    """The guest goes from the old wire to the new one. Addresses are its own already, so nothing is checked again."""
    return [
        DeleteLink(guest.namespace, GUEST_INTERFACE),
        Rename(guest.namespace, ARRIVING, GUEST_INTERFACE),
        *_dressed(guest, checked=False),
    ]


def _guest(spec: LabSpec, name: str, host: str, port: Mapping[str, Any], subnet: Mapping[str, Any]) -> Guest:
    spec.host(host)
    prefixes = [ipaddress.ip_network(each) for each in subnet["prefixes"]]
    addresses = []
    for each in port["addresses"]:
        ca = ipaddress.ip_address(each)
        length = next(prefix.prefixlen for prefix in prefixes if ca in prefix)
        addresses.append(f"{ca}/{length}")
    versions = {ipaddress.ip_interface(each).version for each in addresses}
    gateways = tuple(each for each in subnet["gateways"] if ipaddress.ip_address(each).version in versions)
    rule = Rule(subnet.get("rule", Rule.NVGRE))
    overhead = max(overhead_bytes(rule, ipaddress.ip_address(each.pa).version) for each in spec.hosts)
    wish = spec.guests.get(name)
    mtu_bytes = (wish.mtu_bytes if wish else 0) or subnet.get("mtu_bytes", 0) or spec.mtu_bytes - overhead
    namespace = guest_namespace(spec.name, name)
    return Guest(name, namespace, host, tap_name(name), False, port["mac"], tuple(addresses), gateways, mtu_bytes)


def _attached(spec: LabSpec, guest: Guest, alone: bool) -> Guest:
    wish = spec.guests.get(guest.port)
    attach = wish.attach if wish and wish.attach is not Attach.AUTO else spec.host(guest.host).attach
    if attach is Attach.TAP and not alone:
        raise Rejected(
            f"two ports of {guest.host} would have the same interface {tap_name(guest.port)}; use attach: explicit",
            f"guests.{guest.port}.attach",
        )
    explicit = attach is Attach.EXPLICIT or not alone
    return replace(guest, explicit=explicit, interface=explicit_name(guest.port) if explicit else tap_name(guest.port))


def _wire(lab: str, guest: Guest, interface: str) -> Step:
    host = End(host_namespace(lab, guest.host), guest.interface)
    return AddVeth(host, End(guest.namespace, interface, guest.mac), guest.mtu_bytes)


def _mute(lab: str, guest: Guest) -> Step:
    """The host's own stack has nothing to say to a guest."""
    return SetSysctl(host_namespace(lab, guest.host), f"ipv6/conf/{guest.interface}/disable_ipv6", 1)


def _dressed(guest: Guest, *, checked: bool) -> Iterator[Step]:
    for address in guest.addresses:
        yield AddAddress(guest.namespace, GUEST_INTERFACE, address, checked)
    yield SetUp(guest.namespace, GUEST_INTERFACE)
    for gateway in guest.gateways:
        yield AddDefaultRoute(guest.namespace, gateway)


def _no_rp_filter(namespace: str) -> list[Step]:
    return [SetSysctl(namespace, f"ipv4/conf/{each}/rp_filter", 0) for each in ("all", "default")]


def _in(host: LabHost, address: str) -> str:
    return f"{address}/{ipaddress.ip_network(host.subnet).prefixlen}"


def _label(name: str) -> str:
    return name.rsplit("/", 1)[-1]
