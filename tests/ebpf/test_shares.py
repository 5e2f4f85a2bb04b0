"""What each tenant may have of a host's maps for rules, whatever the door let in: nobody uses up what others need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ebpf.harness import SMALL
from weft.dataplane.ebpf import layout, maps
from weft.dataplane.ebpf.guards import Guards
from weft.dataplane.ebpf.tables import Table
from weft.policy.rows import Direction, Port, SecurityGroup, SecurityRule

pytestmark = pytest.mark.root

VSID, MAC = 5000, "02:00:00:00:00:02"
#: So of each map 64 entries are each port's own, a tenant may have 256 beyond, and all together 1024.
SIZES = replace(SMALL, ports=8, rules=2048)
OWN, OF_TENANT, SHARED = 64, 256, 1024
TENANTS_FULL = (
    "full at 256 entries of one tenant beyond the 64 of each port's groups: raise the data plane's size of it"
)


@pytest.fixture(scope="module")
def loaded(weft_object: Path) -> Iterator[maps.Loaded]:
    of = maps.load(weft_object, SIZES, None)
    yield of
    of.close()


@pytest.fixture
def guards(loaded: maps.Loaded) -> Guards:
    names = ("guards", "identities", "classes", "rules")
    for name in names:
        for key, _ in list(loaded.maps[name].items()):
            loaded.maps[name].delete(key)
    return Guards(*(Table(loaded.maps[name]) for name in names))


def group(tenant: int, entries: int, *, prefixes: bool = False, first: int = 1) -> SecurityGroup:
    """Whose rules take so many entries: of rules only, or of rules and as many prefixes."""
    name = f"tenants/t{tenant}/security-groups/g"
    rules = tuple(
        SecurityRule(
            1000 * tenant + rank, f"{name}/rules/r{rank}", Direction.INGRESS, 4, 6, first + rank, first + rank,
            remote_prefix=f"10.{rank >> 8}.{rank & 255}.0/24" if prefixes else None,
        )
        for rank in range(entries)
    )  # fmt: skip
    return SecurityGroup(tenant, name, rules=rules)


def port(tenant: int) -> Port:
    return Port(f"tenants/t{tenant}/ports/p", VSID, MAC, (), groups=(tenant,))


def take(guards: Guards, *groups: SecurityGroup) -> list[str]:
    """Why a tenant's port has no guard, or keeps the one it had."""
    guards.update(groups)
    failures = [why for each in groups for why in guards.put(layout.Seat(each.number), port(each.number))]
    return failures + [failure.reason for failure in guards.settle()]


def entries(loaded: maps.Loaded, name: str) -> int:
    return len(dict(loaded.maps[name].items()))


@pytest.mark.parametrize("prefixes", [False, True])
def test_a_tenant_has_so_much_and_no_more_and_a_port_too_many_stays_closed(
    guards: Guards, loaded: maps.Loaded, *, prefixes: bool
) -> None:
    refused = take(guards, group(1, OWN + OF_TENANT + 1, prefixes=prefixes))
    first = "classes" if prefixes else "rules"
    assert refused[0] == f"{first}: {TENANTS_FULL}"
    assert [entries(loaded, name) for name in ("guards", "rules", "classes")] == [0, 0, 0]
    assert take(guards, group(1, OWN + OF_TENANT, prefixes=prefixes)) == []
    assert entries(loaded, "guards") == 1
    assert entries(loaded, first) == OWN + OF_TENANT


def test_whatever_all_others_take_each_port_has_its_own(guards: Guards, loaded: maps.Loaded) -> None:
    for tenant in range(1, 1 + SHARED // OF_TENANT):
        assert take(guards, group(tenant, OWN + OF_TENANT)) == []
    refused = take(guards, group(9, OWN + 1))
    assert refused[0].startswith("rules: full at 1024 entries beyond the 64 of each port's groups")
    assert take(guards, group(9, OWN)) == []
    assert entries(loaded, "rules") == SHARED + OWN * 5
    # And while one of those changes its rules for as many others, which do not fit beside them, it keeps the former.
    assert take(guards, group(1, OWN + OF_TENANT, first=2000))[-1] == f"rules: {TENANTS_FULL}"
    for turn in range(5):
        assert take(guards, group(9, OWN, first=3000 + turn))[-1] == f"rules: {TENANTS_FULL}", "tenant 1's, again"
        assert entries(loaded, "rules") == SHARED + OWN * 5
    guards.drop(layout.Seat(2))
    assert guards.settle() != []
    assert take(guards, group(9, OWN + OF_TENANT, first=4000))[-1] == f"rules: {TENANTS_FULL}"
    assert entries(loaded, "rules") == SHARED + OWN * 4
    assert entries(loaded, "guards") == 4


def test_who_cannot_have_what_it_wants_keeps_nobody_from_changing(guards: Guards, loaded: maps.Loaded) -> None:
    """What others' former rules took is free again, however long one is refused."""
    assert take(guards, group(1, 10)) == []
    guard = loaded.maps["guards"].lookup(layout.Seat(1).key)
    too_many = group(1, OWN + OF_TENANT + 1, first=5000)
    for turn in range(40):
        refused = take(guards, too_many, group(2, OWN + OF_TENANT // 2, first=1 + turn % 2))
        assert refused
        assert all(why == f"rules: {TENANTS_FULL}" for why in refused)
        assert entries(loaded, "rules") == 10 + OWN + OF_TENANT // 2
        assert loaded.maps["guards"].lookup(layout.Seat(1).key) == guard, "it keeps the rules that it had"
    assert take(guards, group(1, 10, first=7000)) == []
    assert entries(loaded, "rules") == 10 + OWN + OF_TENANT // 2
