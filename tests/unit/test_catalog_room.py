"""Room for what rules take on hosts: what would exceed it is refused, whoever makes it grow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from strategies.intents import ABLE, port, reloaded, tenant, two_tenants
from strategies.intents import domain as a_domain
from strategies.intents import subnet as a_subnet
from unit.catalogs import refused
from weft.apps.agent import parse_sizes
from weft.dataplane.ebpf.maps import Sizes
from weft.model import drafts, room
from weft.model.catalog import Catalog
from weft.model.names import Name
from weft.model.security import PREFIXES_LAST, RULES_LAST
from weft.model.values import Prefix

WIDE = {"protocol": "tcp", "port_min": 1, "port_max": 65_534}  # 30 entries


def group(path: str) -> drafts.SecurityGroup:
    owner, label = path.split("/")
    return drafts.SecurityGroup(f"tenants/{owner}/security-groups/{label}")


def rule(path: str, **more: Any) -> drafts.SecurityGroupRule:
    owner, of, label = path.split("/")
    return drafts.SecurityGroupRule(f"tenants/{owner}/security-groups/{of}/rules/{label}", "ingress", **more)


def addresses(path: str, prefixes: Iterable[str]) -> drafts.AddressGroup:
    owner, label = path.split("/")
    return drafts.AddressGroup(f"tenants/{owner}/address-groups/{label}", tuple(prefixes))


def many(path: str, count: int, **more: Any) -> list[drafts.Draft]:
    """A group with so many rules."""
    return [group(path), *(rule(f"{path}/r{number}", **more) for number in range(count))]


def web(path: str, *groups: str, host: str | None = "h1", **more: Any) -> drafts.Port:
    return port(path, "prod/web", host=host, security_groups=groups, **more)


def singles(count: int, base: int = 10) -> list[str]:
    """So many prefixes, none within another."""
    return [f"{base}.{number >> 8}.{number & 255}.0/24" for number in range(count)]


@pytest.fixture
def catalog() -> Catalog:
    """Blue has three groups that take 30,720 entries each, and one port on h1 with two of them."""
    catalog = two_tenants(ABLE)
    for label in ("a", "b", "c"):
        catalog.apply(many(f"blue/{label}", RULES_LAST, **WIDE))
    catalog.apply([web("blue/one", "a", "b")])
    return catalog


def test_a_port_that_takes_one_more_group_is_refused_with_what_it_would_take(catalog: Catalog) -> None:
    message = refused(catalog, [web("blue/one", "a", "b", "c")], "puts[0].spec.security_groups", "on hosts/h1")
    assert "with tenants/blue/ports/one the groups of ports of tenants/blue" in message
    assert f"would take {3 * 30 * RULES_LAST - room.OWN:,} entries for rules beyond the 64 of each" in message
    assert "65,536 are the most of a tenant's: let ports have the same groups" in message
    catalog.apply([web("blue/one", "a", "c")])


def test_a_port_with_other_groups_on_the_same_host_is_refused_and_one_with_the_same_is_not(catalog: Catalog) -> None:
    refused(catalog, [web("blue/two", "c")], "puts[0].spec.security_groups", "on hosts/h1 would take")
    catalog.apply([web("blue/two", "a", "b"), web("blue/three", "c", host="h2"), web("blue/four", "c", host=None)])


def test_a_port_that_would_come_to_a_host_is_refused_by_its_host_or_destination(catalog: Catalog) -> None:
    catalog.apply([web("blue/two", "c", host="h2")])
    refused(catalog, [web("blue/two", "c", host="h1")], "puts[0].spec.host", "on hosts/h1")
    move = web("blue/two", "c", host="h2", destination="h1")
    refused(catalog, [move], "puts[0].spec.destination", "on hosts/h1")
    catalog.apply([move], ["tenants/blue/ports/one"])
    # While it moves both hosts have it.
    refused(catalog, [web("blue/one", "a", "b", host="h2")], "puts[0].spec.security_groups", "on hosts/h2")


def test_one_more_rule_is_refused(catalog: Catalog) -> None:
    catalog.apply(many("blue/d", 140, **WIDE))
    catalog.apply([web("blue/two", "d")])
    message = refused(catalog, [rule("blue/d/more", **WIDE)], "puts[0].spec", "on hosts/h1")
    assert "with tenants/blue/security-groups/d/rules/more" in message
    catalog.apply([rule("blue/d/more", protocol="tcp")])
    refused(catalog, [rule("blue/d/more", **WIDE)], "puts[0].spec", "on hosts/h1")  # it was another
    catalog.apply([rule("blue/d/more", **WIDE)], ["tenants/blue/security-groups/d/rules/r0"])


def test_one_more_prefix_of_an_address_group_is_refused() -> None:
    catalog = two_tenants(ABLE)
    for label, base in zip("abcd", range(10, 50, 10), strict=True):
        catalog.apply([addresses(f"blue/{label}", singles(PREFIXES_LAST, base))])
    for several in range(4):
        name = f"g{several}"
        catalog.apply([
            group(f"blue/{name}"), *(rule(f"blue/{name}/{label}", remote_address_group=label) for label in "abcd"),
            web(f"blue/{name}", name),
        ])  # fmt: skip
    catalog.apply([
        addresses("blue/e", singles(6 * room.OWN, 60)), group("blue/rest"),
        rule("blue/rest/e", remote_address_group="e"), web("blue/rest", "rest", host=None),
    ])  # fmt: skip
    refused(catalog, [web("blue/rest", "rest")], "puts[0].spec.host", "would take 65,600 entries for prefixes beyond")
    catalog.apply([addresses("blue/e", singles(room.OWN, 60))])
    catalog.apply([web("blue/rest", "rest")])
    catalog.apply([addresses("blue/e", singles(5 * room.OWN, 60))])  # as many as the four others left
    message = refused(catalog, [addresses("blue/e", singles(5 * room.OWN + 1, 60))], "puts[0].spec.prefixes", "h1")
    assert "would take 65,537 entries for prefixes" in message
    assert "name fewer or wider prefixes" in message


def test_a_member_of_a_group_is_refused_where_rules_elsewhere_tell_it_apart() -> None:
    """Each set of groups that rules name takes entries on every host whose ports have these rules."""
    catalog = two_tenants(ABLE)
    named = [f"m{number}" for number in range(24)]
    catalog.apply([*(group(f"blue/{each}") for each in named), *many("blue/a", 100, remote_group="m0", **WIDE)])
    catalog.apply([rule(f"blue/m0/{each}", remote_group=each) for each in named])
    catalog.apply([web("blue/one", "a")])
    catalog.apply([web(f"blue/{each}", "m0", each, host="h2") for each in named[1:22]])
    message = refused(
        catalog, [web("blue/more", "m0", "m22", host="h3")], "puts[0].spec.security_groups", "on hosts/h1"
    )
    assert f"would take {1 + 22 * 100 * 30 - room.OWN:,} entries" in message
    catalog.apply([web("blue/more", "m0", "m21", host="h3"), web("blue/other", "m22", host="h3")])
    # Whom no rule names tells nobody apart: until one does.
    catalog.apply([group("blue/quiet"), web("blue/last", "m0", "m21", "quiet", host=None)])
    refused(catalog, [rule("blue/m1/quiet", remote_group="quiet")], "puts[0].spec", "on hosts/h1")


def test_no_tenant_takes_what_others_need_and_each_port_has_its_own(catalog: Catalog) -> None:
    others = [f"t{number}" for number in range(5)]
    for owner in others:
        catalog.apply([tenant(owner), a_domain(f"{owner}/prod"), a_subnet(f"{owner}/prod/web", "10.0.1.0/24")])
        for label in ("a", "b"):
            catalog.apply(many(f"{owner}/{label}", RULES_LAST, **WIDE))
    for owner in others[:3]:
        catalog.apply([web(f"{owner}/one", "a", "b")])
    message = refused(catalog, [web("t3/one", "a", "b")], "puts[0].spec.security_groups", "on hosts/h1")
    assert "that is more than is left of the 262,144 that all tenants' ports there share" in message
    catalog.apply([web("t3/one", "a", "b", host="h2")])
    catalog.apply([*many("t3/small", room.OWN), web("t3/two", "small"), web("t4/one", "default")])


def test_more_prefixes_than_a_groups_rules_may_name_are_refused() -> None:
    catalog = two_tenants(ABLE)
    catalog.apply([group("blue/g")])
    for label, base in zip("abcd", range(10, 50, 10), strict=True):
        catalog.apply([addresses(f"blue/{label}", singles(PREFIXES_LAST, base))])
        catalog.apply([rule(f"blue/g/{label}", remote_address_group=label)])
    catalog.apply([rule("blue/g/again", remote_address_group="a", protocol="tcp")])
    message = refused(catalog, [rule("blue/g/more", remote_prefix="192.0.2.0/24")], "puts[0].spec.remote_prefix", "/g ")
    assert "would name 16,385 prefixes; 16,384 are the most of a group" in message
    catalog.apply([rule("blue/g/more"), addresses("blue/few", singles(1))])
    refused(
        catalog, [rule("blue/g/more", remote_address_group="few")], "puts[0].spec.remote_address_group", "16,385 pref"
    )
    catalog.apply([addresses("blue/d", singles(8))])
    catalog.apply([rule("blue/g/more", remote_address_group="few")])
    refused(catalog, [addresses("blue/d", singles(PREFIXES_LAST))], "puts[0].spec.prefixes", "would name 16,385")


def test_what_is_there_from_before_is_let_be_and_may_become_less(catalog: Catalog) -> None:
    """As where a store is older than the limit."""
    former = reloaded(catalog)
    everyones = Name("tenants/blue/ports/all")
    catalog.apply([web("blue/all", "a", "b", "c", host=None)])
    former.load([replace(catalog.ports[everyones], host=Name("hosts/h1"))])
    assert former._room.cost(former.ports[everyones].groups).rules > room.OF_TENANT
    former.apply([web("blue/small", "default"), rule("blue/default/more", protocol="udp")])
    former.apply([web("blue/one", "a", "b", host=None), rule("blue/a/r0", protocol="tcp")])
    refused(former, [rule("blue/a/r0", **WIDE)], "puts[0].spec", "on hosts/h1")
    refused(former, [web("blue/one", "a")], "puts[0].spec.security_groups", "on hosts/h1")


def test_a_rule_of_a_group_that_names_too_many_from_before_may_change_in_all_but_whom_it_names() -> None:
    catalog = two_tenants(ABLE)
    catalog.apply([group("blue/g"), rule("blue/g/one", remote_prefix="192.0.2.0/24")])
    for label, base in zip("abcd", range(10, 50, 10), strict=True):
        members = singles(PREFIXES_LAST - (label == "d"), base)
        catalog.apply([addresses(f"blue/{label}", members), rule(f"blue/g/{label}", remote_address_group=label)])
    former = reloaded(catalog)
    full = catalog.address_groups[Name("tenants/blue/address-groups/d")]
    former.load([replace(full, prefixes=(*full.prefixes, Prefix("203.0.113.0/24")))])
    former.apply([rule("blue/g/one", remote_prefix="192.0.2.0/24", log=True)])
    former.apply([rule("blue/g/a", remote_address_group="a", protocol="tcp")])
    refused(former, [rule("blue/g/one", remote_prefix="192.0.0.0/16")], "puts[0].spec.remote_prefix", "16,385 prefixes")
    former.apply([rule("blue/g/one")])


def test_a_tenant_that_comes_to_one_host_is_not_held_to_what_it_had_on_another(catalog: Catalog) -> None:
    """Blue has too much on h1 from before; red comes there, and blue elsewhere, in one batch."""
    catalog.apply([*many("blue/d", 2 * room.OWN), *many("red/d", 2 * room.OWN)])
    former = reloaded(catalog)
    catalog.apply([web("blue/all", "a", "b", "c", host=None)])
    former.load([replace(catalog.ports[Name("tenants/blue/ports/all")], host=Name("hosts/h1"))])
    former.apply([web("red/one", "d"), web("blue/two", "d", host="h2")])
    refused(former, [web("red/two", "d", host="h2"), web("blue/three", "d")], "puts[1].spec.security_groups", "of tena")


def test_a_host_has_room_for_all_that_the_door_lets_in_twice_over() -> None:
    """While rules change both the former and the new ones are there."""
    sizes = Sizes()
    for name in ("rules", "classes"):
        assert sizes.by_map[name] == 2 * (room.OWN * sizes.ports + room.SHARED)


@pytest.mark.parametrize("ports", [1, 64, 4096, 4097, 8192, 100_000, 1 << 20])
def test_a_host_with_more_ports_has_what_the_door_counts_on_for_each_of_them(ports: int) -> None:
    """A quarter of the table is split among the ports' sets of groups (shares.py)."""
    by_map = parse_sizes([f"ports={ports}"]).by_map
    for name in ("rules", "classes"):
        assert by_map[name] // (4 * ports) >= room.OWN
        assert by_map[name] >= 2 * (room.OWN * ports + room.SHARED)
        assert parse_sizes([f"ports={ports}", "rules=7"]).by_map[name] == 7, "as is said"
