"""What guests are told of their addresses, as it is written, kept and given to hosts."""

from __future__ import annotations

import pytest

from strategies.intents import port, subnet, two_tenants
from weft.compiler.compiler import Compiler
from weft.compiler.translate import dhcp_of
from weft.kit.errors import Rejected
from weft.model import drafts
from weft.model.catalog import Catalog
from weft.model.dhcp import eui64
from weft.model.features import Ipv6Mode
from weft.model.names import Name
from weft.model.objects import Dhcp, DhcpRoute
from weft.model.values import Ip, Mac, Prefix
from weft.policy import rows

WEB = Name("tenants/blue/routing-domains/prod/virtual-subnets/web")
TOLD = drafts.Dhcp(dns_servers=("10.0.1.53",), routes=(drafts.DhcpRoute("10.0.0.0/8"),), router=False)


@pytest.fixture
def catalog() -> Catalog:
    return two_tenants()


def web(**more: object) -> drafts.VirtualSubnet:
    return subnet("blue/prod/web", "10.0.1.0/24", "fd00:1::/64", **more)


def test_who_says_nothing_is_answered_as_is_usual(catalog: Catalog) -> None:
    assert catalog.virtual_subnets[WEB].dhcp == Dhcp()
    assert dhcp_of(catalog.virtual_subnets[WEB]) == rows.Dhcp()


def test_what_was_said_is_kept_when_it_is_not_said_again_and_replaced_as_a_whole_when_it_is(catalog: Catalog) -> None:
    catalog.apply([web(dhcp=TOLD)])
    catalog.apply([web()])
    assert catalog.virtual_subnets[WEB].dhcp == Dhcp(
        router=False, dns_servers=(Ip("10.0.1.53"),), routes=(DhcpRoute(Prefix("10.0.0.0/8")),)
    )
    catalog.apply([web(dhcp=drafts.Dhcp(lease_s=600))])
    assert catalog.virtual_subnets[WEB].dhcp == Dhcp(lease_s=600)


def test_what_is_kept_is_judged_by_the_prefixes_of_now(catalog: Catalog) -> None:
    catalog.apply([web(dhcp=drafts.Dhcp(routes=(drafts.DhcpRoute("10.0.0.0/8", "10.0.1.9"),)))])
    with pytest.raises(Rejected, match=r"10\.0\.1\.9 is no address of 10\.7\.0\.0/24") as refused:
        catalog.apply([subnet("blue/prod/web", "10.7.0.0/24")])
    assert refused.value.field == "puts[0].spec.dhcp.routes[0].next_hop"


def test_a_host_is_told_every_next_hop_and_nothing_of_what_is_off(catalog: Catalog) -> None:
    catalog.apply([web(dhcp=drafts.Dhcp(routes=(drafts.DhcpRoute("10.0.0.0/8"), drafts.DhcpRoute("fd00::/16"))))])
    told = dhcp_of(catalog.virtual_subnets[WEB])
    assert told is not None
    assert told.routes == (rows.DhcpRoute("10.0.0.0/8", "10.0.1.1"), rows.DhcpRoute("fd00::/16", "fd00:1::1"))
    catalog.apply([web(dhcp=drafts.Dhcp(enabled=False))])
    assert dhcp_of(catalog.virtual_subnets[WEB]) is None


def test_a_port_says_what_is_otherwise_for_it(catalog: Catalog) -> None:
    compiler = Compiler(catalog)
    rdid = catalog.routing_domains[Name("tenants/blue/routing-domains/prod")].rdid
    compiler.apply(
        catalog.apply([port("blue/a", "prod/web", host="h1", dhcp=drafts.PortDhcp(router=False), dhcp_server=True)])
    )
    row = compiler.rows("host:hosts/h1")[("ports", "tenants/blue/ports/a")]
    assert isinstance(row, rows.Port)
    assert (row.dhcp, row.dhcp_router, row.dhcp_server) == (True, False, True)
    delta = compiler.apply(catalog.apply([port("blue/a", "prod/web", host="h1", dhcp=drafts.PortDhcp(enabled=False))]))
    assert [type(put) for scope in delta.scopes.values() for put in scope.puts] == [rows.Port]
    delta = compiler.apply(catalog.apply([web(dhcp=TOLD)]))
    assert {scope: [type(put) for put in of.puts] for scope, of in delta.scopes.items()} == {
        f"rd:{rdid}": [rows.Subnet]
    }


@pytest.mark.parametrize("mode", [Ipv6Mode.SLAAC, Ipv6Mode.STATELESS])
def test_where_guests_make_their_own_addresses_a_port_has_the_one_that_its_guest_will_make(
    catalog: Catalog, mode: Ipv6Mode
) -> None:
    catalog.apply(
        [
            web(dhcp=drafts.Dhcp(ipv6_mode=mode)),
            port("blue/a", "prod/web", mac="02:00:00:00:00:0a"),
            port("blue/b", "prod/web"),
        ]
    )
    assert catalog.ports[Name("tenants/blue/ports/a")].addresses == ("10.0.1.2", "fd00:1::ff:fe00:a")
    other = catalog.ports[Name("tenants/blue/ports/b")]
    assert other.addresses == ("10.0.1.3", eui64(Prefix("fd00:1::/64"), other.mac))


def test_an_address_that_a_guest_would_make_and_another_has_is_not_given_twice(catalog: Catalog) -> None:
    catalog.apply([web(dhcp=drafts.Dhcp(ipv6_mode="slaac"))])
    catalog.apply([port("blue/a", "prod/web", addresses=("fd00:1::ff:fe00:b",))])
    catalog.apply([port("blue/b", "prod/web", mac="02:00:00:00:00:0b")])
    assert catalog.ports[Name("tenants/blue/ports/b")].addresses == ("10.0.1.2", "fd00:1::2")


def test_the_address_of_a_mac_is_that_of_rfc_4291() -> None:
    assert eui64(Prefix("2001:db8::/64"), Mac("34:56:78:9a:bc:de")) == "2001:db8::3656:78ff:fe9a:bcde"
