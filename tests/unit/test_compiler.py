"""From objects to rows: what each row says, and how little changes when little changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest

from strategies.intents import ABLE, domain, host, network, port, route, subnet, two_tenants
from weft.compiler.compiler import Compiler
from weft.compiler.full import compile_all
from weft.kit.errors import Conflict
from weft.model import drafts, rules
from weft.model.catalog import Catalog, Change
from weft.model.drafts import Draft
from weft.model.features import ABILITIES, AbilityTable, Rule
from weft.model.names import Name
from weft.policy import rows
from weft.policy.delta import ScopedDelta
from weft.policy.rows import Key, Row, Scope, domain_scope, host_scope

FABRIC = "provider-networks/fabric"
PROD = Name("tenants/blue/routing-domains/prod")
H1, H2, H3 = (host_scope(f"hosts/h{n}") for n in (1, 2, 3))


class World:
    """A catalog and its compiler, told of everything in turn."""

    def __init__(self, abilities: AbilityTable = ABILITIES) -> None:
        self.catalog = two_tenants(abilities)
        self.compiler = Compiler(self.catalog)
        self.changes: tuple[Change, ...] = ()

    def apply(self, puts: Iterable[Draft], deletes: Iterable[str] = ()) -> ScopedDelta:
        self.changes = self.catalog.apply(puts, deletes)
        delta = self.compiler.apply(self.changes)
        everything, scopes = compile_all(self.catalog)
        assert {scope: dict(self.compiler.rows(scope)) for scope in everything} == everything
        assert {name: self.compiler.scopes_of(name) for name in self.catalog.hosts} == scopes
        return delta

    @property
    def blue(self) -> Scope:
        return self.domain(PROD)

    def domain(self, name: str) -> Scope:
        return domain_scope(self.catalog.routing_domains[Name(name)].rdid)

    def vsid(self, path: str) -> int:
        label, name = path.split("/")
        return self.catalog.virtual_subnets[Name(f"tenants/{label}/routing-domains/prod/virtual-subnets/{name}")].vsid

    def table(self, scope: Scope, table: str) -> dict[Key, Row]:
        return {key: row for key, row in self.compiler.rows(scope).items() if key[0] == table}


@pytest.fixture
def world() -> World:
    return World()


def uplink(*pas: str, interface: str = "eth1") -> rows.Uplink:
    return rows.Uplink(interface, 1500, FABRIC, pas)


def touched(delta: ScopedDelta) -> dict[Scope, Counter[str]]:
    """How many rows of each table a difference touches, by scope."""
    return {
        scope: Counter([row.key[0] for row in part.puts] + [key[0] for key in part.deletes])
        for scope, part in delta.scopes.items()
    }


def test_a_port_is_known_to_its_host_and_findable_in_its_domain(world: World) -> None:
    delta = world.apply(
        [
            port(
                "blue/web-1",
                "prod/web",
                host="h1",
                mac="02:00:00:00:00:01",
                allowed_address_pairs=(
                    drafts.AddressPair("10.0.1.64/26"),
                    drafts.AddressPair("0.0.0.0/0", "02:00:00:00:00:77"),
                ),
            )
        ]
    )
    vsid = world.vsid("blue/web")
    assert world.compiler.rows(H1) == {
        ("hosts", "hosts/h1"): rows.Host("hosts/h1", ("192.0.2.1",), (uplink("192.0.2.1"),)),
        ("ports", "tenants/blue/ports/web-1"): rows.Port(
            "tenants/blue/ports/web-1",
            vsid,
            "02:00:00:00:00:01",
            ("10.0.1.2", "fd00:1::2"),
            (rows.Pair("02:00:00:00:00:01", "10.0.1.64/26"), rows.Pair("02:00:00:00:00:77", "0.0.0.0/0")),
            enabled=True,
        ),
    }
    assert delta.scopes[world.blue].puts == (
        rows.Peer(world.catalog.routing_domains[PROD].rdid, "192.0.2.1", ("192.0.2.1",), (FABRIC,)),
        rows.Record(vsid, "10.0.1.2", "192.0.2.1", "02:00:00:00:00:01"),
        rows.Record(vsid, "fd00:1::2", "192.0.2.1", "02:00:00:00:00:01"),
        rows.MacRecord(vsid, "02:00:00:00:00:01", "192.0.2.1"),
        rows.Member(vsid, "192.0.2.1"),
    )
    assert delta.entered == (("hosts/h1", world.blue),)
    assert world.compiler.scopes_of("hosts/h1") == {H1, world.blue}


def test_a_domain_has_its_subnets_and_routes_before_it_has_a_port(world: World) -> None:
    web, db = world.vsid("blue/web"), world.vsid("blue/db")
    rdid = world.catalog.routing_domains[PROD].rdid
    world.apply([route("blue/prod/out", "0.0.0.0/0", next_hop="10.0.2.9")])
    found = world.compiler.rows(world.blue)
    assert set(found.values()) == {
        rows.Subnet(
            web,
            rdid,
            ("10.0.1.0/24", "fd00:1::/64"),
            ("10.0.1.1", "fd00:1::1"),
            "02:57:45:46:54:01",
            0,
            dhcp=rows.Dhcp(),
        ),
        rows.Subnet(db, rdid, ("10.0.2.0/24",), ("10.0.2.1",), "02:57:45:46:54:01", 0, dhcp=rows.Dhcp()),
        rows.Route(rdid, "10.0.1.0/24", web),
        rows.Route(rdid, "fd00:1::/64", web),
        rows.Route(rdid, "10.0.2.0/24", db),
        rows.Route(rdid, "0.0.0.0/0", db, "10.0.2.9"),
    }
    assert all(world.compiler.scopes_of(name) == {host_scope(name)} for name in world.catalog.hosts)


def test_a_port_that_is_down_keeps_its_records(world: World) -> None:
    world.apply([port("blue/a", "prod/db", host="h1")])
    delta = world.apply([port("blue/a", "prod/db", host="h1", admin_state="down")])
    assert touched(delta) == {H1: {"ports": 1}}
    (row,) = delta.scopes[H1].puts
    assert isinstance(row, rows.Port)
    assert not row.enabled
    assert world.table(world.blue, "records")


def test_a_port_without_a_host_has_no_rows(world: World) -> None:
    assert world.apply([port("blue/a", "prod/db")]) == ScopedDelta()
    world.apply([port("blue/a", "prod/db", host="h1")])
    delta = world.apply([port("blue/a", "prod/db")])
    assert touched(delta) == {H1: {"ports": 1}, world.blue: {"peers": 1, "records": 1, "macs": 1, "members": 1}}
    assert delta.left == (("hosts/h1", world.blue),)


def test_a_port_that_moves_touches_only_its_own_rows(world: World) -> None:
    """In a domain of a thousand ports: two rows of the domain, one on each host, and nobody enters or leaves."""
    world.apply([port(f"blue/p-{n}", "prod/db", host=f"h{n % 3 + 1}", addresses=()) for n in range(700)])
    world.apply([subnet("blue/prod/big", "10.64.0.0/16")])
    world.apply([port(f"blue/q-{n}", "prod/big", host=f"h{n % 3 + 1}") for n in range(300)])
    delta = world.apply([port("blue/q-0", "prod/big", host="h2")])
    assert touched(delta) == {H1: {"ports": 1}, H2: {"ports": 1}, world.blue: {"records": 1, "macs": 1}}
    assert not delta.scopes[world.blue].deletes, "a record moves: it is never away"
    assert (delta.entered, delta.left) == ((), ())


def test_a_host_is_a_member_of_a_subnet_from_its_first_port_there_to_its_last(world: World) -> None:
    vsid = world.vsid("blue/db")
    delta = world.apply([port("blue/a", "prod/db", host="h1"), port("blue/b", "prod/db", host="h1")])
    assert rows.Member(vsid, "192.0.2.1") in delta.scopes[world.blue].puts
    delta = world.apply([port("blue/a", "prod/db", host="h2")])
    assert rows.Member(vsid, "192.0.2.2") in delta.scopes[world.blue].puts
    assert not delta.scopes[world.blue].deletes, "another port of the subnet is still there"
    delta = world.apply([port("blue/b", "prod/db", host="h2", admin_state="down")])
    assert ("members", vsid, "192.0.2.1") in delta.scopes[world.blue].deletes
    delta = world.apply([], ["tenants/blue/ports/a"])
    assert set(world.table(world.blue, "members")) == {("members", vsid, "192.0.2.2")}, "a port that is down is there"


def test_a_ports_own_limit_of_broadcast_comes_before_its_subnets(world: World) -> None:
    world.apply([port("blue/a", "prod/db", host="h1"), port("blue/b", "prod/db", host="h1", flood_limit_pps=7)])
    delta = world.apply([subnet("blue/prod/db", "10.0.2.0/24", flood_limit_pps=50)])
    limits = {row.port: row.flood_limit_pps for row in world.compiler.rows(H1).values() if isinstance(row, rows.Port)}
    assert limits == {"tenants/blue/ports/a": 50, "tenants/blue/ports/b": 7}
    assert touched(delta) == {H1: {"ports": 1}}


def test_a_port_that_is_moving_is_held_by_both_hosts_and_found_at_both(world: World) -> None:
    world.apply([port("blue/a", "prod/db", host="h1")])
    vsid, mac = world.vsid("blue/db"), world.catalog.ports[Name("tenants/blue/ports/a")].mac
    rdid = world.catalog.routing_domains[PROD].rdid
    begun = world.apply([port("blue/a", "prod/db", host="h1", destination="h2")])
    assert begun.entered == (("hosts/h2", world.blue),)
    (here,), (there,) = (world.table(host, "ports").values() for host in (H1, H2))
    assert isinstance(here, rows.Port)
    assert (here.leaving, here.arriving) == (True, False)
    assert there == replace(here, leaving=False, arriving=True, comes_from="hosts/h1")
    peer, *records = begun.scopes[world.blue].puts
    assert peer == rows.Peer(rdid, "192.0.2.2", ("192.0.2.2",), ("provider-networks/fabric",))
    assert records == [
        rows.Record(vsid, "10.0.2.2", "192.0.2.1", mac, also="192.0.2.2"),
        rows.MacRecord(vsid, mac, "192.0.2.1", also="192.0.2.2"),
        rows.Member(vsid, "192.0.2.2"),
    ]
    renumbered = world.apply([host("h2", "192.0.2.77")])
    assert [row.also for row in renumbered.scopes[world.blue].puts if isinstance(row, rows.Record)] == ["192.0.2.77"]
    with pytest.raises(Conflict, match="hosts/h2 cannot go: tenants/blue/ports/a refers to it"):
        world.apply([], ["hosts/h2"])
    ended = world.apply([port("blue/a", "prod/db", host="h2")])
    assert (ended.entered, ended.left) == ((), (("hosts/h1", world.blue),))
    gone = ended.scopes[world.blue].deletes
    assert set(gone) == {("peers", rdid, "192.0.2.1"), ("members", vsid, "192.0.2.1")}, "its records are never away"
    assert {row.also for row in world.table(world.blue, "records").values() if isinstance(row, rows.Record)} == {None}


def test_the_first_and_the_last_port_of_a_domain_bring_a_host_in_and_out(world: World) -> None:
    red = world.domain("tenants/red/routing-domains/prod")
    world.apply([port("blue/a", "prod/web", host="h1"), port("red/a", "prod/web", host="h1")])
    delta = world.apply([port("blue/b", "prod/db", host="h1"), port("red/a", "prod/web", host="h2")])
    assert (delta.entered, delta.left) == ((("hosts/h2", red),), (("hosts/h1", red),))
    assert world.apply([], ["tenants/blue/ports/a"]).left == ()
    assert world.apply([], ["tenants/blue/ports/b"]).left == (("hosts/h1", world.blue),)


def test_hosts_come_and_go_with_their_own_scope(world: World) -> None:
    delta = world.apply([host("h9")])
    assert delta.entered == (("hosts/h9", host_scope("hosts/h9")),)
    assert touched(delta) == {host_scope("hosts/h9"): {"hosts": 1}}
    delta = world.apply([], ["hosts/h9"])
    assert delta.left == (("hosts/h9", host_scope("hosts/h9")),)
    assert world.compiler.scopes_of("hosts/h9") == frozenset()
    assert world.compiler.rows(host_scope("hosts/h9")) == {}
    assert world.compiler.rows("rd:none") == {}


def test_records_point_to_the_first_pa_of_the_first_uplink_that_has_one(world: World) -> None:
    world.apply([port("blue/a", "prod/db", host="h1"), port("blue/b", "prod/db", host="h2")])
    uplinks = (drafts.Uplink("eth0", "fabric", ()), drafts.Uplink("eth1", "fabric", ("192.0.2.77", "192.0.2.78")))
    delta = world.apply([drafts.Host("hosts/h1", uplinks)])
    assert touched(delta) == {H1: {"hosts": 1}, world.blue: {"peers": 2, "records": 1, "macs": 1, "members": 2}}
    assert {row.pa for row in delta.scopes[world.blue].puts if not isinstance(row, rows.Host)} == {"192.0.2.77"}
    (row,) = delta.scopes[H1].puts
    assert row == rows.Host(
        "hosts/h1",
        ("192.0.2.77", "192.0.2.78"),
        (uplink(interface="eth0"), uplink("192.0.2.77", "192.0.2.78")),
    )
    delta = world.apply([drafts.Host("hosts/h1", (uplinks[0], drafts.Uplink("eth1", "fabric", ("192.0.2.77",))))])
    assert touched(delta) == {H1: {"hosts": 1}, world.blue: {"peers": 1}}, "a further PA is said once, not by record"


def test_the_vlan_of_an_uplink_is_its_hosts_business_alone(world: World) -> None:
    world.apply([port("blue/a", "prod/db", host="h1")])
    delta = world.apply([drafts.Host("hosts/h1", (drafts.Uplink("eth1", "fabric", vlan=100),))])
    (row,) = delta.scopes[H1].puts
    assert touched(delta) == {H1: {"hosts": 1}}
    assert isinstance(row, rows.Host)
    assert [each.vlan for each in row.uplinks] == [100]


def test_a_host_is_a_peer_once_in_each_domain_that_it_runs_ports_of(world: World) -> None:
    world.apply([host("h1", "192.0.2.1", "192.0.2.101"), port("blue/a", "prod/db", host="h1")])
    assert touched(world.apply([port("blue/b", "prod/web", host="h1")]))[world.blue]["peers"] == 0
    red = world.domain("tenants/red/routing-domains/prod")
    world.apply([port("red/a", "prod/db", host="h1")])
    for scope in (world.blue, red):
        (row,) = world.table(scope, "peers").values()
        assert row == rows.Peer(scope.removeprefix("rd:"), "192.0.2.1", ("192.0.2.1", "192.0.2.101"), (FABRIC,) * 2)
    world.apply([], ["tenants/red/ports/a", "tenants/blue/ports/a"])
    assert (len(world.table(world.blue, "peers")), len(world.table(red, "peers"))) == (1, 0)


def test_a_physical_mtu_reaches_every_host_on_that_network(world: World) -> None:
    delta = world.apply([network("192.0.2.0/24", mtu_bytes=9000)])
    assert touched(delta) == {scope: {"hosts": 1} for scope in (H1, H2, H3)}
    assert world.apply([network("192.0.2.0/24", "198.51.100.0/24")]).scopes == {}


def test_a_new_vsid_renumbers_everything_in_the_subnet_and_nothing_else(world: World) -> None:
    world.apply([port("blue/a", "prod/db", host="h1"), port("blue/b", "prod/web", host="h1")])
    world.apply([route("blue/prod/out", "0.0.0.0/0", next_hop="10.0.2.9")])
    delta = world.apply([subnet("blue/prod/db", "10.0.2.0/24", vsid=5000)])
    assert touched(delta) == {
        H1: {"ports": 1},
        world.blue: {"subnets": 2, "records": 2, "macs": 2, "members": 2, "routes": 2},
    }
    kinds = [key[0] for key in delta.scopes[world.blue].deletes]
    assert kinds == ["members", "macs", "records", "subnets"], "deletes go in reverse of the tables' order"


def test_a_subnets_mtu_touches_one_row(world: World) -> None:
    world.apply([port("blue/a", "prod/db", host="h1")])
    assert touched(world.apply([subnet("blue/prod/db", "10.0.2.0/24", mtu_bytes=1400)])) == {world.blue: {"subnets": 1}}


def test_the_winner_of_a_prefix_is_the_subnet_then_the_lowest_metric_then_the_first_name(world: World) -> None:
    def winner() -> tuple[int, str | None] | None:
        found = [row for row in world.table(world.blue, "routes").values() if isinstance(row, rows.Route)]
        return next(((row.vsid, row.next_hop) for row in found if row.prefix == "10.9.0.0/24"), None)

    web, db = world.vsid("blue/web"), world.vsid("blue/db")
    world.apply([route("blue/prod/b", "10.9.0.0/24", next_hop="10.0.2.9")])
    assert winner() == (db, "10.0.2.9")
    world.apply([route("blue/prod/a", "10.9.0.0/24", next_hop="10.0.1.9")])
    assert winner() == (web, "10.0.1.9")
    world.apply([route("blue/prod/c", "10.9.0.0/24", virtual_subnet="db", metric=5)])
    assert winner() == (db, None)
    assert world.apply([route("blue/prod/a", "10.9.0.0/24", next_hop="10.0.1.8")]).scopes == {}, (
        "a loser changes nothing"
    )
    delta = world.apply([subnet("blue/prod/new", "10.9.0.0/24")])
    assert winner() == (world.vsid("blue/new"), None)
    assert touched(delta) == {world.blue: {"subnets": 1, "routes": 1}}
    world.apply([], [f"{PROD}/virtual-subnets/new", f"{PROD}/customer-routes/c"])
    assert winner() == (web, "10.0.1.8")
    world.apply([], [f"{PROD}/customer-routes/a", f"{PROD}/customer-routes/b"])
    assert winner() is None


def test_a_new_rdid_is_a_new_scope_for_all_that_were_in_the_old(world: World) -> None:
    world.apply([port("blue/a", "prod/db", host="h1"), route("blue/prod/out", "0.0.0.0/0", next_hop="10.0.2.9")])
    old = world.blue
    before = dict(world.compiler.rows(old))
    delta = world.apply([domain("blue/prod", "0f0c2b9e-4d1f-5d55-9a43-6c9f6b1f2a10")])
    assert (delta.entered, delta.left) == ((("hosts/h1", world.blue),), (("hosts/h1", old),))
    assert set(delta.scopes) == {old, world.blue}
    assert set(delta.scopes[old].deletes) == set(before)
    assert len(delta.scopes[world.blue].puts) == len(before)
    assert world.compiler.rows(old) == {}


def test_domains_that_swap_their_rdids_keep_their_hosts_in_both_scopes(world: World) -> None:
    red = Name("tenants/red/routing-domains/prod")
    world.apply([port("blue/a", "prod/db", host="h1"), port("red/a", "prod/db", host="h1")])
    world.apply([port("red/b", "prod/db", host="h2")])
    blue_rdid, red_rdid = (world.catalog.routing_domains[name].rdid for name in (PROD, red))
    delta = world.apply([domain("blue/prod", red_rdid), domain("red/prod", blue_rdid)])
    assert (delta.entered, delta.left) == (
        (("hosts/h2", domain_scope(blue_rdid)),),
        (("hosts/h2", domain_scope(red_rdid)),),
    )


def test_a_compiler_that_starts_late_knows_what_one_that_watched_knows(world: World) -> None:
    world.apply([port("blue/a", "prod/db", host="h1"), route("blue/prod/out", "0.0.0.0/0", next_hop="10.0.2.9")])
    late = Compiler(world.catalog)
    for name in world.catalog.hosts:
        assert late.scopes_of(name) == world.compiler.scopes_of(name)
        for scope in late.scopes_of(name):
            assert late.rows(scope) == world.compiler.rows(scope)
    changes = world.catalog.apply([port("blue/a", "prod/db", host="h2")], [f"{PROD}/customer-routes/out"])
    assert late.apply(changes) == world.compiler.apply(changes)


def test_a_change_that_is_taken_back_is_compiled_turned_round(world: World) -> None:
    world.apply([port("blue/a", "prod/db", host="h1")])
    before = compile_all(world.catalog)
    world.apply([port("blue/a", "prod/web", host="h2"), port("blue/b", "prod/db", host="h3")])
    world.catalog.revert(world.changes)
    world.compiler.apply([Change(change.name, change.new, change.old) for change in world.changes])
    assert compile_all(world.catalog) == before
    assert {scope: world.compiler.rows(scope) for scope in before[0]} == before[0]


def test_rows_go_out_in_the_order_of_the_tables() -> None:
    catalog = Catalog()
    compiler = Compiler(catalog)
    world = [network("192.0.2.0/24"), host("h1"), drafts.Tenant("tenants/blue"), domain("blue/prod")]
    changes = catalog.apply([*world, subnet("blue/prod/web", "10.0.1.0/24"), port("blue/a", "prod/web", host="h1")])
    delta = compiler.apply(changes)
    tables = [row.key[0] for row in delta.scopes[domain_scope(catalog.routing_domains[PROD].rdid)].puts]
    assert tables == ["subnets", "peers", "records", "macs", "members", "routes"]


def test_a_new_rule_is_taken_before_it_is_sent_and_the_old_one_until_nobody_sends_it() -> None:
    world = World(ABLE)
    world.apply([port("blue/web-1", "prod/web", host="h1"), port("blue/db-1", "prod/db", host="h2")])
    name = Name(f"{PROD}/virtual-subnets/web")
    seen = []
    delta = world.apply([subnet("blue/prod/web", "10.0.1.0/24", "fd00:1::/64", rule="geneve")])
    while True:
        net = world.table(world.blue, "subnets")["subnets", world.vsid("blue/web")]
        assert isinstance(net, rows.Subnet)
        found = [*world.table(world.blue, "records").values(), *world.table(world.blue, "macs").values()]
        sent = {row.rule for row in found if isinstance(row, rows.Record | rows.MacRecord) and row.vsid == net.vsid}
        seen.append((net.accepts, sent, touched(delta)))
        if world.catalog.virtual_subnets[name].rule_change is None:
            break
        step = rules.next_step(world.catalog.virtual_subnets[name])
        delta = world.apply([drafts.VirtualSubnet(name, ("10.0.1.0/24", "fd00:1::/64"), rule_change=step)])
    both = (Rule.NVGRE, Rule.GENEVE)
    assert seen == [
        (both, {Rule.NVGRE}, {world.blue: Counter(subnets=1)}),
        (both, {Rule.GENEVE}, {world.blue: Counter(records=2, macs=1, members=1)}),
        ((Rule.GENEVE,), {Rule.GENEVE}, {world.blue: Counter(subnets=1)}),
    ]
