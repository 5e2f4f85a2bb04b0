"""What is told of a map is what the kernel has, whatever it has refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from weft.dataplane.ebpf import libbpf
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
