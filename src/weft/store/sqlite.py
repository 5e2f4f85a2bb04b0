"""The store of one machine: a SQLite file. Never answers a commit that a kill -9 or a power cut could take back.

One thread owns the connection. Commits that wait together become one transaction and one fsync; each is still all or
nothing, since its preconditions are checked before its first write. The file is locked for as long as the store is
open: the controller's memory is a copy of it, so a second writer would be a second truth.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

import msgspec

from weft.contracts.store import (
    SCHEMA,
    Batch,
    Compacted,
    Guard,
    OtherSchema,
    Overtaken,
    PreconditionFailed,
    Snapshot,
    Stored,
)
from weft.kit.errors import Rejected, Retry
from weft.store import schema as schemas
from weft.store.marks import EVERYTHING, Marks

# PRAGMA application_id, "Weft": tells our files from other programs'.
_APPLICATION_ID = 0x57656674

# Commits in one transaction, at most: bounds how many a failed fsync takes with it.
_GROUP = 64

# Batches that a watcher reads at once.
_READ = 64

# A controller that is being replaced holds the file this long at most after its SIGTERM.
_LOCK_WAIT_S = 3.0

_SCHEMA = (
    "CREATE TABLE objects (name TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE log (revision INTEGER PRIMARY KEY, batch BLOB NOT NULL)",
    "CREATE TABLE head (only INTEGER PRIMARY KEY CHECK (only = 1), revision INTEGER NOT NULL, identity TEXT NOT NULL)",
    "INSERT INTO head VALUES (1, 0, lower(hex(randomblob(16))))",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA}",
)

_T = TypeVar("_T")

_LogEntry: TypeAlias = tuple[dict[str, bytes], list[str]]
_encode_log = msgspec.msgpack.Encoder().encode
_decode_log = msgspec.msgpack.Decoder(_LogEntry).decode


class _Answer(Generic[_T]):
    """What the store's thread will have said to a caller in an event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[_T] = self._loop.create_future()

    def give(self, outcome: _T | Exception) -> None:
        # A loop that is gone has nobody waiting; what was committed stays committed.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._complete, outcome)

    async def get(self) -> _T:
        return await self._future

    def _complete(self, outcome: _T | Exception) -> None:
        if self._future.done():  # cancelled
            return
        if isinstance(outcome, Exception):
            self._future.set_exception(outcome)
        else:
            self._future.set_result(outcome)


@dataclass(frozen=True, slots=True)
class _Commit:
    preconditions: Mapping[str, int]
    puts: Mapping[str, bytes]
    deletes: Collection[str]
    guard: Guard | None
    schema: int
    answer: _Answer[int]
    #: The revision that it takes to another schema; None: it is in the store's.
    migrates: int | None = None


@dataclass(frozen=True, slots=True)
class _Call:
    """Anything else that wants the connection; runs between transactions."""

    run: Callable[[], None]


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


class SqliteStore:
    """The store contract on one file.

    log_commits, log_bytes: how far back a watcher may start, in commits and in bytes; beyond either is Compacted.
    Opening raises Rejected when the file is not ours or cannot be had.
    """

    def __init__(self, path: Path, *, log_commits: int = 10_000, log_bytes: int = 256 << 20) -> None:
        self._log_commits = log_commits
        self._log_bytes = log_bytes
        self._db = _open(path)
        self._revision: int
        self._identity: str
        self._schema: int
        (self._schema,) = self._db.execute("PRAGMA user_version").fetchone()
        self._revision, self._identity = self._db.execute("SELECT revision, identity FROM head").fetchone()
        self._log: deque[tuple[int, int]] = deque(
            self._db.execute("SELECT revision, length(batch) FROM log ORDER BY revision")
        )
        self._log_size = sum(size for _, size in self._log)
        self._marks = Marks(self._revision)
        self._queue: queue.SimpleQueue[_Commit | _Call | _Stop] = queue.SimpleQueue()
        self._moved = asyncio.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="weft-store", daemon=True)
        self._thread.start()

    @property
    def shared(self) -> bool:
        return False

    @property
    def schema(self) -> int:
        return self._schema

    async def snapshot(self) -> Snapshot:
        return await self._call(self._read_all)

    async def head(self) -> int:
        return self._revision

    async def commit(
        self,
        preconditions: Mapping[str, int],
        puts: Mapping[str, bytes],
        deletes: Collection[str],
        guard: Guard | None = None,
        schema: int = SCHEMA,
    ) -> int:
        answer: _Answer[int] = _Answer()
        return await self._asked(_Commit(preconditions, puts, deletes, guard, schema, answer))

    async def migrate(self, at: int, schema: int, puts: Mapping[str, bytes], deletes: Collection[str]) -> int:
        """Whoever watches from before it is Compacted: the log keeps one schema."""
        answer: _Answer[int] = _Answer()
        everything = Guard(at, (), {EVERYTHING})
        return await self._asked(_Commit({}, puts, deletes, everything, schema, answer, migrates=at))

    async def _asked(self, commit: _Commit) -> int:
        self._refuse_when_closed()
        self._queue.put(commit)
        revision = await commit.answer.get()
        self._wake()
        return revision

    async def watch(self, revision: int) -> AsyncGenerator[Batch, None]:
        """A watcher has no queue: it reads the log from where it stands. One that the log overtakes is Compacted."""
        while not self._closed:
            moved = self._moved
            batches = await self._call(partial(self._read_log, revision))
            for batch in batches:
                yield batch
                revision = batch.revision
            if not batches:
                await moved.wait()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._wake()
        self._queue.put(_Stop())
        await asyncio.to_thread(self._thread.join)

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise Retry("the store is closed")

    async def _call(self, work: Callable[[], _T]) -> _T:
        self._refuse_when_closed()
        answer: _Answer[_T] = _Answer()

        def run() -> None:
            try:
                answer.give(work())
            except sqlite3.Error as error:
                answer.give(Retry(f"the store cannot be read: {error}"))
            except Compacted as error:
                answer.give(error)

        self._queue.put(_Call(run))
        return await answer.get()

    # From here on: the store's own thread only.

    def _serve(self) -> None:
        stopping = False
        while not stopping:
            commits: list[_Commit] = []
            calls: list[_Call] = []
            for request in _waiting(self._queue):
                match request:
                    case _Commit():
                        commits.append(request)
                    case _Call():
                        calls.append(request)
                    case _Stop():
                        stopping = True
            if commits:
                self._commit(commits)
            for call in calls:
                call.run()
        self._db.close()

    def _commit(self, commits: list[_Commit]) -> None:
        """One transaction. Callers hear of it after the fsync, and all of the same failure if there is one."""
        revision, schema = self._revision, self._schema
        log: list[tuple[int, int]] = []
        noted: list[tuple[int, _Commit]] = []
        outcomes: list[int | Exception] = []
        log_starts_at = 0
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for commit in commits:
                refused = (
                    _of_another(commit, revision, schema)
                    or self._overtaken(commit, noted)
                    or self._refusal(commit.preconditions)
                )
                if refused is None:
                    revision += 1
                    if commit.migrates is not None:
                        schema = commit.schema
                        log_starts_at = revision
                        self._db.execute(f"PRAGMA user_version = {schema:d}")
                    log.append((revision, self._write(revision, commit)))
                    noted.append((revision, commit))
                outcomes.append(refused or revision)
            self._db.execute("UPDATE head SET revision = ?", (revision,))
            surplus = self._surplus(log, log_starts_at)
            if surplus:
                self._db.execute("DELETE FROM log WHERE revision <= ?", (surplus[-1][0],))
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):  # some errors have rolled back already
                self._db.execute("ROLLBACK")
            outcomes = [Retry(f"the store did not take the write: {error}") for _ in commits]
        else:
            self._revision, self._schema = revision, schema
            for each, commit in noted:
                self._marks.note(each, commit.guard, commit.puts, commit.deletes)
            self._log.extend(log)
            for _ in surplus:
                self._log.popleft()
            self._log_size += sum(size for _, size in log) - sum(size for _, size in surplus)
        for commit, outcome in zip(commits, outcomes, strict=True):
            commit.answer.give(outcome)

    def _overtaken(self, commit: _Commit, before: list[tuple[int, _Commit]]) -> Overtaken | None:
        """By what is committed, or comes before it in the same transaction."""
        try:
            self._marks.check(commit.guard)
            for revision, other in before:
                self._marks.check_one(commit.guard, revision, other.guard, other.puts, other.deletes)
        except Overtaken as error:
            return error
        return None

    def _refusal(self, preconditions: Mapping[str, int]) -> PreconditionFailed | None:
        for name, expected in preconditions.items():
            found = self._db.execute("SELECT revision FROM objects WHERE name = ?", (name,)).fetchone()
            actual = found[0] if found else 0
            if actual != expected:
                return PreconditionFailed(name, expected, actual)
        return None

    def _write(self, revision: int, commit: _Commit) -> int:
        """The size of the log entry."""
        self._db.executemany("DELETE FROM objects WHERE name = ?", ((name,) for name in commit.deletes))
        self._db.executemany(
            "INSERT INTO objects VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value,"
            " revision = excluded.revision",
            ((name, value, revision) for name, value in commit.puts.items()),
        )
        entry = _encode_log((dict(commit.puts), list(commit.deletes)))
        self._db.execute("INSERT INTO log VALUES (?, ?)", (revision, entry))
        return len(entry)

    def _surplus(self, added: list[tuple[int, int]], first: int) -> list[tuple[int, int]]:
        """The entries that the log is too long by, and those before ``first``, in order. The newest always stays."""
        count = len(self._log) + len(added)
        size = self._log_size + sum(size for _, size in added)
        surplus: list[tuple[int, int]] = []
        for entry in chain(self._log, added):
            fits = count <= max(self._log_commits, 1) and (size <= self._log_bytes or count == 1)
            if fits and entry[0] >= first:
                break
            surplus.append(entry)
            count -= 1
            size -= entry[1]
        return surplus

    def _read_all(self) -> Snapshot:
        rows = self._db.execute("SELECT name, value, revision FROM objects")
        return Snapshot(
            {name: Stored(value, revision) for name, value, revision in rows},
            self._revision,
            self._identity,
            self._schema,
        )

    def _read_log(self, after: int) -> list[Batch]:
        oldest = self._log[0][0] if self._log else self._revision + 1
        if not oldest - 1 <= after <= self._revision:
            raise Compacted(f"the log holds {oldest}..{self._revision} and cannot go on from {after}")
        rows = self._db.execute(
            "SELECT revision, batch FROM log WHERE revision > ? ORDER BY revision LIMIT ?", (after, _READ)
        )
        return [self._batch(revision, entry) for revision, entry in rows]

    def _batch(self, revision: int, entry: bytes) -> Batch:
        puts, deletes = _decode_log(entry)
        return Batch(revision, puts, deletes, self._schema)


def _of_another(commit: _Commit, revision: int, schema: int) -> Overtaken | None:
    """Why a commit is not for the store as it would find it."""
    if commit.migrates is None:
        if commit.schema == schema:
            return None
        return OtherSchema(f"the store has schema version {schema}, not {commit.schema}")
    return None if commit.migrates == revision else Overtaken(f"the store is at revision {revision}")


def _waiting(requests: queue.SimpleQueue[_Commit | _Call | _Stop]) -> Iterator[_Commit | _Call | _Stop]:
    """Waits for a request; then that and those that are there already."""
    yield requests.get()
    with contextlib.suppress(queue.Empty):
        for _ in range(_GROUP - 1):
            yield requests.get_nowait()


def _open(path: Path) -> sqlite3.Connection:
    if not path.parent.is_dir():  # SQLite would say no more than that it cannot
        raise Rejected(f"the store {path} cannot be opened: there is no directory {path.parent}", "store")
    try:
        db = sqlite3.connect(path, timeout=_LOCK_WAIT_S, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise Rejected(f"the store {path} cannot be opened: {error}", "store") from error
    try:
        _claim(db, path)
    except sqlite3.Error as error:
        db.close()
        busy = error.sqlite_errorcode == sqlite3.SQLITE_BUSY
        reason = "another process has it open" if busy else str(error)
        raise Rejected(f"the store {path} cannot be opened: {reason}", "store") from error
    except Rejected:
        db.close()
        raise
    return db


def _claim(db: sqlite3.Connection, path: Path) -> None:
    """Locks the file for us, and makes it ours if it is empty."""
    # Exclusive before WAL: the lock then holds until close, and the WAL's index lives in memory, not in a shared file.
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    db.execute("BEGIN EXCLUSIVE")
    (application_id,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application_id == 0 and tables == 0:
        for statement in _SCHEMA:
            db.execute(statement)
    elif application_id != _APPLICATION_ID:
        raise Rejected(f"{path} is a database of another program, not a Weft store", "store")
    else:
        schemas.SCHEMA.check(version, f"the store {path}")
        columns = {name for _, name, *_ in db.execute("PRAGMA table_info(head)")}
        if "identity" not in columns:  # the first files of version 1 had none: hosts then took everything anew
            db.execute("ALTER TABLE head ADD COLUMN identity TEXT NOT NULL DEFAULT ''")
            db.execute("UPDATE head SET identity = lower(hex(randomblob(16)))")
    db.execute("COMMIT")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("BEGIN EXCLUSIVE")  # the first transaction in WAL takes the lock that then stays
    db.execute("COMMIT")
