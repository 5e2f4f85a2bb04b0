"""Whatever is put, moved, refused and deleted: incremental equals full, and no host holds what is not its own."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations, permutations, product
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from budget import examples
from strategies.intents import ABLE, domain, everything, network, port, reloaded, route, subnet, tenant
from weft.compiler.compiler import Compiler
from weft.compiler.full import compile_all
from weft.kit.errors import Rejected
from weft.model import drafts, rules, values
from weft.model.announcements import Announcement, Unheeded
from weft.model.catalog import Catalog, Change
from weft.model.drafts import Draft
from weft.model.features import Action, Rule
from weft.model.names import Kind, Name, domain_of, group_of, tenant_of
from weft.model.objects import AnnouncedAddress, Port, VirtualSubnet
from weft.model.values import Ip, Mac, network_of
from weft.policy import rows
from weft.policy.delta import ScopedDelta
from weft.policy.rows import Key, Row, Scope, address_group_scope, domain_scope, host_scope, security_group_scope

# Few names and few values, so that they meet.
OWNERS = ("blue", "red")
DOMAINS = ("x", "y")
SUBNETS = ("s", "t", "u")
HOSTS = ("h1", "h2", "h3")
PREFIXES = ("10.0.0.0/29", "10.0.0.8/29", "10.0.0.0/28", "10.0.1.0/30", "fd00::/125", "fd00::8/125", "fd00::/124")
CAS = (*(f"10.0.0.{n}" for n in range(0, 16, 2)), "10.0.1.1", "10.0.1.2", "fd00::1", "fd00::2", "fd00::a")
MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02", values.ROUTER_MAC, values.default_mac("tenants/blue/ports/p1"))
PAS = (*(f"192.0.2.{n}" for n in range(1, 7)), "fd64::1", "fd64::2", "fd64::3")
DESTINATIONS = ("0.0.0.0/0", "10.0.0.0/29", "10.9.0.0/16", "::/0")
ANNOUNCED = (*CAS, "fe80::77", values.link_local(values.Mac(MACS[1])), values.link_local(values.ROUTER_MAC))
VIRTUAL_MACS = ("00:00:5e:00:01:33", "00:00:5e:00:02:33")
LIGHT = [
    Kind.PORT,
    Kind.CUSTOMER_ROUTE,
    Kind.VIRTUAL_SUBNET,
    Kind.SECURITY_GROUP,
    Kind.SECURITY_GROUP_RULE,
]  # what few refer to
RDIDS = tuple(f"00000000-0000-5000-8000-00000000000{n}" for n in range(3))


def maybe(*choices: Any) -> st.SearchStrategy[Any]:
    return st.none() | st.sampled_from(choices)


def some(choices: Iterable[Any], least: int = 0, most: int = 2) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(st.sampled_from(list(choices)), min_size=least, max_size=most, unique=True).map(tuple)


def paths(*parts: tuple[str, ...]) -> st.SearchStrategy[str]:
    return st.tuples(*map(st.sampled_from, parts)).map("/".join)


PAIRS = (
    drafts.AddressPair("10.0.0.0/30"),
    drafts.AddressPair("::/0", MACS[0]),
    drafts.AddressPair("10.0.0.0/28"),
    drafts.AddressPair("0.0.0.0/0", VIRTUAL_MACS[0]),
    drafts.AddressPair("::/0", VIRTUAL_MACS[1]),
)
ports = st.builds(
    port,
    paths(OWNERS, ("p1", "p2", "p3", "p4")),
    paths(DOMAINS, ("s", "s", "t", "u")),
    host=maybe(*HOSTS),
    destination=st.none() | maybe(*HOSTS),
    mac=maybe(*MACS, VIRTUAL_MACS[0]),
    addresses=st.none() | some(CAS),
    admin_state=maybe("up", "down"),
    dhcp=maybe(drafts.PortDhcp(enabled=False), drafts.PortDhcp(router=False)),
    dhcp_server=maybe(True, False),
    flood_limit_pps=maybe(5),
    qos=maybe(drafts.Qos(), drafts.Qos(drafts.Limit(10**6), dscp=46, outer_dscp="copy")),
    sampling_rate=maybe(0, 9),
    mirror=maybe(drafts.Mirror("p1"), drafts.Mirror(None, "192.0.2.99", "gre")),
    allowed_address_pairs=st.none() | some(PAIRS, 0, 4),
    security_groups=st.none() | some(("default", "g1", "g2"), 0, 2),
    operator_groups=st.none() | some(("house",)),
    port_security=maybe(True, False),
    trunk=st.none() | st.none() | st.builds(drafts.Trunk, st.sampled_from(("p1", "p5")), st.sampled_from((100, 200))),
    announced_addresses=st.none()
    | some(
        [drafts.AnnouncedAddress(*said) for said in product(ANNOUNCED[::3], (*VIRTUAL_MACS, MACS[0], MACS[3]))], 0, 2
    ),
)
subnets = st.builds(
    lambda path, prefixes, **more: subnet(path, *prefixes, **more),
    paths(OWNERS, DOMAINS, SUBNETS),
    some(PREFIXES, 1),
    vsid=maybe(4096, 4097, 4096 << 8 | 7),
    gateways=st.none() | some(CAS, 1, 1),
    router_mac=maybe(*MACS, VIRTUAL_MACS[0]),
    mtu_bytes=maybe(0, 1400),
    rule=maybe(*Rule),
    vlan=maybe(7, 8),
    provider_network=maybe("fabric"),
    external_gateway=maybe(True, False),
    flood_limit_pps=maybe(0, 10),
    provider_group=maybe(""),
    dhcp=maybe(
        drafts.Dhcp(enabled=False),
        drafts.Dhcp(ipv6_mode="slaac"),
        drafts.Dhcp(routes=(drafts.DhcpRoute("172.16.0.0/12"), drafts.DhcpRoute("10.9.0.0/16", CAS[0]))),
    ),
)
ROUTE = (paths(OWNERS, DOMAINS, ("r1", "r2")), st.sampled_from(DESTINATIONS))
routes = (
    st.builds(route, *ROUTE, next_hop=st.sampled_from(CAS), metric=maybe(1, 100))
    | st.builds(route, *ROUTE, virtual_subnet=st.sampled_from(SUBNETS[:2]), metric=maybe(1, 100))
    | st.builds(route, *ROUTE, next_hop=maybe(CAS[3]), virtual_subnet=maybe("t"))
)
hosts = st.builds(
    lambda name, pas, interface, vlan, where: drafts.Host(
        f"hosts/{name}", (drafts.Uplink(interface, where, pas, vlan=vlan),)
    ),
    st.sampled_from(HOSTS),
    st.none() | some(PAS),
    st.sampled_from(("eth1", "eth2")),
    maybe(0, 7),
    st.sampled_from(("fabric", "fabric", "elsewhere")),
)
groups = st.builds(
    drafts.SecurityGroup,
    st.builds(
        "tenants/{}/security-groups/{}".format, st.sampled_from(OWNERS), st.sampled_from(("default", "g1", "g2"))
    ),
    stateful=maybe(True, True, False),
    keep_connections=maybe(True, False),
) | st.builds(
    drafts.AddressGroup,
    st.builds("tenants/{}/address-groups/{}".format, st.sampled_from(OWNERS), st.sampled_from(("a1", "a2"))),
    some(("10.0.0.0/8", "fd00::/8", "192.0.2.0/24")),
)
security_rules = st.builds(
    lambda owner, group, label, remote, **more: drafts.SecurityGroupRule(
        f"tenants/{owner}/security-groups/{group}/rules/{label}", **remote, **more
    ),
    st.sampled_from(OWNERS),
    st.sampled_from(("default", "g1", "g2", "house")),
    st.sampled_from(("r1", "r2", "egress-ipv4")),
    st.sampled_from(
        (
            {},
            {"remote_prefix": "10.0.0.0/8"},
            {"remote_group": "g1"},
            {"remote_group": "g2"},
            {"remote_address_group": "a1"},
            {"remote_address_group": "a2"},
        )
    ),
    direction=st.sampled_from(("ingress", "egress")),
    protocol=maybe("tcp", "icmp"),
    action=maybe("allow", "allow", "deny"),
    log=maybe(True),
)
others = (
    st.builds(domain, paths(OWNERS, DOMAINS), maybe(*RDIDS))
    | st.builds(tenant, st.sampled_from(OWNERS))
    | st.builds(network, st.just("192.0.2.0/29"), mtu_bytes=maybe(1500, 9000))
    | st.builds(network, st.just("192.0.2.8/29"), name=st.just("elsewhere"))
)
batches = st.lists(
    ports | ports | subnets | routes | hosts | others | groups | security_rules,
    min_size=1,
    max_size=4,
    unique_by=lambda draft: draft.name,
)


class Machine(RuleBasedStateMachine):
    """A catalog and a compiler, and one client for each host, which knows only what it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.catalog = Catalog(ABLE)
        self.compiler = Compiler(self.catalog)
        self.held: dict[str, dict[Scope, dict[Key, Row]]] = {}

    @initialize(puts=batches, third=maybe(("fd64::3",)))
    def world(self, puts: list[Draft], third: tuple[str, ...] | None) -> None:
        self.take(
            [
                network("192.0.2.0/29"),
                *(
                    drafts.Host(f"hosts/{name}", (drafts.Uplink("eth1", "fabric", pas),))
                    for name, pas in zip(HOSTS, (None, None, third), strict=True)
                ),
                *map(tenant, OWNERS),
                *(domain(f"{owner}/{label}") for owner, label in product(OWNERS, DOMAINS)),
                *(subnet(f"{owner}/{label}/s", PREFIXES[0], PREFIXES[4]) for owner, label in product(OWNERS, DOMAINS)),
                *(subnet(f"{owner}/{label}/t", PREFIXES[1]) for owner, label in product(OWNERS, DOMAINS)),
                port("blue/p1", "x/s", host="h1"),
                port("blue/p2", "x/t", host="h2"),
                port("blue/p3", "y/s", host="h3"),
                port("blue/p4", "x/s"),
                port("blue/p5", "x/s", host="h1", allowed_address_pairs=PAIRS),
                port("blue/p6", "x/s", host="h2", allowed_address_pairs=PAIRS),
                port("red/p1", "x/s", host="h1"),
                route("blue/x/r1", "0.0.0.0/0", next_hop="10.0.0.10"),
                *(
                    drafts.SecurityGroup(f"tenants/{owner}/security-groups/{label}")
                    for owner, label in product(OWNERS, ("g1", "g2"))
                ),
                *(drafts.SecurityGroup(f"tenants/{owner}/security-groups/house", operator=True) for owner in OWNERS),
                *(drafts.AddressGroup(f"tenants/{owner}/address-groups/a1", ("10.0.0.0/8",)) for owner in OWNERS),
            ]
        )
        self.take(puts)

    @rule(puts=batches)
    def put(self, puts: list[Draft]) -> None:
        self.take(puts)

    @rule(puts=st.lists(ports, min_size=1, max_size=5, unique_by=lambda draft: draft.name))
    def put_ports(self, puts: list[Draft]) -> None:
        self.take(puts)

    @rule(puts=st.lists(groups | security_rules | ports, min_size=1, max_size=5, unique_by=lambda draft: draft.name))
    def put_groups(self, puts: list[Draft]) -> None:
        self.take(puts)

    @rule(data=st.data(), several=some(("default", "g1", "g2"), 0, 2))
    def join(self, data: st.DataObject, several: tuple[str, ...]) -> None:
        """A port has other groups than before, wherever it is."""
        if self.catalog.ports:
            found = self.catalog.ports[data.draw(st.sampled_from(sorted(self.catalog.ports)))]
            self.take(
                [
                    drafts.Port(
                        found.name, found.virtual_subnet, host=found.host, destination=found.destination,
                        security_groups=several,
                    )
                ]
            )  # fmt: skip

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        kinds = data.draw(st.sampled_from((LIGHT, LIGHT, list(Kind))))
        every = sorted(name for kind in kinds for name in self.catalog.objects(kind))
        self.take(data.draw(st.lists(ports, max_size=1)), data.draw(some(every, 1, 2)) if every else ())

    @rule(data=st.data())
    def delete_with_all_below(self, data: st.DataObject) -> None:
        domains = sorted(self.catalog.routing_domains)
        if not domains:
            return
        name = data.draw(st.sampled_from(domains))
        below = [
            *(port for port in self.catalog.ports if domain_of(self.catalog.ports[port].virtual_subnet) == name),
            *self.catalog.subnets_of(name),
            *self.catalog.routes_of(name),
        ]
        self.take([], [*below, name])

    @rule(data=st.data(), host=st.sampled_from((*HOSTS, None)))
    def move(self, data: st.DataObject, host: str | None) -> None:
        if self.catalog.ports:
            name = data.draw(st.sampled_from(sorted(self.catalog.ports)))
            self.take([drafts.Port(name, self.catalog.ports[name].virtual_subnet, host=host)])

    @rule(data=st.data(), to=st.sampled_from(HOSTS))
    def move_live(self, data: st.DataObject, to: str) -> None:
        """A port that is moving arrives or stays where it is; another begins."""
        placed = sorted(port.name for port in self.catalog.ports.values() if port.host is not None)
        if placed:
            found = self.catalog.ports[data.draw(st.sampled_from(placed))]
            if found.destination is None:
                self.take([drafts.Port(found.name, found.virtual_subnet, host=found.host, destination=to)])
            else:
                self.take([drafts.Port(found.name, found.virtual_subnet, host=data.draw(st.sampled_from(found.hosts)))])

    @rule(data=st.data())
    def announce(self, data: st.DataObject) -> None:
        """Guests say what they have, whether they may or not; what comes of it goes the way of any request."""
        names = sorted(name for name, found in self.catalog.ports.items() if found.allowed_address_pairs)
        if not names:
            return
        before = everything(self.catalog)
        heard = []
        for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)):
            found = self.catalog.ports[name]
            prefixes = ("fe80::/64", *self.catalog.virtual_subnets[found.virtual_subnet].prefixes)
            near = [address for address in ANNOUNCED if any(map(holds(address), prefixes))]
            mac = data.draw(st.sampled_from((found.mac, *VIRTUAL_MACS, MACS[0])))
            pairs = [pair for pair in found.allowed_address_pairs if (pair.mac or found.mac) == mac]
            likely = [address for address in near if any(holds(address)(pair.prefix) for pair in pairs)]
            entry = AnnouncedAddress(Ip(data.draw(st.sampled_from(likely or near))), Mac(mac))
            heard.append(Announcement(found.host or Name("hosts/h1"), name, entry))
        came = self.catalog.hear(heard)
        assert everything(self.catalog) == before
        assert came.taken + len(came.ignored) == len(heard)
        self.take(list(came.puts))
        if came.taken:
            (*_, last) = (one for one in heard if one not in {each.announcement for each in came.ignored})
            assert last.said in self.catalog.ports[Name(last.port)].announced_addresses
            again = self.catalog.hear([last])
            assert (again.puts, again.ignored[0].reason) == ((), Unheeded.NO_NEWS)

    @rule(data=st.data(), host=maybe(*HOSTS), what=st.sampled_from(("address", "mac", "router mac", "gateway")))
    def give_what_is_announced_to_another(self, data: st.DataObject, host: str | None, what: str) -> None:
        every = [(found, said) for found in self.catalog.ports.values() for said in found.announced_addresses]
        if not every:
            return
        found, entry = data.draw(st.sampled_from(sorted(every, key=repr)))
        name, net = f"{tenant_of(found.name)}/ports/p4", self.catalog.virtual_subnets[found.virtual_subnet]
        match what:
            case "address":
                self.take([drafts.Port(name, net.name, host=host, addresses=(entry.address,))])
            case "mac":
                self.take([drafts.Port(name, net.name, host=host, mac=entry.mac)])
            case "router mac":
                self.take([drafts.VirtualSubnet(net.name, net.prefixes, router_mac=entry.mac)])
            case _:
                self.take([drafts.VirtualSubnet(net.name, net.prefixes, gateways=(entry.address,))])

    @rule(version=st.sampled_from((4, 6)))
    def renumber(self, version: int) -> None:
        """Every host gets a PA of one family: what one host alone may not do, all may at once."""
        pas = [pa for pa in PAS if values.ip_version(pa) == version]
        names = sorted(self.catalog.hosts)
        if "provider-networks/fabric" in self.catalog.provider_networks:
            uplinks = [(drafts.Uplink("eth1", "fabric", (pa,)),) for pa in pas[: len(names)]]
            self.take([drafts.Host(name, uplink) for name, uplink in zip(names, uplinks, strict=True)])

    @rule()
    def change_over(self) -> None:
        """Every subnet takes its next step to its rule."""
        self.take(
            [
                drafts.VirtualSubnet(net.name, net.prefixes, rule_change=rules.next_step(net))
                for net in self.catalog.virtual_subnets.values()
            ]
        )

    @rule(data=st.data())
    def swap(self, data: st.DataObject) -> None:
        """Two ports of one subnet change places: MAC, addresses and all."""
        pairs = [
            pair
            for pair in combinations(sorted(self.catalog.ports), 2)
            if len({self.catalog.ports[name].virtual_subnet for name in pair}) == 1
        ]
        if pairs:
            first, second = (self.catalog.ports[name] for name in data.draw(st.sampled_from(pairs)))
            self.take(
                [
                    drafts.Port(mine.name, mine.virtual_subnet, theirs.mac, theirs.addresses, theirs.host)
                    for mine, theirs in ((first, second), (second, first))
                ]
            )

    def take(self, puts: list[Draft], deletes: Iterable[str] = ()) -> None:
        """One batch: judged alike by a catalog that has lived through nothing, and taken whole or not at all."""
        before, fresh = everything(self.catalog), reloaded(self.catalog)
        outcome = attempt(self.catalog, puts, deletes)
        assert attempt(fresh, puts, deletes) == outcome
        if isinstance(outcome, str):
            assert everything(self.catalog) == before
            return
        after = everything(self.catalog)
        self.catalog.revert(outcome)
        assert everything(self.catalog) == before
        assert self.catalog.apply(puts[::-1], list(deletes)[::-1]) is not None
        assert everything(self.catalog) == after
        assert all(change.old != change.new for change in outcome)
        self.follow(self.compiler.apply(outcome))

    def follow(self, delta: ScopedDelta) -> None:
        """What the feed does for each host."""
        for host, scope in delta.left:
            del self.held[host][scope]
        for host, scopes in self.held.items():
            for scope, part in delta.scopes.items():
                if scope in scopes and (host, scope) not in delta.entered:
                    for row in part.puts:
                        assert scopes[scope].get(row.key) != row, "only real changes are sent"
                        scopes[scope][row.key] = row
                    for key in part.deletes:
                        del scopes[scope][key]
        for host, scope in delta.entered:
            assert scope not in self.held.setdefault(host, {})
            self.held[host][scope] = dict(self.compiler.rows(scope))
        self.held = {host: scopes for host, scopes in self.held.items() if scopes}

    @invariant()
    def incremental_equals_full(self) -> None:
        full, scopes = compile_all(reloaded(self.catalog))
        assert {scope: dict(self.compiler.rows(scope)) for scope in full} == full
        assert {host: self.compiler.scopes_of(host) for host in self.catalog.hosts} == scopes
        assert self.held == {host: {scope: full[scope] for scope in scopes[host]} for host in scopes}

    @invariant()
    def no_host_holds_a_row_of_a_domain_that_it_neither_runs_nor_awaits_a_port_of(self) -> None:
        catalog = self.catalog
        for host, scopes in self.held.items():
            mine = [port for port in catalog.ports.values() if host in (port.host, port.destination)]
            domains = {domain_of(port.virtual_subnet) for port in mine}
            rdids = {catalog.routing_domains[name].rdid for name in domains}
            vsids = {net.vsid for net in catalog.virtual_subnets.values() if domain_of(net.name) in domains}
            own_groups = {catalog.security_groups[name] for port in mine for name in port.groups}
            own_rules = [
                rule
                for rule in catalog.security_group_rules.values()
                if group_of(rule.name) in {g.name for g in own_groups}
            ]
            named = {rule.remote_address_group for rule in own_rules} - {None}
            assert set(scopes) == {
                host_scope(host),
                *map(domain_scope, rdids),
                *(security_group_scope(each.number) for each in own_groups),
                *(address_group_scope(catalog.address_groups[name].number) for name in named if name),
            }
            for row in (row for scope in scopes.values() for row in scope.values()):
                match row:
                    case rows.Host():
                        assert row.host == host
                    case rows.Port():
                        assert row.port in {port.name for port in mine}
                    case rows.Subnet() | rows.Route():
                        assert row.rdid in rdids
                        assert row.vsid in vsids
                    case rows.Record() | rows.MacRecord() | rows.Member():
                        assert row.vsid in vsids
                    case rows.SecurityGroup():
                        assert row.number in {each.number for each in own_groups}
                        assert {each.name for each in row.rules} == {
                            rule.name for rule in own_rules if group_of(rule.name) == row.name
                        }
                    case rows.AddressGroup():
                        assert row.name in named

    @invariant()
    def a_port_is_found_where_it_is_and_where_it_is_moving_to(self) -> None:
        """By its own addresses and MAC, and by those that its guest has announced."""
        catalog = self.catalog
        places: dict[Key, tuple[str, str | None, str]] = {}
        for found in catalog.ports.values():
            vsid = catalog.virtual_subnets[found.virtual_subnet].vsid
            pas = [catalog.hosts[host].pas[0] for host in found.hosts]
            said = found.announced_addresses
            by_mac = dict.fromkeys((found.mac, *(each.mac for each in said)))
            keys: list[tuple[Key, str]] = [
                *((("macs", vsid, mac), mac) for mac in by_mac),
                *((("records", vsid, ca), found.mac) for ca in found.addresses),
                *((("records", vsid, each.address), each.mac) for each in said),
            ]
            for key, mac in keys if pas else ():
                assert key not in places, "no two ports are found by one key"
                places[key] = (pas[0], pas[1] if pas[1:] else None, mac)
            for host in found.hosts:
                mine = self.compiler.rows(host_scope(host))["ports", found.name]
                assert isinstance(mine, rows.Port)
                assert mine.macs == tuple(by_mac)[1:]
        scopes = (domain_scope(domain.rdid) for domain in catalog.routing_domains.values())
        held = (row for scope in scopes for row in self.compiler.rows(scope).values())
        found_at = {
            row.key: (row.pa, row.also, row.mac) for row in held if isinstance(row, rows.Record | rows.MacRecord)
        }
        assert found_at == places

    @invariant()
    def records_and_ports_say_which_groups_they_have(self) -> None:
        catalog = self.catalog
        for found in catalog.ports.values():
            numbers = tuple(sorted(catalog.security_groups[name].number for name in found.groups))
            for host in found.hosts:
                mine = self.compiler.rows(host_scope(host))["ports", found.name]
                assert isinstance(mine, rows.Port)
                assert (mine.groups, mine.port_security) == (numbers, found.port_security)
            if found.host is not None:
                vsid = catalog.virtual_subnets[found.virtual_subnet].vsid
                scope = domain_scope(catalog.routing_domains[domain_of(found.virtual_subnet)].rdid)
                for ca in (*found.addresses, *(said.address for said in found.announced_addresses)):
                    record = self.compiler.rows(scope)["records", vsid, ca]
                    assert isinstance(record, rows.Record)
                    assert record.groups == numbers

    @invariant()
    def routes_are_won_by_the_right_ones(self) -> None:
        for name, routing_domain in self.catalog.routing_domains.items():
            claims: dict[str, list[tuple[int, int, str, int, str | None]]] = {}
            nets = [net for net in self.catalog.virtual_subnets.values() if domain_of(net.name) == name]
            for net in nets:
                for prefix in () if net.external_gateway else net.prefixes:
                    claims.setdefault(prefix, []).append((0, 0, net.name, net.vsid, None))
            for way in self.catalog.customer_routes.values():
                if domain_of(way.name) == name:
                    (vsid,) = (
                        net.vsid
                        for net in nets
                        if net.name == way.virtual_subnet
                        or (way.next_hop and any(map(holds(way.next_hop), net.prefixes)))
                    )
                    claims.setdefault(way.prefix, []).append((1, way.metric, way.name, vsid, way.next_hop))
            want = {prefix: min(found)[3:] for prefix, found in claims.items()}
            have = self.compiler.rows(domain_scope(routing_domain.rdid)).values()
            assert {row.prefix: (row.vsid, row.next_hop) for row in have if isinstance(row, rows.Route)} == want

    @invariant()
    def members_of_a_subnet_are_the_hosts_that_run_or_await_a_port_of_it(self) -> None:
        for name, routing_domain in self.catalog.routing_domains.items():
            vsids = {net.name: net.vsid for net in self.catalog.virtual_subnets.values() if domain_of(net.name) == name}
            want = {
                (vsids[port.virtual_subnet], self.catalog.hosts[host].pas[0])
                for port in self.catalog.ports.values()
                for host in port.hosts
                if port.virtual_subnet in vsids
            }
            have = self.compiler.rows(domain_scope(routing_domain.rdid)).values()
            assert {(row.vsid, row.pa) for row in have if isinstance(row, rows.Member)} == want

    @invariant()
    def what_is_in_the_catalog_is_valid(self) -> None:
        assert_valid(self.catalog)


def attempt(catalog: Catalog, puts: list[Draft], deletes: Iterable[str]) -> tuple[Change, ...] | str:
    """The changes, or the complaint and where it is."""
    try:
        return catalog.apply(puts, deletes)
    except Rejected as fault:
        return f"{type(fault).__name__} {fault.field}: {fault.message}"


def holds(address: str | None) -> Any:
    """Whether a prefix has an address."""
    if address is None:
        return lambda _: False
    number = values.address_network(values.Ip(address)).network_address
    return lambda prefix: values.ip_version(prefix) == number.version and number in network_of(prefix)


def assert_valid(catalog: Catalog) -> None:
    """Every rule of the catalog, said again in the plainest way, from nothing but the objects."""
    pas = [pa for host in catalog.hosts.values() for pa in host.pas]
    assert_unique(pas)
    assert_unique(found.rdid for found in catalog.routing_domains.values())
    assert_unique(found.vsid for found in catalog.virtual_subnets.values())
    for name in (*catalog.routing_domains, *catalog.ports):
        assert tenant_of(name) in catalog.tenants
    for name in (*catalog.virtual_subnets, *catalog.customer_routes):
        assert domain_of(name) in catalog.routing_domains
    for found in catalog.hosts.values():
        assert all(uplink.provider_network in catalog.provider_networks for uplink in found.uplinks)
    assert_unique(found.trunk for found in catalog.ports.values() if found.trunk is not None)
    segments = [net.segment for net in catalog.virtual_subnets.values() if net.segment is not None]
    assert_unique(segments)
    uplinks = [(uplink.provider_network, uplink.vlan) for host in catalog.hosts.values() for uplink in host.uplinks]
    assert not set(segments) & set(uplinks), "guests are not in the VLAN of PAs"
    for net in catalog.virtual_subnets.values():
        assert net.provider_network is None or net.provider_network in catalog.provider_networks
        assert Rule.VLAN not in net.accepted_rules or (net.segment is not None and net.vlan)
    assert_grouped_validly(catalog)
    for one, other in permutations(catalog.virtual_subnets.values(), 2):
        if Rule.GRE in one.accepted_rules and Rule.NVGRE in other.accepted_rules:
            assert one.vsid >> 8 != other.vsid, "a key would be of both"
    for found in catalog.ports.values():
        net = catalog.virtual_subnets[found.virtual_subnet]
        assert tenant_of(net.name) == tenant_of(found.name)
        assert all(catalog.hosts[host].pas for host in found.hosts)
        if found.trunk is not None:
            parent = catalog.ports[found.trunk.parent]
            assert parent.trunk is None
            assert tenant_of(parent.name) == tenant_of(found.name)
            assert parent.hosts == found.hosts, "a sub-port is where its parent is"
        if found.mirror is not None and found.mirror.port is not None:
            watcher = catalog.ports[found.mirror.port]
            assert watcher.trunk is None, "copies need an interface"
            assert tenant_of(watcher.name) == tenant_of(found.name)
        if net.segment is not None:
            assert all(net.segment[0] in catalog.hosts[host].networks for host in found.hosts)
        assert found.destination is None or found.destination != found.host is not None
        for ca in found.addresses:
            (prefix,) = filter(holds(ca), net.prefixes)
            assert ca not in net.gateways
            assert network_of(prefix).network_address != values.address_network(ca).network_address
    for name in catalog.routing_domains:
        nets = [net for net in catalog.virtual_subnets.values() if domain_of(net.name) == name]
        inside = [port for port in catalog.ports.values() if domain_of(port.virtual_subnet) == name]
        firsts = [catalog.hosts[host].pas[0] for port in inside for host in port.hosts]
        assert len({values.ip_version(pa) for pa in firsts}) <= 1, "hosts that run ports of a domain share a family"
        prefixes = [network_of(prefix) for net in nets for prefix in net.prefixes]
        assert not any(a.version == b.version and a.overlaps(b) for a, b in combinations(prefixes, 2))
        assert_unique(ca for port in inside for ca in port.addresses)
        assert_unique(port.mac for port in inside)
        assert not {port.mac for port in inside} & {net.router_mac for net in nets}
        for net in nets:
            assert_announced_validly(net, inside, {other.router_mac for other in nets})
        assert all(len(net.gateways) == len(net.prefixes) for net in nets)
        for way in catalog.customer_routes.values():
            if domain_of(way.name) == name:
                assert way.virtual_subnet in (None, *(net.name for net in nets))
                assert way.next_hop is None or any(
                    holds(way.next_hop)(prefix) for net in nets for prefix in net.prefixes
                )


def assert_grouped_validly(catalog: Catalog) -> None:
    """Whose groups are whose, and of what kind."""
    every = catalog.security_groups
    assert {f"{name}/security-groups/default" for name in catalog.tenants} <= every.keys()
    for kind in (every, catalog.address_groups, catalog.security_group_rules):
        assert_unique(found.number for found in kind.values())
        assert all(tenant_of(name) in catalog.tenants for name in kind)
    for found in catalog.security_group_rules.values():
        operator = every[group_of(found.name)].operator
        assert operator or (found.action is Action.ALLOW and found.priority == 0)
        assert found.remote_group is None or tenant_of(every[found.remote_group].name) == tenant_of(found.name)
        assert found.remote_address_group is None or found.remote_address_group in catalog.address_groups
        assert [found.remote_prefix, found.remote_group, found.remote_address_group].count(None) >= 2
    for each in catalog.ports.values():
        assert all(tenant_of(name) == tenant_of(each.name) for name in each.groups)
        assert not any(every[name].operator for name in each.security_groups)
        assert all(every[name].operator for name in each.operator_groups)
        assert len({every[name].stateful for name in each.groups}) <= 1
        assert each.port_security or not each.groups


def assert_announced_validly(net: VirtualSubnet, inside: list[Port], router_macs: set[Mac]) -> None:
    """Whose each announced address of a subnet is. inside: every port of the domain."""
    here = [port for port in inside if port.virtual_subnet == net.name]
    assert_unique(said.address for port in here for said in port.announced_addresses)
    assert_unique(mac for port in here for mac in {said.mac for said in port.announced_addresses} - {port.mac})
    for mine, said in ((each, said) for each in here for said in each.announced_addresses):
        assert any(
            holds(said.address)(pair.prefix) and said.mac == (pair.mac or mine.mac)
            for pair in mine.allowed_address_pairs
        )
        assert any(map(holds(said.address), (*net.prefixes, "fe80::/64")))
        assert said.address not in {*net.gateways, values.link_local(net.router_mac), *mine.addresses}
        assert said.mac == mine.mac or said.mac not in {*router_macs, *(port.mac for port in inside)}
        for other in here:
            if other.host is not None:
                assert said.address not in {*other.addresses, values.link_local(other.mac)}


def assert_unique(things: Iterable[Any]) -> None:
    listed = list(things)
    assert len(listed) == len(set(listed))


TestMachine = Machine.TestCase
TestMachine.settings = examples(60, steps=20)
