"""A batch is judged by its end, taken whole, and can be taken back."""

from __future__ import annotations

import pytest

from strategies.intents import domain, everything, host, network, port, reloaded, route, subnet, tenant, two_tenants
from weft.kit.errors import Conflict, Rejected
from weft.model import drafts
from weft.model.catalog import Catalog, Change
from weft.model.names import Kind
from weft.model.objects import Port

A, B = "tenants/blue/ports/a", "tenants/blue/ports/b"


@pytest.fixture
def catalog() -> Catalog:
    return two_tenants()


def ports_of(catalog: Catalog) -> dict[str, Port]:
    return {name.rpartition("/")[2]: port for name, port in catalog.ports.items()}


def test_a_whole_world_may_come_in_one_batch_in_any_order() -> None:
    puts = [
        route("blue/prod/out", "0.0.0.0/0", next_hop="10.0.1.9"),
        port("blue/web-2", "prod/web", host="h1"),
        port("blue/web-1", "prod/web", host="h2"),
        subnet("blue/prod/web", "10.0.1.0/24"),
        domain("blue/prod"),
        tenant("blue"),
        host("h2"),
        host("h1"),
        network("192.0.2.0/24"),
    ]
    forwards, backwards = Catalog(), Catalog()
    forwards.apply(puts)
    backwards.apply(puts[::-1])
    assert everything(forwards) == everything(backwards)
    assert forwards.ports["tenants/blue/ports/web-1"].addresses == ("10.0.1.2",)


def test_two_ports_swap_their_macs_and_addresses_in_one_batch(catalog: Catalog) -> None:
    one = {"mac": "02:00:00:00:00:01", "addresses": ("10.0.1.5",)}
    two = {"mac": "02:00:00:00:00:02", "addresses": ("10.0.1.6",)}
    catalog.apply([port("blue/a", "prod/web", **one), port("blue/b", "prod/web", **two)])
    with pytest.raises(Conflict):
        catalog.apply([port("blue/a", "prod/web", **two)])
    changes = catalog.apply([port("blue/a", "prod/web", **two), port("blue/b", "prod/web", **one)])
    assert [change.name for change in changes] == [A, B]
    assert catalog.ports[A].addresses == ("10.0.1.6",)
    assert catalog.ports[B].mac == "02:00:00:00:00:01"
    assert everything(catalog) == everything(reloaded(catalog))


def test_two_hosts_swap_their_pas_and_two_subnets_their_vsids_and_prefixes(catalog: Catalog) -> None:
    catalog.apply([host("h1", "192.0.2.2"), host("h2", "192.0.2.1")])
    assert catalog.hosts["hosts/h1"].pas == ("192.0.2.2",)
    web, db = (catalog.get(f"tenants/blue/routing-domains/prod/virtual-subnets/{name}") for name in ("web", "db"))
    catalog.apply(
        [
            subnet("blue/prod/web", "10.0.2.0/24", vsid=db.vsid),
            subnet("blue/prod/db", "10.0.1.0/24", "fd00:1::/64", vsid=web.vsid),
        ]
    )
    assert everything(catalog) == everything(reloaded(catalog))


def test_a_subnet_is_renumbered_together_with_its_ports(catalog: Catalog) -> None:
    catalog.apply([port("blue/a", "prod/db"), route("blue/prod/out", "0.0.0.0/0", next_hop="10.0.2.9")])
    catalog.apply(
        [
            subnet("blue/prod/db", "10.7.0.0/24"),
            port("blue/a", "prod/db"),
            route("blue/prod/out", "0.0.0.0/0", next_hop="10.7.0.9"),
        ]
    )
    assert catalog.ports[A].addresses == ("10.7.0.2",)
    assert everything(catalog) == everything(reloaded(catalog))


def test_a_subnet_goes_together_with_its_ports_and_routes(catalog: Catalog) -> None:
    catalog.apply([port("blue/a", "prod/web", host="h1"), route("blue/prod/out", "0.0.0.0/0", next_hop="10.0.1.9")])
    below = [name for kind in Kind for name in catalog.names(kind) if name.startswith("tenants/blue")]
    changes = catalog.apply([], below)
    assert {change.name for change in changes} == set(below)
    assert all(change.new is None for change in changes)
    assert everything(catalog) == everything(reloaded(catalog))
    catalog.apply([tenant("blue")])


def test_a_host_may_lose_its_pa_when_its_ports_move_away_in_the_same_batch(catalog: Catalog) -> None:
    catalog.apply([port("blue/a", "prod/web", host="h1")])
    catalog.apply(
        [drafts.Host("hosts/h1", (drafts.Uplink("eth1", "fabric", ()),)), port("blue/a", "prod/web", host="h2")]
    )
    assert catalog.hosts["hosts/h1"].pas == ()


def test_a_routing_domain_goes_from_an_ipv4_to_an_ipv6_underlay_with_all_its_hosts_at_once(catalog: Catalog) -> None:
    old = [host("h1", "192.0.2.1"), host("h2", "192.0.2.2")]
    new = [host("h1", "fd64::1"), host("h2", "fd64::2", "192.0.2.2")]
    catalog.apply([*old, port("blue/a", "prod/web", host="h1"), port("blue/b", "prod/db", host="h2")])
    for change, other in zip(new, ("hosts/h2 has 192.0.2.2", "hosts/h1 has 192.0.2.1"), strict=True):
        with pytest.raises(Conflict, match=rf"first PA, and {other}") as fault:
            catalog.apply([change])
        assert fault.value.field == "puts[0].spec.uplinks"
    changes = catalog.apply(new)
    catalog.revert(changes)
    with pytest.raises(Conflict):
        catalog.apply(new[:1])
    assert catalog.apply(new) == changes
    assert everything(catalog) == everything(reloaded(catalog))


def test_a_port_moves_alone_to_a_host_of_the_other_ip_version_and_another_domain_stays(catalog: Catalog) -> None:
    catalog.apply([host("h3", "fd64::3"), *(port(f"{owner}/a", "prod/web", host="h1") for owner in ("blue", "red"))])
    catalog.apply([port("blue/a", "prod/web", host="h3"), port("blue/b", "prod/web", host="h3")])
    with pytest.raises(Conflict):
        catalog.apply([port("blue/a", "prod/web", host="h1")])
    catalog.apply([port("blue/a", "prod/web", host="h1")], [B])
    with pytest.raises(Conflict):
        catalog.apply([port("red/b", "prod/web", host="h3")])
    assert everything(catalog) == everything(reloaded(catalog))


def test_an_address_that_a_batch_frees_can_be_had_in_the_same_batch(catalog: Catalog) -> None:
    catalog.apply(
        [port("blue/a", "prod/web", addresses=("10.0.1.5",)), route("blue/prod/r", "10.9.0.0/24", next_hop="10.0.1.7")]
    )
    catalog.apply([port("blue/b", "prod/web", addresses=("10.0.1.5",))], [A])
    assert catalog.ports[B].addresses == ("10.0.1.5",)


def test_what_stays_as_it_is_gives_no_change(catalog: Catalog) -> None:
    put = port("blue/a", "prod/web", host="h1", allowed_address_pairs=(drafts.AddressPair("10.0.1.0/24"),))
    first = catalog.apply([put, tenant("blue")])
    assert [change.name for change in first] == [A]
    assert catalog.apply([put, tenant("blue"), tenant("red"), subnet("blue/prod/db", "10.0.2.0/24"), host("h1")]) == ()
    assert catalog.apply([]) == ()


def test_changes_taken_back_last_first_leave_everything_as_it_was(catalog: Catalog) -> None:
    catalog.apply([port("blue/a", "prod/web", host="h1"), port("blue/b", "prod/db", host="h2")])
    moments, applied = [], []
    for puts, deletes in [
        ([port("blue/a", "prod/db", host="h3"), tenant("green"), domain("green/x"), host("h9")], []),
        ([subnet("blue/prod/web", "10.5.0.0/16"), subnet("blue/prod/new", "10.0.1.0/24")], []),
        ([port("blue/c", "prod/new", host="h9")], [A]),
        (
            [],
            [
                B,
                "tenants/blue/routing-domains/prod/virtual-subnets/db",
                "tenants/green",
                "tenants/green/routing-domains/x",
            ],
        ),
        ([domain("blue/prod", "0f0c2b9e-4d1f-5d55-9a43-6c9f6b1f2a10")], []),
    ]:
        moments.append(everything(catalog))
        applied.append(catalog.apply(puts, deletes))
    for moment, changes in zip(reversed(moments), reversed(applied), strict=True):
        catalog.revert(changes)
        assert everything(catalog) == moment
    assert catalog.apply([port("blue/new", "prod/web")])[0].new == reloaded(catalog).get("tenants/blue/ports/new")


def test_a_change_says_what_was_and_what_is(catalog: Catalog) -> None:
    (made,) = catalog.apply([port("blue/a", "prod/web")])
    (moved,) = catalog.apply([port("blue/a", "prod/web", host="h1")])
    (gone,) = catalog.apply([], [A])
    assert made == Change(A, None, moved.old)
    assert isinstance(moved.new, Port)
    assert moved.new.host == "hosts/h1"
    assert gone == Change(A, moved.new, None)


def test_names_are_listed_in_order_however_many_come_and_go(catalog: Catalog) -> None:
    for many in (3, 200):
        assert catalog.names(Kind.PORT) == []
        names = [f"tenants/blue/ports/x-{n}" for n in range(many)]
        catalog.apply([drafts.Port(name, "prod/web") for name in names[::2]])
        assert catalog.names(Kind.PORT) == sorted(names[::2])
        catalog.apply([drafts.Port(name, "prod/web") for name in names[1::2]], names[:1])
        assert catalog.names(Kind.PORT) == sorted(names[1:])
        with pytest.raises(Rejected):
            catalog.apply([drafts.Port("tenants/blue/ports/y", "prod/none")])
        catalog.apply([], names[1:])
    assert catalog.get("tenants/blue") == catalog.tenants["tenants/blue"]
    assert catalog.get("tenants/green") is None
    assert catalog.get("no name") is None


def test_what_a_put_leaves_out_is_kept(catalog: Catalog) -> None:
    pair = drafts.AddressPair("10.0.1.0/24", "02:00:00:00:00:77")
    catalog.apply(
        [
            drafts.Tenant("tenants/blue", "who pays"),
            network("192.0.2.0/24", mtu_bytes=9000),
            host("h1", "198.51.100.7"),
            domain("blue/dev", "0f0c2b9e-4d1f-5d55-9a43-6c9f6b1f2a10"),
            subnet(
                "blue/dev/x",
                "10.0.0.0/24",
                vsid=4096,
                gateways=("10.0.0.9",),
                router_mac="02:00:00:00:00:99",
                mtu_bytes=1400,
            ),
            port(
                "blue/a",
                "dev/x",
                mac="02:00:00:00:00:01",
                addresses=("10.0.0.4", "10.0.0.3"),
                host="h1",
                admin_state="down",
                allowed_address_pairs=(pair,),
            ),
            route("blue/dev/r", "0.0.0.0/0", next_hop="10.0.0.4", metric=7),
        ]
    )
    before = everything(catalog)
    changes = catalog.apply(
        [
            tenant("blue"),
            network("192.0.2.0/24"),
            host("h1"),
            domain("blue/dev"),
            subnet("blue/dev/x", "10.0.0.0/24"),
            port("blue/a", "dev/x", host="hosts/h1"),
            route("blue/dev/r", "0.0.0.0/0", next_hop="10.0.0.4"),
        ]
    )
    assert changes == ()
    assert everything(catalog) == before
    catalog.apply([port("blue/a", "dev/x")])
    assert catalog.ports[A].host is None, "a put without a host puts the port nowhere"
