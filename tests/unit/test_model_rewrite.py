"""The PAs of guests' addresses: who has one, which, and how long."""

from __future__ import annotations

import pytest

from strategies.intents import ABLE, everything, host, network, port, reloaded, subnet, two_tenants
from weft.compiler.full import compile_all
from weft.kit.errors import Conflict, Rejected
from weft.model import drafts
from weft.model.catalog import Catalog
from weft.model.features import Rule
from weft.model.names import Name
from weft.policy import rows
from weft.wire.objects import decode_spec, encode_spec, load

A, B = (Name(f"tenants/blue/ports/{name}") for name in "ab")
WEB = "blue/prod/web"
PREFIXES = ("10.0.1.0/24", "fd00:1::/64")


def rewritten() -> drafts.VirtualSubnet:
    return subnet(WEB, *PREFIXES, rule="rewrite")


@pytest.fixture
def catalog() -> Catalog:
    """Two ports of a subnet that has NVGRE yet; hosts have the lowest three PAs."""
    catalog = two_tenants(ABLE)
    catalog.apply([network("192.0.2.0/24", "2001:db8:f::/64")])
    catalog.apply([port("blue/a", "prod/web", host="h1"), port("blue/b", "prod/web", host="h2")])
    return catalog


def pas(catalog: Catalog, name: Name) -> dict[str, str]:
    return {each.address: each.pa for each in catalog.ports[name].rewrites}


def test_each_address_of_a_port_has_a_pa_from_when_its_subnet_begins_to_be_rewritten(catalog: Catalog) -> None:
    assert pas(catalog, A) == {}
    changes = catalog.apply([rewritten()])
    assert {change.name for change in changes} == {f"tenants/{WEB.replace('/', '/routing-domains/', 1)}"
                                                   .replace("/web", "/virtual-subnets/web"), A, B}  # fmt: skip
    assert pas(catalog, A) == {"10.0.1.2": "192.0.2.4", "fd00:1::2": "2001:db8:f::1"}
    assert pas(catalog, B) == {"10.0.1.3": "192.0.2.5", "fd00:1::3": "2001:db8:f::2"}
    scopes, _ = compile_all(catalog)
    told = [row for each in scopes.values() for row in each.values() if isinstance(row, rows.Rewrite)]
    assert {(row.ca, row.pa) for row in told} == {*pas(catalog, A).items(), *pas(catalog, B).items()}


def test_a_rewritten_subnet_accepts_nvgre_too_and_what_has_no_pa_is_told_to_go_by_it(catalog: Catalog) -> None:
    catalog.apply([subnet("blue/prod/fresh", "10.0.9.0/24", rule="rewrite")])
    catalog.apply([port("blue/c", "prod/fresh", host="h1")])
    scopes, _ = compile_all(catalog)
    every = [row for each in scopes.values() for row in each.values()]
    (told,) = [row for row in every if isinstance(row, rows.Subnet) and row.prefixes == ("10.0.9.0/24",)]
    assert told.accepts == (Rule.NVGRE, Rule.REWRITE)
    vsid = told.vsid
    assert {row.rule for row in every if isinstance(row, rows.Record) and row.vsid == vsid} == {Rule.REWRITE}
    assert {row.rule for row in every if isinstance(row, rows.MacRecord) and row.vsid == vsid} == {Rule.NVGRE}
    assert {row.rule for row in every if isinstance(row, rows.Member) and row.vsid == vsid} == {Rule.NVGRE}


def test_a_port_keeps_its_pas_where_they_fit_and_gives_them_back_when_it_goes(catalog: Catalog) -> None:
    catalog.apply([rewritten()])
    before = pas(catalog, A)
    catalog.apply([port("blue/a", "prod/web", host="h3", admin_state="down")])
    assert pas(catalog, A) == before
    catalog.apply([port("blue/a", "prod/web", host=None)])
    assert pas(catalog, A) == {}
    catalog.apply([port("blue/c", "prod/web", host="h1")])
    assert set(pas(catalog, Name("tenants/blue/ports/c")).values()) == {"192.0.2.4", "2001:db8:f::1"}
    catalog.apply([], [A, B, "tenants/blue/ports/c"])
    catalog.apply([host("h4", "192.0.2.4", "2001:db8:f::1")])
    assert catalog.hosts[Name("hosts/h4")].pas == ("192.0.2.4", "2001:db8:f::1")


def test_a_host_elsewhere_gives_pas_of_its_own_pool(catalog: Catalog) -> None:
    catalog.apply([network("192.0.2.0/24", "2001:db8:f::/64", "198.51.100.0/24")])
    catalog.apply([drafts.Host("hosts/far", (drafts.Uplink("eth1", "fabric", ("198.51.100.1",)),))])
    catalog.apply([rewritten()])
    assert pas(catalog, A)["10.0.1.2"] == "192.0.2.4"
    catalog.apply([port("blue/a", "prod/web", host="far")])
    # What it had is an address of another network's. IPv6's pool is nobody's own, and all hosts': what is there stays.
    assert pas(catalog, A) == {"10.0.1.2": "198.51.100.2", "fd00:1::2": "2001:db8:f::1"}
    catalog.apply([port("blue/d", "prod/web", host="far")])
    assert pas(catalog, Name("tenants/blue/ports/d"))["10.0.1.4"] == "198.51.100.3"
    with pytest.raises(Rejected, match="in no pool of hosts/far"):
        catalog.apply([port("blue/d", "prod/web", host="far", rewrites=(drafts.Rewrite("10.0.1.4", "192.0.2.9"),))])


def test_guests_of_a_host_that_is_elsewhere_now_have_pas_of_there_if_there_are_enough(catalog: Catalog) -> None:
    catalog.apply([network("192.0.2.0/24", "2001:db8:f::/64", "198.51.100.0/29")])
    catalog.apply([rewritten()])

    def moved(*more: str) -> drafts.Host:
        return drafts.Host("hosts/h1", (drafts.Uplink("eth1", "fabric", ("198.51.100.1", *more)),))

    before = everything(catalog)
    with pytest.raises(Conflict, match=r"no PA is left for 10\.0\.1\.2 in 198\.51\.100\.0/29") as refused:
        catalog.apply([moved(*(f"198.51.100.{last}" for last in range(2, 7)))])
    assert refused.value.field == "puts[0].spec.uplinks"
    assert everything(catalog) == before
    changes = catalog.apply([moved()])
    assert {change.name for change in changes} == {"hosts/h1", A}
    assert pas(catalog, A) == {"10.0.1.2": "198.51.100.2", "fd00:1::2": "2001:db8:f::1"}
    assert pas(catalog, B)["10.0.1.3"] == "192.0.2.5"


def test_a_pool_of_another_network_is_none_where_the_hosts_own_is_exhausted(catalog: Catalog) -> None:
    """What is sent to such an address goes to where its network is, and never comes to the host."""
    catalog.apply([network("192.0.2.0/24", "2001:db8:f::/64", "198.51.100.0/30")])
    catalog.apply([drafts.Host("hosts/far", (drafts.Uplink("eth1", "fabric", ("198.51.100.1",)),))])
    catalog.apply([rewritten()])
    catalog.apply([port("blue/d", "prod/web", host="far")])
    before = everything(catalog)
    for asked in (port("blue/e", "prod/web", host="far"), port("blue/a", "prod/web", host="h1", destination="far")):
        with pytest.raises(Conflict, match=r"no PA is left for \S+ in 198\.51\.100\.0/30 of"):
            catalog.apply([asked])
        assert everything(catalog) == before


def test_when_no_pa_is_left_the_port_is_refused_with_the_reason(catalog: Catalog) -> None:
    catalog.apply([network("192.0.2.0/29", "2001:db8:f::/64")])
    catalog.apply([rewritten()])  # hosts have .1 to .3, ports .4 and .5
    catalog.apply([port("blue/c", "prod/web", host="h1")])
    before = everything(catalog)
    with pytest.raises(Conflict, match=r"no PA is left for 10\.0\.1\.5 in 192\.0\.2\.0/29") as refused:
        catalog.apply([port("blue/d", "prod/web", host="h1")])
    assert refused.value.field == "puts[0].spec.host"
    assert everything(catalog) == before


def test_without_a_pool_of_the_family_a_subnet_cannot_be_rewritten(catalog: Catalog) -> None:
    catalog.apply([network("192.0.2.0/24")])
    before = everything(catalog)
    with pytest.raises(Conflict, match="fd00:1::2 needs an IPv6 PA of its own") as refused:
        catalog.apply([rewritten()])
    assert refused.value.field == "puts[0].spec.rule"
    assert everything(catalog) == before


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        (drafts.Rewrite("10.0.1.2", "203.0.113.1"), "puts[0].spec.rewrites[0].pa", "in no pool"),
        (drafts.Rewrite("10.0.1.2", "2001:db8:f::9"), "puts[0].spec.rewrites[0].pa", "in no pool"),
        (drafts.Rewrite("10.0.1.2", "192.0.2.5"), "puts[0].spec.rewrites[0].pa", "taken by tenants/blue/ports/b"),
        (drafts.Rewrite("10.0.1.2", "192.0.2.1"), "puts[0].spec.rewrites[0].pa", "taken by hosts/h1"),
        (drafts.Rewrite("ten", "192.0.2.9"), "puts[0].spec.rewrites[0].address", "'ten' is not"),
        (drafts.Rewrite("10.0.1.2", "nine"), "puts[0].spec.rewrites[0].pa", "'nine' is not"),
    ],
)
def test_a_pa_that_cannot_be_is_refused(catalog: Catalog, given: drafts.Rewrite, field: str, words: str) -> None:
    catalog.apply([rewritten()])
    before = everything(catalog)
    with pytest.raises(Rejected, match=words) as refused:
        catalog.apply([port("blue/a", "prod/web", host="h1", rewrites=(given,))])
    assert refused.value.field == field
    assert everything(catalog) == before


def test_a_pa_may_be_given_and_what_was_read_may_be_put_back_anywhere(catalog: Catalog) -> None:
    catalog.apply([rewritten()])
    catalog.apply([port("blue/a", "prod/web", host="h1", rewrites=(drafts.Rewrite("10.0.1.2", "192.0.2.77"),))])
    assert pas(catalog, A) == {"10.0.1.2": "192.0.2.77", "fd00:1::2": "2001:db8:f::1"}
    stored = encode_spec(catalog.ports[A])
    assert load(A, stored) == catalog.ports[A]
    assert catalog.apply([decode_spec(A, stored)]) == ()
    assert everything(reloaded(catalog)) == everything(catalog)


def all_pas(catalog: Catalog, name: Name) -> set[tuple[str, str, bool]]:
    return {(each.address, each.pa, each.destination) for each in catalog.ports[name].rewrites}


def test_a_port_that_moves_has_pas_at_both_hosts_and_ends_with_those_of_where_it_is(catalog: Catalog) -> None:
    catalog.apply([rewritten()])
    at_home = {("10.0.1.2", "192.0.2.4", False), ("fd00:1::2", "2001:db8:f::1", False)}
    there = {("10.0.1.2", "192.0.2.6", True), ("fd00:1::2", "2001:db8:f::3", True)}
    assert all_pas(catalog, A) == at_home
    catalog.apply([port("blue/a", "prod/web", host="h1", destination="h2")])
    assert all_pas(catalog, A) == at_home | there
    scopes, _ = compile_all(catalog)
    every = [row for scope in scopes.values() for row in scope.values()]
    told = {(row.ca, row.pa, row.sent) for row in every if isinstance(row, rows.Rewrite) and row.ca.endswith("2")}
    assert told == {(address, pa, False) for address, pa, _ in at_home | there}, "taken, and sent by no more"
    own = {row.pas for row in every if isinstance(row, rows.Port) and row.port == A}
    assert own == {("192.0.2.4", "2001:db8:f::1"), ("192.0.2.6", "2001:db8:f::3")}, "each host has its own"
    assert load(A, encode_spec(catalog.ports[A])) == catalog.ports[A]

    catalog.apply([port("blue/a", "prod/web", host="h2")])
    assert all_pas(catalog, A) == {(address, pa, False) for address, pa, _ in there}
    scopes, _ = compile_all(catalog)
    every = [row for scope in scopes.values() for row in scope.values()]
    told = {(row.ca, row.pa, row.sent) for row in every if isinstance(row, rows.Rewrite) and row.ca.endswith("2")}
    assert told == {(address, pa, True) for address, pa, _ in there}


def test_a_move_that_is_cancelled_gives_back_the_pas_of_its_destination(catalog: Catalog) -> None:
    catalog.apply([rewritten()])
    before = all_pas(catalog, A)
    catalog.apply([port("blue/a", "prod/web", host="h1", destination="h2")])
    catalog.apply([port("blue/a", "prod/web", host="h1")])
    assert all_pas(catalog, A) == before
    catalog.apply([port("blue/c", "prod/web", host="h1")])
    assert pas(catalog, Name("tenants/blue/ports/c"))["10.0.1.4"] == "192.0.2.6"


def test_a_port_may_be_moving_when_its_subnet_begins_to_be_rewritten(catalog: Catalog) -> None:
    catalog.apply([port("blue/a", "prod/web", host="h1", destination="h2")])
    catalog.apply([rewritten()])
    assert {there for _, _, there in all_pas(catalog, A)} == {False, True}


def test_a_move_for_which_no_pa_is_left_is_refused(catalog: Catalog) -> None:
    catalog.apply([network("192.0.2.0/29", "2001:db8:f::/64")])
    catalog.apply([rewritten()])  # hosts have .1 to .3, ports .4 and .5
    catalog.apply([port("blue/a", "prod/web", host="h1", destination="h2")])
    before = everything(catalog)
    with pytest.raises(Conflict, match="no PA is left") as refused:
        catalog.apply([port("blue/b", "prod/web", host="h2", destination="h1")])
    assert refused.value.field == "puts[0].spec.destination"
    assert everything(catalog) == before
