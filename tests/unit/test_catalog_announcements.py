"""What guests announce: who has it then, what moves along, and when it is taken from them again."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from strategies.intents import ABLE, VIRTUAL_MAC, everything, port, reloaded, said, subnet, two_tenants
from weft.compiler.full import compile_all
from weft.kit.errors import Rejected
from weft.model import announcements, drafts, values
from weft.model.announcements import Announcement, Unheeded
from weft.model.catalog import Catalog
from weft.model.names import Name
from weft.model.objects import AnnouncedAddress
from weft.model.values import Ip, Mac
from weft.policy.rows import MacRecord, Port, Record, host_scope

A, B = Name("tenants/blue/ports/a"), Name("tenants/blue/ports/b")
MAC_A, MAC_B = Mac("02:00:00:00:00:0a"), Mac("02:00:00:00:00:0b")
VIP, VIP_6 = "10.0.1.50", "fd00:1::50"
ANY = (
    drafts.AddressPair("10.0.1.0/24"),
    drafts.AddressPair("fd00:1::/64"),
    drafts.AddressPair("fe80::/64"),
    drafts.AddressPair("10.0.1.48/28", VIRTUAL_MAC),
    drafts.AddressPair("::/0", VIRTUAL_MAC),
)


@pytest.fixture
def catalog() -> Catalog:
    """Two guests on two hosts that may be each other's stand-in."""
    catalog = two_tenants()
    catalog.apply(
        [
            port("blue/a", "prod/web", host="h1", mac=MAC_A, addresses=("10.0.1.5",), allowed_address_pairs=ANY),
            port("blue/b", "prod/web", host="h2", mac=MAC_B, addresses=("10.0.1.6",), allowed_address_pairs=ANY),
        ]
    )
    return catalog


def hear(catalog: Catalog, *announced: tuple[Name, str, str]) -> list[Unheeded]:
    """At the ports' own hosts; what came of those that changed nothing."""
    hosts = {name: found.host or Name("hosts/h1") for name, found in catalog.ports.items()}
    heard = catalog.hear(
        Announcement(hosts[name], name, AnnouncedAddress(Ip(address), Mac(mac))) for name, address, mac in announced
    )
    catalog.apply(heard.puts)
    return [each.reason for each in heard.ignored]


def held(catalog: Catalog, name: Name) -> list[tuple[str, str]]:
    return [(each.address, each.mac) for each in catalog.ports[name].announced_addresses]


def test_an_address_that_is_announced_is_where_it_was_announced_last(catalog: Catalog) -> None:
    assert hear(catalog, (A, VIP, MAC_A)) == []
    assert (held(catalog, A), held(catalog, B)) == ([(VIP, MAC_A)], [])
    assert hear(catalog, (B, VIP, MAC_B)) == []
    assert (held(catalog, A), held(catalog, B)) == ([], [(VIP, MAC_B)])


def test_a_virtual_mac_takes_along_what_is_reached_by_it(catalog: Catalog) -> None:
    hear(catalog, (A, VIP, VIRTUAL_MAC), (A, VIP_6, VIRTUAL_MAC), (A, "10.0.1.77", MAC_A))
    assert hear(catalog, (B, VIP, VIRTUAL_MAC)) == []
    assert held(catalog, A) == [("10.0.1.77", MAC_A)]
    assert held(catalog, B) == [(VIP, VIRTUAL_MAC), (VIP_6, VIRTUAL_MAC)]


def test_what_the_new_holder_may_not_have_does_not_come_along(catalog: Catalog) -> None:
    narrow = (drafts.AddressPair(VIP, VIRTUAL_MAC),)
    catalog.apply([port("blue/b", "prod/web", host="h2", allowed_address_pairs=narrow)])
    hear(catalog, (A, VIP, VIRTUAL_MAC), (A, VIP_6, VIRTUAL_MAC))
    hear(catalog, (B, VIP, VIRTUAL_MAC))
    assert (held(catalog, A), held(catalog, B)) == ([], [(VIP, VIRTUAL_MAC)])


def test_the_rows_say_where_it_is_and_how_it_is_reached(catalog: Catalog) -> None:
    hear(catalog, (A, VIP, VIRTUAL_MAC), (A, "10.0.1.77", MAC_A))
    rows, _ = compile_all(catalog)
    vsid = catalog.virtual_subnets[catalog.ports[A].virtual_subnet].vsid
    every = {key: row for scope in rows.values() for key, row in scope.items()}
    assert every["records", vsid, VIP] == Record(vsid, VIP, "192.0.2.1", VIRTUAL_MAC)
    assert every["records", vsid, "10.0.1.77"] == Record(vsid, "10.0.1.77", "192.0.2.1", MAC_A)
    assert every["macs", vsid, VIRTUAL_MAC] == MacRecord(vsid, VIRTUAL_MAC, "192.0.2.1")
    mine = rows[host_scope("hosts/h1")]["ports", A]
    assert isinstance(mine, Port)
    assert mine.macs == (VIRTUAL_MAC,)
    catalog.apply([port("blue/a", "prod/web", host="h3")])
    rows, _ = compile_all(catalog)
    every = {key: row for scope in rows.values() for key, row in scope.items()}
    assert every["records", vsid, VIP] == Record(vsid, VIP, "192.0.2.3", VIRTUAL_MAC)
    assert every["macs", vsid, VIRTUAL_MAC] == MacRecord(vsid, VIRTUAL_MAC, "192.0.2.3")


@pytest.mark.parametrize(
    ("who", "address", "mac", "reason"),
    [
        (A, "10.0.1.5", MAC_A, Unheeded.NO_NEWS),
        (A, values.link_local(MAC_A), MAC_A, Unheeded.NO_NEWS),
        (A, "10.0.1.5", VIRTUAL_MAC, Unheeded.NOT_ALLOWED),
        (A, "10.0.1.6", MAC_A, Unheeded.NOT_ALLOWED),
        (A, values.link_local(MAC_B), MAC_A, Unheeded.NOT_ALLOWED),
        (A, "10.0.1.1", MAC_A, Unheeded.NOT_ALLOWED),
        (A, "10.0.2.9", MAC_A, Unheeded.NOT_ALLOWED),
        (A, "10.0.1.9", MAC_B, Unheeded.NOT_ALLOWED),
        (A, "10.0.1.9", VIRTUAL_MAC, Unheeded.NOT_ALLOWED),
    ],
)
def test_what_is_no_news_or_not_allowed_changes_nothing(
    catalog: Catalog, who: Name, address: str, mac: str, reason: Unheeded
) -> None:
    before = everything(catalog)
    assert hear(catalog, (who, address, mac)) == [reason]
    assert everything(catalog) == before


def test_a_port_is_heard_on_its_own_host_only(catalog: Catalog) -> None:
    said_so = AnnouncedAddress(Ip(VIP), MAC_A)
    for host, name in (("hosts/h2", A), ("hosts/h1", "tenants/blue/ports/gone"), ("hosts/h1", "nonsense")):
        (ignored,) = catalog.hear([Announcement(Name(host), name, said_so)]).ignored
        assert ignored.reason is Unheeded.ELSEWHERE


def test_an_announcement_changes_nothing_else_of_a_port() -> None:
    catalog = two_tenants(ABLE)
    limit = drafts.Qos(drafts.Limit(rate_bits_per_s=10**9))
    more = {"destination": "h3", "flood_limit_pps": 7, "dhcp_server": True, "allowed_address_pairs": ANY}
    more |= {"sampling_rate": 9, "mirror": drafts.Mirror("b", None, "gre", 5, "to_guest")}
    more |= {"security_groups": ("default",), "operator_groups": ("house",)}
    off = drafts.PortDhcp(enabled=False)
    catalog.apply([drafts.SecurityGroup("tenants/blue/security-groups/house", operator=True)])
    catalog.apply(
        [
            port("blue/a", "prod/web", host="h1", admin_state="down", qos=limit, dhcp=off, **more),
            port("blue/b", "prod/web", host="h1"),
        ]
    )
    before = catalog.ports[A]
    for field in fields(before):
        # What moves is not rewritten, and has no PAs of its own; a sub-port has neither mirror nor sampling rate.
        given = getattr(before, field.name) != field.default
        assert given or field.name in ("announced_addresses", "rewrites", "trunk"), "give it a value"
    assert hear(catalog, (A, VIP, before.mac)) == []
    entry = AnnouncedAddress(Ip(VIP), before.mac)
    assert catalog.ports[A] == replace(before, announced_addresses=(entry,))
    (ignored,) = catalog.hear([Announcement(Name("hosts/h3"), A, entry)]).ignored
    assert ignored.reason is Unheeded.NO_NEWS, "it is heard where it is moving to as well"


def test_a_port_announces_so_many_addresses_and_no_more(catalog: Catalog) -> None:
    many = [f"10.0.1.{n}" for n in range(60, 60 + announcements.MOST)]
    assert hear(catalog, *((A, address, MAC_A) for address in many)) == []
    assert hear(catalog, (A, "10.0.1.200", MAC_A)) == [Unheeded.FULL]
    assert [address for address, _ in held(catalog, A)] == many
    # What is there already may still change its MAC.
    pairs = (*ANY, drafts.AddressPair("10.0.1.0/24", VIRTUAL_MAC))
    catalog.apply([port("blue/a", "prod/web", host="h1", allowed_address_pairs=pairs)])
    assert hear(catalog, (A, many[0], VIRTUAL_MAC)) == []
    assert set(held(catalog, A)) == {(many[0], VIRTUAL_MAC), *((address, MAC_A) for address in many[1:])}


def test_of_a_tenant_at_its_limit_what_would_be_more_is_not_heeded_and_what_is_not_more_is(catalog: Catalog) -> None:
    hear(catalog, (A, VIP, MAC_A))
    catalog.apply([drafts.Tenant("tenants/blue", limits={"records": 3, "macs": 3})])  # which is what it has, and a MAC
    before = everything(catalog)
    assert hear(catalog, (A, "10.0.1.77", MAC_A)) == [Unheeded.FULL]
    assert everything(catalog) == before
    assert hear(catalog, (B, "10.0.1.77", MAC_B), (B, VIP, MAC_B)) == [Unheeded.FULL]
    assert (held(catalog, A), held(catalog, B)) == ([], [(VIP, MAC_B)]), "what only goes to another is no more"
    assert hear(catalog, (A, VIP, VIRTUAL_MAC)) == [], "a third MAC"
    catalog.apply([drafts.Tenant("tenants/blue", limits={"macs": 2})])
    assert hear(catalog, (B, VIP, VIRTUAL_MAC)) == [], "it has more than its limit, and no more than before"


def test_what_is_not_heeded_for_a_limit_takes_nothing_from_whom_it_would_have_come(catalog: Catalog) -> None:
    hear(catalog, (A, VIP, MAC_A))
    catalog.apply([drafts.Tenant("tenants/blue", limits={"macs": 2})])
    before = everything(catalog)
    found = catalog.hear([Announcement(Name("hosts/h2"), B, AnnouncedAddress(Ip(VIP), Mac(VIRTUAL_MAC)))])
    assert (found.puts, found.taken) == ((), 0)
    assert [(each.reason, each.why) for each in found.ignored] == [
        (Unheeded.FULL, "tenants/blue would have 3 macs; its limit is 2")
    ]
    assert everything(catalog) == before


def test_a_put_that_says_nothing_of_it_keeps_what_still_may_be(catalog: Catalog) -> None:
    hear(catalog, (A, VIP, VIRTUAL_MAC), (A, "10.0.1.77", MAC_A))
    catalog.apply([port("blue/a", "prod/web", host="h3", admin_state="down")])
    assert held(catalog, A) == [(VIP, VIRTUAL_MAC), ("10.0.1.77", MAC_A)]
    catalog.apply([port("blue/a", "prod/web", allowed_address_pairs=(drafts.AddressPair("10.0.1.77"),))])
    assert held(catalog, A) == [("10.0.1.77", MAC_A)]
    catalog.apply([port("blue/a", "prod/web", mac="02:00:00:00:00:77")])
    assert held(catalog, A) == [], "it was at a MAC that is the port's no longer"


def test_a_port_that_goes_to_another_subnet_leaves_it_behind(catalog: Catalog) -> None:
    hear(catalog, (A, VIP, VIRTUAL_MAC))
    catalog.apply([port("blue/a", "prod/db")])
    assert held(catalog, A) == []
    assert hear(catalog, (B, VIP, VIRTUAL_MAC)) == []


def test_a_put_of_what_was_there_is_never_refused_and_one_of_none_takes_it_away(catalog: Catalog) -> None:
    hear(catalog, (A, VIP, VIRTUAL_MAC))
    again = (said(VIP),)
    catalog.apply([port("blue/a", "prod/web", host="h1", allowed_address_pairs=ANY[:3], announced_addresses=again)])
    assert held(catalog, A) == []
    hear(catalog, (B, VIP, VIRTUAL_MAC))
    catalog.apply([port("blue/b", "prod/web", host="h2", announced_addresses=())])
    assert held(catalog, B) == []


@pytest.mark.parametrize(
    ("put", "left"),
    [
        (port("blue/vip", "prod/web", host="h3", addresses=(VIP,)), [VIP_6]),
        (port("blue/vip", "prod/web", addresses=(VIP,)), [VIP, VIP_6]),
        (port("blue/vip", "prod/db", mac=VIRTUAL_MAC), []),
        (subnet("blue/prod/db", "10.0.2.0/24", router_mac=VIRTUAL_MAC), []),
        (subnet("blue/prod/web", "10.0.1.0/24", "fd00:1::/64", gateways=(VIP,)), [VIP_6]),
        (subnet("blue/prod/web", "10.0.1.0/24"), [VIP]),
    ],
    ids=["on a host", "nowhere", "its MAC", "router's MAC", "gateway", "prefix"],
)
def test_what_policy_gives_to_another_is_the_announcers_no_longer(
    catalog: Catalog, put: drafts.Draft, left: list[str]
) -> None:
    catalog.apply([port("blue/b", "prod/web", addresses=("10.0.1.6",)), port("blue/a", "prod/web", host="h1")])
    hear(catalog, (A, VIP, VIRTUAL_MAC), (A, VIP_6, VIRTUAL_MAC))
    before = everything(catalog)
    changes = catalog.apply([put])
    assert [address for address, _ in held(catalog, A)] == left
    assert (A in {change.name for change in changes}) == (len(left) < 2), "who loses something has changed"
    assert everything(reloaded(catalog)) == everything(catalog)
    catalog.revert(changes)
    assert everything(catalog) == before


def test_nobody_is_given_an_announced_address_unasked(catalog: Catalog) -> None:
    hear(catalog, (A, "10.0.1.2", MAC_A), (A, "10.0.1.3", MAC_A))
    catalog.apply([port("blue/c", "prod/web"), port("blue/a", "prod/web", host="h1")])
    assert catalog.ports[Name("tenants/blue/ports/c")].addresses[0] == "10.0.1.4"
    catalog.apply([port("blue/a", "prod/web", announced_addresses=())])
    catalog.apply([port("blue/d", "prod/web"), port("blue/e", "prod/web")])
    assert [catalog.ports[Name(f"tenants/blue/ports/{name}")].addresses[0] for name in "de"] == ["10.0.1.2", "10.0.1.3"]


def test_what_a_refused_batch_wanted_to_announce_is_chosen_again(catalog: Catalog) -> None:
    wanted = port("blue/a", "prod/web", host="h1", announced_addresses=(said("10.0.1.2", MAC_A),))
    with pytest.raises(Rejected):
        catalog.apply(
            [wanted, port("blue/c", "prod/web"), port("blue/d", "prod/web", announced_addresses=(said(VIP),))]
        )
    catalog.apply([port("blue/c", "prod/web")])
    assert catalog.ports[Name("tenants/blue/ports/c")].addresses[0] == "10.0.1.2"


def test_one_virtual_mac_may_be_in_several_subnets(catalog: Catalog) -> None:
    pair = drafts.AddressPair("10.0.2.0/24", VIRTUAL_MAC)
    catalog.apply([port("blue/c", "prod/db", host="h1", allowed_address_pairs=(pair,))])
    assert hear(catalog, (A, VIP, VIRTUAL_MAC), (Name("tenants/blue/ports/c"), "10.0.2.50", VIRTUAL_MAC)) == []
    assert held(catalog, A) == [(VIP, VIRTUAL_MAC)]
