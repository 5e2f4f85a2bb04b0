"""Ports: when they are right. Chooses MACs and CAs; what many ports ask alike is answered once a batch."""

from __future__ import annotations

from collections.abc import Container, Sequence
from itertools import count
from typing import TypeAlias

from weft.kit.errors import Conflict, Rejected
from weft.model import announcements, dhcp, domains, drafts, qos, security, taps, trunk, underlay, values
from weft.model.features import AbilityTable
from weft.model.indexes import Indexes, SubnetIndex
from weft.model.names import Kind, Name, resolve, tenant_of
from weft.model.objects import AddressPair, Mirror, Port, Qos, Trunk
from weft.model.puts import Put, humane, read
from weft.model.values import AdminState, Ip, Mac, ip_number

PortPut: TypeAlias = Put[drafts.Port, Port]
_Asked: TypeAlias = tuple[str, str, str | None, str | None]  # tenant, subnet, host, destination, as they are written
_Answer: TypeAlias = tuple[SubnetIndex, Name | None, Name | None]


class _Plan:
    """A port in the making. mac, addresses None: still to be chosen."""

    __slots__ = (
        "addresses",
        "destination",
        "dhcp",
        "dhcp_server",
        "flood_limit_pps",
        "groups",
        "host",
        "mac",
        "mirror",
        "pairs",
        "put",
        "qos",
        "sampling_rate",
        "state",
        "subnet",
        "trunk",
    )  # fmt: skip

    def __init__(self, put: PortPut, subnet: SubnetIndex, host: Name | None, destination: Name | None) -> None:
        self.put = put
        self.subnet = subnet
        self.host = host
        self.destination = destination
        self.mac: Mac | None = None
        self.addresses: tuple[Ip, ...] | None = None
        self.pairs: tuple[AddressPair, ...] = ()
        self.state = AdminState.UP
        self.qos = Qos()
        self.sampling_rate: int | None = None
        self.mirror: Mirror | None = None
        self.flood_limit_pps: int | None = None
        self.dhcp = dhcp.USUAL_OF_PORT
        self.dhcp_server = False
        self.trunk: Trunk | None = None
        self.groups = security.NONE

    def port(self) -> Port:
        if self.mac is None or self.addresses is None:
            raise AssertionError(f"{self.put.name} has not chosen yet")
        return Port(
            self.put.name,
            self.subnet.subnet.name,
            self.mac,
            self.addresses,
            self.host,
            self.pairs,
            self.state,
            self.qos,
            self.flood_limit_pps,
            self.dhcp,
            self.dhcp_server,
            self.destination,
            sampling_rate=self.sampling_rate,
            mirror=self.mirror,
            trunk=self.trunk,
            security_groups=self.groups.tenants,
            operator_groups=self.groups.operators,
            port_security=self.groups.port_security,
        )


def admit(ix: Indexes, puts: Sequence[PortPut], abilities: AbilityTable) -> None:
    """First what is said, or held without moving, is claimed; then movers keep what they can; then the rest choose."""
    answered: dict[_Asked, _Answer] = {}
    groups: security.Read = {}
    plans: list[_Plan] = []
    for put in trunk.placed(ix, puts):
        draft = put.draft
        try:
            tenant = tenant_of(put.name)
            asked = (tenant, draft.virtual_subnet, draft.host, draft.destination)
            answer = answered.get(asked)
            if answer is None:
                answer = answered[asked] = _whereabouts(ix, put, abilities)
            plan = _Plan(put, *answer)
            plans.append(plan)
            _read(plan)
            plan.groups = security.of_port(ix, put, groups)
            _check_host(ix, plan, abilities)
            _claim_known(ix, plan)
        except Rejected as fault:
            raise fault.at(put.field) from None
    unfinished = [plan for plan in plans if plan.mac is None or plan.addresses is None]
    unfinished.sort(key=lambda plan: humane(plan.put.name))
    kept: dict[Name, list[Ip]] = {}
    for plan in unfinished:
        if plan.put.old is not None:
            kept[plan.put.name] = _keep(ix, plan, plan.put.old)
    promised = _promised(ix, plans) if unfinished else {}
    for plan in unfinished:
        try:
            if plan.mac is None:
                plan.mac = _choose_mac(plan)
                ix.claim_mac(plan.subnet.domain, plan.put.name, plan.mac)
            if plan.addresses is None:
                taken = _Taken(plan.subnet, promised.get(plan.subnet.subnet.name, ()))
                plan.addresses = _choose_addresses(ix, plan, plan.mac, kept.get(plan.put.name), taken)
        except Rejected as fault:
            raise fault.at(plan.put.field) from None
    for plan in plans:
        ix.place(plan.port(), plan.subnet)
    for subnet, addresses in promised.items():
        for ca in addresses:
            ix.give_back(subnet, ca)  # it was passed over, and may not become anybody's


class _Taken:
    """The CAs of a subnet that nobody is given unasked: somebody has them, or has announced them."""

    __slots__ = ("_announced", "_cas", "_promised")

    def __init__(self, subnet: SubnetIndex, promised: Container[Ip]) -> None:
        self._cas = subnet.domain.cas
        self._announced = subnet.announced
        self._promised = promised

    def __contains__(self, ca: object) -> bool:
        return ca in self._cas or ca in self._announced or ca in self._promised


def _promised(ix: Indexes, plans: Sequence[_Plan]) -> dict[Name, set[Ip]]:
    """By subnet: what ports of the batch have announced, and are likely to go on having."""
    found: dict[Name, set[Ip]] = {}
    for plan in plans:
        subnet = plan.subnet.subnet.name
        for said in announcements.wanted(plan.put, subnet):
            found.setdefault(subnet, set()).add(said.address)
            ix.pass_over(subnet, said.address)
    return found


def _whereabouts(ix: Indexes, put: PortPut, abilities: AbilityTable) -> _Answer:
    """The subnet, the host and the destination that a port names, all there and fit for each other."""
    domains.require_tenant(ix, put.name)
    subnet = read(
        "spec.virtual_subnet", lambda text: resolve(Kind.VIRTUAL_SUBNET, text, put.name), put.draft.virtual_subnet
    )
    if subnet not in ix.virtual_subnets:
        raise Rejected(f"{subnet} does not exist", "spec.virtual_subnet")
    if (owner := tenant_of(subnet)) != (tenant := tenant_of(put.name)):
        raise Rejected(
            f"{subnet} is a subnet of {owner}; a port of {tenant} needs one of its own", "spec.virtual_subnet"
        )
    index = ix.subnets[subnet]
    host = _host(ix, index, put.draft.host, abilities, "spec.host")
    destination = _host(ix, index, put.draft.destination, abilities, "spec.destination")
    if destination is not None:
        if host is None:
            raise Rejected(f"a port that is on no host cannot move: give {destination} as its host", "spec.destination")
        if host == destination:
            raise Rejected(f"it is on {host} already: leave the destination out to end its move", "spec.destination")
    return index, host, destination


def _host(ix: Indexes, subnet: SubnetIndex, reference: str | None, abilities: AbilityTable, field: str) -> Name | None:
    """A host that is there and can run ports of the subnet; None: none was named."""
    if reference is None:
        return None
    host = read(field, lambda text: resolve(Kind.HOST, text), reference)
    if host not in ix.hosts:
        raise Rejected(f"{host} does not exist", field)
    if (why := underlay.why_not_on(ix.hosts[host], subnet.subnet, abilities)) is not None:
        raise Conflict(why, field)
    return host


def _read(plan: _Plan) -> None:
    """What needs no look at others."""
    draft, old = plan.put.draft, plan.put.old
    if draft.admin_state is not None:
        plan.state = read("spec.admin_state", values.parse_admin_state, draft.admin_state)
    elif old is not None:
        plan.state = old.admin_state
    if draft.flood_limit_pps is not None:
        plan.flood_limit_pps = read("spec.flood_limit_pps", values.parse_flood_limit, draft.flood_limit_pps)
    if draft.allowed_address_pairs is not None:
        plan.pairs = tuple(
            read(f"spec.allowed_address_pairs[{rank}]", _pair, pair)
            for rank, pair in enumerate(draft.allowed_address_pairs)
        )
    elif old is not None:
        plan.pairs = old.allowed_address_pairs
    if draft.qos is not None:
        plan.qos = read("spec.qos", qos.resolve, draft.qos)
    elif old is not None:
        plan.qos = old.qos
    if draft.sampling_rate is not None:
        plan.sampling_rate = read("spec.sampling_rate", taps.parse_rate, draft.sampling_rate)
    if draft.mirror is not None:
        plan.mirror = read("spec.mirror", lambda given: taps.mirror(given, plan.put.name), draft.mirror)
    if draft.dhcp is not None:
        plan.dhcp = dhcp.parse_of_port(draft.dhcp)
    elif old is not None:
        plan.dhcp = old.dhcp
    if draft.dhcp_server is not None:
        plan.dhcp_server = draft.dhcp_server
    elif old is not None:
        plan.dhcp_server = old.dhcp_server
    if draft.trunk is not None:
        plan.trunk = trunk.resolved(draft.trunk, plan.put.name)


def _check_host(ix: Indexes, plan: _Plan, abilities: AbilityTable) -> None:
    """The host can do what the port asks for, and so can the one that it is moving to."""
    for host in (plan.host, plan.destination):
        if host is None:
            continue
        if (why := qos.why_not_on(ix.hosts[host], plan.qos, abilities)) is not None:
            raise Conflict(why, "spec.qos" if host == plan.host else "spec.destination")
        if (why := taps.why_not_on(ix.hosts[host], plan.sampling_rate, plan.mirror, abilities)) is not None:
            raise Conflict(why, "spec.host" if host == plan.host else "spec.destination")
        if (why := security.why_not_on(ix.hosts[host], plan.groups.port_security, abilities)) is not None:
            raise Conflict(why, "spec.security_groups")
        if plan.trunk is not None and (why := trunk.why_not_on(ix.hosts[host], abilities)) is not None:
            raise Conflict(why, "spec.trunk")


def _pair(draft: drafts.AddressPair) -> AddressPair:
    prefix = read("prefix", values.parse_prefix, draft.prefix)
    return AddressPair(prefix, None if draft.mac is None else read("mac", values.parse_mac, draft.mac))


def _claim_known(ix: Indexes, plan: _Plan) -> None:
    draft, old, subnet = plan.put.draft, plan.put.old, plan.subnet
    if draft.mac is not None:
        mac: Mac | None = read("spec.mac", values.parse_mac, draft.mac)
    elif old is not None and ix.subnets[old.virtual_subnet].domain is subnet.domain:
        mac = old.mac
    else:
        mac = None
    if mac is not None:
        if (holder := subnet.domain.macs.get(mac)) is not None:
            raise Conflict(
                f"MAC {mac} is taken by {holder}, in the same routing domain: leave it out for a free one", "spec.mac"
            )
        if mac in subnet.domain.router_macs:
            raise Conflict(f"MAC {mac} is the router's in a subnet of the same routing domain", "spec.mac")
        plan.mac = mac
        ix.claim_mac(subnet.domain, plan.put.name, mac)
    if draft.addresses is not None:
        addresses = []
        for rank, text in enumerate(draft.addresses):
            field = f"spec.addresses[{rank}]"
            ca = read(field, values.parse_ip, text)
            if (why := subnet.why_not(ca)) is not None:
                raise Rejected(why, field)
            _claim(ix, plan, ca, field)
            addresses.append(ca)
        plan.addresses = tuple(addresses)
    elif (
        old is not None
        and old.virtual_subnet == subnet.subnet.name
        and not any(subnet.why_not(ca) for ca in old.addresses)
    ):
        for ca in old.addresses:
            _claim(ix, plan, ca, "spec.addresses")
        plan.addresses = old.addresses


def _claim(ix: Indexes, plan: _Plan, ca: Ip, field: str) -> None:
    holder = plan.subnet.domain.cas.get(ca)
    if holder is None:
        ix.claim_ca(plan.subnet, plan.put.name, ca)
    elif holder in ix.virtual_subnets:
        raise Conflict(f"{ca} is the gateway of {holder}", field)
    elif holder == plan.put.name:
        raise Rejected(f"{ca} is listed twice", field)
    else:
        raise Conflict(f"address {ca} is taken by {holder}, in the same routing domain", field)


def _keep(ix: Indexes, plan: _Plan, old: Port) -> list[Ip]:
    """What a port that moves to another subnet can take along: its MAC and CAs where they fit and are free."""
    domain = plan.subnet.domain
    if plan.mac is None and old.mac not in domain.macs and old.mac not in domain.router_macs:
        plan.mac = old.mac
        ix.claim_mac(domain, old.name, old.mac)
    if plan.addresses is not None:
        return []
    kept = [ca for ca in old.addresses if plan.subnet.why_not(ca) is None and ca not in domain.cas]
    for ca in kept:
        ix.claim_ca(plan.subnet, old.name, ca)
    if len(kept) == len(old.addresses):
        plan.addresses = old.addresses
    return kept


def _choose_addresses(
    ix: Indexes, plan: _Plan, mac: Mac, kept: list[Ip] | None, taken: Container[Ip]
) -> tuple[Ip, ...]:
    """The lowest free address of each prefix that has not given the port one; or, where guests make their own IPv6
    addresses, the one that this guest will make, if it is free.
    """
    subnet = plan.subnet
    by_guest = subnet.subnet.dhcp.ipv6_mode.by_guest
    served = {net.version for ca in kept if (net := subnet.net_of(ca, ip_number(ca)))} if kept else ()
    chosen = []
    for net in subnet.nets:
        if net.version not in served:
            own = dhcp.eui64(net.prefix, mac) if by_guest and net.version == 6 else None
            ca = own if own is not None and own not in subnet.domain.cas else net.free.lowest(taken)
            if ca is None:
                raise Conflict(f"no address is left in {net.prefix} of {subnet.subnet.name}", "spec.addresses")
            ix.claim_ca(subnet, plan.put.name, ca)
            chosen.append(ca)
    return (*kept, *chosen) if kept else tuple(chosen)


def _choose_mac(plan: _Plan) -> Mac:
    domain = plan.subnet.domain
    for attempt in count():
        mac = values.default_mac(plan.put.name, attempt)
        if mac not in domain.macs and mac not in domain.router_macs:
            return mac
    raise AssertionError
