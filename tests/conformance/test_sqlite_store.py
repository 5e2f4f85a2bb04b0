from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from conformance.store_suite import HISTORIES, Closing, History, StoreSuite, take
from weft.contracts.store import Compacted, Snapshot, Store
from weft.kit.errors import Rejected, Retry
from weft.store.sqlite import SqliteStore

# Eight writers at once, each to its own names; a line on stdout for every commit that was answered.
WRITER = """
import asyncio, os, sys
from pathlib import Path
from weft.store.sqlite import SqliteStore

async def write(store, worker, first):
    for n in range(first, first + 100_000):
        puts = {f"w{worker}/a": b"%d" % n, f"w{worker}/b": b"%d" % n, f"w{worker}/{n % 7}": b"x" * 500}
        revision = await store.commit({}, puts, [])
        os.write(1, b"%d %d %d\\n" % (worker, n, revision))

async def main():
    store = SqliteStore(Path(sys.argv[1]), log_commits=1000)
    await asyncio.gather(*(write(store, worker, int(sys.argv[2])) for worker in range(8)))

asyncio.run(main())
"""


class TestSqliteStore(StoreSuite):
    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> None:
        self.directory = tmp_path
        self.count = 0

    def open(self, log_commits: int = 100) -> Store:
        self.count += 1
        return SqliteStore(self.directory / f"{self.count}.db", log_commits=log_commits)

    # Here, not in the suite: hypothesis wants one test per class that runs it.
    @settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(commits=HISTORIES)
    def test_any_history_leaves_what_a_dict_would_hold(self, commits: History) -> None:
        asyncio.run(self.follow(commits))

    async def test_everything_is_there_after_reopening(self, tmp_path: Path) -> None:
        store = SqliteStore(tmp_path / "weft.db")
        await store.commit({}, {"a": b"1"}, [])
        await store.commit({"a": 1}, {"b": b"2"}, [])
        before = await store.snapshot()
        await store.close()
        async with aclosing(Closing(SqliteStore(tmp_path / "weft.db"))) as it:
            assert await it.store.snapshot() == before
            assert (await it.store.snapshot()).identity == before.identity
            async with aclosing(it.store.watch(0)) as batches:
                assert [batch.revision for batch in await take(batches, 2)] == [1, 2]
            assert await it.store.commit({}, {}, []) == 3

    async def test_a_shorter_log_on_reopening_is_compacted_by_the_next_commit(self, tmp_path: Path) -> None:
        store = SqliteStore(tmp_path / "weft.db")
        for _ in range(6):
            await store.commit({}, {"a": b"1"}, [])
        await store.close()
        async with aclosing(Closing(SqliteStore(tmp_path / "weft.db", log_commits=2))) as it:
            await it.store.commit({}, {"a": b"2"}, [])
            async with aclosing(it.store.watch(4)) as batches:
                with pytest.raises(Compacted):
                    await anext(batches)
            async with aclosing(it.store.watch(5)) as batches:
                assert [batch.revision for batch in await take(batches, 2)] == [6, 7]

    async def test_the_log_is_bounded_in_bytes_and_keeps_its_newest_entry(self, tmp_path: Path) -> None:
        async with aclosing(Closing(SqliteStore(tmp_path / "weft.db", log_bytes=2500))) as it:
            for _ in range(5):
                await it.store.commit({}, {"a": b"x" * 1000}, [])
            async with aclosing(it.store.watch(3)) as batches:
                assert [batch.revision for batch in await take(batches, 2)] == [4, 5]
            await it.store.commit({}, {"a": b"x" * 9000}, [])
            async with aclosing(it.store.watch(5)) as batches:
                assert [batch.revision for batch in await take(batches, 1)] == [6]
            async with aclosing(it.store.watch(4)) as batches:
                with pytest.raises(Compacted):
                    await anext(batches)

    async def test_a_second_process_is_refused_while_it_is_open(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("weft.store.sqlite._LOCK_WAIT_S", 0.0)
        async with aclosing(Closing(SqliteStore(tmp_path / "weft.db"))):
            with pytest.raises(Rejected, match="another process has it open"):
                SqliteStore(tmp_path / "weft.db")

    def test_a_file_that_is_no_database_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.txt"
        path.write_bytes(b"remember the milk\n" * 100)
        with pytest.raises(Rejected, match="cannot be opened"):
            SqliteStore(path)
        assert path.read_bytes() == b"remember the milk\n" * 100

    def test_the_database_of_another_program_is_refused(self, tmp_path: Path) -> None:
        other = sqlite3.connect(tmp_path / "other.db")
        other.execute("CREATE TABLE t (x)")
        other.commit()
        other.close()
        with pytest.raises(Rejected, match="another program"):
            SqliteStore(tmp_path / "other.db")

    async def test_a_newer_schema_is_refused(self, tmp_path: Path) -> None:
        await SqliteStore(tmp_path / "weft.db").close()
        newer = sqlite3.connect(tmp_path / "weft.db")
        newer.execute("PRAGMA user_version = 99")
        newer.close()
        with pytest.raises(Rejected, match="schema version 99"):
            SqliteStore(tmp_path / "weft.db")

    def test_a_directory_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(Rejected, match="there is no directory"):
            SqliteStore(tmp_path / "absent" / "weft.db")

    async def test_a_write_that_fails_fails_whole_and_the_store_goes_on(self, tmp_path: Path) -> None:
        async with aclosing(Closing(SqliteStore(tmp_path / "weft.db"))) as it:
            await it.store.commit({}, {"a": b"1"}, [])
            assert isinstance(it.store, SqliteStore)
            it.store._db.execute("PRAGMA max_page_count = 10")  # the disk is full
            with pytest.raises(Retry, match="did not take the write"):
                await it.store.commit({}, {"a": b"2", "b": b"x" * 1_000_000}, [])
            assert (await it.store.snapshot()).objects.keys() == {"a"}
            it.store._db.execute("PRAGMA max_page_count = 1000000")
            assert await it.store.commit({"a": 1}, {"a": b"2"}, []) == 2

    def test_an_answered_write_survives_kill_9(self, tmp_path: Path) -> None:
        path = tmp_path / "weft.db"
        answered: dict[int, int] = {}
        revision = first = 0
        for _ in range(5):
            revision = max(revision, _write_until_killed(path, first, answered))
            first = max(answered.values()) + 1000
            # Fresh processes only: what this one would see of the page cache is what the next writer sees.
            snapshot, replayed = _read(path)
            assert snapshot.revision >= revision
            for worker, n in answered.items():
                here = int(snapshot.objects[f"w{worker}/a"].value)
                assert here >= n
                assert snapshot.objects[f"w{worker}/b"].value == b"%d" % here  # commits are whole
            assert replayed == {name: stored for name, stored in snapshot.objects.items() if name in replayed}


def _write_until_killed(path: Path, first: int, answered: dict[int, int]) -> int:
    """The highest revision that was answered."""
    highest = 0
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(first)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as writer:
        assert writer.stdout is not None
        stop_after = random.randrange(1, 600)  # noqa: S311 - no secret, a moment
        for count, line in enumerate(writer.stdout, 1):
            if count == stop_after:
                writer.kill()  # it is writing, in some state; lines until its pipe is dry are answers as well
            worker, n, revision = map(int, line.split())
            answered[worker] = n
            highest = max(highest, revision)
    return highest


def _read(path: Path) -> tuple[Snapshot, dict[str, object]]:
    async def read() -> tuple[Snapshot, dict[str, object]]:
        async with aclosing(Closing(SqliteStore(path, log_commits=1000))) as it:
            snapshot = await it.store.snapshot()
            replayed: dict[str, object] = {}
            count = min(snapshot.revision, 900)
            async with aclosing(it.store.watch(snapshot.revision - count)) as batches:
                for batch in await take(batches, count):
                    for name in batch.puts:
                        replayed[name] = type(snapshot.objects[name])(batch.puts[name], batch.revision)
            return snapshot, replayed

    return asyncio.run(read())
