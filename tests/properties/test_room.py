"""What the model counts of rules is never less than what data planes make of them."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from budget import examples
from strategies.intents import ABLE, everything, port, reloaded, two_tenants
from weft.compiler.compiler import Compiler
from weft.kit.errors import Rejected
from weft.model import drafts
from weft.model.catalog import Catalog
from weft.model.names import Name
from weft.model.room import Cost
from weft.policy.rows import AddressGroup, Direction, Port, Record, SecurityGroup
from weft.policy.security import compile_identity, compile_policy, names_groups, remote_groups, told_apart

PREFIXES = (
    "0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9", "10.0.1.0/24", "10.0.1.4/32", "192.0.2.0/24",
    "192.0.2.0/25", "::/0", "fd00::/8", "fd00:1::/64", "fd00:1::4/128", "2001:db8::/32",
)  # fmt: skip
GROUPS, ADDRESS_GROUPS = tuple(f"g{n}" for n in range(5)), tuple(f"a{n}" for n in range(3))
BLUE = "tenants/blue"


def change(random: Random, catalog: Catalog) -> tuple[list[drafts.Draft], list[str]]:
    """Something that a tenant or an operator may do to what rules take."""
    match random.randrange(10):
        case 0:
            name = random.choice(ADDRESS_GROUPS)
            return [drafts.AddressGroup(f"{BLUE}/address-groups/{name}", _some(random, PREFIXES, 5))], []
        case 1:
            return [], [*random.sample(sorted(catalog.security_group_rules), 2)]
        case 2 if catalog.ports:
            return [], [random.choice(sorted(catalog.ports))]
        case 3 | 4 | 5:
            host, destination = random.choice([(None, None), ("h1", None), ("h2", None), ("h1", "h2")])
            bears = _some(random, (*GROUPS, "default"), random.choice((1, 1, 3)))
            name = f"blue/p{random.randrange(8)}"
            return [port(name, "prod/web", host=host, destination=destination, security_groups=bears)], []
        case _:
            return [rule(random) for _ in range(random.randrange(1, 4))], []


def rule(random: Random) -> drafts.SecurityGroupRule:
    family = random.choice(("ipv4", "ipv4", "ipv6"))
    first, last = sorted(random.choices((0, 1, 22, 80, 443, 1023, 1024, 65_534, 65_535), k=2))
    remote: dict[str, Any] = random.choice((
        {}, {"remote_group": random.choice(GROUPS)}, {"remote_address_group": random.choice(ADDRESS_GROUPS)},
        {"remote_prefix": random.choice([each for each in PREFIXES if (":" in each) == (family == "ipv6")])},
    ))  # fmt: skip
    more: dict[str, Any] = random.choice(
        ({}, {"protocol": "tcp", "port_min": first, "port_max": last}, {"protocol": "udp"})
    )
    name = f"{BLUE}/security-groups/{random.choice(GROUPS)}/rules/r{random.randrange(12)}"
    return drafts.SecurityGroupRule(name, random.choice(("ingress", "egress")), family, **more, **remote)


def _some(random: Random, of: tuple[str, ...], most: int) -> tuple[str, ...]:
    return tuple(random.sample(of, random.randrange(most + 1)))


def made(catalog: Catalog, host: str) -> dict[tuple[int, ...], Cost]:
    """What a data plane makes of the rows of a host, by the groups of its ports."""
    compiler = Compiler(catalog)
    rows = [row for scope in compiler.scopes_of(host) for row in compiler.rows(scope).values()]
    groups = {row.number: row for row in rows if isinstance(row, SecurityGroup)}
    addresses = {row.number: row for row in rows if isinstance(row, AddressGroup)}
    names = remote_groups(groups.values())
    identities = {told_apart(row.groups, names) for row in rows if isinstance(row, Record)} - {()}
    found: dict[tuple[int, ...], Cost] = {}
    for bears in {row.groups for row in rows if isinstance(row, Port) and row.groups}:
        several = [groups[number] for number in bears]
        rules = prefixes = 0
        for direction in Direction:
            for version in (4, 6):
                policy = compile_policy(several, addresses, direction, version)
                rules += len(policy.rules) + names_groups(several, direction, version)
                prefixes += len(policy.classes)
                rules += sum(len(compile_identity(several, direction, version, 1, each)) for each in identities)
        found[bears] = Cost(rules, prefixes)
    return found


@examples(60)
@given(seed=st.integers(0, 2**32))
def test_what_is_counted_is_never_less_than_what_is_made(seed: int) -> None:
    random = Random(seed)  # noqa: S311 -- no secret: made-up groups
    catalog = two_tenants(ABLE)
    catalog.apply([drafts.SecurityGroup(f"{BLUE}/security-groups/{name}") for name in GROUPS])
    catalog.apply([drafts.AddressGroup(f"{BLUE}/address-groups/{name}", ()) for name in ADDRESS_GROUPS])
    for _ in range(25):
        puts, deletes = change(random, catalog)
        try:
            changes = catalog.apply(puts, deletes)
        except Rejected:
            continue
        if random.random() < 0.1:
            catalog.revert(changes)
        catalog._room.catch_up()
        numbers = {name: group.number for name, group in catalog.security_groups.items()}
        for host in ("hosts/h1", "hosts/h2"):
            counted = {
                tuple(sorted(numbers[name] for name in groups)): catalog._room.cost(groups)
                for groups in catalog._ix.sets_on.get(Name(host), ())
            }
            found = made(catalog, host)
            assert counted.keys() == found.keys()
            for groups, cost in found.items():
                assert counted[groups].rules >= cost.rules
                assert counted[groups].prefixes >= cost.prefixes
                if len(groups) == 1:
                    assert counted[groups].prefixes == cost.prefixes
    assert everything(catalog) == everything(reloaded(catalog))


def test_what_is_counted_of_rules_that_are_all_different_is_what_is_made() -> None:
    """One group; as many protocols as rules, so that none takes another's place."""
    catalog = two_tenants(ABLE)
    web = f"{BLUE}/security-groups/web"
    prefixes = ("10.0.0.0/8", "10.0.1.0/24", "10.0.1.4/32", "192.0.2.0/24")
    remotes: tuple[dict[str, str], ...] = (
        {},
        {"remote_group": web},
        {"remote_address_group": "some"},
        *({"remote_prefix": each} for each in prefixes),
    )
    catalog.apply([
        drafts.SecurityGroup(web), drafts.SecurityGroup(f"{BLUE}/security-groups/db"),
        drafts.AddressGroup(f"{BLUE}/address-groups/some", ("10.0.0.0/9", "10.0.1.0/25", "fd00::/8")),
        *(
            drafts.SecurityGroupRule(f"{web}/rules/r{number}", "ingress", protocol=100 + number, **remote)
            for number, remote in enumerate(remotes)
        ),
        *(port(f"blue/p{n}", "prod/web", host="h1", security_groups=bears) for n, bears in enumerate((
            ("web",), ("web",), ("web", "db"), ("web", "default"),
        ))),
    ])  # fmt: skip
    of = catalog._room.cost((Name(web),))
    (number,) = {catalog.security_groups[Name(web)].number}
    assert made(catalog, "hosts/h1")[number,] == of
    # Anybody's; of members, {web} and {web, default}; of the prefixes 10/8, 10/9, 10.0.1/24, 10.0.1.4/32, 192.0.2/24.
    assert of == Cost(1 + 1 + 2 + (1 + 2 + 3 + 4 + 1), 5)
    assert Counter(map(len, catalog._ix.sets_on[Name("hosts/h1")])) == {1: 1, 2: 2}
