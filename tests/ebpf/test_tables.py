"""What is told of a map is what the kernel has, whatever it has refused, and whatever a former process has left."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import replace

import pytest

from weft.dataplane.ebpf import layout, libbpf
from weft.dataplane.ebpf.places import Places
from weft.dataplane.ebpf.reserves import Reserve
from weft.dataplane.ebpf.tables import Table
from weft.policy.rows import AddressGroup

pytestmark = pytest.mark.root

ROOM = 4


class Stubborn(libbpf.Map):
    """The kernel refuses to overwrite what is there, as that before 6.13 does in a trie that is full."""

    def update_batch(self, keys: bytes | bytearray, values: bytes | bytearray, count: int) -> libbpf.BatchResult:
        for at in range(count):
            put, value = (data[4 * at : 4 * at + 4] for data in (keys, values))
            try:
                self.update(bytes(put), bytes(value), libbpf.NOEXIST)
            except OSError as error:
                return libbpf.BatchResult(at, error.errno or 0)
        return libbpf.BatchResult(count, 0)


class Clinging(libbpf.Map):
    """The kernel lets go of one entry of a batch and no more."""

    def delete_batch(self, keys: bytes | bytearray, count: int) -> libbpf.BatchResult:
        done = super().delete_batch(keys[: self.key_bytes], 1)
        return done if count == 1 else libbpf.BatchResult(done.done, done.errno or errno.EBUSY)


def encode(row: AddressGroup) -> tuple[bytes, bytes]:
    """Of two numbers; any row that is one entry would do."""
    return key(row.number), key(int(row.name))


def key(number: int) -> bytes:
    return number.to_bytes(4, "little")


def hash_map(of: type[libbpf.Map]) -> Iterator[Table]:
    fd = libbpf._bpf(libbpf.Command.MAP_CREATE, libbpf._MapCreate(libbpf.MapType.HASH, 4, 4, ROOM))
    made = of.of("few", fd)
    yield Table(made, lambda: None)
    made.close()


@pytest.fixture
def table() -> Iterator[Table]:
    yield from hash_map(libbpf.Map)


@pytest.fixture
def stubborn() -> Iterator[Table]:
    yield from hash_map(Stubborn)


@pytest.fixture
def clinging() -> Iterator[Table]:
    yield from hash_map(Clinging)


def put_rows(table: Table, *rows: tuple[int, int]) -> list[str]:
    return [
        failure.reason
        for failure in table.put_rows([AddressGroup(number, str(value), ()) for number, value in rows], encode)
    ]


def test_what_the_kernel_does_not_overwrite_is_told_as_it_was(stubborn: Table) -> None:
    assert put_rows(stubborn, (1, 10), (2, 20)) == []
    assert put_rows(stubborn, (1, 11), (3, 30)) == ["few: the kernel refused the entry: File exists"]
    assert stubborn.refused({key(2): key(21), key(4): key(40)}).keys() == {key(2)}
    there = {key(1): key(10), key(2): key(20), key(3): key(30), key(4): key(40)}
    assert stubborn.told == dict(stubborn.entries()) == there
    assert stubborn.repair(prune=True) == 0
    assert dict(stubborn.entries()) == there


def test_of_several_values_that_are_all_refused_none_is_told(stubborn: Table) -> None:
    assert put_rows(stubborn, (1, 10)) == []
    assert len(put_rows(stubborn, (1, 11), (1, 12))) == 2
    assert stubborn.told == {key(1): key(10)}


def test_what_is_told_last_in_one_call_is_told_though_the_first_found_no_room(table: Table) -> None:
    assert put_rows(table, *((number, 0) for number in range(ROOM))) == []
    (why,) = put_rows(table, (9, 90), (1, 11))
    assert "few: full at 4 entries" in why
    assert table.told == dict(table.entries())
    assert table.told[key(1)] == key(11)


def test_what_the_kernel_does_not_let_go_of_stays_told(clinging: Table) -> None:
    assert put_rows(clinging, (1, 10), (2, 20), (3, 30)) == []
    with pytest.raises(OSError, match="few: an entry cannot be deleted"):
        clinging.drop([key(1), key(2)])
    assert clinging.told == dict(clinging.entries()) == {key(2): key(20), key(3): key(30)}
    clinging.drop([key(2)])
    clinging.drop([key(2)])
    assert clinging.told == dict(clinging.entries()) == {key(3): key(30)}


def test_what_a_former_process_has_left_and_the_kernel_does_not_overwrite_is_told_as_it_is(stubborn: Table) -> None:
    assert put_rows(stubborn, (1, 10), (2, 20)) == []
    fresh = Table(stubborn.map, lambda: None, Reserve(stubborn.map, ROOM, 1, bytes))
    assert put_rows(fresh, (1, 10), (2, 21)) == ["few: the kernel refused the entry: File exists"]
    assert fresh.told == {key(1): key(10), key(2): key(20)}
    assert fresh.repair(prune=True) == 0
    assert dict(fresh.entries()) == {key(1): key(10), key(2): key(20)}


def test_what_finds_no_room_in_a_trie_is_not_told_as_what_covers_it() -> None:
    no_prealloc = 1
    of = libbpf._MapCreate(libbpf.MapType.LPM_TRIE, 8, 4, 2, no_prealloc)
    trie = libbpf.Map.of("few", libbpf._bpf(libbpf.Command.MAP_CREATE, of))
    wide, narrow, other = (layout.PLACE.pack(bits, 10) for bits in (8, 32, 16))
    try:
        assert Table(trie, lambda: None).put({wide: key(1), other: key(2)}) == []
        for reserve in (None, Reserve(replace(trie, max_entries=9), 9, 1, bytes)):
            table = Table(trie, lambda: None, reserve)
            assert table.refused({narrow: key(2), wide: key(1)}).keys() == {narrow}
            assert table.told == {wide: key(1)}
            assert trie.lookup(narrow) == key(2), "of what covers it"
    finally:
        trie.close()


# With reserves, after a restart. Two holders have a part of two each, and one alone has four.

OWN, MOST = 2, 4


@pytest.fixture
def shared() -> Iterator[libbpf.Map]:
    fd = libbpf._bpf(libbpf.Command.MAP_CREATE, libbpf._MapCreate(libbpf.MapType.HASH, 8, 4, MOST + 2 * OWN))
    made = libbpf.Map.of("few", fd)
    yield made
    made.close()


def reserved(of: libbpf.Map) -> Table:
    """As a process that starts has it."""
    return Table(of, lambda: None, Reserve(of, MOST, 2, lambda place: place[:4]))


def some(holder: int, *numbers: int, value: int = 1) -> dict[bytes, bytes]:
    return {layout.PLACE.pack(holder, number): key(value) for number in numbers}


def test_after_a_restart_nobody_is_given_the_room_of_what_is_there(shared: libbpf.Map) -> None:
    assert reserved(shared).put(some(1, 0, 1, 2, 3) | some(2, 0)) == []
    table = reserved(shared)
    assert table.refused(some(2, 0, 1, 2, value=2)).keys() == some(2, 2).keys()
    assert table.put(some(3, 0, 1)) == [], "what is its own"
    assert table.refused(some(1, 4, 3, 2, 1, 0, value=2)).keys() == some(1, 4).keys()
    assert table.repair(prune=True) == 0
    assert dict(table.entries()) == some(1, 0, 1, 2, 3, value=2) | some(2, 0, 1, value=2) | some(3, 0, 1)


@pytest.mark.parametrize("how", ["drop", "prune", "repair"])
def test_what_a_former_process_has_left_and_goes_untold_leaves_its_room_to_others(shared: libbpf.Map, how: str) -> None:
    assert reserved(shared).put(some(1, 0, 1, 2, 3)) == []
    table = reserved(shared)
    assert table.put(some(1, 0, 1)) == []
    if how == "drop":
        table.drop(some(1, 2, 3, 4))
    elif how == "prune":
        table.prune({("few", number) for number in (0, 1)}, keys_of)
    else:
        assert table.repair(prune=True) == 2
    assert table.refused(some(2, 0, 1, 2, 3, 4)).keys() == some(2, 4).keys()
    assert table.put(some(1, 0, 1, value=2)) == []
    assert table.refused(some(1, 2)).keys() == some(1, 2).keys()
    assert table.repair(prune=True) == 0
    assert dict(table.entries()) == some(1, 0, 1, value=2) | some(2, 0, 1, 2, 3)


def keys_of(keys: bytes) -> list[tuple[str, int]]:
    return [("few", number) for _, number in layout.PLACE.iter_unpack(keys)]


def places(of: libbpf.Map) -> Places:
    return Places(reserved(of), lambda value: value)


def listed(table: Table, group: int) -> list[int]:
    """Values of a group as a walk finds them."""
    there = dict(table.entries())
    found: list[int] = []
    while (value := there.get(layout.PLACE.pack(group, len(found)))) is not None:
        found.append(int.from_bytes(value, "little"))
    return found


def members(group: int, *who: int) -> dict[tuple[int, bytes], bytes]:
    return {(group, key(each)): key(each) for each in who}


def test_after_a_restart_a_list_is_as_long_as_before_though_others_come_first(shared: libbpf.Map) -> None:
    assert places(shared).put(members(1, 11, 12, 13, 14) | members(2, 21)) == {}
    fresh = places(shared)
    assert fresh.put(members(2, 22, 23, 24, 21)).keys() == members(2, 23, 24).keys()
    assert fresh.put(members(1, 15, 14, 13, 12, 11)).keys() == members(1, 15).keys()
    assert fresh.table.repair(prune=True) == 0
    assert (listed(fresh.table, 1), listed(fresh.table, 2)) == ([11, 12, 13, 14], [21, 22])


def test_a_place_that_a_former_process_has_left_is_emptied_though_there_is_no_room(shared: libbpf.Map) -> None:
    assert places(shared).put(members(1, 11, 12, 13, 14)) == {}
    fresh = places(shared)
    assert fresh.put(members(2, 21, 22, 23)).keys() == members(2, 23).keys()
    fresh.drop(members(1, 12))
    assert listed(fresh.table, 1) == [11, 0, 13, 14]
    assert fresh.put(members(1, 14, 13, 11)) == {}
    assert fresh.table.repair(prune=True) == 0
    assert listed(fresh.table, 1) == [11, 0, 13, 14]


def test_a_gap_that_a_former_process_has_left_is_closed_though_there_is_no_room(shared: libbpf.Map) -> None:
    former = places(shared)
    assert former.put(members(1, 11, 12, 13)) == {}
    former.table.drop(some(1, 1))
    assert former.put(members(2, 21, 22, 23, 24)) == {}
    fresh = places(shared)
    assert listed(fresh.table, 1) == [11, 0, 13]
    assert fresh.put(members(3, 31)) == {}, "what is its own"
    assert fresh.put(members(1, 12)) == {}
    assert listed(fresh.table, 1) == [11, 12, 13]
