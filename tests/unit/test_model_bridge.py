"""Subnets of rule vlan: what they need, what is refused, and what hosts are told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from strategies.intents import ABLE, host, network, port, reloaded, subnet, two_tenants, without
from weft.compiler.full import compile_all
from weft.kit.errors import Conflict, Rejected
from weft.model import drafts, rules
from weft.model.catalog import Catalog
from weft.model.features import Feature, Rule
from weft.model.names import Name
from weft.policy import rows
from weft.wire.objects import decode_spec, encode_spec, load

WEB, RED_WEB = (Name(f"tenants/{owner}/routing-domains/prod/virtual-subnets/web") for owner in ("blue", "red"))
FABRIC = Name("provider-networks/fabric")


def web(owner: str = "blue", **more: object) -> drafts.VirtualSubnet:
    return subnet(f"{owner}/prod/web", "10.0.1.0/24", "fd00:1::/64", **more)


def vlan(number: int = 100, owner: str = "blue", **more: object) -> drafts.VirtualSubnet:
    return web(owner, rule="vlan", vlan=number, provider_network="fabric", **more)


def settle(catalog: Catalog) -> None:
    for _ in range(3):
        now = catalog.virtual_subnets[WEB]
        catalog.apply([drafts.VirtualSubnet(WEB, now.prefixes, rule_change=rules.next_step(now))])


@pytest.fixture
def catalog() -> Catalog:
    return two_tenants(ABLE)


def refused(catalog: Catalog, *puts: drafts.Draft, kind: type[Rejected] = Conflict) -> tuple[str | None, str]:
    with pytest.raises(kind) as fault:
        catalog.apply(puts)
    return fault.value.field, fault.value.message


def test_a_subnet_is_a_vlan_of_a_provider_network_and_hosts_hear_of_it(catalog: Catalog) -> None:
    catalog.apply([port("blue/a", "prod/web", host="h1"), vlan()])
    made = catalog.virtual_subnets[WEB]
    assert (made.vlan, made.provider_network, made.segment) == (100, FABRIC, (FABRIC, 100))
    told = row(catalog)
    assert (told.vlan, told.network, told.bridged) == (100, FABRIC, False), "senders wait until receivers take it"
    assert set(told.accepts) == {Rule.NVGRE, Rule.VLAN}
    settle(catalog)
    told = row(catalog)
    assert (told.vlan, told.bridged) == (100, True)
    assert set(told.accepts) == {Rule.NVGRE, Rule.VLAN}, "what is routed there comes encapsulated"
    scopes = compile_all(catalog)[0].values()
    records = [each for scope in scopes for each in scope.values() if isinstance(each, rows.Record | rows.MacRecord)]
    assert {each.rule for each in records} == {Rule.VLAN}


def row(catalog: Catalog) -> rows.Subnet:
    vsid = catalog.virtual_subnets[WEB].vsid
    (found,) = (scope["subnets", vsid] for scope in compile_all(catalog)[0].values() if ("subnets", vsid) in scope)
    assert isinstance(found, rows.Subnet)
    return found


def test_what_is_left_out_of_a_put_stays_and_back_from_vlan_nothing_is_bridged(catalog: Catalog) -> None:
    catalog.apply([vlan()])
    settle(catalog)
    catalog.apply([web()])
    assert catalog.virtual_subnets[WEB].segment == (FABRIC, 100)
    catalog.apply([web(rule="vxlan")])
    assert not catalog.virtual_subnets[WEB].segment or catalog.virtual_subnets[WEB].rule_change
    settle(catalog)
    made = catalog.virtual_subnets[WEB]
    assert (made.segment, made.vlan) == (None, 100)
    assert (row(catalog).vlan, row(catalog).network, row(catalog).bridged) == (0, "", False)
    catalog.apply([vlan(100, "red")])  # it is free for another


def test_a_vlan_needs_a_number_and_a_network(catalog: Catalog) -> None:
    assert refused(catalog, web(rule="vlan", provider_network="fabric"), kind=Rejected)[0] == "puts[0].spec.vlan"
    assert refused(catalog, web(rule="vlan", vlan=5), kind=Rejected)[0] == "puts[0].spec.provider_network"
    for number in (4095, -1):
        field, said = refused(catalog, vlan(number), kind=Rejected)
        assert (field, f"VLAN {number} is outside 1..4094" in said) == ("puts[0].spec.vlan", True)
    field, said = refused(catalog, web(rule="vlan", vlan=5, provider_network="moon"), kind=Rejected)
    assert (field, said) == ("puts[0].spec.provider_network", "provider-networks/moon does not exist")


def test_a_vlan_of_a_provider_network_is_one_subnets(catalog: Catalog) -> None:
    catalog.apply([vlan(), network("203.0.113.0/24", name="other")])
    field, said = refused(catalog, vlan(100, "red"))
    assert (field, said) == ("puts[0].spec.vlan", f"VLAN 100 of {FABRIC} is {WEB}'s")
    catalog.apply([replace(vlan(100, "red"), provider_network="other")])
    catalog.apply([vlan(101)])
    catalog.apply([vlan(100, "red")])


def test_the_vlan_of_hosts_addresses_is_no_guests_whoever_comes_first(catalog: Catalog) -> None:
    catalog.apply([drafts.Host("hosts/h3", (drafts.Uplink("eth1", "fabric", vlan=100),))])
    field, said = refused(catalog, vlan())
    assert field == "puts[0].spec.vlan"
    assert "hosts/h3 has its PAs on eth1 in VLAN 100" in said
    catalog.apply([vlan(101)])
    field, said = refused(catalog, drafts.Host("hosts/h3", (drafts.Uplink("eth1", "fabric", vlan=101),)))
    assert (field, said) == (
        "puts[0].spec.uplinks[0].vlan",
        f"VLAN 101 of {FABRIC} is {WEB}'s: PAs are not to be in it",
    )


def test_ports_run_where_the_vlan_is(catalog: Catalog) -> None:
    catalog.apply([network("203.0.113.0/24", name="other"), port("blue/a", "prod/web", host="h1")])
    elsewhere = drafts.Host("hosts/h2", (drafts.Uplink("eth1", "other"),))
    catalog.apply([elsewhere, vlan()])
    field, said = refused(catalog, port("blue/b", "prod/web", host="h2"))
    assert (field, said) == (
        "puts[0].spec.host",
        f"hosts/h2 has no uplink on {FABRIC}, where {WEB} is VLAN 100",
    )
    field, said = refused(catalog, port("blue/a", "prod/web", host="h1", destination="h2"))
    assert field == "puts[0].spec.destination"
    field, said = refused(catalog, drafts.Host("hosts/h1", (drafts.Uplink("eth1", "other"),)))
    assert field == "puts[0].spec.uplinks"
    assert "no uplink" in said
    field, said = refused(catalog, replace(vlan(), provider_network="other"))
    assert field == "puts[0].spec.rule"


def test_ports_that_run_elsewhere_hold_up_the_change(catalog: Catalog) -> None:
    catalog.apply([network("203.0.113.0/24", name="other")])
    catalog.apply([drafts.Host("hosts/h2", (drafts.Uplink("eth1", "other"),)), port("blue/b", "prod/web", host="h2")])
    field, said = refused(catalog, vlan())
    assert (field, "but ports of this subnet run there" in said) == ("puts[0].spec.rule", True)


def test_a_provider_network_that_has_a_subnets_vlan_stays(catalog: Catalog) -> None:
    catalog.apply([network("203.0.113.0/24", name="other"), replace(vlan(), provider_network="other")])
    with pytest.raises(Conflict, match=f"cannot go: {WEB} refers to it"):
        catalog.apply([], ["provider-networks/other"])


def test_a_gateway_behind_the_switch_is_not_routed_to_nor_answered_for(catalog: Catalog) -> None:
    catalog.apply([port("blue/a", "prod/web", host="h1"), vlan(external_gateway=True)])
    settle(catalog)
    told = row(catalog)
    assert told.external_gateway
    assert told.answers_dhcp4
    assert not told.answers_dhcp6
    scopes = compile_all(catalog)[0].values()
    routes = [each for scope in scopes for each in scope.values() if isinstance(each, rows.Route)]
    assert {each.prefix for each in routes if each.rdid == told.rdid} == {"10.0.2.0/24"}
    catalog.apply([vlan(external_gateway=False)])
    assert not row(catalog).external_gateway
    field, said = refused(catalog, web(rule="nvgre", external_gateway=True), kind=Rejected)
    assert (field, "only with rule vlan" in said) == ("puts[0].spec.external_gateway", True)
    catalog.apply([vlan(external_gateway=True)])
    catalog.apply([web(rule="nvgre")])
    assert not catalog.virtual_subnets[WEB].external_gateway, "with another rule the gateway is on every host again"


def test_a_data_plane_that_cannot_bridge_runs_none_of_its_ports() -> None:
    catalog = two_tenants(without(Feature.VLAN))
    catalog.apply([vlan()])
    field, said = refused(catalog, port("blue/a", "prod/web", host="h1"))
    assert (field, "lacks vlan" in said) == ("puts[0].spec.host", True)


def test_what_is_stored_comes_back(catalog: Catalog) -> None:
    catalog.apply([vlan(external_gateway=True)])
    made = catalog.virtual_subnets[WEB]
    assert load(WEB, encode_spec(made)) == made
    assert catalog.apply([decode_spec(WEB, encode_spec(made))]) == ()
    assert reloaded(catalog).virtual_subnets == catalog.virtual_subnets


def test_hosts_that_share_a_routing_domain_need_no_uplink_to_it(catalog: Catalog) -> None:
    catalog.apply([network("203.0.113.0/24", name="other"), host("h4")])
    catalog.apply([drafts.Host("hosts/h2", (drafts.Uplink("eth1", "other"),)), vlan()])
    catalog.apply([port("blue/a", "prod/web", host="h1"), port("blue/b", "prod/db", host="h2")])
    assert catalog.ports[Name("tenants/blue/ports/b")].host == "hosts/h2"


def test_the_example_is_one_that_a_controller_takes() -> None:
    catalog = Catalog(ABLE)
    text = (Path(__file__).parents[2] / "examples" / "vlan.yaml").read_text()
    catalog.apply(
        [decode_spec(Name(each["name"]), json.dumps(each.get("spec") or {}).encode()) for each in yaml.safe_load(text)]
    )
    (made,) = (net for net in catalog.virtual_subnets.values() if net.segment is not None)
    assert made.segment == ("provider-networks/dc1", 100)
