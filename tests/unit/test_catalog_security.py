"""Security groups, rules and address groups: what is chosen, kept and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from strategies.intents import ABLE, port, subnet, tenant, two_tenants, without
from weft.kit.errors import Conflict, Rejected
from weft.lab import spec
from weft.model import drafts, security
from weft.model.catalog import Catalog
from weft.model.features import Action, Family, Feature
from weft.model.names import Name
from weft.wire.objects import decode_spec

GROUPS = "tenants/blue/security-groups"
A = Name("tenants/blue/ports/a")


def group(path: str = "web", **more: Any) -> drafts.SecurityGroup:
    return drafts.SecurityGroup(f"{GROUPS}/{path}", **more)


def rule(path: str = "web/r", direction: str = "ingress", **more: Any) -> drafts.SecurityGroupRule:
    owner, label = path.split("/")
    return drafts.SecurityGroupRule(f"{GROUPS}/{owner}/rules/{label}", direction, **more)


def addresses(*prefixes: str, label: str = "offices") -> drafts.AddressGroup:
    return drafts.AddressGroup(f"tenants/blue/address-groups/{label}", prefixes)


@pytest.fixture
def catalog() -> Catalog:
    catalog = two_tenants(ABLE)
    catalog.apply(
        [
            group(), group("db"), group("flat", stateful=False), group("house", operator=True),
            addresses("192.0.2.0/24"),
            drafts.SecurityGroup("tenants/red/security-groups/web"),
            drafts.AddressGroup("tenants/red/address-groups/offices", ("10.0.0.0/8",)),
        ]
    )  # fmt: skip
    return catalog


# What is made and chosen


def test_a_tenant_has_a_default_group_that_lets_all_out_and_its_members_in() -> None:
    catalog = Catalog()
    catalog.apply([tenant("blue")])
    (name,) = catalog.security_groups
    assert name == f"{GROUPS}/default"
    found = {
        (each.direction.value, each.family.version, each.remote_group, each.protocol, each.action)
        for each in catalog.security_group_rules.values()
    }
    assert found == {
        (direction, version, remote, None, Action.ALLOW)
        for direction, remote in (("egress", None), ("ingress", name))
        for version in (4, 6)
    }


def test_the_default_group_goes_with_its_tenant_and_only_so() -> None:
    catalog = Catalog()
    catalog.apply([tenant("blue"), tenant("red")])
    with pytest.raises(Conflict, match="it goes with tenants/blue"):
        catalog.apply([], [f"{GROUPS}/default"])
    catalog.apply([], [f"{GROUPS}/default/rules/ingress-ipv4"])
    changes = catalog.apply([], ["tenants/blue"])
    assert {change.name for change in changes} == {
        "tenants/blue", f"{GROUPS}/default",
        *(f"{GROUPS}/default/rules/{label}" for label in ("egress-ipv4", "egress-ipv6", "ingress-ipv6")),
    }  # fmt: skip
    assert set(catalog.security_groups) == {"tenants/red/security-groups/default"}


def test_who_puts_the_default_group_says_its_rules_too() -> None:
    catalog = Catalog()
    catalog.apply([tenant("blue"), group("default"), rule("default/mine", "egress")])
    assert list(catalog.security_group_rules) == [f"{GROUPS}/default/rules/mine"]


def test_a_tenant_from_before_gets_its_default_group_when_it_is_put() -> None:
    catalog = Catalog()
    catalog.apply([tenant("blue")])
    old = Catalog()
    old.load(catalog.tenants.values())
    assert old.security_groups == {}
    assert len(old.apply([tenant("blue")])) == 5
    assert old.apply([tenant("blue")]) == ()


def test_a_number_is_for_good_and_no_others(catalog: Catalog) -> None:
    found = catalog.security_groups[Name(f"{GROUPS}/web")]
    catalog.apply([group(stateful=False)])
    assert catalog.security_groups[found.name].number == found.number
    numbers = [each.number for each in catalog.security_groups.values()]
    assert len(numbers) == len(set(numbers))
    assert all(0 < number < 2**31 for number in numbers)


def test_whether_connections_are_kept_stays_as_it_was_said(catalog: Catalog) -> None:
    name = Name(f"{GROUPS}/web")
    assert not catalog.security_groups[name].keep_connections
    for said, then in ((True, True), (None, True), (False, False), (None, False)):
        catalog.apply([group(keep_connections=said)])
        assert catalog.security_groups[name].keep_connections is then


def test_numbers_are_functions_of_names() -> None:
    catalog = Catalog()
    catalog.apply([tenant("blue"), group()])
    # For ever: hosts, counters and logs know groups by them.
    assert {name.rpartition("/")[2]: each.number for name, each in catalog.security_groups.items()} == {
        "default": 1152264216, "web": 1426466521
    }  # fmt: skip


def test_what_a_rule_leaves_out_is_anything(catalog: Catalog) -> None:
    catalog.apply([rule(protocol="tcp", port_min=80, port_max=90, log=True)])
    (found,) = (each for name, each in catalog.security_group_rules.items() if "/web/" in name)
    assert (found.family, found.protocol, found.port_min, found.port_max) == (Family.IPV4, 6, 80, 90)
    catalog.apply([rule()])
    found = catalog.security_group_rules[found.name]
    assert (found.protocol, found.port_min, found.port_max, found.log) == (None, None, None, False)


def test_an_operators_rule_stands_above_tenants_and_may_deny(catalog: Catalog) -> None:
    catalog.apply([rule("house/no", action="deny"), rule("house/low", priority=0), rule("web/yes")])
    found = {name.rpartition("/")[2]: each for name, each in catalog.security_group_rules.items()}
    assert (found["no"].action, found["no"].priority) == (Action.DENY, security.OPERATOR_PRIORITY)
    assert (found["low"].priority, found["yes"].priority) == (0, 0)


# What ports have


def test_a_port_has_no_group_and_no_port_security_unless_that_is_said(catalog: Catalog) -> None:
    catalog.apply([port("blue/a", "prod/web", host="h1")])
    assert (catalog.ports[A].groups, catalog.ports[A].port_security) == ((), False)


def test_a_port_with_groups_is_secured_and_stays_so_without_them_until_somebody_says_otherwise(
    catalog: Catalog,
) -> None:
    catalog.apply([port("blue/a", "prod/web", security_groups=("web", "db"), operator_groups=("house",))])
    found = catalog.ports[A]
    assert found.security_groups == (f"{GROUPS}/db", f"{GROUPS}/web")
    assert found.groups == (*found.security_groups, f"{GROUPS}/house")
    assert found.port_security
    catalog.apply([port("blue/a", "prod/web")])
    assert catalog.ports[A] == found, "what is left out is as it was"
    catalog.apply([port("blue/a", "prod/web", security_groups=(), operator_groups=())])
    assert (catalog.ports[A].groups, catalog.ports[A].port_security) == ((), True)
    catalog.apply([port("blue/a", "prod/web", port_security=False)])
    assert not catalog.ports[A].port_security


def test_a_port_may_be_secured_without_groups(catalog: Catalog) -> None:
    catalog.apply([port("blue/a", "prod/web", port_security=True)])
    assert (catalog.ports[A].groups, catalog.ports[A].port_security) == ((), True)


# What goes, and what stays


def test_a_group_goes_with_its_rules(catalog: Catalog) -> None:
    catalog.apply([rule(), rule("web/self", remote_group="web")])
    changes = catalog.apply([], [f"{GROUPS}/web"])
    assert {change.name for change in changes} == {f"{GROUPS}/web", f"{GROUPS}/web/rules/r", f"{GROUPS}/web/rules/self"}


@pytest.mark.parametrize(
    ("user", "going", "named"),
    [
        (port("blue/a", "prod/web", security_groups=("web",)), f"{GROUPS}/web", "tenants/blue/ports/a"),
        (port("blue/a", "prod/web", operator_groups=("house",)), f"{GROUPS}/house", "tenants/blue/ports/a"),
        (rule("db/r", remote_group="web"), f"{GROUPS}/web", f"{GROUPS}/db/rules/r"),
        (rule(remote_address_group="offices"), "tenants/blue/address-groups/offices", f"{GROUPS}/web/rules/r"),
    ],
)
def test_what_is_referred_to_stays(catalog: Catalog, user: Any, going: str, named: str) -> None:
    catalog.apply([user])
    with pytest.raises(Conflict, match=f"{going} cannot go: {named} refers to it"):
        catalog.apply([], [going])
    catalog.apply([], [user.name, going])


def test_a_tenant_with_groups_of_its_own_stays(catalog: Catalog) -> None:
    catalog.apply(
        [],
        [
            f"tenants/red/routing-domains/prod{below}"
            for below in ("", *(f"/virtual-subnets/{s}" for s in ("web", "db")))
        ],
    )
    with pytest.raises(Conflict, match="tenants/red cannot go: tenants/red/security-groups/web refers to it"):
        catalog.apply([], ["tenants/red"])


def test_the_example_is_right() -> None:
    file = Path(__file__).parents[2] / "examples" / "security-groups.yaml"
    catalog = Catalog(ABLE)
    found = spec.parse(file.read_text(), file.name, str).objects
    catalog.apply([decode_spec(Name(each.name), msgspec.json.encode(each.spec)) for each in found])
    assert len(catalog.ports) == 5
    # The README pings a web server, and shows the file that it is logged in.
    assert [name.rpartition("/")[2] for name, rule in catalog.security_group_rules.items() if rule.log] == [
        "ssh",
        "ping",
    ]


# What is refused


@pytest.mark.parametrize(
    ("draft", "field", "message"),
    [
        (drafts.SecurityGroup("tenants/green/security-groups/g"), "name", "tenants/green, which does not exist"),
        (drafts.AddressGroup("tenants/green/address-groups/g", ()), "name", "tenants/green, which does not exist"),
        (group("house", operator=False), "spec.operator", "has operator: true for good"),
        (group("web", operator=True), "spec.operator", "has operator: false for good"),
        (addresses("10.0.0.0/8", "10.0.0.1/8"), "spec.prefixes[1]", "10.0.0.0/8 is the prefix that it is in"),
        (addresses("10.0.0.0/8", "10.0.0.0/8"), "spec.prefixes[1]", "10.0.0.0/8 is listed twice"),
        (
            addresses(*(f"10.{n >> 8}.{n & 255}.0/24" for n in range(4097))),
            "spec.prefixes",
            "4097 prefixes are more than the 4096 that an address group may have",
        ),
        (rule("none/r"), "name", "security-groups/none, which does not exist"),
        (rule(direction="in"), "spec.direction", "'in' is not a direction; 'ingress' and 'egress' are"),
        (rule(family="ipv5"), "spec.family", "'ipv5' is not a family"),
        (rule(protocol="tpc"), "spec.protocol", "'tpc' is not a protocol: 'icmp', 'tcp', 'udp'"),
        (rule(protocol=0), "spec.protocol", "0 is not a protocol: .* leave it out for any"),
        (rule(protocol=256), "spec.protocol", "256 is not a protocol"),
        (rule(protocol="icmp", family="ipv6"), "spec.protocol", "'icmp' is not of ipv6; 'icmpv6' is"),
        (rule(protocol=58), "spec.protocol", "58 is not of ipv4; 'icmp' is"),
        (rule(port_min=80), "spec.port_min", "only protocols such as 'tcp', 'udp', 'sctp' have ports, and no protocol"),
        (rule(protocol="icmp", port_min=80), "spec.port_min", "'sctp' have ports, and the protocol is 'icmp'"),
        (rule(protocol="icmp", port_max=80), "spec.port_max", "'sctp' have ports, and the protocol is 'icmp'"),
        (rule(protocol="icmp", port_min=80), "spec.port_min", "have ports"),
        (rule(protocol="tcp", port_max=80), "spec.port_min", "port_max is 80, and port_min is not given: 80 for that"),
        (rule(protocol="tcp", port_min=80, port_max=79), "spec.port_max", "port_max 79 is less than port_min 80"),
        (rule(protocol="tcp", port_min=65_536), "spec.port_min", "port 65536 is outside 0..65535"),
        (rule(protocol="tcp", icmp_type=8), "spec.icmp_type", "only the protocols 'icmp' and 'icmpv6'"),
        (rule(protocol="icmp", icmp_code=0), "spec.icmp_type", "icmp_code is 0, and icmp_type is not given"),
        (rule(protocol="icmp", icmp_type=256), "spec.icmp_type", "256 is outside 0..255"),
        (rule(protocol="icmp", icmp_type=8, icmp_code=-1), "spec.icmp_code", "-1 is outside 0..255"),
        (rule(remote_prefix="10.0.0.0/33"), "spec.remote_prefix", "is not a prefix"),
        (rule(remote_prefix="10.0.0.0/8", family="ipv6"), "spec.remote_prefix", "10.0.0.0/8 is not of ipv6"),
        (rule(remote_prefix="10.0.0.0/8", remote_group="db"), "spec", "'10.0.0.0/8' and 'db' are given"),
        (rule(remote_group="none"), "spec.remote_group", "security-groups/none does not exist"),
        (
            rule(remote_group="tenants/red/security-groups/web"),
            "spec.remote_group",
            "another tenant's; a rule names groups of its own, tenants/blue",
        ),
        (rule(remote_address_group="none"), "spec.remote_address_group", "address-groups/none does not exist"),
        (
            rule(remote_address_group="tenants/red/address-groups/offices"),
            "spec.remote_address_group",
            "another tenant's",
        ),
        (rule(action="reject"), "spec.action", "'reject' is not an action; 'allow' and 'deny' are"),
        (rule(action="deny"), "spec.action", "a rule may deny if it is of a group with operator: true"),
        (rule(priority=1), "spec.priority", "a rule may have a priority if it is of a group with operator: true"),
        (rule("house/r", priority=65_536), "spec.priority", "priority 65536 is outside 0..65535"),
        (port("blue/a", "prod/web", security_groups=("none",)), "spec.security_groups[0]", "does not exist"),
        (port("blue/a", "prod/web", security_groups=("web", "web")), "spec.security_groups[1]", "listed twice"),
        (
            port("blue/a", "prod/web", security_groups=("tenants/red/security-groups/web",)),
            "spec.security_groups[0]",
            "another tenant's; a port of tenants/blue has groups of its own",
        ),
        (port("blue/a", "prod/web", security_groups=("house",)), "spec.security_groups[0]", "into operator_groups"),
        (port("blue/a", "prod/web", operator_groups=("web",)), "spec.operator_groups[0]", "into security_groups"),
        (
            port("blue/a", "prod/web", security_groups=("web", "flat")),
            "spec.security_groups",
            "groups of one port are all of one kind",
        ),
        (
            port("blue/a", "prod/web", security_groups=("web",), port_security=False),
            "spec.port_security",
            "take them away to let everything pass",
        ),
        (
            port("blue/a", "prod/web", security_groups=tuple(f"g{n}" for n in range(17))),
            "spec.security_groups",
            "17 groups are more than the 16 that a port may have",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_the_field_and_what_would_be_right(
    catalog: Catalog, draft: Any, field: str, message: str
) -> None:
    with pytest.raises(Rejected, match=message) as refused:
        catalog.apply([draft])
    assert refused.value.field == f"puts[0].{field}"


def test_a_group_has_so_many_rules_and_no_more(catalog: Catalog) -> None:
    catalog.apply([rule(f"web/r{n}") for n in range(security.RULES_LAST)])
    with pytest.raises(Conflict, match="would have 1025 rules; 1024 are the most"):
        catalog.apply([rule("web/more")])
    catalog.apply([rule("web/more")], [f"{GROUPS}/web/rules/r0"])


def test_a_tenant_has_so_many_sets_of_groups_that_rules_name_and_no_more(catalog: Catalog) -> None:
    """Sets that no rule tells apart are one, and what is there may be changed."""
    several = [f"g{n}" for n in range(13)]
    catalog.apply([subnet("blue/prod/big", "10.64.0.0/16"), *(group(each) for each in several)])
    catalog.apply([rule(f"web/{each}", remote_group=each) for each in several[:12]])

    def bearer(number: int, name: str = "") -> drafts.Port:
        bears = tuple(each for bit, each in enumerate(several) if number >> bit & 1)
        return port(f"blue/{name or f'p{number}'}", "prod/big", security_groups=bears)

    catalog.apply([bearer(number) for number in range(1, 1 << 12)])
    catalog.apply([bearer(1 << 12 | 1), bearer(1 << 12 | 2)])  # the last group is named by nobody
    catalog.apply([group("one-more"), bearer(1, "again")])
    with pytest.raises(Conflict, match="would have 4097 different sets of groups that rules name; 4096") as refused:
        catalog.apply([rule("web/g12", remote_group="g12")])
    assert refused.value.field == "puts[0].spec.remote_group"
    catalog.apply([rule("web/g12", remote_group="g12")], ["tenants/blue/ports/p1", "tenants/blue/ports/again"])
    with pytest.raises(Conflict, match="tenants/blue would have 4097 different sets") as refused:
        catalog.apply([bearer(1), bearer(1, "again")])
    assert refused.value.field == "puts[1].spec.security_groups"
    catalog.apply([bearer(2, "again")])


def test_a_group_does_not_change_its_kind_under_a_port_of_another(catalog: Catalog) -> None:
    catalog.apply([port("blue/a", "prod/web", security_groups=("web", "db"))])
    with pytest.raises(Conflict, match="groups of one port are all of one kind") as refused:
        catalog.apply([group("web", stateful=False)])
    assert refused.value.field == "puts[0].spec.stateful"
    catalog.apply([group("web", stateful=False), group("db", stateful=False)])


def test_a_host_whose_data_plane_has_no_security_groups_runs_no_port_that_needs_them() -> None:
    catalog = two_tenants(without(Feature.SECURITY_GROUPS))
    catalog.apply([port("blue/a", "prod/web", security_groups=("default",))])
    with pytest.raises(Conflict, match="lacks security-groups") as refused:
        catalog.apply([port("blue/a", "prod/web", host="h1")])
    assert refused.value.field == "puts[0].spec.security_groups"
    with pytest.raises(Conflict, match="lacks security-groups"):
        catalog.apply([port("blue/b", "prod/web", host="h1", port_security=True)])
    catalog.apply([subnet("blue/prod/more", "10.0.7.0/24"), port("blue/b", "prod/more", host="h1")])
