"""A tenant that takes all it can of a host's tables, door or no door: another's new port comes up and works."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebpf.harness import SMALL, Netns, eventually, send
from ebpf.rows import ARP_A, POLICY, A
from weft.contracts.dataplane import Failure, Wanted
from weft.dataplane.ebpf import layout, libbpf
from weft.dataplane.ebpf.plane import EbpfDataPlane
from weft.dataplane.ebpf.reserves import Domains, Further, Reserve
from weft.dataplane.ebpf.security import Flag
from weft.policy.rows import (
    Direction,
    MacRecord,
    Member,
    Pair,
    Port,
    Record,
    Route,
    Row,
    SecurityGroup,
    SecurityRule,
    Subnet,
)

SIZES = replace(SMALL, members=128)
GREEDY, NEW = "tenants/greedy/ports/p", "tenants/new/ports/p"
GREEDY_RDID, NEW_RDID = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"
GREEDY_VSID, NEW_VSID = 7000, 6000
NEW_MAC, VIRTUAL_MAC, ROUTER_MAC = "02:00:00:00:00:0b", "00:00:5e:00:01:33", "02:57:45:46:54:01"
#: From the new port, to its neighbour's address.
NEW_ARP = bytes.fromhex("ffffffffffff 02000000000b 0806 0001080006040001 02000000000b 0a000002 000000000000 0a000003")


def group(number: int, tenant: str) -> SecurityGroup:
    """Whose members may reach each other, by whatever protocol, and everybody may be reached."""
    name = f"tenants/{tenant}/security-groups/g"
    return SecurityGroup(number, name, rules=(
        SecurityRule(10 * number, f"{name}/rules/in", Direction.INGRESS, 4, remote_group=number),
        SecurityRule(10 * number + 1, f"{name}/rules/out", Direction.EGRESS, 4),
    ))  # fmt: skip


def mac(number: int, of: int = 1) -> str:
    return f"02:00:00:{of:02x}:{number >> 8:02x}:{number & 255:02x}"


def ca(number: int) -> str:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def port(name: str, number: int) -> Port:
    further = tuple(mac(each, 16 + number) for each in range(64))
    pairs = tuple(Pair(mac(number), f"172.16.{each}.0/24") for each in range(200))
    return Port(name, GREEDY_VSID, mac(number), (ca(number),), pairs, macs=further, groups=(1,))


def greed() -> list[Row]:
    """Of everything more than there is room for."""
    return [
        *(
            Subnet(GREEDY_VSID + each, GREEDY_RDID, (f"10.{each}.0.0/16",), (f"10.{each}.0.1",), ROUTER_MAC, 1400)
            for each in range(200)
        ),
        *(Record(GREEDY_VSID, ca(each), "192.0.2.2", mac(each), groups=(1,)) for each in range(2000)),
        *(MacRecord(GREEDY_VSID, mac(each), "192.0.2.2") for each in range(2000)),
        *(Member(GREEDY_VSID, f"198.51.100.{each}") for each in range(250)),
        *(Route(GREEDY_RDID, f"10.{each}.0.0/16", GREEDY_VSID) for each in range(250)),
        group(1, "greedy"),
        port(GREEDY, 0),
        *(replace(port(f"tenants/greedy/ports/sub-{vlan}", vlan), parent=GREEDY, vlan=vlan) for vlan in range(1, 100)),
    ]


NEW_ROWS: tuple[Row, ...] = (
    Subnet(NEW_VSID, NEW_RDID, ("10.0.0.0/24",), ("10.0.0.1",), ROUTER_MAC, 1400),
    Record(NEW_VSID, "10.0.0.2", "192.0.2.1", NEW_MAC, groups=(2,)),
    Record(NEW_VSID, "10.0.0.3", "192.0.2.2", mac(3), groups=(2,)),
    MacRecord(NEW_VSID, NEW_MAC, "192.0.2.1"),
    MacRecord(NEW_VSID, VIRTUAL_MAC, "192.0.2.1"),
    Member(NEW_VSID, "192.0.2.1"),
    Route(NEW_RDID, "10.0.0.0/24", NEW_VSID),
    group(2, "new"),
    Port(NEW, NEW_VSID, NEW_MAC, ("10.0.0.2",), (Pair(VIRTUAL_MAC, "10.0.0.9/32"),), macs=(VIRTUAL_MAC,), groups=(2,)),
)


@pytest.fixture
def plane(weft_object: Path, pins: Path, netns: Callable[[], Netns]) -> Iterator[EbpfDataPlane]:
    """With a port whose guest has traffic."""
    there = netns()
    for number in range(3):
        there.veth(f"port{number}", f"peer{number}")
    with there.enter():
        made = EbpfDataPlane(pins, SIZES, source=weft_object)
        assert made.bind({A: "port0"}) == []
        assert made.update(POLICY) == []
        yield made
        made.close()


BINDINGS = {A: "port0", GREEDY: "port1", NEW: "port2"}


def take_all(plane: EbpfDataPlane) -> list[Failure]:
    """What a host is told that has no door before it; and what other hosts say that their guests listen to."""
    said = {(GREEDY_VSID, "192.0.2.2"): Wanted(frozenset(f"239.{n >> 8}.{n & 255}.1" for n in range(1500)), 60.0)}
    return plane.update(greed()) + plane.heed(said)


def answered(plane: EbpfDataPlane, port_: str, interface: str, frame: bytes) -> None:
    before = plane.counters()[port_].sent_packets
    send(interface, frame)
    eventually(lambda: plane.counters()[port_].sent_packets == before + 1, "an answer")


@pytest.mark.root
def test_a_tenant_that_takes_all_it_can_takes_nothing_of_anothers_port(plane: EbpfDataPlane) -> None:
    answered(plane, A, "peer0", ARP_A)
    assert plane.bind({A: "port0", GREEDY: "port1"}) == []
    failures = take_all(plane) + take_all(plane)
    full = Counter(failure.reason.partition(":")[0] for failure in failures)
    tables = {"subnets", "records", "macs", "members", "routes", "ports", "sources", "local", "identities", "wanted"}
    assert full.keys() >= tables - {"sources"}
    assert any("sources: full" in failure.reason for failure in failures)
    theirs = {row.key for row in POLICY}
    assert not [failure for failure in failures if failure.key in theirs]
    answered(plane, A, "peer0", ARP_A)

    failed = {str(failure.key[1]) for failure in plane.bind(BINDINGS)}
    assert failed <= {row.port for row in greed() if isinstance(row, Port)}
    assert plane.update(NEW_ROWS) == []
    assert plane.heed({(NEW_VSID, "192.0.2.2"): Wanted(frozenset({"239.1.1.1"}), 60.0)}) == []
    answered(plane, NEW, "peer2", NEW_ARP)
    answered(plane, A, "peer0", ARP_A)
    # What it is not known of the greedy one's addresses, whose they are, is said of its own guards only.
    partial = {of: bool(_guard(plane, of) & Flag.PARTIAL) for of in (GREEDY, NEW)}
    assert partial == {GREEDY: True, NEW: False}
    assert plane.repair() == 0

    take_all(plane)
    answered(plane, NEW, "peer2", NEW_ARP)
    assert set(NEW_ROWS) <= set(plane.read())


def _guard(plane: EbpfDataPlane, of: str) -> int:
    flags: int = layout.GUARD.unpack(plane._guards.guards.told[plane._bindings.bound[of].seat.key])[5]
    return flags


@pytest.mark.root
def test_a_fresh_agent_takes_nothing_away_of_what_is_there_whoever_comes_first(
    plane: EbpfDataPlane, weft_object: Path, pins: Path
) -> None:
    plane.bind(BINDINGS)
    take_all(plane)
    before, rows = there(plane), set(plane.read())
    plane.close()
    fresh = EbpfDataPlane(pins, SIZES, source=weft_object)
    try:
        more = (
            *NEW_ROWS,
            *(Record(NEW_VSID, ca(each), "192.0.2.2", mac(each)) for each in range(256, 1024)),
            *(MacRecord(NEW_VSID, mac(each), "192.0.2.2") for each in range(256, 1024)),
            *(Member(NEW_VSID, f"203.0.113.{each}") for each in range(250)),
            *(Route(NEW_RDID, f"10.{each}.0.0/16", NEW_VSID) for each in range(250)),
        )
        greedy = greed()
        ports = [row for row in greedy if isinstance(row, Port)]
        wanted = [*more, *(row for row in reversed(greedy) if row not in ports), *ports, *POLICY]
        kinds = list(dict.fromkeys(type(row) for row in wanted))
        wanted.sort(key=lambda row: kinds.index(type(row)))
        fresh.bind(BINDINGS)
        failed = {failure.key for failure in fresh.update(wanted)}
        assert not failed & {row.key for row in rows if not isinstance(row, Port)}
        assert not failed & {row.key for row in NEW_ROWS}
        fresh.prune({row.key for row in wanted})
        fresh.repair()
        assert fresh.repair() == 0
        after = there(fresh)
        assert {name: len(keys - after[name]) for name, keys in before.items()} == dict.fromkeys(before, 0)
        answered(fresh, A, "peer0", ARP_A)
        answered(fresh, NEW, "peer2", NEW_ARP)
    finally:
        fresh.close()


def there(plane: EbpfDataPlane) -> dict[str, set[bytes]]:
    """Keys of all that has reserves and is filled by rows."""
    tables = (
        plane._subnets.subnets,
        plane._records.records,
        plane._records.macs,
        plane._subnets.members.table,
        plane._subnets.routes,
        plane._seats.tables.sources,
    )
    return {table.map.name: {key for key, _ in table.entries()} for table in tables}


@pytest.mark.root
def test_what_a_tenant_gives_back_others_may_have(plane: EbpfDataPlane) -> None:
    plane.bind(BINDINGS)
    take_all(plane)
    assert plane.delete([row.key for row in reversed(greed())]) == []
    assert plane.update(NEW_ROWS) == []
    more = [Record(NEW_VSID, ca(each), "192.0.2.2", mac(each)) for each in range(256, 256 + SIZES.records)]
    # Of which the port on port0 has some, beside its own.
    assert len(plane.update(more)) < 10
    assert plane.repair() == 0


@pytest.mark.root
def test_a_subnet_that_is_left_over_is_of_no_domain_any_more(plane: EbpfDataPlane) -> None:
    assert plane.update(NEW_ROWS) == []
    (packed,) = (layout.map_key(row.key) for row in NEW_ROWS if isinstance(row, Subnet))
    assert plane._domains.of(packed) != packed
    assert plane.prune([row.key for row in POLICY]) == []
    assert plane._domains.of(packed) == packed


# By themselves


def a_map(entries: int) -> libbpf.Map:
    return libbpf.Map("few", -1, libbpf.MapType.HASH, 0, 8, 4, entries)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32))
def test_who_has_no_more_than_its_own_always_gets_it_and_all_together_never_more_than_there_is(seed: int) -> None:
    random = Random(seed)  # noqa: S311 -- no secret: made-up keys
    holders, most, own = 4, 10, 3
    domains = Domains()
    reserve = domains.reserve(a_map(most + holders * own), most, holders)
    vsids = [layout.NUMBER.pack(number) for number in range(8)]
    for vsid in vsids:
        domains.learn(vsid, random.choice((b"a", b"b", b"c", b"d")))
    there: set[bytes] = set()
    for _ in range(60):
        fresh = {random.choice(vsids) + random.randbytes(4) for _ in range(random.randrange(1, 6))} - there
        before = Counter(domains.of(key[:4]) for key in there)
        refused = set(reserve.take(sorted(fresh)))
        assert refused <= fresh
        for key in refused:
            holder = domains.of(key[:4])
            assert before[holder] + sum(domains.of(each[:4]) == holder for each in fresh) > own
        there |= fresh - refused
        has = Counter(domains.of(key[:4]) for key in there)
        assert len(there) <= most + holders * own
        assert sum(max(count - own, 0) for count in has.values()) <= most - own
        gone = random.sample(sorted(there), min(len(there), random.randrange(4)))
        reserve.give(gone)
        there -= set(gone)
    reserve.give(sorted(there))
    alone = [vsids[0] + layout.NUMBER.pack(number) for number in range(most + 5)]
    assert len(reserve.take(alone)) == 5


def test_what_is_ones_own_is_there_though_more_is_held_of_the_rest_than_there_is() -> None:
    reserve = Reserve(a_map(4 + 2 * 2), 4, 2, lambda key: key[:1])
    reserve.hold([b"a" + bytes([each]) for each in range(6)])
    assert reserve.take([b"a6"]) == [b"a6"]
    assert reserve.take([b"b0", b"b1", b"b2"]) == [b"b2"]
    reserve.give([b"a" + bytes([each]) for each in range(4)])
    assert reserve.take([b"b2", b"b3", b"b4"]) == [b"b4"]


def test_a_vsid_that_goes_over_to_another_domain_takes_its_entries_along() -> None:
    domains = Domains()
    reserve = domains.reserve(a_map(4 + 2 * 2), 4, 2)
    one, two = (layout.NUMBER.pack(number) for number in (1, 2))
    domains.learn(one, b"a")
    assert reserve.take([one + bytes([each] * 4) for each in range(4)]) == ()
    domains.learn(two, b"a")
    assert reserve.take([two + bytes(4)]) == [two + bytes(4)]
    domains.learn(two, b"b")
    assert reserve.take([two + bytes(4), two + bytes(3) + b"1"]) == ()
    domains.learn(two, b"a")
    assert reserve.take([one + b"more"]) == [one + b"more"]
    domains.forget(one)
    assert reserve.take([two + b"more"]) == [two + b"more"]
    assert Reserve(a_map(8), 8, 2, bytes).own == 0


def test_a_tenant_has_a_third_of_what_ports_have_further_and_each_port_keeps_what_it_had() -> None:
    further = Further(9)
    assert [further.grant(("a", each), "a", 2) for each in range(3)] == [2, 1, 0]
    assert further.grant(("b", 0), "b", 5) == 3
    assert further.grant(("a", 0), "a", 2) == 2
    assert further.grant(("a", 0), "a", 0) == 0
    assert further.grant(("a", 2), "a", 5) == 2
    assert further.grant(("c", 0), "c", 5) == 3
    assert further.grant(("d", 0), "d", 1) == 0


def test_what_ports_that_are_not_told_of_yet_have_further_counts_until_they_are_or_have_gone() -> None:
    further = Further(9, {("a", 0): ("a", 2), ("a", 1): ("a", 1), ("b", 0): ("b", 3), ("c", 0): ("c", 0)})
    assert [further.grant(("a", 2), "a", 1), further.grant(("c", 0), "c", 4), further.grant(("d", 0), "d", 1)] == [
        0,
        3,
        0,
    ]
    assert [further.grant(("a", 0), "a", 2), further.grant(("a", 1), "a", 5)] == [2, 1]
    further.keep({("a", 0), ("c", 0)})
    assert [further.grant(("a", 2), "a", 5), further.grant(("d", 0), "d", 4)] == [1, 3]


@pytest.mark.root
def test_a_fresh_agent_counts_sub_ports_and_further_macs_that_are_there_whoever_comes_first(
    plane: EbpfDataPlane, weft_object: Path, pins: Path
) -> None:
    def sub_port(parent: str, vlan: int, macs: int = 0) -> Port:
        of = parent.split("/")[1]
        further = tuple(mac(each, 32 + vlan) for each in range(macs))
        vsid, own = (GREEDY_VSID, mac(vlan)) if parent == GREEDY else (NEW_VSID, mac(200 + vlan))
        return Port(f"tenants/{of}/ports/s{vlan}", vsid, own, (), macs=further, parent=parent, vlan=vlan)

    most = SIZES.subports
    theirs = [sub_port(NEW, vlan, 2) for vlan in range(1, 4)]
    mine = [sub_port(GREEDY, vlan) for vlan in range(1, most - len(theirs) + 1)]
    parents = [replace(port(GREEDY, 0), macs=(), groups=()), *NEW_ROWS[-1:]]
    assert plane.bind(BINDINGS) == []
    assert not {failure.key for failure in plane.update([*greed()[:1], *NEW_ROWS, *parents, *theirs, *mine])}
    plane.close()
    fresh = EbpfDataPlane(pins, SIZES, source=weft_object)
    try:
        assert fresh._seats._further._of_tenant == {layout.tenant_number(NEW): 2 * len(theirs) + 1}
        fresh.bind(BINDINGS)
        more = [sub_port(GREEDY, vlan) for vlan in range(100, 110)]  # before all that there was is told
        rows = [*greed()[:1], *NEW_ROWS, *parents, *more, *mine, *theirs]
        assert {failure.key for failure in fresh.update(rows)} == {row.key for row in more}
        fresh.prune({row.key for row in rows} - {row.key for row in mine[:2]})
        assert {failure.key for failure in fresh.update(more[:2])} == set()
    finally:
        fresh.close()
