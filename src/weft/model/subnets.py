"""Virtual subnets: when they are right. Chooses VSIDs and gateways."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from weft.kit.errors import Conflict, Rejected
from weft.model import bridge, dhcp, drafts, provider_group, rules, underlay, values
from weft.model.features import AbilityTable, Rule
from weft.model.indexes import Indexes, Net
from weft.model.names import Name, domain_of
from weft.model.objects import RuleChange, VirtualSubnet
from weft.model.puts import Put, humane, read
from weft.model.values import Ip, Prefix, Vsid, ip_number, ip_version, network_of

SubnetPut: TypeAlias = Put[drafts.VirtualSubnet, VirtualSubnet]

# What leaves room for a gateway and a guest beside the network's and the broadcast address.
_LONGEST = {4: 30, 6: 126}


@dataclass(frozen=True, slots=True)
class _Parsed:
    """What a put says. ranks: where in the request each prefix (by IP version) and each gateway was."""

    subnet: VirtualSubnet  # its VSID is not to be believed yet
    vsid: Vsid | None
    prefix_ranks: dict[int, int]
    gateway_ranks: dict[Ip, int]


def admit(ix: Indexes, puts: Sequence[SubnetPut], abilities: AbilityTable) -> None:
    """Those that say their VSID, or have one, before those that choose."""
    choosing: list[tuple[SubnetPut, _Parsed]] = []
    for put in puts:
        try:
            parsed = _parse(ix, put)
            if parsed.vsid is None:
                choosing.append((put, parsed))
                continue
            if (holder := ix.vsids.get(parsed.vsid)) is not None:
                raise Conflict(f"VSID {parsed.vsid} is taken by {holder}: leave it out for a free one", "spec.vsid")
            _insert(ix, put, parsed, parsed.vsid, abilities)
        except Rejected as fault:
            raise fault.at(put.field) from None
    choosing.sort(key=lambda pair: humane(pair[0].name))
    for put, parsed in choosing:
        try:
            vsid = _choose(ix, put.name, parsed.subnet.carried_rules)
            _insert(ix, put, parsed, vsid, abilities)
        except Rejected as fault:
            raise fault.at(put.field) from None


def _parse(ix: Indexes, put: SubnetPut) -> _Parsed:
    draft, old = put.draft, put.old
    if (domain := domain_of(put.name)) not in ix.routing_domains:
        raise Rejected(f"{put.name} belongs to {domain}, which does not exist", "name")
    by_version = _prefixes(draft.prefixes)
    prefixes = tuple(by_version[version][1] for version in sorted(by_version))
    gateways, gateway_ranks = _gateways(prefixes, draft.gateways, old)
    if draft.vsid is not None:
        vsid: Vsid | None = read("spec.vsid", values.parse_vsid, draft.vsid)
    else:
        vsid = old.vsid if old is not None else None
    if draft.router_mac is not None:
        router_mac = read("spec.router_mac", values.parse_mac, draft.router_mac)
    else:
        router_mac = old.router_mac if old is not None else values.ROUTER_MAC
    if draft.rule is not None:
        rule = read("spec.rule", values.parse_rule, draft.rule)
    else:
        rule = old.rule if old is not None else Rule.NVGRE
    mtu_bytes = draft.mtu_bytes if draft.mtu_bytes is not None else old.mtu_bytes if old is not None else 0
    if mtu_bytes:
        least = values.MTU_FIRST_IPV6 if 6 in by_version else values.MTU_FIRST_IPV4
        read("spec.mtu_bytes", lambda given: values.parse_mtu(given, least), mtu_bytes)
    told = draft.dhcp or (dhcp.as_written(old.dhcp) if old is not None else drafts.Dhcp())
    subnet = VirtualSubnet(
        name=put.name,
        vsid=vsid or values.default_vsid(put.name),
        prefixes=prefixes,
        gateways=gateways,
        router_mac=router_mac,
        rule=rule,
        mtu_bytes=mtu_bytes,
        rule_change=_rule_change(draft, old, rule),
        broadcast=_kept(draft.broadcast, old.broadcast if old is not None else True),
        snooping=_kept(draft.snooping, old.snooping if old is not None else True),
        provider_group=provider_group.said(draft, old),
        flood_limit_pps=_flood_limit(draft, old),
        dhcp=read("spec.dhcp", lambda given: dhcp.parse(given, prefixes), told),
    )
    subnet = bridge.said(ix, draft, old, subnet)
    provider_group.check(subnet)
    return _Parsed(subnet, vsid, {version: rank for version, (rank, _) in by_version.items()}, gateway_ranks)


def _rule_change(draft: drafts.VirtualSubnet, old: VirtualSubnet | None, rule: Rule) -> RuleChange | None:
    """A new subnet is at its rule; the hosts of one that is there first learn to take it, and send as before."""
    if draft.rule_change is not None:
        return rules.change(rule, draft.rule_change.sending, draft.rule_change.accepted)
    if old is None:
        return None
    return rules.change(rule, old.sending_rule, old.accepted_rules)


def _kept(given: bool | None, former: bool) -> bool:
    return former if given is None else given


def _flood_limit(draft: drafts.VirtualSubnet, old: VirtualSubnet | None) -> int:
    if draft.flood_limit_pps is None:
        return old.flood_limit_pps if old is not None else values.FLOOD_LIMIT_PPS
    return read("spec.flood_limit_pps", values.parse_flood_limit, draft.flood_limit_pps)


def _prefixes(given: Sequence[str]) -> dict[int, tuple[int, Prefix]]:
    """By IP version: the place in the request, and the prefix."""
    if not given:
        raise Rejected("a virtual subnet has one IPv4 prefix, one IPv6 prefix, or one of each", "spec.prefixes")
    found: dict[int, tuple[int, Prefix]] = {}
    for rank, text in enumerate(given):
        field = f"spec.prefixes[{rank}]"
        prefix = read(field, values.parse_prefix, text)
        network = network_of(prefix)
        if network.version in found:
            raise Rejected(f"{prefix} is a second IPv{network.version} prefix; a subnet has one at most", field)
        if (why := values.why_not_unicast(network)) is not None:
            raise Rejected(f"guests cannot have addresses of {prefix}: {why}", field)
        if network.prefixlen > (longest := _LONGEST[network.version]):
            raise Rejected(f"{prefix} has no room for a gateway and a guest; /{longest} is the longest", field)
        found[network.version] = rank, prefix
    return found


def _gateways(
    prefixes: tuple[Prefix, ...], given: Sequence[str] | None, old: VirtualSubnet | None
) -> tuple[tuple[Ip, ...], dict[Ip, int]]:
    """One per prefix: as given, else as before, else the lowest host address. And where each given one was."""
    nets: dict[int, Net] = {net.version: net for net in map(Net, prefixes)}
    chosen: dict[int, Ip] = {}
    ranks: dict[Ip, int] = {}
    for rank, text in enumerate(given or ()):
        field = f"spec.gateways[{rank}]"
        gateway = read(field, values.parse_ip, text)
        version, number = ip_version(gateway), ip_number(gateway)
        net = nets.get(version)
        if net is None or not net.first <= number <= net.last:
            raise Rejected(f"gateway {gateway} is in none of the subnet's prefixes, {', '.join(prefixes)}", field)
        if (why := net.complaint(gateway, number)) is not None:
            raise Rejected(why, field)
        if version in chosen:
            raise Rejected(f"{gateway} is a second gateway of {net.prefix}; a prefix has one", field)
        chosen[version], ranks[gateway] = gateway, rank
    for gateway in old.gateways if old is not None else ():
        version, number = ip_version(gateway), ip_number(gateway)
        net = nets.get(version)
        if net is not None and net.first <= number <= net.last and net.complaint(gateway, number) is None:
            chosen.setdefault(version, gateway)
    for version, net in nets.items():
        if version not in chosen:
            chosen[version] = values.ipv4_text(net.first + 1) if version == 4 else values.ipv6_text(net.first + 1)
    return tuple(chosen[version] for version in nets), ranks


def _insert(ix: Indexes, put: SubnetPut, parsed: _Parsed, vsid: Vsid, abilities: AbilityTable) -> None:
    """Judge a subnet by its domain, in which those of the batch's ports and subnets that are still to come are not."""
    subnet = replace(parsed.subnet, vsid=vsid)
    domain = ix.domains[domain_of(put.name)]
    for prefix in subnet.prefixes:
        if (other := domain.overlapping(Net(prefix))) is not None:
            theirs = ", ".join(ix.virtual_subnets[other].prefixes)
            field = f"spec.prefixes[{parsed.prefix_ranks[ip_version(prefix)]}]"
            raise Conflict(f"{prefix} overlaps {theirs} of {other}, in the same routing domain", field)
    if (holder := domain.macs.get(subnet.router_mac)) is not None:
        raise Conflict(f"router MAC {subnet.router_mac} is taken by {holder}", "spec.router_mac")
    for gateway in subnet.gateways:
        if (holder := domain.cas.get(gateway)) is not None:
            rank = parsed.gateway_ranks.get(gateway)
            field = "spec.gateways" if rank is None else f"spec.gateways[{rank}]"
            raise Conflict(f"gateway {gateway} is taken by {holder}", field)
    if (twin := rules.confused_with(vsid, subnet.carried_rules, ix.vsids, ix.virtual_subnets)) is not None:
        alike = ix.virtual_subnets[twin]
        raise Conflict(
            f"{subnet.name} with VSID {vsid} and rule {subnet.rule}, and {twin} with VSID {alike.vsid} and rule "
            f"{alike.rule}, look alike on the wire: GRE's key is the VSID, NVGRE's is the VSID and 8 bits; "
            f"give one of them another VSID",
            "spec.vsid" if put.old is None or put.old.vsid != vsid else "spec.rule",
        )
    bridge.check(ix, subnet)
    ix.insert(subnet)
    _check_ports(ix, put, subnet, abilities)


def _check_ports(ix: Indexes, put: SubnetPut, subnet: VirtualSubnet, abilities: AbilityTable) -> None:
    """The ports that the batch does not touch still fit."""
    old, index = put.old, ix.subnets[put.name]
    if old is None:
        return
    if old.prefixes != subnet.prefixes:
        for name in index.ports:
            for ca in ix.ports[name].addresses:
                net = index.net_of(ca, ip_number(ca))
                why = f"{ca} is outside them" if net is None else net.complaint(ca, ip_number(ca))
                if why is not None:
                    raise Conflict(f"{name} has an address that it could not keep: {why}", "spec.prefixes")
    travels = not set(subnet.carried_rules) <= set(old.carried_rules) or subnet.segment != old.segment
    if travels or subnet.provider_group != old.provider_group:
        for host in sorted({host for name in index.ports for host in ix.ports[name].hosts}):
            if (why := underlay.why_not_on(ix.hosts[host], subnet, abilities)) is not None:
                field = "spec.rule" if travels else "spec.provider_group"
                raise Conflict(f"{why}, but ports of this subnet run there", field)


def _choose(ix: Indexes, name: Name, accepts: Collection[Rule]) -> Vsid:
    if len(ix.vsids) > values.VSID_LAST - values.VSID_FIRST:
        raise Conflict("every VSID is taken", "spec.vsid")
    first = vsid = values.default_vsid(name)
    while vsid in ix.vsids or rules.confused_with(vsid, accepts, ix.vsids, ix.virtual_subnets) is not None:
        vsid = values.next_vsid(vsid)
        if vsid == first:
            raise Conflict("no VSID is left that other subnets' rules leave unmistakable", "spec.vsid")
    return vsid
