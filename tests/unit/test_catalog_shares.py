"""What a tenant's objects may take of what hosts share: what would be more is refused, whoever makes it grow."""

from __future__ import annotations

from typing import Any

import pytest

from strategies.intents import ABLE, domain, host, network, port, reloaded, route, said, subnet, tenant
from unit.catalogs import refused
from weft.kit.errors import Rejected
from weft.model import drafts, shares
from weft.model.catalog import Catalog
from weft.model.names import Name
from weft.model.shares import Share
from weft.wire.objects import decode_spec, encode_spec, load

BLUE, RED = Name("tenants/blue"), Name("tenants/red")


def limited(name: str, **limits: int) -> drafts.Tenant:
    return drafts.Tenant(f"tenants/{name}", limits=limits)


@pytest.fixture
def catalog() -> Catalog:
    """Blue may have little, red as much as anybody."""
    catalog = Catalog(ABLE)
    catalog.apply([
        network("192.0.2.0/24"), host("h1"), host("h2"), tenant("red"),
        limited("blue", subnets=2, routes=4, records=4, macs=3, members=2, subports=2, sources=4),
        *(domain(f"{owner}/prod") for owner in ("blue", "red")),
        *(subnet(f"{owner}/prod/web", "10.0.1.0/24", "fd00:1::/64") for owner in ("blue", "red")),
    ])  # fmt: skip
    return catalog


def web(name: str, owner: str = "blue", **more: Any) -> drafts.Port:
    return port(f"{owner}/{name}", "prod/web", **more)


def pairs(count: int) -> tuple[drafts.AddressPair, ...]:
    return tuple(drafts.AddressPair(f"10.9.{number >> 8}.{number & 255}/32") for number in range(count))


def test_what_is_refused_says_by_what_how_many_how_many_may_be_and_what_helps(catalog: Catalog) -> None:
    catalog.apply([web("one"), web("two")])
    message = refused(catalog, [web("three")], "puts[0].spec.addresses", "records")
    assert message == (
        "with tenants/blue/ports/three tenants/blue would have 6 addresses of ports, those among them that guests have "
        "announced; 4 are the most of a tenant's: an allowed address pair may be a whole prefix, and takes none, or an "
        "operator sets limits.records of tenants/blue"
    )


def test_each_share_is_held_to(catalog: Catalog) -> None:
    catalog.apply([subnet("blue/prod/db", "10.0.2.0/24")])
    refused(catalog, [subnet("blue/prod/more", "10.0.3.0/24")], "puts[0].name", "3 virtual subnets; 2 are the most")
    catalog.apply([route("blue/prod/out", "0.0.0.0/0", next_hop="10.0.1.9")])
    refused(catalog, [route("blue/prod/six", "::/0", next_hop="fd00:1::9")], "puts[0].spec", "5 prefixes of subnets")
    refused(catalog, [subnet("blue/prod/db", "10.0.2.0/24", "fd00:2::/64")], "puts[0].spec", "5 prefixes of subnets")
    four = [port(f"blue/p{number}", "prod/db") for number in range(4)]
    refused(catalog, four, "puts[0].spec", "4 MACs of ports")
    many = tuple(f"10.0.1.{number}" for number in range(10, 15))
    refused(catalog, [web("one", addresses=many)], "puts[0].spec.addresses", "5 addresses of ports")
    catalog.apply([web("one", addresses=many[:1], host="h1"), port("blue/two", "prod/db", host="h1")])
    refused(catalog, [web("three", host="h2")], "puts[0].spec.virtual_subnet", "3 pairs of a subnet and a host")
    refused(
        catalog, [web("one", host="h1", destination="h2")], "puts[0].spec.virtual_subnet", "3 pairs of a subnet and"
    )
    catalog.apply([web("one", addresses=many[:1], host="h1", allowed_address_pairs=pairs(19))])  # 20: 4 beyond 16
    refused(
        catalog, [web("one", host="h1", allowed_address_pairs=pairs(20))], "puts[0].spec.allowed_address_pairs",
        "5 sources .* beyond 16 of each on hosts/h1; 4 are",
    )  # fmt: skip


def test_what_a_guest_announces_is_counted(catalog: Catalog) -> None:
    covers = (drafts.AddressPair("10.0.1.0/24", "00:00:5e:00:01:33"), drafts.AddressPair("10.0.1.0/24"))
    catalog.apply([web("one", addresses=("10.0.1.10",), allowed_address_pairs=covers, host="h1")])
    said_ = tuple(said(f"10.0.1.{number}") for number in range(20, 24))
    refused(catalog, [web("one", announced_addresses=said_)], "puts[0].spec.addresses", "5 addresses of ports")
    catalog.apply([web("one", announced_addresses=said_[:3], host="h1")])
    assert catalog._ix.tally.has(Share.RECORDS, BLUE) == 4
    assert catalog._ix.tally.has(Share.MACS, BLUE) == 2
    catalog.apply([], ["tenants/blue/ports/one"])
    assert catalog._ix.tally.has(Share.RECORDS, BLUE) == catalog._ix.tally.has(Share.MACS, BLUE) == 0


def test_sub_ports_are_held_to_on_each_host_where_they_are_and_where_they_go(catalog: Catalog) -> None:
    catalog.apply([limited("blue", subports=2)])
    trunks = [drafts.Trunk("one", vlan) for vlan in (1, 2, 3)]
    catalog.apply([web("one", host="h1"), *(web(f"sub{n}", trunk=trunks[n]) for n in range(2))])
    refused(catalog, [web("sub2", trunk=trunks[2])], "puts[0].spec.trunk", "3 sub-ports on hosts/h1; 2 are the most")
    catalog.apply([web("two", host="h2"), web("sub2", trunk=drafts.Trunk("two", 1))])
    # Its sub-ports go along, and are not even named.
    refused(catalog, [web("one", host="h2")], "puts[0].spec.trunk", "3 sub-ports on hosts/h2")
    refused(catalog, [web("two", host="h2", destination="h1")], "puts[0].spec.trunk", "3 sub-ports on hosts/h1")


def test_what_a_tenant_was_let_have_on_a_host_may_go_to_another_but_nothing_comes_to_it(catalog: Catalog) -> None:
    catalog.apply([limited("blue")])
    subports = [web(f"sub{n}", trunk=drafts.Trunk("one", n + 1)) for n in range(5)]
    catalog.apply([web("one", host="h1", allowed_address_pairs=pairs(30)), *subports])
    catalog.apply([limited("blue", subports=2, sources=3)])
    more = web("sub5", trunk=drafts.Trunk("one", 6))
    refused(
        catalog, [web("one", host="h1", destination="h2", allowed_address_pairs=pairs(30)), more],
        "puts[0].spec.trunk", "6 sub-ports on hosts/h",
    )  # fmt: skip
    refused(
        catalog, [web("one", host="h2", allowed_address_pairs=pairs(31))], "puts[0].spec.allowed_address_pairs",
        "sources .* on hosts/h2",
    )  # fmt: skip
    # As operators move it: both hosts have it, then the other alone; and at once.
    catalog.apply([web("one", host="h1", destination="h2", allowed_address_pairs=pairs(30))])
    refused(reloaded(catalog), [more], "puts[0].spec.trunk", "6 sub-ports on hosts/h")
    catalog.apply([web("one", host="h2", allowed_address_pairs=pairs(30))])
    catalog.apply([web("one", host="h1", allowed_address_pairs=pairs(30))])
    has = catalog._ix.tally.has
    assert [has(Share.SUBPORTS, BLUE, Name(f"hosts/h{n}")) for n in (1, 2)] == [5, 0]
    assert [has(Share.SOURCES, BLUE, Name(f"hosts/h{n}")) for n in (1, 2)] == [16, 0]
    refused(catalog, [more], "puts[0].spec.trunk", "6 sub-ports on hosts/h1")


def test_a_sub_port_cannot_bring_others_along_that_are_new(catalog: Catalog) -> None:
    catalog.apply([limited("blue")])
    catalog.apply([web("one", host="h1"), *(web(f"sub{n}", trunk=drafts.Trunk("one", n + 1)) for n in range(5))])
    catalog.apply([limited("blue", subports=2), web("two", host="h2")])
    new = [web(f"new{n}", trunk=drafts.Trunk("two", n + 2)) for n in range(3)]
    refused(catalog, [web("sub0", trunk=drafts.Trunk("two", 1)), *new], "puts[0].spec.trunk", "4 sub-ports on hosts/h2")


def test_another_tenant_has_its_own(catalog: Catalog) -> None:
    catalog.apply([web("one"), web("two")])
    catalog.apply([web(f"p{number}", "red") for number in range(100)])
    assert catalog._ix.tally.has(Share.RECORDS, RED) == 200


def test_what_was_there_before_a_limit_is_let_be_and_may_become_less_and_change(catalog: Catalog) -> None:
    catalog.apply([limited("blue")])
    catalog.apply([web(f"p{number}") for number in range(10)])
    catalog.apply([limited("blue", records=4)])
    catalog.apply([web("p1", host="h1", admin_state="down")])
    catalog.apply([], ["tenants/blue/ports/p2", "tenants/blue/ports/p3"])
    catalog.apply([web("p2")], ["tenants/blue/ports/p4"])  # as many as before
    refused(reloaded(catalog), [web("p3")], "puts[0].spec.addresses", "18 addresses of ports")
    refused(catalog, [web("p3")], "puts[0].spec.addresses", "18 addresses of ports")


def test_a_batch_is_judged_by_its_end(catalog: Catalog) -> None:
    catalog.apply([web("one"), web("two")])
    catalog.apply([web("three"), web("four")], ["tenants/blue/ports/one", "tenants/blue/ports/two"])


def test_limits_are_kept_by_a_put_without_them_and_replaced_as_a_whole() -> None:
    catalog = Catalog()
    catalog.apply([limited("blue", records=7, macs=8)])
    catalog.apply([drafts.Tenant("tenants/blue", "who pays")])
    assert catalog.tenants[BLUE].limits.of(Share.RECORDS) == 7
    catalog.apply([limited("blue", subnets=0)])
    assert catalog.tenants[BLUE].limits == shares.Limits(subnets=0)
    assert catalog.tenants[BLUE].limits.of(Share.RECORDS) == shares.USUAL[Share.RECORDS]
    assert catalog.tenants[BLUE].description == "who pays"
    with pytest.raises(Rejected, match=r"-1 is outside 0\.\.268435456") as why:
        catalog.apply([limited("blue", macs=-1)])
    assert why.value.field == "puts[0].spec.limits.macs"


def test_limits_are_stored_and_shown_where_there_are_some() -> None:
    catalog = Catalog()
    catalog.apply([decode_spec(BLUE, b'{"limits":{"records":7}}'), tenant("red")])
    blue, red = catalog.tenants[BLUE], catalog.tenants[RED]
    assert encode_spec(blue) == b'{"description":"","limits":{"records":7}}'
    assert load(BLUE, encode_spec(blue)) == blue
    assert encode_spec(red) == b'{"description":""}'
    assert load(RED, encode_spec(red)) == red
    with pytest.raises(Rejected, match="it has subnets, routes, records") as why:
        decode_spec(BLUE, b'{"limits":{"ports":7}}')
    assert why.value.field == "spec.limits.ports"
