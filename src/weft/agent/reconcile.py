"""Makes the data plane what the tables say: desired minus actual, in order, again until it is so.

One task owns the data plane, and one thread calls it. However many signals there are, the next run takes all of them at
once; whatever fails stays on a list and is tried again, so that cancelling, at any moment, is safe.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice
from typing import TypeAlias, TypeVar, assert_never

import structlog

from weft.agent.cache import Cache, Compaction
from weft.contracts.clock import Clock
from weft.contracts.dataplane import DataPlane, Failure, Way
from weft.feed.reflector import Batch, Connected, Piece
from weft.kit.errors import Retry
from weft.kit.waiting import first_of
from weft.policy.rows import ORDER, TABLES, Key, Port, Row

_log = structlog.get_logger("weft.agent")

#: Between two looks at what is really programmed. Twice this and a run is the longest that drift can last.
REPAIR_S = 5.0

RETRY_FIRST_S = 0.2
RETRY_MOST_S = 10.0

#: The data plane is told of at most so many rows in one call, so that a stop is never far away.
CALL_ROWS = 20_000

#: The feed waits when so many rows are on their way: what is read and not programmed is memory and nothing else.
PENDING_ROWS = 100_000

_RANK = {kind: ORDER[table] for table, kind in TABLES.items()}

#: What ends a call to the data plane and may go by: also what the kernel refuses in its midst, of memory or a file.
_FOR_NOW = (Retry, OSError)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Prune:
    """All that there should be: remove the rest."""

    desired: Collection[Key]


@dataclass(frozen=True, slots=True)
class Start:
    """The cache's rows, at the agent's start. Nothing is deleted for them."""

    revision: int
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Bind:
    """All bindings that there should be."""

    bindings: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Lead:
    """Ways to peers that have changed; see DataPlane.paths."""

    ways: Mapping[str, Sequence[Way]]


@dataclass(frozen=True, slots=True)
class Again:
    """What failed and is due."""

    puts: tuple[Row, ...]
    deletes: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Repair:
    """Look at what is really programmed."""


Work: TypeAlias = Start | Connected | Piece | Batch | Prune | Bind | Lead | Compaction | Again | Repair


class Todo(Enum):
    """What is to be done again where it is not the put of a row that is known."""

    DELETE = "delete"
    #: Nobody had asked for it just then: a change of something else has shown that this does not fit. It is put again
    #: as it is to be by then, and never deleted.
    DESIRED = "desired"


@dataclass(slots=True)
class Trouble:
    """Something that failed. row: what is to be put. due_s None: not before it changes."""

    failure: Failure
    row: Row | Todo
    attempts: int
    due_s: float | None


@dataclass(slots=True)
class Progress:
    """What has come of all work so far. Written by the worker while it works, read by others when it does not."""

    revision: int | None = None
    synced: bool = False
    ways_due: bool = False  #: some did not get through: they are to be told again
    prune_due: bool = False  #: the data plane would not, just then; whoever holds the tables says again what is desired
    ports: set[str] = field(default_factory=set)  #: names of those whose rows are programmed
    bindings: Mapping[str, str] = field(default_factory=dict)  #: the last that the data plane was told
    binding_failures: Mapping[str, Failure] = field(default_factory=dict)
    troubles: dict[Key, Trouble] = field(default_factory=dict)
    mended: int = 0
    runs: int = 0
    failed: int = 0  #: rows and keys that failed, each time counted


class Reconciler:
    """The one owner of a data plane. ``submit`` says what is wanted; ``run`` makes it so, for ever."""

    def __init__(
        self,
        plane: DataPlane,
        cache: Cache,
        clock: Clock,
        changed: Callable[[], None],
        desired: Callable[[Key], Row | None],
    ) -> None:
        """desired: a row as it should be by now; None also while the tables are being read anew."""
        self.progress = Progress()
        self._plane = plane
        self._cache = cache
        self._clock = clock
        self._changed = changed
        self._desired = desired
        self._queue: deque[Work] = deque()
        self._queued_rows = 0
        self._awake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="weft-dataplane")
        self._stopping = False
        self._repair_at_s = clock.now_s() + REPAIR_S
        self._bind_at_s: float | None = None
        self._bind_attempts = 0
        self._retry_at_s: float | None = None  # not later than the first of all troubles' due times
        self._waiting: list[asyncio.Future[None]] = []

    def submit(self, work: Work) -> None:
        """Order is kept: what is submitted later is done later, or in the same run behind it."""
        self._queue.append(work)
        self._queued_rows += _size(work)
        if self._queued_rows > PENDING_ROWS:
            self._room.clear()
        self._awake.set()

    async def room(self) -> None:
        """Returns when more may be submitted."""
        await self._room.wait()

    async def settled(self) -> None:
        """Returns when everything submitted so far was carried out, or has failed."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._awake.set()
        await done

    async def ask(self, question: Callable[[DataPlane], _T]) -> _T:
        """A question to the data plane, between two runs."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, question, self._plane)

    async def on_worker(self, work: Callable[[], _T]) -> _T:
        """Something that blocks, on the thread that may."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    async def run(self) -> None:
        while True:
            await self._wait()
            work = self._next()
            waiting: list[asyncio.Future[None]] = []
            if not self._queue:
                waiting, self._waiting = self._waiting, waiting
                work.extend(self._due())
            if work:
                await self.on_worker(lambda work=work: self._carry_out(work))  # type: ignore[misc]
                self.progress.runs += 1
                self._changed()
            for done in waiting:
                if not done.done():
                    done.set_result(None)

    def _next(self) -> deque[Work]:
        """What one run carries out. A Prune begins a run of its own: all that is desired is programmed by then, and is
        reported before what is left over of a former agent is looked for, which takes its time in large tables.
        """
        work, left = self._queue, deque[Work]()
        for rank, each in enumerate(work):
            if rank and isinstance(each, Prune):
                left = deque(islice(work, rank, None))
                work = deque(islice(work, rank))
                self._awake.set()
                break
        self._queue, self._queued_rows = left, sum(map(_size, left))
        self._room.set()
        return work

    async def stop(self) -> None:
        """Let go, with whatever call is under way brought to its end. What is programmed stays."""
        self._stopping = True
        await asyncio.to_thread(self._worker.shutdown, cancel_futures=True)
        for done in self._waiting:
            done.cancel()

    # -- when --

    async def _wait(self) -> None:
        due_s = min(self._due_times(), default=None)
        if due_s is None:
            await self._awake.wait()
        elif not self._awake.is_set() and (remaining_s := due_s - self._clock.now_s()) > 0:
            await first_of(self._awake.wait(), self._clock.sleep(remaining_s))
        self._awake.clear()

    def _due_times(self) -> Iterator[float]:
        yield self._repair_at_s
        if self._bind_at_s is not None:
            yield self._bind_at_s
        if self._retry_at_s is not None:
            yield self._retry_at_s

    def _due(self) -> Iterator[Work]:
        now_s = self._clock.now_s()
        if self._retry_at_s is not None and self._retry_at_s <= now_s:
            yield self._what_is_due(now_s)
        if self._bind_at_s is not None and self._bind_at_s <= now_s:
            yield Bind(self.progress.bindings)
        if self._repair_at_s <= now_s:
            yield Repair()

    def _what_is_due(self, now_s: float) -> Again:
        troubles = self.progress.troubles.items()
        timed = [(trouble.due_s, key, trouble) for key, trouble in troubles if trouble.due_s is not None]
        due = [(key, trouble) for due_s, key, trouble in timed if due_s <= now_s]
        for key, trouble in due:
            if trouble.row is Todo.DESIRED:
                trouble.row = self._desired(key) or Todo.DESIRED
                if trouble.row is Todo.DESIRED:
                    trouble.due_s = now_s + RETRY_MOST_S  # it is on its way, or about to go
        self._retry_at_s = min((t.due_s for _, _, t in timed if t.due_s is not None and t.due_s > now_s), default=None)
        puts = _in_order(trouble.row for _, trouble in due if not isinstance(trouble.row, Todo))
        keys = (key for key, trouble in due if trouble.row is Todo.DELETE)
        return Again(puts, tuple(sorted(keys, key=lambda key: ORDER[key[0]], reverse=True)))

    # -- what: on the worker's thread from here on --

    def _carry_out(self, works: deque[Work]) -> None:
        while works and not self._stopping:
            match works.popleft():
                case Start(revision, rows):
                    self._put(_in_order(rows))
                    self.progress.revision = revision
                case Connected():
                    self._cache.begin()
                    self.progress.synced = False
                case Piece() as piece:
                    self._cache.write(piece)
                    puts = list(piece.puts)
                    # Pieces that wait together are put together: fewer, larger calls.
                    while works and isinstance(works[0], Piece):
                        following = works.popleft()
                        assert isinstance(following, Piece)  # noqa: S101 -- looked at just before
                        self._cache.write(following)
                        puts.extend(following.puts)
                    self._put(_in_order(puts))
                    # While much comes in there is nothing to compare with yet; that would only hold it up.
                    self._repair_at_s = self._clock.now_s() + REPAIR_S
                case Batch() as batch:
                    self._cache.write(batch)
                    self._put(batch.delta.puts)
                    self._delete(batch.delta.deletes)
                    self.progress.revision = batch.revision
                case Prune(desired):
                    self._prune(desired)
                case Bind(bindings):
                    self._bind(bindings)
                case Lead(ways):
                    self._lead(ways)
                case Compaction() as compaction:
                    self._cache.compact(compaction)
                case Again(puts=rows, deletes=keys):
                    # What came with the work before is newer than what failed.
                    current = self.progress.troubles
                    self._put(tuple(row for row in rows if (t := current.get(row.key)) and t.row is row))
                    self._delete(tuple(key for key in keys if (t := current.get(key)) and t.row is Todo.DELETE))
                case Repair():
                    self._repair()
                case other:
                    assert_never(other)

    def _put(self, rows: tuple[Row, ...]) -> None:
        remaining = iter(rows)
        while (part := tuple(islice(remaining, CALL_ROWS))) and not self._stopping:
            try:
                failures = self._plane.update(part)
            except _FOR_NOW as fault:
                failures = [Failure(row.key, str(fault)) for row in part]
            failed = {failure.key: failure for failure in failures}
            asked = {row.key: row for row in part} if failed else {}
            self._settle((row.key for row in part), failed, asked)
            for row in part:
                if type(row) is Port and row.key not in failed:
                    self.progress.ports.add(row.port)

    def _delete(self, keys: tuple[Key, ...]) -> None:
        remaining = iter(keys)
        while (part := tuple(islice(remaining, CALL_ROWS))) and not self._stopping:
            try:
                failures = self._plane.delete(part)
            except _FOR_NOW as fault:
                failures = [Failure(key, str(fault)) for key in part]
            self._settle(part, {failure.key: failure for failure in failures}, dict.fromkeys(part, Todo.DELETE))
            self.progress.ports.difference_update(str(key[1]) for key in part if key[0] == "ports")
            self._use_room(Counter(key[0] for key in part))

    def _use_room(self, freed: Counter[str]) -> None:
        """As many of the rows that failed as entries were freed in their tables need wait no longer."""
        for key, trouble in self.progress.troubles.items():
            if not freed:
                return
            if trouble.row is not Todo.DELETE and trouble.due_s is not None and freed[key[0]] > 0:
                trouble.due_s = self._retry_at_s = self._clock.now_s()
                freed -= Counter({key[0]: 1})

    def _prune(self, desired: Collection[Key]) -> None:
        try:
            failures = self._plane.prune(desired)
        except _FOR_NOW as fault:
            _log.warning("what is left over stays for now", reason=str(fault))
            self.progress.prune_due = True
            return
        self._settle((), {failure.key: failure for failure in failures}, {})
        self.progress.ports.intersection_update(str(key[1]) for key in desired if key[0] == "ports")
        self.progress.synced = True

    def _bind(self, bindings: Mapping[str, str]) -> None:
        try:
            failures = self._plane.bind(bindings)
        except _FOR_NOW as fault:
            failures = [Failure(("ports", port), str(fault)) for port in bindings]
        # What rules say of records, which have nothing to do with where ports are.
        others = {failure.key: failure for failure in failures if failure.key[0] not in ("ports", "hosts")}
        failures = [failure for failure in failures if failure.key not in others]
        self._settle((), others, {})
        self.progress.bindings = bindings
        self.progress.binding_failures = {str(failure.key[-1]): failure for failure in failures}
        self._bind_attempts = self._bind_attempts + 1 if failures else 0
        again = any(not failure.permanent for failure in failures)
        self._bind_at_s = self._clock.now_s() + _backoff_s(self._bind_attempts) if again else None
        for failure in failures:
            _log.warning("a port is not bound", port=failure.key[-1], reason=failure.reason)

    def _lead(self, ways: Mapping[str, Sequence[Way]]) -> None:
        try:
            failures = self._plane.paths(ways)
        except _FOR_NOW as fault:
            failures = [Failure(("peers", "", pa), str(fault)) for pa in ways]
        for failure in failures:
            _log.warning("ways to a peer are not programmed", peer=failure.key[-1], reason=failure.reason)
        if failures:
            self.progress.ways_due = True

    def _repair(self) -> None:
        try:
            mended = self._plane.repair()
        except _FOR_NOW as fault:
            _log.warning("not looked for drift", reason=str(fault))
        else:
            self.progress.mended += mended
            if mended:
                _log.warning("drift mended", entries=mended)
        self._repair_at_s = self._clock.now_s() + REPAIR_S

    def _settle(self, keys: Iterable[Key], failed: Mapping[Key, Failure], asked: Mapping[Key, Row | Todo]) -> None:
        """Enter what failed on the list, and take off it what did not. asked: by key, what was to be done. What failed
        without having been asked for stays what it was on the list, and as soon due.
        """
        troubles = self.progress.troubles
        if not troubles and not failed:
            return
        now_s = self._clock.now_s()
        for key in keys:
            if key not in failed:
                troubles.pop(key, None)
        for key, failure in failed.items():
            former = troubles.get(key)
            row = asked.get(key)
            if row is None and former is not None and former.due_s is not None:
                former.failure = failure
                continue
            if row is None:
                row = Todo.DESIRED if former is None else former.row
            attempts = former.attempts + 1 if former is not None and former.row == row else 1
            due_s = None if failure.permanent else now_s + _backoff_s(attempts)
            troubles[key] = Trouble(failure, row, attempts, due_s)
            if due_s is not None and (self._retry_at_s is None or due_s < self._retry_at_s):
                self._retry_at_s = due_s
        self.progress.failed += len(failed)
        for failure in islice(failed.values(), 10):
            _log.warning("not programmed", key=failure.key, reason=failure.reason, permanent=failure.permanent)
        if len(failed) > 10:
            _log.warning("not programmed", further=len(failed) - 10)


def _backoff_s(attempts: int) -> float:
    return float(min(RETRY_MOST_S, RETRY_FIRST_S * 2 ** min(attempts - 1, 10)))


def _in_order(rows: Iterable[Row]) -> tuple[Row, ...]:
    # By type, not by key: a million keys are not made to be thrown away.
    return tuple(sorted(rows, key=lambda row: _RANK[type(row)]))


def _size(work: Work) -> int:
    match work:
        case Piece(puts):
            return len(puts)
        case Batch(delta=delta):
            return len(delta.puts) + len(delta.deletes)
        case _:
            return 1
