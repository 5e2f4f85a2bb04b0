"""The policy on disk: cut anywhere, full or gone, it costs a longer start and nothing else."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from weft.agent.cache import FLOOR_BYTES, RETRY_S, Cache, Compaction
from weft.feed.reflector import Batch, Piece, Reflector, Tables
from weft.policy.rows import Key, Record, Row
from weft.wire import feed as wire

SCOPE = "rd:5e1"


class StandingClock:
    """A clock that moves when the test says so."""

    def __init__(self) -> None:
        self.time_s = 0.0

    def now_s(self) -> float:
        return self.time_s

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("the cache waits for nothing")


def record(number: int, pa: str = "192.0.2.1") -> Record:
    return Record(5000, f"10.0.{number >> 8}.{number & 255}", pa, "02:00:00:00:00:01")


class Stream:
    """A feed, from the agent's side: the lines that come, and the cache that is told of them."""

    def __init__(self, cache: Cache, reflector: Reflector) -> None:
        self.cache = cache
        self.reflector = reflector
        self.past: dict[int | None, dict[Key, Row]] = {None: {}}

    def open(self) -> None:
        self.reflector.connected()
        self.cache.begin()

    def say(self, *lines: bytes) -> None:
        for line in lines:
            event = self.reflector.feed(line)
            if isinstance(event, Piece | Batch):
                self.cache.write(event)
            if isinstance(event, Batch):
                self.past[event.revision] = held(self.reflector.tables)


def held(tables: Tables) -> dict[Key, Row]:
    return {row.key: row for row in tables.rows()}


def some_history(path: Path) -> Stream:
    stream = Stream(Cache(path, StandingClock()), Reflector())
    stream.open()
    stream.say(
        wire.encode_rows(SCOPE, [record(1), record(2)]),
        wire.encode_rows("rd:other", [record(300)]),
        wire.encode_bookmark(5, synced=True),
        wire.encode_rows(SCOPE, [record(2, "192.0.2.2"), record(3)], [record(1).key]),
        wire.encode_leave("rd:other"),
        wire.encode_bookmark(6, synced=True),
        wire.encode_bookmark(6, synced=True),
        wire.encode_bookmark(9, synced=True),
        wire.encode_rows(SCOPE, [], [record(3).key]),
        wire.encode_bookmark(10, synced=True),
    )
    stream.cache.close()
    return stream


def test_a_journal_cut_at_any_byte_is_read_up_to_its_last_bookmark(tmp_path: Path) -> None:
    stream = some_history(tmp_path / "policy.ndjson")
    whole = (tmp_path / "policy.ndjson").read_bytes()
    cut = tmp_path / "cut.ndjson"
    seen = set()
    for length in range(len(whole) + 1):
        cut.write_bytes(whole[:length])
        cache = Cache(cut, StandingClock())
        loaded = cache.load()
        seen.add(loaded.revision)
        assert held(loaded.tables) == stream.past[loaded.revision]
        # And it goes on from there: what is written next is read next.
        if loaded.revision is not None:
            following = Stream(cache, Reflector(loaded.tables, loaded.revision))
            following.open()
            following.say(
                wire.encode_resume(loaded.revision),
                wire.encode_rows(SCOPE, [record(7)]),
                wire.encode_bookmark(11, synced=True),
            )
            cache.close()
            again = Cache(cut, StandingClock()).load()
            assert (again.revision, held(again.tables)) == (11, following.past[11])
            assert again.torn_bytes == 0
    assert seen == {None, 5, 6, 9, 10}


def test_a_journal_with_any_byte_spoilt_never_invents_a_revision(tmp_path: Path) -> None:
    stream = some_history(tmp_path / "policy.ndjson")
    whole = (tmp_path / "policy.ndjson").read_bytes()
    spoilt = tmp_path / "spoilt.ndjson"
    newline = whole.index(b"\n")
    for at in range(newline, len(whole), 3):
        spoilt.write_bytes(whole[:at] + b"\x00" + whole[at + 1 :])
        loaded = Cache(spoilt, StandingClock()).load()
        assert loaded.revision in stream.past
        if whole[at : at + 1] != b"\n":
            assert held(loaded.tables) == stream.past[loaded.revision]


def test_a_full_start_takes_the_journals_place_when_everything_was_sent_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "policy.ndjson"
    stream = some_history(path)
    before = path.read_bytes()
    cache = Cache(path, StandingClock())
    loaded = cache.load()
    stream = Stream(cache, Reflector(loaded.tables, None))
    stream.open()
    stream.say(wire.encode_rows(SCOPE, [record(20)]))
    assert path.read_bytes() == before
    stream.open()  # the connection broke, and all begins anew
    stream.say(wire.encode_rows(SCOPE, [record(21)]))
    assert path.read_bytes() == before
    stream.say(wire.encode_bookmark(30, synced=True))
    assert path.read_bytes() == wire.encode_rows(SCOPE, [record(21)]) + wire.encode_bookmark(30, synced=True)
    cache.close()


def test_an_agent_killed_in_a_full_start_comes_back_with_the_former_policy(tmp_path: Path) -> None:
    path = tmp_path / "policy.ndjson"
    past = some_history(path).past
    cache = Cache(path, StandingClock())
    stream = Stream(cache, Reflector(cache.load().tables, None))
    stream.open()
    stream.say(wire.encode_rows(SCOPE, [record(20)]))
    cache.close()
    loaded = Cache(path, StandingClock()).load()
    assert (loaded.revision, held(loaded.tables)) == (10, past[10])
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_a_journal_that_has_grown_is_rewritten_as_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "policy.ndjson"
    cache = Cache(path, StandingClock())
    stream = Stream(cache, Reflector())
    stream.open()
    stream.say(wire.encode_rows(SCOPE, [record(n) for n in range(50)]), wire.encode_bookmark(1, synced=True))
    revision = 1
    while not cache.wants_compaction:
        revision += 1
        rows = [record(n, f"192.0.2.{revision % 250}") for n in range(500)]
        stream.say(wire.encode_rows(SCOPE, rows), wire.encode_bookmark(revision, synced=True))
    assert path.stat().st_size > FLOOR_BYTES
    cache.compact(Compaction.of(stream.reflector.tables, revision))
    assert path.stat().st_size < FLOOR_BYTES / 2
    assert not cache.wants_compaction
    stream.say(wire.encode_rows(SCOPE, [record(999)]), wire.encode_bookmark(revision + 1, synced=True))
    cache.close()
    loaded = Cache(path, StandingClock()).load()
    assert (loaded.revision, held(loaded.tables)) == (revision + 1, held(stream.reflector.tables))


class _FullDisk:
    """A file on a disk that takes a few bytes more, and then none."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, data: bytes) -> int:
        if len(data) <= 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        with self._path.open("ab") as file:
            return file.write(data[:10])

    def close(self) -> None:
        pass


def test_a_full_disk_is_a_fault_to_report_and_leaves_no_gap(tmp_path: Path) -> None:
    path, clock = tmp_path / "policy.ndjson", StandingClock()
    past = some_history(path).past
    cache = Cache(path, clock)
    stream = Stream(cache, Reflector(cache.load().tables, 10))
    stream.open()
    cache._file = _FullDisk(path)
    change = [wire.encode_rows(SCOPE, [record(60), record(61)]), wire.encode_bookmark(11, synced=True)]
    stream.say(wire.encode_resume(10), *change)
    assert "No space left on device" in cache.fault
    # There is room again, but what was lost is not to be jumped over.
    stream.say(wire.encode_rows(SCOPE, [record(62)]), wire.encode_bookmark(12, synced=True))
    loaded = Cache(path, clock).load()
    assert (loaded.revision, held(loaded.tables)) == (10, past[10])
    assert not cache.wants_compaction
    clock.time_s += RETRY_S
    assert cache.wants_compaction
    cache.compact(Compaction.of(stream.reflector.tables, 12))
    assert cache.fault == ""
    stream.say(wire.encode_rows(SCOPE, [record(63)]), wire.encode_bookmark(13, synced=True))
    cache.close()
    loaded = Cache(path, clock).load()
    assert (loaded.revision, held(loaded.tables)) == (13, held(stream.reflector.tables))


@pytest.mark.parametrize("content", [b"", b"\n", b"garbage\n", b'{"resume":4}\n', b"\x00" * 4096])
def test_a_file_that_says_nothing_is_no_policy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "policy.ndjson"
    path.write_bytes(content)
    loaded = Cache(path, StandingClock()).load()
    assert (loaded.revision, len(loaded.tables)) == (None, 0)


def test_the_cache_knows_whose_revision_it_holds_also_after_compaction(tmp_path: Path) -> None:
    path = tmp_path / "policy.ndjson"
    cache = Cache(path, StandingClock())
    stream = Stream(cache, Reflector())
    stream.open()
    stream.say(wire.encode_rows(SCOPE, [record(1)]), wire.encode_bookmark(3, synced=True, history="a.1"))
    assert Cache(path, StandingClock()).load().history == "a.1"
    cache.compact(Compaction.of(stream.reflector.tables, 3, stream.reflector.history))
    cache.close()
    loaded = Cache(path, StandingClock()).load()
    assert (loaded.revision, loaded.history) == (3, "a.1")
