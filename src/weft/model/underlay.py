"""Provider networks and hosts: when they are right. Chooses PAs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import TypeAlias

from weft.kit.errors import Conflict, Rejected
from weft.model import bridge, drafts, provider_group, qos, security, taps, values
from weft.model.features import RULE_NEEDS, AbilityTable, DataPlaneKind, Feature, underlay_feature
from weft.model.indexes import Indexes
from weft.model.names import Kind, Name, domain_of, resolve
from weft.model.objects import Host, Pool, Port, ProviderNetwork, Uplink, VirtualSubnet
from weft.model.puts import Put, humane, read
from weft.model.values import Ip, ip_number, ip_version, network_of

MTU_BYTES = 1500
MTU_FIRST = 576  # RFC 791: what every IPv4 host takes

NetworkPut: TypeAlias = Put[drafts.ProviderNetwork, ProviderNetwork]
HostPut: TypeAlias = Put[drafts.Host, Host]


def admit_networks(ix: Indexes, puts: Sequence[NetworkPut]) -> None:
    for put in puts:
        try:
            ix.insert(_network(put))
        except Rejected as fault:
            raise fault.at(put.field) from None


def _network(put: NetworkPut) -> ProviderNetwork:
    mtu_bytes = put.draft.mtu_bytes
    if mtu_bytes is None:
        mtu_bytes = put.old.mtu_bytes if put.old is not None else MTU_BYTES
    read("spec.mtu_bytes", lambda given: values.parse_mtu(given, MTU_FIRST), mtu_bytes)
    pools = []
    for rank, draft in enumerate(put.draft.pools):
        pools.append(read(f"spec.pools[{rank}]", _pool, draft))
    return ProviderNetwork(put.name, tuple(pools), mtu_bytes)


def _pool(draft: drafts.Pool) -> Pool:
    prefix = read("prefix", values.parse_prefix, draft.prefix)
    network = network_of(prefix)
    if (why := values.why_not_unicast(network)) is not None:
        raise Rejected(f"hosts cannot have addresses of {prefix}: {why}", "prefix")
    first, last = int(network.network_address), int(network.broadcast_address)
    if last - first > 1:
        first, last = first + 1, last - 1 if network.version == 4 else last
    text = values.ipv4_text if network.version == 4 else values.ipv6_text
    ends = []
    for field, given, default in (("first", draft.first, first), ("last", draft.last, last)):
        end = text(default) if given is None else read(field, values.parse_ip, given)
        if ip_version(end) != network.version or values.address_network(end).network_address not in network:
            raise Rejected(f"{end} is not in {prefix}", field)
        ends.append(end)
    if ip_number(ends[0]) > ip_number(ends[1]):
        raise Rejected(f"the first address {ends[0]} comes after the last, {ends[1]}", "first")
    return Pool(prefix, ends[0], ends[1])


def admit(ix: Indexes, puts: Sequence[HostPut], abilities: AbilityTable) -> None:
    """PAs that are said or held are claimed before any is drawn."""
    plans = []
    for put in puts:
        try:
            plan = _Plan(ix, put, abilities)
            for rank, uplink in enumerate(plan.uplinks):
                read(f"spec.uplinks[{rank}].pas", plan.claim, uplink.pas)
        except Rejected as fault:
            raise fault.at(put.field) from None
        plans.append(plan)
    for plan in sorted(plans, key=lambda plan: humane(plan.put.name)):
        try:
            for rank in plan.drawing:
                plan.draw(rank)
            plan.check_room()
        except Rejected as fault:
            raise fault.at(plan.put.field) from None
        host = Host(plan.put.name, tuple(plan.uplinks), plan.data_plane, plan.sampling)
        try:
            bridge.check_uplinks(ix, host)
        except Rejected as fault:
            raise fault.at(plan.put.field) from None
        ix.insert(host)


class _Plan:
    """A host in the making. drawing: the ranks of the uplinks whose PA is still to be drawn."""

    def __init__(self, ix: Indexes, put: HostPut, abilities: AbilityTable) -> None:
        self.ix, self.put = ix, put
        draft, old = put.draft, put.old
        if draft.data_plane is not None:
            self.data_plane = read("spec.data_plane", values.parse_data_plane, draft.data_plane)
        else:
            self.data_plane = old.data_plane if old is not None else DataPlaneKind.EBPF
        self.abilities = abilities[self.data_plane]
        self.sampling = None if draft.sampling is None else read("spec.sampling", taps.sampling, draft.sampling)
        if self.sampling is not None and Feature.SAMPLING not in self.abilities.features:
            raise Rejected(f"data plane {self.data_plane} lacks {Feature.SAMPLING}", "spec.sampling")
        self.drawing: list[int] = []
        self.uplinks: list[Uplink] = []
        before = (
            {(uplink.interface, uplink.provider_network): uplink for uplink in old.uplinks} if old is not None else {}
        )
        for rank, uplink in enumerate(draft.uplinks):
            try:
                self._uplink(rank, uplink, before)
            except Rejected as fault:
                raise fault.at(f"spec.uplinks[{rank}]") from None

    def _uplink(self, rank: int, draft: drafts.Uplink, before: dict[tuple[str, Name], Uplink]) -> None:
        interface = read("interface", values.parse_interface, draft.interface)
        if any(other.interface == interface for other in self.uplinks):
            raise Rejected(f"{interface} is an uplink already; each interface is listed once", "interface")
        network = read("provider_network", _network_name, draft.provider_network)
        if network not in self.ix.provider_networks:
            raise Rejected(f"{network} does not exist", "provider_network")
        old = before.get((interface, network))
        pool = read("pool", values.parse_prefix, draft.pool) if draft.pool is not None else None
        if draft.pas is not None:
            pas = tuple(read(f"pas[{n}]", values.parse_ip, pa) for n, pa in enumerate(draft.pas))
        elif old is not None and (pool is None or all(values.within(pa, pool) for pa in old.pas)):
            pas = old.pas
        else:
            pas = ()
            self.drawing.append(rank)
        if pool is None and old is not None:
            pool = old.pool
        vlan = read("vlan", values.parse_vlan, draft.vlan) if draft.vlan is not None else old.vlan if old else 0
        self.uplinks.append(Uplink(interface, network, pas, pool, vlan))

    def claim(self, pas: Iterable[Ip]) -> None:
        for n, pa in enumerate(pas):
            if (why := values.why_not_unicast(values.address_network(pa))) is not None:
                raise Rejected(f"a host cannot have {pa}: {why}", f"[{n}]")
            if (need := underlay_feature(ip_version(pa))) not in self.abilities.features:
                raise Rejected(f"data plane {self.data_plane} cannot use {pa}: it lacks {need}", f"[{n}]")
            if (holder := self.ix.pas.get(pa)) is not None:
                raise Conflict(f"PA {pa} is taken by {holder}", f"[{n}]")
            self.ix.claim_pa(self.put.name, pa)

    def check_room(self) -> None:
        limit = self.abilities.max_pas
        if (found := sum(len(uplink.pas) for uplink in self.uplinks)) > limit:
            raise Rejected(
                f"{found} PAs are more than data plane {self.data_plane} has room for: {limit}", "spec.uplinks"
            )

    def draw(self, rank: int) -> None:
        """One PA from the first pool that has one left."""
        uplink = self.uplinks[rank]
        field = f"spec.uplinks[{rank}]"
        pools: Collection[Pool] = self.ix.provider_networks[uplink.provider_network].pools
        if not pools:
            raise Rejected(f"{uplink.provider_network} has no pool to draw a PA from: give one", f"{field}.pas")
        if uplink.pool is not None:
            known = ", ".join(pool.prefix for pool in pools)
            pools = [pool for pool in pools if pool.prefix == uplink.pool]
            if not pools:
                raise Rejected(
                    f"{uplink.pool} is no pool of {uplink.provider_network}, which has {known}", f"{field}.pool"
                )
        usable = [pool for pool in pools if underlay_feature(ip_version(pool.prefix)) in self.abilities.features]
        listed = ", ".join(pool.prefix for pool in usable or pools)
        if not usable:
            raise Rejected(f"data plane {self.data_plane} cannot use a PA of {listed}", f"{field}.pas")
        for pool in usable:
            pa = self.ix.free_pa(pool.first, pool.last)
            if pa is not None:
                self.ix.claim_pa(self.put.name, pa)
                self.uplinks[rank] = replace(uplink, pas=(pa,))
                return
        raise Conflict(f"no PA is left in {listed} of {uplink.provider_network}", f"{field}.pas")


def why_not_on(host: Host, subnet: VirtualSubnet, abilities: AbilityTable) -> str | None:
    """Why a port of a subnet cannot run on a host, or None when it can."""
    if not any(uplink.pas for uplink in host.uplinks):
        return f"{host.name} has no PA, so nobody could reach a port on it"
    for rule in subnet.carried_rules:
        if (need := RULE_NEEDS[rule]) not in abilities[host.data_plane].features:
            return f"{host.name} has data plane {host.data_plane}, which lacks {need}"
    return bridge.why_not_on(host, subnet) or provider_group.why_not_on(host, subnet, abilities)


def check_ports_of(ix: Indexes, put: HostPut, abilities: AbilityTable) -> None:
    """The ports on a changed host still can be there."""
    host, old = ix.hosts[put.name], put.old
    if old is None or _offers(old) == _offers(host):
        return
    judged: set[Name] = set()
    for name in ix.ports_on[put.name]:
        subnet = ix.virtual_subnets[ix.ports[name].virtual_subnet]
        if subnet.name not in judged and (why := why_not_on(host, subnet, abilities)) is not None:
            field = "spec.uplinks" if old.data_plane is host.data_plane else "spec.data_plane"
            raise Conflict(f"{why}, but {name} runs there; move it first", f"{put.field}.{field}")
        judged.add(subnet.name)
        if (why := qos.why_not_on(host, ix.ports[name].qos, abilities)) is not None:
            raise Conflict(f"{why}, but {name} runs there; move it first", f"{put.field}.spec.data_plane")
        port = ix.ports[name]
        if (why := security.why_not_on(host, port.port_security, abilities)) is not None:
            raise Conflict(f"{why}, but {name} runs there; move it first", f"{put.field}.spec.data_plane")
        if (why := taps.why_not_on(host, port.sampling_rate, port.mirror, abilities)) is not None:
            raise Conflict(f"{why}, but {name} runs there; move it first", f"{put.field}.spec.data_plane")


def _offers(host: Host) -> tuple[object, ...]:
    """What ports need of a host."""
    return host.data_plane, bool(host.pas), _family(host), {uplink.provider_network for uplink in host.uplinks}


def check_families(ix: Indexes, hosts: Sequence[HostPut], placed: Sequence[Put[drafts.Port, Port]]) -> None:
    """In no routing domain do hosts run ports whose first PAs differ in IP version.

    A record's PA is its host's first, and a receiver holds the outer source against it: a host that answered from its
    PA of the other family would be taken for a forger. Looks at what the batch touched, and in each domain at one host
    more: those that it did not touch agree, as they did before.
    """
    touched: dict[Name, dict[Name, str]] = {}  # by domain: each host, and the field that is to blame
    for put in hosts:
        if put.old is not None and _family(put.old) != _family(ix.hosts[put.name]):
            for name in ix.ports_on[put.name]:
                domain = domain_of(ix.ports[name].virtual_subnet)
                touched.setdefault(domain, {})[put.name] = f"{put.field}.spec.uplinks"
    seen: set[tuple[Name, Name]] = set()
    for placing in placed:
        port = ix.ports[placing.name]
        for host, said in zip(port.hosts, ("host", "destination"), strict=False):
            if (place := (port.virtual_subnet, host)) not in seen:
                seen.add(place)
                touched.setdefault(domain_of(port.virtual_subnet), {}).setdefault(host, f"{placing.field}.spec.{said}")
    for domain, blamed in sorted(touched.items()):
        running = ix.domains[domain].hosts
        settled = next((host for host in running if host not in blamed), None) or next(iter(blamed))
        version = _family(ix.hosts[settled])
        for host, blame in blamed.items():
            if _family(ix.hosts[host]) != version:
                # The same one whatever the order in which ports came: a refusal is a function of what there is.
                settled = min(name for name in running if _family(ix.hosts[name]) == version)
                here, there = ix.hosts[host].first_pa, ix.hosts[settled].first_pa
                raise Conflict(
                    f"{host} has {here} for its first PA, and {settled} has {there}: "
                    f"hosts that run ports of one routing domain, here {domain}, need first PAs of one IP version",
                    blame,
                )


def _family(host: Host) -> int | None:
    """The IP version of the PA that records of its ports point to; None: there is none."""
    return None if (pa := host.first_pa) is None else ip_version(pa)


def _network_name(reference: str) -> Name:
    return resolve(Kind.PROVIDER_NETWORK, reference)
