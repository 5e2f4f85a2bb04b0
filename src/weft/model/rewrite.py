"""The PAs of guests' addresses, where the rule is IP rewrite: one for each, of the host's provider network.

A port that moves has one for each at its destination, too, from the beginning of the move. What a port has it keeps, as
long as its host's uplinks are where the PA is from; the rest is drawn. Never gives a PA twice, to whomever.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from weft.kit.errors import Conflict, Rejected
from weft.model import drafts, values
from weft.model.indexes import Indexes
from weft.model.names import Name
from weft.model.objects import Host, Pool, Port, Rewrite, VirtualSubnet
from weft.model.puts import Put, humane, read
from weft.model.underlay import HostPut
from weft.model.values import Ip, ip_number, ip_version

_PortPut: TypeAlias = Put[drafts.Port, Port]
_SubnetPut: TypeAlias = Put[drafts.VirtualSubnet, VirtualSubnet]

#: An address of a port, and whether it is to have its PA where the port is moving to.
_Need: TypeAlias = tuple[Ip, bool]

_FIELD = "spec.rewrites"


def admit(
    ix: Indexes,
    puts: Sequence[_PortPut],
    subnets: Sequence[_SubnetPut],
    hosts: Sequence[HostPut],
    bereft: Iterable[Name],
) -> dict[Name, Port]:
    """Give the PAs that they need to the batch's ports, those of subnets that begin or cease to be rewritten, and those
    on hosts that are elsewhere now.

    bereft: others that have lost announced addresses. Returns those that the batch does not put, and that have other
    PAs now, as they were.
    """
    by_put = {put.name: put for put in puts}
    blamed = {
        put.name: f"{put.field}.spec.{'host' if ix.ports[put.name].destination is None else 'destination'}"
        for put in puts
    }
    for change in subnets:
        now = ix.virtual_subnets[change.name]
        if change.old is not None and change.old.is_rewritten != now.is_rewritten:
            for name in ix.subnets[change.name].ports:
                blamed.setdefault(name, f"{change.field}.spec.rule")
    for host in hosts:
        if host.old is not None and _place(host.old) != _place(ix.hosts[host.name]):
            for name in ix.ports_on[host.name]:
                blamed.setdefault(name, f"{host.field}.spec.uplinks")
    for name in bereft:
        blamed.setdefault(name, "")  # one that only loses asks for nothing
    before: dict[Name, Port] = {}
    drawing: list[tuple[Name, dict[_Need, Ip]]] = []
    for name in blamed:
        port, asked = ix.ports[name], by_put.get(name)
        needs = dict.fromkeys(_needing(ix, port))
        if not needs and not port.rewrites and (asked is None or not asked.draft.rewrites):
            continue  # nearly all ports there are
        before[name] = port
        for each in port.rewrites:
            ix.release_pa(each.pa)
        drawing.append((name, _kept(ix, port, asked, needs)))
    for name, kept in sorted(drawing, key=lambda each: humane(each[0])):
        port = ix.ports[name]
        try:
            ix.rewrite(port, tuple(_drawn(ix, port, kept)))
        except Rejected as fault:
            raise fault.at(blamed[name]) from None
    return {name: port for name, port in before.items() if name not in by_put and ix.ports[name] != port}


def _place(host: Host) -> tuple[object, ...]:
    """What a host's pools hang on."""
    return tuple((uplink.provider_network, uplink.pool, uplink.pas) for uplink in host.uplinks)


def _needing(ix: Indexes, port: Port) -> Iterator[_Need]:
    """The addresses of a port that need a PA: none while it is nowhere, nor what is only link-local."""
    if port.host is None or not ix.virtual_subnets[port.virtual_subnet].is_rewritten:
        return
    for there in (False,) if port.destination is None else (False, True):
        for address in port.addresses:
            yield address, there
        for said in port.announced_addresses:
            if not values.is_link_local(said.address):
                yield said.address, there


def _kept(ix: Indexes, port: Port, put: _PortPut | None, needs: dict[_Need, None]) -> dict[_Need, Ip]:
    """What is said, or held before, and can stay: claimed. Those that are not in it are still to be drawn."""
    kept: dict[_Need, Ip] = {}
    before: Port | None = port
    said: tuple[Rewrite, ...] = ()
    if put is not None:
        before = put.old
        said = tuple(_said(put))
    former = before.rewrites if before is not None else ()
    for rank, each in enumerate(said):
        need = each.address, each.destination
        # What was read and is put back is no wish.
        if each in former or need not in needs or need in kept:
            continue
        field = f"{'' if put is None else put.field}.{_FIELD}[{rank}].pa"
        if not _fits(ix, port, each):
            raise Rejected(
                f"{each.pa} is in no pool of {_host(port, need)}'s provider networks for {each.address}", field
            )
        if (holder := ix.pas.get(each.pa)) is not None:
            raise Conflict(f"PA {each.pa} is taken by {holder}", field)
        ix.claim_pa(port.name, each.pa)
        kept[need] = each.pa
    if before is not None:
        for each in _at_home(before, port):
            need = each.address, each.destination
            if need in needs and need not in kept and each.pa not in ix.pas and _fits(ix, port, each):
                ix.claim_pa(port.name, each.pa)
                kept[need] = each.pa
    return kept


def _at_home(before: Port, port: Port) -> Iterator[Rewrite]:
    """What a port had, as where it is now would have it: those of hosts that it is still on or moving to come first."""
    strays: list[Rewrite] = []
    for each in before.rewrites:
        host = before.destination if each.destination else before.host
        if host == port.host:
            yield Rewrite(each.address, each.pa)
        elif host == port.destination:
            yield Rewrite(each.address, each.pa, destination=True)
        elif not each.destination:
            strays.append(each)
    yield from strays


def _said(put: _PortPut) -> Iterator[Rewrite]:
    for rank, draft in enumerate(put.draft.rewrites or ()):
        field = f"{put.field}.{_FIELD}[{rank}]"
        address = read(f"{field}.address", values.parse_ip, draft.address)
        yield Rewrite(address, read(f"{field}.pa", values.parse_ip, draft.pa), draft.destination)


def _fits(ix: Indexes, port: Port, each: Rewrite) -> bool:
    host = ix.hosts[_host(port, (each.address, each.destination))]
    return any(_has(pool, each.pa) for pool in _pools(ix, host, ip_version(each.address)))


def _drawn(ix: Indexes, port: Port, kept: dict[_Need, Ip]) -> Iterator[Rewrite]:
    for need in dict.fromkeys(_needing(ix, port)):
        address, there = need
        pa = kept.get(need)
        if pa is None:
            pa = _draw(ix, ix.hosts[_host(port, need)], address)
            ix.claim_pa(port.name, pa)
        yield Rewrite(address, pa, there)


def _draw(ix: Indexes, host: Host, address: Ip) -> Ip:
    version = ip_version(address)
    pools = _pools(ix, host, version)
    for pool in pools:
        if (pa := ix.free_pa(pool.first, pool.last)) is not None:
            return pa
    networks = ", ".join(dict.fromkeys(uplink.provider_network for uplink in host.uplinks))
    if not pools:
        raise Conflict(f"{address} needs an IPv{version} PA of its own, and {networks} of {host.name} has no such pool")
    listed = ", ".join(pool.prefix for pool in pools)
    raise Conflict(f"no PA is left for {address} in {listed} of {networks}: rule rewrite takes one for each address")


def _pools(ix: Indexes, host: Host, version: int) -> Sequence[Pool]:
    """From where a host's guests may have PAs: where the host has one itself, since packets for another network's
    addresses do not come to it. It has none there: an operator routes its pools to it, and any will do.
    """
    found: dict[Pool, bool] = {}
    for uplink in host.uplinks:
        for pool in ix.provider_networks[uplink.provider_network].pools:
            if ip_version(pool.prefix) == version and uplink.pool in (None, pool.prefix):
                near = any(values.within(pa, pool.prefix) for pa in uplink.pas)
                found[pool] = found.get(pool, False) or near
    return [pool for pool, near in found.items() if near] or list(found)


def _has(pool: Pool, pa: Ip) -> bool:
    return ip_version(pa) == ip_version(pool.first) and ip_number(pool.first) <= ip_number(pa) <= ip_number(pool.last)


def _host(port: Port, need: _Need) -> Name:
    host = port.destination if need[1] else port.host
    if host is None:
        raise AssertionError(f"{port.name} is not there, and needs no PA")
    return host
