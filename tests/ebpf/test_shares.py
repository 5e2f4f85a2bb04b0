"""What each tenant may have of a host's maps for rules, whatever the door let in: nobody uses up what others need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ebpf.harness import SMALL
from weft.dataplane.ebpf import layout, maps, security
from weft.dataplane.ebpf.changes import Changes
from weft.dataplane.ebpf.guards import Guards
from weft.dataplane.ebpf.tables import Table
from weft.policy.rows import Direction, Port, Record, SecurityGroup, SecurityRule

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
def seen(loaded: maps.Loaded) -> list[dict[str, dict[bytes, bytes]]]:
    """What is in the maps each time that runs of programs are outlasted."""
    return []


@pytest.fixture
def guards(loaded: maps.Loaded, seen: list[dict[str, dict[bytes, bytes]]]) -> Guards:
    names = ("guards", "identities", "classes", "rules")
    for name in names:
        for key, _ in list(loaded.maps[name].items()):
            loaded.maps[name].delete(key)
    changed = Changes(loaded.maps["changes"]).made
    return Guards(
        *(Table(loaded.maps[name], changed) for name in names),
        outlast=lambda: seen.append({name: dict(loaded.maps[name].items()) for name in names}),
    )


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


# What a port has while it cannot have what it is to have.


def denies(number: int, name: str, *, more: int = 0) -> SecurityGroup:
    """A group of tenant 1 by whose rules nothing passes; more: entries that it takes besides."""
    rule = SecurityRule(number, f"tenants/t1/security-groups/{name}/rules/deny", Direction.INGRESS, 4, allow=False)
    rest = tuple(replace(rule, number=number + 1 + rank, protocol=6, first=rank, last=rank) for rank in range(more))
    return SecurityGroup(number, f"tenants/t1/security-groups/{name}", rules=(rule, *rest))


def named(loaded: maps.Loaded) -> dict[int, set[int]]:
    """By seat, the policies that its guard names."""
    guards = dict(loaded.maps["guards"].items())
    return {
        seat: set(security.policies_of(guards[layout.Seat(seat).key]))
        for seat in range(1, 9)
        if layout.Seat(seat).key in guards
    }


def there(loaded: maps.Loaded) -> set[int]:
    """The policies that have rules."""
    return {layout.policy_of(key) for key, _ in loaded.maps["rules"].items()}


ONE = Port("tenants/t1/ports/one", VSID, MAC, (), groups=(10_000,))
TWO = replace(ONE, port="tenants/t1/ports/two")
TOO_MANY = OWN + OF_TENANT


def test_a_port_whose_other_groups_do_not_fit_keeps_the_rules_it_had(guards: Guards, loaded: maps.Loaded) -> None:
    guards.update([denies(10_000, "had")])
    assert guards.put(layout.Seat(1), ONE) == []
    assert guards.settle() == []
    guard, rules = named(loaded)[1], dict(loaded.maps["rules"].items())
    assert rules
    guards.update([denies(20_000, "other", more=TOO_MANY)])
    assert guards.put(layout.Seat(1), replace(ONE, groups=(20_000,))) != []
    for turn in range(3):
        assert guards.settle() != []
        assert named(loaded)[1] == guard
        assert dict(loaded.maps["rules"].items()) == rules
        # Also when the group that it had changes, and another port's rules with it.
        guards.update([denies(10_000, "had", more=1 + turn)])
        assert guards.put(layout.Seat(2), TWO) == []
        assert guards.settle() != []
        assert named(loaded)[1] == guard
        assert rules.items() <= dict(loaded.maps["rules"].items()).items()
        guards.drop(layout.Seat(2))
    # What it bears of records that are missing is so all the same.
    guards.missing.add(layout.RECORD_KEY.pack(VSID, bytes(16)))
    guards.settle()
    assert layout.GUARD.unpack(guards.guards.told[layout.Seat(1).key])[5] & security.Flag.PARTIAL
    guards.missing.clear()
    # And nothing is left of them once it has others.
    guards.update([denies(20_000, "other", more=1)])
    assert guards.settle() == []
    assert there(loaded) == named(loaded)[1] & there(loaded)
    assert named(loaded)[1].isdisjoint(guard - {security.NOTHING, security.EVERYTHING})


def test_a_port_that_gets_back_the_groups_it_still_has_changes_nothing(guards: Guards, loaded: maps.Loaded) -> None:
    guards.update([denies(10_000, "had"), denies(20_000, "other", more=TOO_MANY)])
    assert guards.put(layout.Seat(1), ONE) == []
    assert guards.settle() == []
    before = [dict(loaded.maps[name].items()) for name in ("guards", "rules", "classes")]
    assert guards.put(layout.Seat(1), replace(ONE, groups=(20_000,))) != []
    assert guards.settle() == []
    assert guards.put(layout.Seat(1), ONE) == []
    assert guards.settle() == []
    assert [dict(loaded.maps[name].items()) for name in ("guards", "rules", "classes")] == before


def test_where_one_port_of_a_set_is_refused_the_others_have_the_new_rules_whole(
    guards: Guards, loaded: maps.Loaded
) -> None:
    """The map of guards is full: of two ports with the same groups one has no guard. What a change takes back is taken
    back for the other, and stays so.
    """
    guards.update([denies(10_000, "g", more=1)])
    for seat in range(1, 1 + SIZES.ports):
        assert guards.put(layout.Seat(seat), replace(ONE, port=f"tenants/t1/ports/{seat}")) == []
    assert guards.settle() == []
    full = 1 + SIZES.ports
    while guards.put(layout.Seat(full), replace(ONE, port=f"tenants/t1/ports/{full}")) == []:
        full += 1  # a hash table may take some more than it says
    former = named(loaded)[1]
    guards.update([denies(10_000, "g", more=2)])
    for _ in range(3):
        assert [failure.key for failure in guards.settle()] == [("ports", f"tenants/t1/ports/{full}")]
        assert named(loaded)[1] != former
        assert there(loaded) <= named(loaded)[1]
        assert len(dict(loaded.maps["rules"].items())) == 3
        guards.update([denies(10_000, "g", more=2)])


def test_all_ports_of_a_set_of_groups_are_answered_alike(guards: Guards, loaded: maps.Loaded) -> None:
    guards.update([denies(10_000, "g")])
    for seat in (1, 2):
        assert guards.put(layout.Seat(seat), replace(ONE, port=f"tenants/t1/ports/{seat}")) == []
    assert guards.settle() == []
    guards.update([denies(10_000, "g", more=TOO_MANY)])
    assert {failure.key[1] for failure in guards.settle()} == {"tenants/t1/ports/1", "tenants/t1/ports/2"}
    assert named(loaded)[1] == named(loaded)[2]
    assert len(dict(loaded.maps["rules"].items())) == 1


def test_former_rules_go_when_no_run_can_have_read_a_guard_that_names_them(
    guards: Guards, loaded: maps.Loaded, seen: list[dict[str, dict[bytes, bytes]]]
) -> None:
    guards.update([denies(10_000, "g", more=1)])
    assert guards.put(layout.Seat(1), ONE) == []
    assert guards.settle() == []
    assert seen == [], "there is nothing that goes"
    former = dict(loaded.maps["rules"].items())
    guards.update([denies(10_000, "g", more=2)])
    assert guards.settle() == []
    (waited,) = seen
    assert waited["guards"] == dict(loaded.maps["guards"].items()), "the new one"
    assert waited["rules"] == former | dict(loaded.maps["rules"].items())
    assert not former.items() & dict(loaded.maps["rules"].items()).items()
    guards.drop(layout.Seat(1))
    assert guards.settle() == []
    assert (seen[1]["guards"], bool(seen[1]["rules"])) == ({}, True)
    assert entries(loaded, "rules") == 0
    assert guards.settle() == []
    assert len(seen) == 2


def test_what_rules_said_of_one_whom_they_can_tell_no_more_goes_after_the_runs_that_still_knew_it(
    guards: Guards, loaded: maps.Loaded, seen: list[dict[str, dict[bytes, bytes]]]
) -> None:
    banned = SecurityRule(1, "tenants/t1/security-groups/g/rules/b", Direction.INGRESS, 4, remote_group=77, allow=False)
    much = [replace(banned, number=2 + rank, protocol=17, first=1, last=65_534, priority=rank) for rank in range(11)]
    much = [replace(rule, protocol=17 + rank) for rank, rule in enumerate(much)]
    of = Record(VSID, "10.0.0.9", "192.0.2.2", MAC, groups=(77,))
    guards.update([SecurityGroup(10_000, "tenants/t1/security-groups/g", rules=(banned,))])
    assert guards.identify([of]) == []
    assert guards.put(layout.Seat(1), ONE) == []
    assert guards.settle() == []
    (number,) = dict(loaded.maps["identities"].items()).values()
    former = dict(loaded.maps["rules"].items())
    guards.update([SecurityGroup(20_000, "tenants/t1/security-groups/much", rules=tuple(much))])
    assert guards.put(layout.Seat(2), replace(TWO, groups=(20_000,))) == []
    (failure,) = guards.settle()
    assert failure.key == of.key
    (waited,) = seen
    assert list(waited["identities"].values()) == [layout.NUMBER.pack(security.UNKNOWN)] != [number]
    assert former.items() <= waited["rules"].items()
    assert not former.items() <= dict(loaded.maps["rules"].items()).items()
