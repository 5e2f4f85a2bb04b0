"""No run of a program that has found an entry ever sees another's in its place, whatever is written meanwhile."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from ebpf.harness import Harness
from weft.dataplane.ebpf import build, layout, libbpf
from weft.dataplane.ebpf.elements import Elements
from weft.dataplane.ebpf.tables import Table

pytestmark = pytest.mark.root

MINE, OTHERS = (number.to_bytes(8, "little") for number in (1, 2))
VALUE = struct.Struct("=QQ")
SEEN = struct.Struct("=QQQQQQ")
ONLY = layout.NUMBER.pack(0)
A, B, C = (VALUE.pack(each, each) for each in (0xA, 0xB, 0xC))
HASHES = ("kept", "at_once")


@dataclass
class Holder:
    """Runs a program that has found the first entry of a hash, and goes on as long as it is let, or 0.4 s."""

    maps: dict[str, libbpf.Map]
    programs: dict[str, libbpf.Program]
    thread: ThreadPoolExecutor
    cpu: int
    running: Future[libbpf.Ran] | None = None

    def begin(self, name: str) -> None:
        self.maps["seen"].update(ONLY, bytes(SEEN.size))
        self.running = self.thread.submit(self._run, name)
        while not self.stage:
            assert not self.running.done(), self.running.result()

    def _run(self, name: str) -> libbpf.Ran:
        os.sched_setaffinity(0, {self.cpu})
        return libbpf.TestRun(self.programs[f"hold_{name}"])(bytes(64), 1)

    @property
    def stage(self) -> int:
        """0: it has not begun yet; 2: it has ended."""
        return int(SEEN.unpack(self.maps["seen"].lookup(ONLY) or bytes(SEEN.size))[0])

    def end(self) -> tuple[bytes, bytes]:
        """What it saw first and last."""
        value = bytearray(self.maps["seen"].lookup(ONLY) or b"")
        struct.pack_into("=Q", value, 8, 1)
        if struct.unpack_from("=Q", value)[0] == 1:
            self.maps["seen"].update(ONLY, bytes(value))
        assert self.running is not None
        assert self.running.result().retval == 0
        seen = self.maps["seen"].lookup(ONLY) or b""
        return seen[16:32], seen[32:48]


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Holder]:
    """Its runs are on another CPU than this thread, which stays on one: the kernel reuses elements on the same CPU."""
    cpus = sorted(os.sched_getaffinity(0))
    with libbpf.Object(build.compile_programs(tmp_path / "o", Path(__file__).with_name("holding.bpf.c"))) as opened:
        maps, programs = opened.load()
    os.sched_setaffinity(0, {cpus[0]})
    with ThreadPoolExecutor(1) as thread:
        yield Holder(maps, programs, thread, cpus[-1])
    os.sched_setaffinity(0, set(cpus))
    libbpf.close_all(maps, programs)


@pytest.mark.parametrize("name", HASHES)
def test_the_kernel_gives_an_element_to_the_next_entry_at_once(holder: Holder, name: str) -> None:
    """What all of this is for; where it does not, elements.py may wait less."""
    table = holder.maps[name]
    table.update(MINE, A)
    holder.begin(name)
    table.delete(MINE)
    table.update(OTHERS, B)
    assert holder.end() == (A, B)


@pytest.mark.parametrize("name", HASHES)
def test_the_kernel_gives_what_was_replaced_to_the_next_entry_at_once(holder: Holder, name: str) -> None:
    table = holder.maps[name]
    table.update(MINE, A)
    holder.begin(name)
    table.update(MINE, B)
    for number in range(3, 6):
        table.update(number.to_bytes(8, "little"), C)
    table.update(MINE, C)
    assert holder.end()[1] != A


@pytest.mark.parametrize("name", HASHES)
def test_who_has_found_what_goes_meanwhile_does_not_see_who_comes(holder: Holder, name: str) -> None:
    table = Table(holder.maps[name], lambda: None)
    assert table.put({MINE: A}) == []
    holder.begin(name)
    table.drop([MINE])
    assert holder.stage == 1
    assert table.put({OTHERS: B}) == []
    assert holder.stage == 2
    assert holder.end() == (A, A)
    assert dict(table.entries()) == {OTHERS: B}


@pytest.mark.parametrize("name", HASHES)
def test_who_has_found_what_is_replaced_meanwhile_does_not_see_what_is_put_next(holder: Holder, name: str) -> None:
    table = Table(holder.maps[name], lambda: None)
    assert table.put({MINE: A}) == []
    holder.begin(name)
    assert table.put({MINE: B}) == []
    assert table.put({OTHERS: C}) == []
    assert holder.stage == 2
    assert holder.end() == (A, A)
    assert dict(table.entries()) == {MINE: B, OTHERS: C}


def test_what_a_former_process_may_have_taken_out_just_now_is_given_to_nobody(holder: Holder) -> None:
    table = holder.maps["kept"]
    table.update(MINE, A)
    holder.begin("kept")
    table.delete(MINE)
    assert Table(table, lambda: None).put({OTHERS: B}) == []
    assert holder.end() == (A, A)


def test_one_wait_is_enough_for_all_that_went_before_it(holder: Holder) -> None:
    waits: list[int] = []
    elements = Elements(outlast=lambda: waits.append(1))
    kept, at_once = (Table(holder.maps[name], lambda: None, elements=elements) for name in HASHES)
    for table in (kept, at_once):
        table.put({MINE: A, OTHERS: B})
    assert len(waits) == 1, "for what a former process may have done"
    for table in (kept, at_once):
        table.drop([MINE])
        table.put({OTHERS: B})
    assert len(waits) == 1, "nothing was put"
    for table in (kept, at_once):
        table.put({MINE: A})
    assert len(waits) == 2
    kept.put({MINE: B})
    assert len(waits) == 2, "it has nobody's element"
    kept.put({OTHERS: A})
    assert len(waits) == 3, "what was replaced is free"


# What the agent writes over entries that are there.


@pytest.mark.parametrize("name", layout.OVERWRITTEN)
def test_what_is_written_over_stays_in_its_element(programs: Harness, name: str) -> None:
    """As many as two runs take, and one that is not there, which is made."""
    key_bytes, value_bytes = (of.size for of in layout.LAYOUTS[name])
    table = programs.maps[name]
    count = min(table.max_entries - 1, 2 * 3072 // (key_bytes + value_bytes))
    keys = [(each + 1).to_bytes(2, "little") + bytes(key_bytes - 2) for each in range(count)]
    former, later = (bytes(value_bytes - 1) + bytes([byte]) for byte in (0, 1))
    if name in layout.IDENTIFIED and layout.identity(name, former) != layout.identity(name, later):
        later = bytes(8) + b"\1" + bytes(value_bytes - 9)
    waits: list[int] = []
    told = Table(table, lambda: None, elements=Elements(programs.programs["weft_overwrite"], lambda: waits.append(1)))
    try:
        assert told.put(dict.fromkeys(keys[1:], former)) == []
        waits.clear()
        assert told.put(dict.fromkeys(keys, later)) == []
        assert told.put(dict.fromkeys(keys, former)) == []
        assert told.put(dict.fromkeys(keys, later)) == []
        assert dict(table.items()) == dict.fromkeys(keys, later)
        assert waits == [], "nothing was let go of"
    finally:
        told.drop(keys)


@pytest.mark.parametrize("name", sorted(layout.IDENTIFIED))
def test_what_another_has_is_written_over_as_a_whole(programs: Harness, name: str) -> None:
    key_bytes, value_bytes = (of.size for of in layout.LAYOUTS[name])
    table, key = programs.maps[name], b"\1" + bytes(key_bytes - 1)
    one, two = (bytes([byte]) * value_bytes for byte in (1, 2))
    waits: list[int] = []
    told = Table(table, lambda: None, elements=Elements(programs.programs["weft_overwrite"], lambda: waits.append(1)))
    try:
        assert told.put({key: one}) == []
        for value in (two, one):
            waits.clear()
            assert told.put({key: value}) == []
            assert table.lookup(key) == value
        assert waits == [1], "before the second, for what the first let go of"
    finally:
        told.drop([key])


def test_what_has_gone_by_itself_is_made_again(programs: Harness) -> None:
    table = programs.maps["records"]
    keys = [layout.RECORD_KEY.pack(each, bytes(16)) for each in range(1, 10)]
    told = Table(table, lambda: None, elements=Elements(programs.programs["weft_overwrite"]))
    try:
        assert told.put(dict.fromkeys(keys, bytes(24))) == []
        for key in keys[2:8:3]:
            table.delete(key)
        assert told.put(dict.fromkeys(keys, b"\1" * 24)) == []
        assert dict(table.items()) == dict.fromkeys(keys, b"\1" * 24)
    finally:
        told.drop(keys)
