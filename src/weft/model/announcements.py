"""What guests say they have: which of it is heeded, who has it then, and how long. Never takes a guest's word alone.

A port may announce what its allowed address pairs cover, in its own subnet. In a subnet an announced address has one
holder, and so has an announced MAC that is no port's own. Whatever policy gives comes first: an address that becomes a
gateway or that of a port on a host, a MAC that becomes a port's own or a router's, is its announcer's no longer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from weft.kit.errors import Conflict, Rejected
from weft.model import drafts, taps, trunk, values
from weft.model.indexes import Indexes, SubnetIndex
from weft.model.names import Name, tenant_of
from weft.model.objects import AnnouncedAddress, Port, VirtualSubnet
from weft.model.puts import Put, read
from weft.model.shares import USUAL_LIMITS, Share
from weft.model.values import Ip, Mac, ip_version

#: Of one port: what a router of a few networks has, and too few to fill anybody's tables with.
MOST = 64

_FIELD = "spec.announced_addresses"

_PortPut: TypeAlias = Put[drafts.Port, Port]
_SubnetPut: TypeAlias = Put[drafts.VirtualSubnet, VirtualSubnet]


@dataclass(frozen=True, slots=True)
class Announcement:
    """A guest has said at its port that it has an address, at a MAC. host: on which this was heard."""

    host: Name
    port: str
    said: AnnouncedAddress


class Unheeded(StrEnum):
    """Why an announcement changes nothing."""

    NO_NEWS = "no_news"  # it is so already
    ELSEWHERE = "elsewhere"  # the port is not on the host where it was heard, or is no more
    NOT_ALLOWED = "not_allowed"
    FULL = "full"  # the port has announced as much as one may, or its tenant has as much as it may


@dataclass(frozen=True, slots=True)
class Ignored:
    """One that changes nothing. why: for the log."""

    announcement: Announcement
    reason: Unheeded
    why: str


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of some announcements. puts: of every port that gains or loses by them."""

    puts: tuple[drafts.Port, ...]
    taken: int
    ignored: tuple[Ignored, ...]


# Hints


def hear(ix: Indexes, announced: Iterable[Announcement]) -> Heard:
    """Each on top of the former. Works it out in the indexes themselves: the caller takes that back."""
    taken, ignored = 0, []
    changed: dict[Name, None] = {}
    for each in announced:
        if (found := _hear(ix, each, changed)) is None:
            taken += 1
        else:
            ignored.append(Ignored(each, *found))
    return Heard(tuple(_draft(ix.ports[name]) for name in changed), taken, tuple(ignored))


def _hear(ix: Indexes, each: Announcement, changed: dict[Name, None]) -> tuple[Unheeded, str] | None:
    """Give the port what it has announced, and what goes with it; or why not."""
    said = each.said
    port = ix.ports.get(Name(each.port))
    if port is None or each.host not in port.hosts:
        where = "does not exist" if port is None else f"is on {' and '.join(port.hosts) or 'no host'}"
        return Unheeded.ELSEWHERE, f"{each.port} {where}"
    subnet = ix.subnets[port.virtual_subnet]
    if said in port.announced_addresses or (said.mac == port.mac and _owner(subnet, said.address) == port.name):
        return Unheeded.NO_NEWS, f"{said.address} is at {port.name} already"
    try:
        _judge(ix, port, said)
    except Rejected as fault:
        return Unheeded.NOT_ALLOWED, fault.message
    kept = [other for other in port.announced_addresses if other.address != said.address]
    if len(kept) >= MOST:
        return Unheeded.FULL, f"{port.name} has announced {MOST} addresses already"
    behind: list[AnnouncedAddress] = []
    tenant = tenant_of(port.name)
    had_before = {share: ix.tally.has(share, tenant) for share in (Share.RECORDS, Share.MACS)}
    losers: list[Port] = []
    virtual = said.mac != port.mac
    holders = {subnet.announced.get(said.address), subnet.announced_macs.get(said.mac) if virtual else None}
    for name in sorted(name for name in holders if name is not None and name != port.name):
        other = ix.ports[name]
        going = [had for had in other.announced_addresses if had.address == said.address or had.mac == said.mac]
        ix.announce(other, tuple(had for had in other.announced_addresses if had not in going))
        losers.append(other)
        behind.extend(had for had in going if had.address != said.address)
    # A virtual MAC is in one place: what else was reached by it comes along, as far as it may.
    along = [had for had in behind if _stands(ix, port, had)]
    ix.announce(port, (*kept, said, *along)[:MOST])
    limits = ix.limits.get(tenant, USUAL_LIMITS)
    for share, before in had_before.items():
        if before < (now := ix.tally.has(share, tenant)) > limits.of(share):
            ix.announce(ix.ports[port.name], port.announced_addresses)
            for other in losers:
                ix.announce(ix.ports[other.name], other.announced_addresses)
            return Unheeded.FULL, f"{tenant} would have {now:,} {share}; its limit is {limits.of(share):,}"
    changed.update(dict.fromkeys((*(other.name for other in losers), port.name)))
    return None


def _draft(port: Port) -> drafts.Port:
    announced = tuple(drafts.AnnouncedAddress(said.address, said.mac) for said in port.announced_addresses)
    # What a put takes away by not saying it is said; the rest stays as it is.
    return drafts.Port(
        port.name,
        port.virtual_subnet,
        host=port.host,
        destination=port.destination,
        flood_limit_pps=port.flood_limit_pps,
        announced_addresses=announced,
        sampling_rate=port.sampling_rate,
        mirror=taps.mirror_draft(port.mirror),
        trunk=trunk.draft(port.trunk),
    )


# Requests


def wanted(put: _PortPut, subnet: Name) -> tuple[AnnouncedAddress, ...]:
    """What a put asks for; what the port has, when it does not say, and stays in its subnet."""
    given = put.draft.announced_addresses
    if given is None:
        return put.old.announced_addresses if put.old is not None and put.old.virtual_subnet == subnet else ()
    if len(given) > MOST:
        raise Rejected(f"{len(given)} are more than the {MOST} that a port may have", f"{put.field}.{_FIELD}")
    found: dict[Ip, AnnouncedAddress] = {}
    for rank, draft in enumerate(given):
        place = f"{put.field}.{_FIELD}[{rank}]"
        said = read(place, _parse, draft)
        if said.address in found:
            raise Rejected(f"{said.address} is listed twice", f"{place}.address")
        found[said.address] = said
    return tuple(found.values())


def _parse(draft: drafts.AnnouncedAddress) -> AnnouncedAddress:
    address = read("address", values.parse_ip, draft.address)
    return AnnouncedAddress(address, read("mac", values.parse_mac, draft.mac))


def admit(ix: Indexes, puts: Sequence[_PortPut], subnets: Sequence[_SubnetPut]) -> dict[Name, Port]:
    """Give the batch's ports, which are there by now, what they have announced. Returns others that lost some by it,
    as they were.

    What a port had already is judged anew, and goes without a word when it has lost its ground; what is said for the
    first time is refused when it has none.
    """
    asking: list[tuple[_PortPut, tuple[AnnouncedAddress, ...], Collection[AnnouncedAddress]]] = []
    for put in puts:
        if entries := wanted(put, ix.ports[put.name].virtual_subnet):
            same = put.old is not None and put.old.virtual_subnet == ix.ports[put.name].virtual_subnet
            asking.append((put, entries, put.old.announced_addresses if put.old is not None and same else ()))
    for put, entries, had in sorted(asking, key=lambda ask: ask[0].name):
        for said in entries:
            port = ix.ports[put.name]
            if said in had and said not in port.announced_addresses and _stands(ix, port, said):
                ix.announce(port, (*port.announced_addresses, said))
    bereft: dict[Name, Port] = {}
    for name in sorted(_in_doubt(ix, puts, subnets)):
        port = ix.ports[name]
        standing = tuple(said for said in port.announced_addresses if _stands(ix, port, said))
        if standing != port.announced_addresses:
            bereft[name] = port
            ix.announce(port, standing)
    for put, entries, had in asking:
        for rank, said in enumerate(entries):
            if said not in had:
                port = ix.ports[put.name]
                try:
                    _judge(ix, port, said)
                    _check_free(ix, port, said)
                except Rejected as fault:
                    raise fault.at(f"{put.field}.{_FIELD}[{rank}]") from None
                ix.announce(port, (*port.announced_addresses, said))
        port = ix.ports[put.name]
        ix.announce(port, tuple(said for said in entries if said in port.announced_addresses))  # in the order given
    ours = {put.name for put in puts}
    return {name: port for name, port in bereft.items() if name not in ours}


def _in_doubt(ix: Indexes, puts: Iterable[_PortPut], subnets: Iterable[_SubnetPut]) -> set[Name]:
    """Ports that have announced what a batch may have given to another."""
    found: set[Name] = set()
    for put in puts:
        port = ix.ports[put.name]
        subnet = ix.subnets[port.virtual_subnet]
        if subnet.announced and port.host is not None:
            for address in (*port.addresses, values.link_local(port.mac)):
                if (holder := subnet.announced.get(address)) is not None:
                    found.add(holder)
        found.update(_reached_by(ix, subnet, port.mac))
    for change in subnets:
        old, index = change.old, ix.subnets[change.name]
        new = index.subnet
        found.update(_reached_by(ix, index, new.router_mac))
        if old is not None and (old.prefixes, old.gateways, old.router_mac) != (
            new.prefixes,
            new.gateways,
            new.router_mac,
        ):
            found.update(index.announced.values())
    return found


def _reached_by(ix: Indexes, subnet: SubnetIndex, mac: Mac) -> Iterator[Name]:
    """The ports of a subnet's routing domain that have announced a MAC that is not their own."""
    if mac in subnet.domain.announced_macs:
        for name in subnet.domain.subnets:
            if (holder := ix.subnets[name].announced_macs.get(mac)) is not None:
                yield holder


# The rules


def _stands(ix: Indexes, port: Port, said: AnnouncedAddress) -> bool:
    try:
        _judge(ix, port, said)
        _check_free(ix, port, said)
    except Rejected:
        return False
    return True


def _judge(ix: Indexes, port: Port, said: AnnouncedAddress) -> None:
    """Whether a port may announce this, whoever else has announced it."""
    subnet = ix.subnets[port.virtual_subnet]
    address, mac = said.address, said.mac
    if not values.is_link_local(address) and (why := subnet.why_not(address)) is not None:
        raise Rejected(why, "address")
    if not _is_covered(port, said):
        raise Rejected(f"{port.name} may not use {address} with {mac}: no allowed address pair has both", "address")
    if address == values.link_local(subnet.subnet.router_mac):
        raise Conflict(f"{address} is the router's link-local address", "address")
    owner = _owner(subnet, address)
    if owner == port.name:
        raise Rejected(f"{address} is {port.name}'s own, which needs no announcing", "address")
    if owner in ix.virtual_subnets:
        raise Conflict(f"{address} is the gateway of {owner}", "address")
    if owner is not None and (host := ix.ports[owner].host) is not None:
        raise Conflict(f"{address} is {owner}'s, which runs on {host}", "address")
    if mac != port.mac:
        if (holder := subnet.domain.macs.get(mac)) is not None:
            raise Conflict(f"MAC {mac} is {holder}'s own, in the same routing domain", "mac")
        if mac in subnet.domain.router_macs:
            raise Conflict(f"MAC {mac} is the router's in a subnet of the same routing domain", "mac")


def _check_free(ix: Indexes, port: Port, said: AnnouncedAddress) -> None:
    """Nobody else in the subnet has announced this."""
    subnet = ix.subnets[port.virtual_subnet]
    if (holder := subnet.announced.get(said.address)) not in (None, port.name):
        raise Conflict(f"{said.address} is announced by {holder}", "address")
    if said.mac != port.mac and (holder := subnet.announced_macs.get(said.mac)) not in (None, port.name):
        raise Conflict(f"MAC {said.mac} is announced by {holder}", "mac")


def _is_covered(port: Port, said: AnnouncedAddress) -> bool:
    return any(
        (pair.mac or port.mac) == said.mac
        and ip_version(pair.prefix) == ip_version(said.address)
        and values.address_network(said.address).network_address in values.network_of(pair.prefix)
        for pair in port.allowed_address_pairs
    )


def _owner(subnet: SubnetIndex, address: Ip) -> Name | None:
    """Whose an address is by policy: a port's CA or link-local address, or the gateway of a subnet."""
    owner = subnet.domain.cas.get(address)
    if owner is None and (mac := values.mac_behind(address)) is not None:
        owner = subnet.domain.macs.get(mac)
        return owner if owner in subnet.ports else None
    return owner
