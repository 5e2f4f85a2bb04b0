"""What is chosen when nobody says: functions of names and of what is taken, so that a dry run shows what will be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.intents import domain, everything, host, network, port, reloaded, subnet, two_tenants, without
from weft.kit.errors import Conflict
from weft.model import drafts, values
from weft.model.allocation import LowestFree
from weft.model.catalog import Catalog
from weft.model.features import Feature
from weft.model.names import Name
from weft.model.objects import Port, VirtualSubnet
from weft.model.values import Ip, ipv4_text

A = Name("tenants/blue/ports/a")
WEB = Name("tenants/blue/routing-domains/prod/virtual-subnets/web")


@pytest.fixture
def catalog() -> Catalog:
    return two_tenants()


def test_ports_take_the_lowest_free_addresses_in_the_order_that_people_count(catalog: Catalog) -> None:
    catalog.apply([port(f"blue/web-{n}", "prod/web") for n in (10, 2, 1)])
    took = {name.rpartition("-")[2]: port.addresses for name, port in catalog.ports.items()}
    assert took == {
        "1": ("10.0.1.2", "fd00:1::2"),
        "2": ("10.0.1.3", "fd00:1::3"),
        "10": ("10.0.1.4", "fd00:1::4"),
    }
    catalog.apply([port("blue/web-3", "prod/web")], ["tenants/blue/ports/web-1"])
    assert catalog.ports[Name("tenants/blue/ports/web-3")].addresses == ("10.0.1.2", "fd00:1::2")


def test_an_address_that_a_refused_batch_took_is_the_lowest_again(catalog: Catalog) -> None:
    catalog.apply([port("blue/x", "prod/web"), port("blue/y", "prod/web")])
    catalog.apply([], ["tenants/blue/ports/x"])
    with pytest.raises(Conflict):
        catalog.apply(
            [
                port("blue/named", "prod/web", addresses=("10.0.1.2",)),
                port("blue/chosen", "prod/web"),
                port("blue/wrong", "prod/web", addresses=("10.0.1.3",)),
            ]
        )
    with pytest.raises(Conflict):
        catalog.apply(
            [
                port("blue/named", "prod/web", addresses=("10.0.1.2",)),
                subnet("blue/prod/tiny", "10.9.0.0/30"),
                *(port(f"blue/q-{n}", "prod/tiny") for n in range(2)),
                port("blue/a", "prod/web"),
            ]
        )
    catalog.apply([port("blue/a", "prod/web")])
    assert catalog.ports[A].addresses == ("10.0.1.2", "fd00:1::2")


def test_what_somebody_asks_for_by_name_is_not_chosen_for_another(catalog: Catalog) -> None:
    mac = values.default_mac("tenants/blue/ports/a")
    catalog.apply(
        [port("blue/a", "prod/web"), port("blue/zz", "prod/web", mac=mac, addresses=("10.0.1.2", "fd00:1::2"))]
    )
    assert catalog.ports[A].addresses == ("10.0.1.3", "fd00:1::3")
    assert catalog.ports[A].mac == values.default_mac(A, 1)


def test_a_chosen_mac_is_never_a_routers(catalog: Catalog) -> None:
    mac = values.default_mac("tenants/blue/ports/a")
    catalog.apply([subnet("blue/prod/db", "10.0.2.0/24", router_mac=mac), port("blue/a", "prod/web")])
    assert catalog.ports[A].mac == values.default_mac(A, 1)


def test_a_taken_vsid_or_rdid_is_stepped_over(catalog: Catalog) -> None:
    name = "tenants/blue/routing-domains/prod/virtual-subnets/new"
    vsid = values.default_vsid(name)
    dev = values.default_rdid("tenants/blue/routing-domains/dev")
    catalog.apply(
        [
            subnet("blue/prod/new", "10.9.0.0/24"),
            subnet("red/prod/other", "10.9.0.0/24", vsid=vsid),
            domain("blue/dev"),
            domain("red/dev", dev),
        ]
    )
    new = catalog.get(name)
    assert isinstance(new, VirtualSubnet)
    assert new.vsid == values.next_vsid(vsid)
    assert catalog.routing_domains[Name("tenants/blue/routing-domains/dev")].rdid == values.default_rdid(
        "tenants/blue/routing-domains/dev", 1
    )


def test_hosts_draw_from_the_first_pool_with_one_left() -> None:
    catalog = Catalog(without(Feature.UNDERLAY_IPV6))
    catalog.apply(
        [
            drafts.ProviderNetwork(
                "provider-networks/fabric",
                (
                    drafts.Pool("fd00::/64"),  # which no host can use here
                    drafts.Pool("192.0.2.0/24", "192.0.2.10", "192.0.2.11"),
                    drafts.Pool("198.51.100.0/30"),
                ),
            ),
            *(host(f"h{n}") for n in (1, 2, 3)),
            drafts.Host("hosts/h4", (drafts.Uplink("eth1", "fabric", None, "198.51.100.0/30"),)),
        ]
    )
    assert [catalog.hosts[Name(f"hosts/h{n}")].pas for n in (1, 2, 3, 4)] == [
        ("192.0.2.10",),
        ("192.0.2.11",),
        ("198.51.100.1",),
        ("198.51.100.2",),
    ]
    with pytest.raises(Conflict, match=r"no PA is left in 192\.0\.2\.0/24, 198\.51\.100\.0/30"):
        catalog.apply([host("h5")])
    catalog.apply([host("h5")], ["hosts/h1"])
    assert catalog.hosts[Name("hosts/h5")].pas == ("192.0.2.10",)


def test_a_host_that_asks_for_another_pool_draws_anew_and_else_keeps_its_pa(catalog: Catalog) -> None:
    catalog.apply([network("192.0.2.0/24", "198.51.100.0/24")])
    again = drafts.Host("hosts/h1", (drafts.Uplink("eth1", "fabric", None, "198.51.100.0/24"),))
    catalog.apply([again])
    assert catalog.hosts[Name("hosts/h1")].pas == ("198.51.100.1",)
    assert catalog.apply([again, host("h1", data_plane="ebpf")][:1]) == ()
    assert catalog.apply([host("h1")]) == ()
    catalog.apply([drafts.Host("hosts/h1", (drafts.Uplink("eth2", "fabric"),))])
    assert catalog.hosts[Name("hosts/h1")].pas == ("192.0.2.1",)


def test_an_uplink_keeps_its_vlan_until_another_or_none_is_said(catalog: Catalog) -> None:
    def vlan(said: int | None) -> int:
        catalog.apply([drafts.Host("hosts/h1", (drafts.Uplink("eth1", "fabric", vlan=said),))])
        return catalog.hosts[Name("hosts/h1")].uplinks[0].vlan

    assert [vlan(said) for said in (None, 100, None, 200, 0, None)] == [0, 100, 100, 200, 0, 0]


def test_a_port_that_moves_to_another_domain_takes_along_what_is_free_there(catalog: Catalog) -> None:
    catalog.apply([domain("blue/dev"), subnet("blue/dev/web", "10.0.1.0/24", "fd00:9::/64")])
    catalog.apply([port("blue/a", "prod/web", mac="02:00:00:00:00:01", addresses=("10.0.1.7", "fd00:1::7"))])
    catalog.apply([port("blue/a", "dev/web")])
    assert catalog.ports[A].addresses == ("10.0.1.7", "fd00:9::2")
    assert catalog.ports[A].mac == "02:00:00:00:00:01"
    catalog.apply([port("blue/b", "prod/web", mac="02:00:00:00:00:01", addresses=("10.0.1.7",))])
    catalog.apply([port("blue/a", "prod/web")])
    assert catalog.ports[A].addresses == ("10.0.1.2", "fd00:1::2")
    assert catalog.ports[A].mac == values.default_mac(A)


def test_a_port_that_moves_to_another_subnet_keeps_its_mac_and_gets_addresses_there(catalog: Catalog) -> None:
    catalog.apply([port("blue/a", "prod/web", mac="02:00:00:00:00:01")])
    catalog.apply([port("blue/a", "prod/db")])
    assert (catalog.ports[A].mac, catalog.ports[A].addresses) == ("02:00:00:00:00:01", ("10.0.2.2",))


def test_a_port_may_be_without_addresses_and_stay_so(catalog: Catalog) -> None:
    catalog.apply([port("blue/a", "prod/web", addresses=())])
    catalog.apply([port("blue/a", "prod/web", host="h1")])
    assert catalog.ports[A].addresses == ()


def test_gateways_are_the_lowest_host_addresses_and_ipv4_comes_first(catalog: Catalog) -> None:
    catalog.apply([subnet("blue/prod/x", "fd09::/64", "10.9.0.0/24", gateways=("10.9.0.254",))])
    found = catalog.get("tenants/blue/routing-domains/prod/virtual-subnets/x")
    assert isinstance(found, VirtualSubnet)
    assert found.prefixes == ("10.9.0.0/24", "fd09::/64")
    assert found.gateways == ("10.9.0.254", "fd09::1")
    catalog.apply([subnet("blue/prod/x", "10.9.0.0/24", "fd0a::/64")])
    found = catalog.get(found.name)
    assert isinstance(found, VirtualSubnet)
    assert found.gateways == ("10.9.0.254", "fd0a::1"), "what fits is kept, what does not is chosen again"


def test_a_gateway_that_moves_sets_its_address_free(catalog: Catalog) -> None:
    catalog.apply([subnet("blue/prod/db", "10.0.2.0/24", gateways=("10.0.2.254",)), port("blue/a", "prod/db")])
    assert catalog.ports[A].addresses == ("10.0.2.1",)


def test_a_dry_run_chooses_what_the_apply_will_choose(catalog: Catalog) -> None:
    puts = [port(f"blue/web-{n}", "prod/web", host="h1") for n in range(9)] + [host("h7"), domain("blue/dev")]
    dry = catalog.apply(puts)
    catalog.revert(dry)
    assert catalog.apply(puts) == dry
    assert everything(catalog) == everything(reloaded(catalog))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 19)), max_size=60))
def test_the_lowest_free_address_is_found_whatever_was_taken_and_given_back(steps: list[tuple[bool, int]]) -> None:
    first = values.ip_number(Ip("10.0.0.2"))
    free = LowestFree(first, first + 15, ipv4_text)
    taken: dict[Ip, None] = {}
    for take, number in steps:
        text = ipv4_text(first + number)
        if take:
            taken[text] = None
        elif text in taken:
            del taken[text]
            free.give_back(first + number)
        else:
            free.give_back(first + number)  # which nobody had: no harm
        lowest = next((text for n in range(16) if (text := ipv4_text(first + n)) not in taken), None)
        assert free.lowest(taken) == lowest


def test_a_port_is_an_object_with_every_field_resolved(catalog: Catalog) -> None:
    catalog.apply(
        [port("blue/a", "prod/web", host="h1", mac="02-00-00-00-00-0A", addresses=("10.0.1.9", "FD00:1::0009"))]
    )
    assert catalog.ports[A] == Port(
        A,
        WEB,
        values.Mac("02:00:00:00:00:0a"),
        (Ip("10.0.1.9"), Ip("fd00:1::9")),
        Name("hosts/h1"),
        (),
        values.AdminState.UP,
    )
