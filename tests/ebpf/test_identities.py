"""Whose an address is, as rules look it up: in bounds, right after every change, and denied where nobody can say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebpf.harness import SMALL, Harness, harness
from ebpf.rows import HOST
from strategies import security as some
from weft.dataplane.ebpf import layout, libbpf, maps
from weft.dataplane.ebpf.changes import Changes
from weft.dataplane.ebpf.guards import Guards
from weft.dataplane.ebpf.tables import Table
from weft.model.values import Ip
from weft.policy.drop import DropReason
from weft.policy.rows import (
    AddressGroup,
    Direction,
    Key,
    MacRecord,
    Mirror,
    Pair,
    Port,
    Record,
    Route,
    Row,
    SecurityGroup,
    SecurityRule,
    Subnet,
)
from weft.policy.security import told_apart
from weft.reference import packet

pytestmark = pytest.mark.root

RDID, VSID, ROUTER = "6ba7b810-9dad-11d1-80b4-00c04fd430c8", 5000, "02:57:45:46:54:01"
HERE, THERE = "192.0.2.1", "192.0.2.2"
SERVER, CLIENT = "tenants/t/ports/server", "tenants/t/ports/client"
SERVER_MAC, CLIENT_MAC = "02:00:00:00:00:02", "02:00:00:00:00:03"
IN, OUT, UDP = Direction.INGRESS, Direction.EGRESS, 17
#: Groups: the server's own; one that an operator's rule denies; others.
SERVERS, BANNED, OTHERS = 1, 2, tuple(range(3, 11))


# What is in the maps.


@pytest.fixture(scope="module")
def two(weft_object: Path) -> Iterator[tuple[maps.Loaded, maps.Loaded]]:
    first, second = (maps.load(weft_object, SMALL, None) for _ in range(2))
    yield first, second
    first.close()
    second.close()


def fresh(of: maps.Loaded) -> Guards:
    names = ("guards", "identities", "classes", "rules")
    for name in names:
        for key, _ in list(of.maps[name].items()):
            of.maps[name].delete(key)
    tables = (Table(of.maps[name], Changes(of.maps["changes"]).made) for name in names)
    return Guards(*tables, outlast=lambda: None)  # no program runs


def said(of: maps.Loaded, guards: Guards) -> dict[str, object]:
    """Entries; of a number that is made of what it stands for, that."""
    identities = {key: guards._bears[layout.NUMBER.unpack(value)[0]] for key, value in of.maps["identities"].items()}
    return {"identities": identities, **{name: dict(of.maps[name].items()) for name in ("guards", "rules", "classes")}}


CHANGES = st.one_of(
    some.worlds(),
    st.tuples(st.sampled_from([f"10.0.1.{number}" for number in range(2, 8)]), st.sets(st.sampled_from(some.GROUPS))),
    st.tuples(st.integers(1, 3), st.integers(0, 2**31)),
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes=st.lists(CHANGES, min_size=1, max_size=12), data=st.data())
def test_step_by_step_it_comes_to_what_it_is_at_once(
    two: tuple[maps.Loaded, maps.Loaded], changes: list[object], data: st.DataObject
) -> None:
    guards = fresh(two[0])
    records: dict[str, Record] = {}
    ports: dict[int, Port] = {}
    addresses: tuple[AddressGroup, ...] = ()
    world: dict[int, SecurityGroup] = {}
    for change in changes:
        match change:
            case (str(address), set(bears)):
                row = Record(VSID, address, THERE, CLIENT_MAC, groups=tuple(sorted(bears)))
                records[address] = row
                assert guards.identify([row]) == []
            case (int(number), int()):
                ports[number] = Port(f"p{number}", VSID, SERVER_MAC, (), groups=data.draw(some.of_port(world)))
                if ports[number].groups:
                    guards.put(layout.Seat(number), ports[number])
                else:
                    guards.drop(layout.Seat(number))
            case (tuple(several), dict(groups)):
                guards.delete(
                    [group.key for group in addresses if group.number not in {each.number for each in several}]
                )
                addresses, world = several, groups
                assert guards.update([*addresses, *world.values()]) == []
            case _:
                raise AssertionError(change)
        assert guards.settle() == []
        names = {rule.remote_group for group in world.values() for rule in group.rules}
        told = {told_apart(row.groups, names) for row in records.values()} - {()}
        assert guards.identified == len(told), "as many as there are sets of groups that rules name"
        assert {key for key, _ in two[0].maps["identities"].items()} == {
            layout.map_key(row.key) for row in records.values() if told_apart(row.groups, names)
        }
        assert all(guards.bears(layout.map_key(row.key)) == row.groups for row in records.values())
    anew = fresh(two[1])
    anew.identify(records.values())
    anew.update([*addresses, *world.values()])
    for number, port in ports.items():
        anew.put(layout.Seat(number), port)
    anew.settle()
    assert said(two[0], guards) == said(two[1], anew)


def test_groups_that_no_rule_names_make_no_identities(two: tuple[maps.Loaded, maps.Loaded]) -> None:
    """Each address with a set of groups of its own, as where every service has one."""
    guards = fresh(two[0])
    sets = [tuple(9000 + bit for bit in range(10) if number >> bit & 1) for number in range(1 << 9)]
    rows = [
        Record(VSID, f"10.0.{number >> 8}.{number & 255}", THERE, CLIENT_MAC, groups=groups)
        for number, groups in enumerate(sets)
    ]
    assert guards.identify(rows) == []
    rule = SecurityRule(11, "deny", IN, 4, remote_group=9003, allow=False)
    assert guards.update([SecurityGroup(1, "g", rules=(rule,))]) == []
    guards.put(layout.Seat(5), Port("p", VSID, SERVER_MAC, (), groups=(1,)))
    assert guards.settle() == []
    assert guards.identified == 1
    assert len(dict(two[0].maps["identities"].items())) == 256


# What becomes of packets where there is no room.


def policy(records: dict[str, tuple[int, ...]], rules: tuple[SecurityRule, ...]) -> list[Row]:
    """A server with rules; and a client that may bear any address. The subnet's other records are elsewhere's."""
    servers = SecurityGroup(SERVERS, "servers", stateful=False, rules=rules)
    return [
        HOST,
        Subnet(VSID, RDID, ("10.0.0.0/24",), ("10.0.0.1",), ROUTER, 0),
        Record(VSID, "10.0.0.2", HERE, SERVER_MAC),
        *(Record(VSID, address, THERE, CLIENT_MAC, groups=bears) for address, bears in records.items()),
        MacRecord(VSID, SERVER_MAC, HERE),
        MacRecord(VSID, CLIENT_MAC, HERE),
        Route(RDID, "10.0.0.0/24", VSID),
        Route(RDID, "0.0.0.0/0", VSID, "10.0.0.2"),
        servers,
        Port(SERVER, VSID, SERVER_MAC, ("10.0.0.2",), groups=(SERVERS,), port_security=True),
        Port(CLIENT, VSID, CLIENT_MAC, (), (Pair(CLIENT_MAC, "0.0.0.0/0"),)),
    ]


def datagram(source: str, port: int) -> bytes:
    """From the client to the server."""
    body = (4000).to_bytes(2, "big") + port.to_bytes(2, "big") + b"\0\x0c\0\0said"
    whole = packet.ipv4(packet.address_bytes(source), packet.address_bytes("10.0.0.2"), UDP, body)
    return packet.ethernet(packet.mac_bytes(SERVER_MAC), packet.mac_bytes(CLIENT_MAC), 0x0800, whole)


PASSES: tuple[bool, dict[str, int]] = (True, {})


def fate(of: Harness, source: str, port: int = 53) -> tuple[bool, dict[str, int]]:
    """Whether a datagram from there reaches the server, and what of the server's rules denied it."""
    before = of.plane.denials().get(SERVER, {})
    out = of.run("weft_from_port", datagram(source, port), of.netns.ifindex("port1"))
    assert out.verdict == 1 or (out.verdict, out.target) == (5, DropReason.SECURITY_GROUP)
    more = {rule: count - before.get(rule, 0) for rule, count in of.plane.denials().get(SERVER, {}).items()}
    return out.verdict == 1, {rule: count for rule, count in more.items() if count}


BIND = {SERVER: "port0", CLIENT: "port1"}
ALL = (SecurityRule(11, "all", IN, 4), SecurityRule(12, "out", OUT, 4))
DENY = SecurityRule(21, "banned", IN, 4, remote_group=BANNED, allow=False, priority=100)
#: 30 look-ups for each identity that bears it; port 65535 is nobody's business.
DENY_MUCH = SecurityRule(22, "much", IN, 4, UDP, 1, 65_534, remote_group=BANNED, allow=False, priority=100)
DENY_MORE = tuple(
    SecurityRule(30 + group, "more", IN, 4, UDP, 1, 1, remote_group=group, allow=False) for group in OTHERS
)


@pytest.mark.parametrize("order", ["records come first", "the port comes first"])
def test_whom_rules_have_no_room_for_is_denied_and_everybody_else_is_not(weft_object: Path, order: str) -> None:
    records = {f"10.0.0.{10 + other}": (BANNED, other) for other in OTHERS} | {"10.0.0.9": ()}
    rows = policy(records, (*ALL, DENY_MUCH, *DENY_MORE))
    if order == "the port comes first":
        rows.sort(key=lambda row: isinstance(row, Record) and bool(row.groups))
    with harness(weft_object, replace(SMALL, rules=8 * 160)) as of:  # a tenant's part is an eighth
        assert of.plane.bind(BIND) == []
        failures = of.plane.update(rows)
        untold = {address for address in records if ("records", VSID, address) in {failure.key for failure in failures}}
        assert len(failures) == len(untold) == of.plane.unidentified()
        assert 0 < len(untold) < len(OTHERS)
        assert all("full at 160 entries" in failure.reason and "deny it" in failure.reason for failure in failures)
        for address, bears in records.items():
            denied = (False, {"" if address in untold else "much": 1})
            assert fate(of, address) == (denied if bears else PASSES)
            assert fate(of, address, 65_535) == (denied if address in untold else PASSES)
        # Room comes, and they are tried again.
        known = [address for address, bears in records.items() if bears and address not in untold]
        gone: list[Key] = [("records", VSID, address) for address in known]
        assert of.plane.delete(gone) == []
        again = [row for row in rows if isinstance(row, Record) and row.ca in sorted(untold)[: len(known)]]
        assert of.plane.update(again) == []
        assert of.plane.unidentified() == len(untold) - len(again)
        for row in again:
            assert fate(of, row.ca) == (False, {"much": 1})
            assert fate(of, row.ca, 65_535) == PASSES


def test_who_has_no_room_as_a_record_is_denied_by_group_all_the_same(weft_object: Path) -> None:
    records = {f"10.0.0.{number}": (BANNED,) for number in range(10, 18)}
    with harness(weft_object, replace(SMALL, records=4)) as of:
        assert of.plane.bind(BIND) == []
        assert len(of.plane.update(policy(records, (*ALL, DENY)))) == 5
        assert of.plane.unidentified() == 0
        assert all(fate(of, address) == (False, {"banned": 1}) for address in records)
        assert fate(of, "10.0.0.99") == PASSES


def test_who_has_no_room_at_all_makes_all_that_nobody_knows_denied_until_there_is(weft_object: Path) -> None:
    records = {f"10.0.0.{number}": (BANNED,) for number in range(10, 20)} | {"10.0.0.9": ()}
    rows = policy(records, (*ALL, DENY))
    few = [row for row in rows if not isinstance(row, Record) or row.ca in ("10.0.0.2", "10.0.0.9")]
    with harness(weft_object, replace(SMALL, records=4)) as of:
        assert of.plane.bind(BIND) == []
        assert of.plane.update(few) == []
        assert fate(of, "10.0.0.99") == PASSES
        failures = of.plane.update(row for row in rows if isinstance(row, Record))
        missing = [str(failure.key[-1]) for failure in failures if failure.reason.startswith("identities")]
        assert len(missing) == of.plane.unidentified() == 2
        assert not any(row.ca in missing for row in of.plane.read() if isinstance(row, Record))
        for address, bears in records.items():
            denied = (False, {"" if address in missing else "banned": 1})
            assert fate(of, address) == (denied if bears else PASSES)
        assert fate(of, "10.0.0.99") == (False, {"": 1})
        assert fate(of, "198.51.100.1") == PASSES, "what is behind a next hop is no port's"
        gone: list[Key] = [("records", VSID, address) for address in missing]
        assert of.plane.delete(gone) == []
        assert of.plane.unidentified() == 0
        assert fate(of, "10.0.0.99") == PASSES


def test_a_tenant_that_wants_more_than_its_part_closes_its_own_port_and_no_others(weft_object: Path) -> None:
    """As where the door did not know. Each change of the other's rules is in effect all the same."""
    greedy = "tenants/red/security-groups/greedy"
    wide = tuple(SecurityRule(500 + n, f"{greedy}/rules/{n}", IN, 4, 100 + n, 1, 65_534) for n in range(20))
    rows = [
        *policy({"10.0.0.9": (), "10.0.0.10": (BANNED,)}, (*ALL, DENY)),
        SecurityGroup(3, greedy, stateful=False, rules=wide),
    ]
    (client,) = (row for row in rows if isinstance(row, Port) and row.port == CLIENT)
    reds = replace(client, port="tenants/red/ports/p", mac="02:00:00:00:00:09", groups=(3,))
    with harness(weft_object, replace(SMALL, rules=8 * 160)) as of:
        assert of.plane.bind({**BIND, reds.port: "port2"}) == []
        failures = of.plane.update([*rows, reds])
        assert {failure.key for failure in failures} == {reds.key}
        assert "rules: full at 160 entries of one tenant" in failures[0].reason
        for allowed in (53, 54, 55):
            one = SecurityRule(13, "one", IN, 4, UDP, allowed, allowed)
            changed = SecurityGroup(SERVERS, "servers", stateful=False, rules=(one, DENY))
            assert all(failure.key == reds.key for failure in of.plane.update([changed, reds]))
            for port in (53, 54, 55):
                assert fate(of, "10.0.0.9", port) == (PASSES if port == allowed else (False, {"": 1}))
            assert fate(of, "10.0.0.10", allowed) == (False, {"banned": 1})
        few = SecurityGroup(3, greedy, stateful=False, rules=wide[:3])
        assert of.plane.update([few, reds]) == []


class Written(Table):
    """A table that keeps what was written to it, in order."""

    def __init__(self, of: libbpf.Map, changed: Callable[[], None]) -> None:
        super().__init__(of, changed)
        self.values: list[bytes] = []

    def refused(self, entries: Mapping[bytes, bytes]) -> dict[bytes, str]:
        self.values += [value for key, value in entries.items() if self.told.get(key) != value]
        return super().refused(entries)


@pytest.mark.parametrize("addresses", [None, 7])
def test_a_port_that_gets_groups_as_their_rules_change_never_has_the_former_rules_of_these(
    two: tuple[maps.Loaded, maps.Loaded], addresses: int | None
) -> None:
    """One write takes it from what it had to what it will have; whoever had these groups goes by one write, too."""
    fresh(two[0])
    names = ("guards", "identities", "classes", "rules")
    changed = Changes(two[0].maps["changes"]).made
    tables = [Written(two[0].maps[name], changed) for name in names]
    guards = Guards(*tables, outlast=lambda: None)
    others = [SecurityGroup(number, "of others", rules=ALL) for number in OTHERS[:2]]
    rules = (replace(ALL[0], remote_addresses=addresses), ALL[1])
    assert (
        guards.update([AddressGroup(7, "offices", ("10.0.0.0/24",)), *others, SecurityGroup(1, "g", rules=rules)]) == []
    )
    ports = [Port(f"tenants/t/ports/{n}", VSID, SERVER_MAC, (), groups=(n,)) for n in (1, OTHERS[0])]
    for rank, port in enumerate(ports):
        assert guards.put(layout.Seat(rank), port) == []
    assert guards.settle() == []
    tables[0].values.clear()
    assert guards.update([AddressGroup(7, "offices", ("10.0.1.0/24",)), SecurityGroup(1, "g", rules=(rules[0],))]) == []
    assert guards.put(layout.Seat(1), replace(ports[1], groups=(1,))) == []
    assert guards.settle() == []
    assert len(tables[0].values) == 2
    second, first = (layout.GUARD.unpack(value)[1:5] for value in tables[0].values)
    assert first == second
    in_use = {number for value in two[0].maps["guards"].items() for number in layout.GUARD.unpack(value[1])[1:5]}
    assert {layout.RULE_KEY.unpack(key)[1] for key, _ in two[0].maps["rules"].items()} <= in_use


def test_a_change_of_rules_is_whole_to_each_packet_that_meets_it(weft_object: Path) -> None:
    """What both the former and the new rules allow always passes, and what neither does never."""
    address, banned = "10.0.0.9", "10.0.0.10"
    either = (
        (*ALL, DENY),  # everybody but members of a group
        (SecurityRule(13, "dns", IN, 4, UDP, 53, 53, remote_prefix=f"{address}/32"),),
    )
    rows = policy({address: (), banned: (BANNED,)}, either[0])
    groups = [SecurityGroup(SERVERS, "servers", stateful=False, rules=rules) for rules in either]
    with harness(weft_object) as of:
        assert of.plane.bind(BIND) == []
        assert of.plane.update(rows) == []
        ifindex = of.netns.ifindex("port1")
        passes, stays = datagram(address, 53), datagram(banned, 54)

        def change() -> int:
            for turn in range(400):
                assert of.plane.update([groups[turn % 2]]) == []
            return 400

        with ThreadPoolExecutor(1) as pool:
            changing = pool.submit(change)
            while not changing.done():
                assert of.run("weft_from_port", passes, ifindex).verdict == 1
                out = of.run("weft_from_port", stays, ifindex)
                assert (out.verdict, out.target) == (5, DropReason.SECURITY_GROUP)
            assert changing.result() == 400
        decided = {layout.NUMBER.unpack(key)[0] for key, _ in of.maps["hits"].items()}
        assert {rule.number for rules in either for rule in rules if rule.direction is IN} == decided


def test_what_a_change_cuts_does_not_wait_for_runs_that_are_under_way(
    weft_object: Path, under_way: Callable[[], Callable[[], bool]]
) -> None:
    """The former rules do, which go after those runs; connections are held against the new ones before."""
    groups = [SecurityGroup(SERVERS, "servers", rules=rules) for rules in (ALL, ALL[1:])]
    with harness(weft_object) as of:
        assert of.plane.bind(BIND) == []
        assert of.plane.update(policy({}, ALL)) == []
        tracking, number = of.maps["tracking"], layout.NUMBER.pack(0)
        with ThreadPoolExecutor(1) as pool:
            for turn in range(1, 50):
                before, ended, renewed = tracking.lookup(number), under_way(), False
                changing = pool.submit(of.plane.update, [groups[turn % 2]])
                while not ended() and not renewed:
                    renewed = tracking.lookup(number) != before and not ended()
                assert changing.result() == []
                if renewed:
                    break  # else this thread, or that, was not let run in time
            assert renewed


def test_a_mirror_that_had_no_room_is_there_once_the_hosts_row_is_put_again(weft_object: Path) -> None:
    """What a delete could not do besides is a failure of the host, and the agent then puts its row."""
    rows = policy({}, ALL)
    (server,) = (row for row in rows if isinstance(row, Port) and row.port == SERVER)
    with harness(weft_object) as of:
        assert of.plane.bind(BIND) == []
        mirrors, number = of.plane._seats.tables.mirrors.map, 1 << 20
        taken: list[bytes] = []
        while mirrors.update_batch(key := layout.NUMBER.pack(number), bytes(mirrors.value_bytes), 1).done:
            taken.append(key)
            number += 1
        failures = of.plane.update([*rows, replace(server, mirror=Mirror(None, Ip("192.0.2.9")))])
        assert [failure.key for failure in failures] == [HOST.key]
        assert [failure.key for failure in of.plane.delete([("ports", "tenants/t/ports/other")])] == [HOST.key]
        assert [failure.key for failure in of.plane.update([HOST])] == [HOST.key]
        for key in taken:
            mirrors.delete(key)
        assert of.plane.update([HOST]) == []
        assert [key for key, _ in mirrors.items()] == [layout.NUMBER.pack(of.netns.ifindex("port0"))]
