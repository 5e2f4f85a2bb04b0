"""The store of many controllers: a log in etcd, and now and then a checkpoint of all that it says. Takes no lock.

A commit is one entry of the log, published by one transaction that moves the head from the revision before it; so it
is all or nothing however large it is, and every controller sees the same commits in the same order. A body that is
larger than a request may be is written beforehand, in parts that mean nothing until an entry names them. Whoever finds
that the head has moved takes in what moved it, judges anew (preconditions, guard) and tries again.

Keys below the prefix: meta, head, log/<revision>, parts/<id>/<number>, checkpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import structlog

from weft.contracts.clock import Clock
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
    Unsure,
)
from weft.kit.clock import MonotonicClock
from weft.kit.errors import Rejected, Retry
from weft.store import entries
from weft.store import schema as schemas
from weft.store.entries import Entry, Meta, Pointer
from weft.store.etcd_client import (
    Address,
    CompactedHistory,
    Compare,
    Etcd,
    KeyValue,
    Operation,
    Range,
    Transaction,
    Unanswered,
    Watched,
    end_of,
    has_value,
    is_absent,
    is_at,
    is_present,
    put,
    read,
)
from weft.store.marks import EVERYTHING, Marks

# A commit that finds nobody to take it gives up after this long: elections are over by then.
_COMMIT_S = 8.0
# The head is asked for this often, whatever the watch says: a watch may be silent because its node knows no better.
_LOOK_S = 1.0
_AGAIN_S = 0.1
# Entries of the log that are read in one go.
_READ = 100
_PARTS = 8
# Commits that memory keeps at least: those who wrote must find what became of it.
_REMEMBERED = 256
# Bodies above it are packed and unpacked in a thread.
_INLINE_OBJECTS = 500
# A checkpoint is made when the log since the last one is this large, and as large as the checkpoint.
_CHECKPOINT_BYTES = 8 << 20

_log = structlog.stdlib.get_logger("weft.store")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Kept:
    """A commit in memory, for watchers and for those who must know whether it is theirs."""

    id: bytes
    batch: Batch
    size: int


@dataclass(slots=True)
class _State:
    """What this process knows: everything up to ``head``. revisions: of each object."""

    meta: bytes
    identity: str
    schema: int
    head: int
    etcd_revision: int
    revisions: dict[str, int]
    marks: Marks
    log: deque[_Kept]
    log_bytes: int
    checkpoint: int  # the revision that the newest checkpoint is of
    checkpoint_bytes: int
    since_bytes: int  # of the log after it


@dataclass(frozen=True, slots=True)
class _Everything:
    """All of a store, as of one etcd revision."""

    meta: bytes
    identity: str
    schema: int
    head: int
    etcd_revision: int
    objects: dict[str, Stored]
    pointer: Pointer
    pointer_at: int
    tail: list[_Kept]
    tail_marks: list[list[str]]


class _Gap(Exception):
    """The log no longer has what comes next."""


class EtcdStore:
    """The store contract on an etcd cluster.

    log_commits, log_bytes: how far back a watcher may start, in commits and (in memory) bytes.
    """

    def __init__(
        self,
        address: Address,
        *,
        log_commits: int = 10_000,
        log_bytes: int = 64 << 20,
        checkpoint_bytes: int = _CHECKPOINT_BYTES,
        clock: Clock | None = None,
    ) -> None:
        self.etcd = Etcd(address)
        self.prefix = address.prefix.rstrip("/").encode()
        self._log_commits = max(log_commits, 1)
        self._log_bytes = log_bytes
        self._checkpoint_bytes = checkpoint_bytes
        self._clock = clock or MonotonicClock()
        self._state: _State | None = None
        self._closed = False
        self._moved = asyncio.Event()
        self._opening = asyncio.Lock()
        self._absorbing = asyncio.Lock()
        self._committing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._checkpointing = False
        self._replaced = ""
        self._orphans: frozenset[str] = frozenset()

    # -- the contract --

    @property
    def shared(self) -> bool:
        return True

    @property
    def schema(self) -> int:
        return self._state.schema if self._state else SCHEMA

    async def head(self) -> int:
        await self._ready()
        await self._catch_up()
        return self._known().head

    async def snapshot(self) -> Snapshot:
        self._refuse_when_closed()
        if self._state is None:
            found = await self._open()
            if found is not None:
                return Snapshot(found.objects, found.head, found.identity, found.schema)
        everything = await self._read_everything()
        return Snapshot(everything.objects, everything.head, everything.identity, everything.schema)

    async def commit(
        self,
        preconditions: Mapping[str, int],
        puts: Mapping[str, bytes],
        deletes: Collection[str],
        guard: Guard | None = None,
        schema: int = SCHEMA,
    ) -> int:
        await self._ready()
        attempt = await self._attempt(puts, deletes, guard.writes if guard else (), schema)
        async with self._committing:
            revision = await self._publish(attempt, preconditions, guard)
        self._consider_checkpoint()
        return revision

    async def migrate(self, at: int, schema: int, puts: Mapping[str, bytes], deletes: Collection[str]) -> int:
        """The entry and what it makes of the store are one transaction; every commit rests on which schema that is."""
        await self._ready()
        attempt = await self._attempt(puts, deletes, (EVERYTHING,), schema)
        attempt.migrates = at
        older = schema < self._known().schema
        async with self._committing:
            revision = await self._publish(attempt, {}, None)
        if older:
            # The release before reads what comes from here on, and none of what was.
            try:
                await self._make_checkpoint(keep=0)
            except Retry as error:
                _log.warning("what was before the migration stays in the log for a while", reason=str(error))
        return revision

    async def _attempt(
        self, puts: Mapping[str, bytes], deletes: Collection[str], marks: Collection[str], schema: int
    ) -> _Attempt:
        body = await _here_or_thread(len(puts), partial(entries.encode_body, puts, deletes, marks))
        return _Attempt(uuid.uuid4().bytes, body, Batch(0, puts, list(deletes), schema), marks)

    async def watch(self, revision: int) -> AsyncGenerator[Batch, None]:
        """Like the contract. What memory no longer has is read from etcd."""
        await self._ready()
        while not self._closed:
            moved = self._moved
            if self._replaced:
                raise Compacted(self._replaced)
            if revision > self._known().head:
                await self._catch_up()
            state = self._known()
            if not max(0, state.head - self._log_commits) <= revision <= state.head:
                raise Compacted(
                    f"the log holds {max(1, state.head - self._log_commits + 1)}..{state.head}"
                    f" and cannot go on from {revision}"
                )
            if revision == state.head:
                await moved.wait()
                continue
            for batch in await self._after(revision):
                if self._closed or batch.revision < self._known().head - self._log_commits:
                    break
                revision = batch.revision
                yield batch

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._wake()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.etcd.close()

    # -- opening and reading --

    async def _ready(self) -> None:
        self._refuse_when_closed()
        if self._state is None:
            await self._open()

    async def _open(self) -> _Everything | None:
        """None: somebody else has opened it meanwhile."""
        async with self._opening:
            if self._state is not None:
                return None
            everything = await self._read_everything()
            self._take(everything)
            for work in (self._follow(), self._look()):
                self._start(work)
            return everything

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a part of the store has ended by a bug", exc_info=error)

    def _take(self, everything: _Everything) -> None:
        first = everything.pointer.revision
        marks = Marks(first)
        log: deque[_Kept] = deque()
        for kept, written in zip(everything.tail, everything.tail_marks, strict=True):
            marks.wrote(kept.batch.revision, written, kept.batch.puts, kept.batch.deletes)
            log.append(kept)
        size = sum(kept.size for kept in log)
        self._state = _State(
            everything.meta,
            everything.identity,
            everything.schema,
            everything.head,
            everything.etcd_revision,
            {name: stored.revision for name, stored in everything.objects.items()},
            marks,
            log,
            size,
            first,
            everything.pointer.size,
            size,
        )
        self._trim_memory(self._state)
        self._wake()

    def _known(self) -> _State:
        assert self._state is not None  # noqa: S101 -- every way here has gone through _ready
        return self._state

    async def _read_everything(self) -> _Everything:
        """Of one etcd revision; again if etcd forgets it meanwhile."""
        for _ in range(5):
            try:
                return await self._read_once()
            except (CompactedHistory, _Gap):
                continue
        raise Retry("the store is compacted faster than it can be read")

    async def _read_once(self) -> _Everything:
        meta_key, head_key, pointer_key = self._key("meta"), self._key("head"), self._key("checkpoint")
        first = Meta(SCHEMA, uuid.uuid4().hex)
        await self.etcd.transact(
            Transaction(
                [is_absent(meta_key)],
                [put(meta_key, entries.encode_meta(first)), put(head_key, b"0")],
            )
        )
        outcome = await self.etcd.transact(Transaction((), [read(meta_key), read(head_key), read(pointer_key)]))
        meta, head, pointer = outcome.ranges
        at = outcome.header.revision
        if not meta.kvs or not head.kvs:
            raise Retry("the store goes away while it is read")
        told = entries.decode_meta(meta.kvs[0].value)
        schemas.SCHEMA.check(told.schema, "the store")
        newest = entries.decode_pointer(pointer.kvs[0].value) if pointer.kvs else Pointer(0, b"", 0, 0)
        objects: dict[str, Stored] = {}
        if newest.parts:
            raw = await self._read_parts(newest.id, newest.parts, at)
            objects = await asyncio.to_thread(entries.decode_objects, raw)
        target = int(head.kvs[0].value)
        tail: list[_Kept] = []
        marks: list[list[str]] = []
        while newest.revision + len(tail) < target:
            found = await self.etcd.range(self._log_range(newest.revision + len(tail) + 1, target, at))
            if not found.kvs:
                raise _Gap
            for kv in found.kvs:
                revision = self._revision_of(kv.key)
                if revision != newest.revision + len(tail) + 1:
                    raise _Gap
                kept, written = await self._decode(revision, kv.value, at)
                tail.append(kept)
                marks.append(written)
                for name in kept.batch.deletes:
                    objects.pop(name, None)
                objects.update((name, Stored(value, revision)) for name, value in kept.batch.puts.items())
        pointer_at = pointer.kvs[0].mod_revision if pointer.kvs else 0
        return _Everything(
            meta.kvs[0].value, told.identity, told.schema, target, at, objects, newest, pointer_at, tail, marks
        )

    async def _read_parts(self, id_: bytes, count: int, at: int = 0) -> bytes:
        parts: list[bytes] = []
        prefix = self._parts(id_)
        while len(parts) < count:
            found = await self.etcd.range(Range(_numbered(prefix, len(parts)), end_of(prefix), _PARTS, at))
            if not found.kvs:
                raise _Gap
            parts.extend(kv.value for kv in found.kvs)
        return b"".join(parts)

    async def _decode(self, revision: int, raw: bytes, at: int = 0) -> tuple[_Kept, list[str]]:
        entry = entries.decode_entry(raw)
        body = await self._read_parts(entry.id, entry.parts, at) if entry.parts else entry.body
        decode = partial(entries.decode_body, body)
        puts, deletes, marks = await asyncio.to_thread(decode) if entry.parts else decode()
        return _Kept(entry.id, Batch(revision, puts, deletes, entry.schema), len(body)), marks

    async def _after(self, revision: int) -> list[Batch]:
        """The next batches, from memory or else from etcd."""
        state = self._known()
        log = state.log
        if log and log[0].batch.revision <= revision + 1:
            first = revision + 1 - log[0].batch.revision
            return [log[n].batch for n in range(first, min(first + _READ, len(log)))]
        batches: list[Batch] = []
        found = await self.etcd.range(self._log_range(revision + 1, state.head))
        try:
            for kv in found.kvs:
                if self._revision_of(kv.key) != revision + 1:
                    break
                revision += 1
                batches.append((await self._decode(revision, kv.value))[0].batch)
        except _Gap:
            pass
        if not batches:
            raise Compacted(f"the log no longer holds revision {revision + 1}")
        return batches

    # -- writing --

    async def _publish(self, attempt: _Attempt, preconditions: Mapping[str, int], guard: Guard | None) -> int:
        begun = self._known().head
        deadline_s = self._clock.now_s() + _COMMIT_S
        while True:
            if attempt.sent and (revision := self._find(attempt.id, begun)) is not None:
                return revision
            reason = ""
            self._refuse_another(attempt)
            try:
                await self._judge(preconditions, guard)
                if await self._write_parts(attempt):
                    deadline_s = self._clock.now_s() + _COMMIT_S
                if (revision := await self._try(attempt)) is not None:
                    return revision
            except Retry as error:
                reason = str(error)
            if self._closed or self._replaced or self._clock.now_s() > deadline_s:
                reason = reason or "others were always quicker"
                if attempt.sent:
                    raise Unsure(f"the store may or may not have taken the write: {reason}")
                raise Retry(f"the store did not take the write: {reason}")
            if reason:
                await self._clock.sleep(_AGAIN_S)
                with contextlib.suppress(Retry):
                    await self._catch_up()

    async def _judge(self, preconditions: Mapping[str, int], guard: Guard | None) -> None:
        """Against what is known; before it is refused, against what is so."""
        try:
            self._judge_here(preconditions, guard)
        except (PreconditionFailed, Overtaken):
            await self._catch_up()
            self._judge_here(preconditions, guard)

    def _judge_here(self, preconditions: Mapping[str, int], guard: Guard | None) -> None:
        state = self._known()
        for name, expected in preconditions.items():
            actual = state.revisions.get(name, 0)
            if actual != expected:
                raise PreconditionFailed(name, expected, actual)
        state.marks.check(guard)

    def _refuse_another(self, attempt: _Attempt) -> None:
        """What is said in another schema is nothing for the store, nor would it be taken: all rests on which it is."""
        state = self._known()
        if attempt.migrates is not None:
            if attempt.migrates != state.head:
                raise Overtaken(f"the store is at revision {state.head}, not {attempt.migrates}")
        elif attempt.batch.schema != state.schema:
            raise OtherSchema(f"the store has schema version {state.schema}, not {attempt.batch.schema}")

    async def _write_parts(self, attempt: _Attempt) -> bool:
        """What is too large for the entry; whether there was anything to write. Repeating it changes nothing."""
        first = attempt.written
        for number in range(first, len(attempt.parts)):
            await self.etcd.put(_numbered(self._parts(attempt.id), number), attempt.parts[number])
            attempt.written = number + 1
        return attempt.written > first

    async def _try(self, attempt: _Attempt) -> int | None:
        """The revision, or None: the head had moved, and what moved it is known now."""
        head = self._known().head
        state = self._known()
        self._refuse_another(attempt)
        schema = attempt.batch.schema
        entry = Entry(attempt.id, len(attempt.parts), b"" if attempt.parts else attempt.body, schema)
        conditions: list[Compare] = [
            has_value(self._key("meta"), state.meta),
            has_value(self._key("head"), b"%d" % head),
        ]
        if attempt.parts:
            # Nobody may have cleared them away meanwhile.
            conditions.append(is_present(_numbered(self._parts(attempt.id), 0)))
        puts = [put(self._key("head"), b"%d" % (head + 1)), put(self._entry(head + 1), entries.encode_entry(entry))]
        if attempt.migrates is not None:
            puts.append(put(self._key("meta"), entries.encode_meta(Meta(schema, state.identity))))
        publish = Transaction(
            conditions,
            puts,
            [read(self._key("head")), Operation(request_range=self._log_range(head + 1, head + _READ))],
        )
        try:
            outcome = await self.etcd.transact(publish)
        except Unanswered:
            attempt.sent = True
            raise
        if outcome.succeeded:
            batch = Batch(head + 1, attempt.batch.puts, attempt.batch.deletes, schema)
            kept = _Kept(attempt.id, batch, len(attempt.body))
            async with self._absorbing:
                self._append(kept, attempt.marks, outcome.header.revision)
            return head + 1
        now, moved_by = outcome.ranges
        if not now.kvs or int(now.kvs[0].value) == head:
            attempt.written = 0  # our parts were cleared away, or else the store is another
            await self._catch_up()
            return None
        if not await self._absorb(moved_by.kvs, outcome.header.revision):
            await self._catch_up()
        return None

    def _find(self, id_: bytes, after: int) -> int | None:
        """The revision of a commit that may have been made. Raises Unsure when the log has been cut since."""
        log = self._known().log
        if self._known().head > after and (not log or log[0].batch.revision > after + 1):
            raise Unsure("the store may or may not have taken the write: its log has been cut meanwhile")
        for kept in reversed(log):
            if kept.batch.revision <= after:
                return None
            if kept.id == id_:
                return kept.batch.revision
        return None

    # -- following --

    async def _follow(self) -> None:
        """By etcd's watch: what others commit is known here a moment later."""
        while not self._closed:
            try:
                async with aclosing(self._watch_log()) as watched:
                    async for said in watched:
                        if said.events and not await self._absorb(
                            [event.kv for event in said.events if event.type == "PUT"], said.header.revision
                        ):
                            await self._catch_up()
            except CompactedHistory:
                with contextlib.suppress(Retry, Rejected):
                    await self._catch_up()
                await self._clock.sleep(_AGAIN_S)
            except (Retry, Rejected) as error:
                _log.info("the watch of the store broke", reason=str(error))
                self.etcd.move_on()
                await self._clock.sleep(_AGAIN_S)

    def _watch_log(self) -> AsyncGenerator[Watched, None]:
        return self.etcd.watch(self._key("log/"), self._known().etcd_revision + 1)

    async def _look(self) -> None:
        """By asking: whatever the watch misses is known here two looks later."""
        behind = 0
        while not self._closed:
            await self._clock.sleep(_LOOK_S)
            try:
                found = await self.etcd.range(Range(self._key("head")))
                head = int(found.kvs[0].value) if found.kvs else 0
                if head == self._known().head:
                    behind = 0
                    continue
                behind += 1
                if behind > 1:
                    await self._catch_up()
            except (Retry, Rejected) as error:
                _log.warning("the store does not answer", reason=str(error))

    async def _catch_up(self) -> None:
        """Everything that was committed before this was called is known when it returns."""
        self._refuse_when_closed()
        while True:
            state, known = self._known(), self._known().head
            outcome = await self.etcd.transact(
                Transaction(
                    (),
                    [
                        read(self._key("head")),
                        Operation(request_range=self._log_range(known + 1, known + _READ)),
                        read(self._key("meta")),
                    ],
                )
            )
            head, log, meta = outcome.ranges
            target = int(head.kvs[0].value) if head.kvs else -1
            # What was known before it was asked for: meanwhile the watch may have brought more.
            told = entries.decode_meta(meta.kvs[0].value) if meta.kvs else None
            if told is None or told.identity != state.identity or target < known:
                # Nobody here can go on: what was told of the one has nothing to do with the other.
                raise self._cannot_go_on("the store was replaced by another, or by an older copy of itself")
            if target <= self._known().head:
                # Nothing in between: a watch may begin here, though etcd has compacted what was before.
                state.etcd_revision = max(state.etcd_revision, outcome.header.revision)
                return
            if not log.kvs or not await self._absorb(log.kvs, outcome.header.revision):
                await self._reload()
            if self._known().head >= target:
                if told.schema == self._known().schema:
                    self._known().meta = meta.kvs[0].value
                return

    def _cannot_go_on(self, reason: str) -> Retry:
        """Watchers are told, and whoever then reads everything is told why."""
        self._replaced = reason
        self._wake()
        return Retry(reason)

    async def _absorb(self, kvs: Sequence[KeyValue], etcd_revision: int) -> bool:
        """Take in entries of the log, in order; those that are known already are passed over. False: one is missing."""
        async with self._absorbing:
            for kv in kvs:
                state = self._known()
                revision = self._revision_of(kv.key)
                if revision <= state.head:
                    continue
                if revision > state.head + 1:
                    return False
                try:
                    kept, marks = await self._decode(revision, kv.value)
                except _Gap:
                    return False
                if kept.batch.schema > SCHEMA:
                    raise self._cannot_go_on(f"the store has gone over to schema version {kept.batch.schema}")
                self._append(kept, marks, kv.mod_revision)
            self._known().etcd_revision = max(self._known().etcd_revision, etcd_revision if kvs else 0)
        return True

    def _append(self, kept: _Kept, marks: Collection[str], etcd_revision: int) -> None:
        state = self._known()
        batch = kept.batch
        if batch.revision != state.head + 1:  # the watch was quicker than the answer
            return
        for name in batch.deletes:
            state.revisions.pop(name, None)
        for name in batch.puts:
            state.revisions[name] = batch.revision
        state.marks.wrote(batch.revision, marks, batch.puts, batch.deletes)
        if batch.schema != state.schema:
            state.schema, state.meta = batch.schema, entries.encode_meta(Meta(batch.schema, state.identity))
        state.log.append(kept)
        state.log_bytes += kept.size
        state.since_bytes += kept.size
        state.head = batch.revision
        state.etcd_revision = max(state.etcd_revision, etcd_revision)
        self._trim_memory(state)
        self._wake()

    def _trim_memory(self, state: _State) -> None:
        log = state.log
        while len(log) > 1 and (len(log) > max(self._log_commits, _REMEMBERED) or state.log_bytes > self._log_bytes):
            state.log_bytes -= log.popleft().size

    async def _reload(self) -> None:
        """The log has gone on without us: everything anew. Watchers that stand before it are told."""
        _log.warning("the store's log no longer has what comes next; reading all of it")
        everything = await self._read_everything()
        async with self._absorbing:
            if everything.identity == self._known().identity and everything.head > self._known().head:
                self._take(everything)

    # -- checkpoints --

    def _consider_checkpoint(self) -> None:
        """Whoever commits makes them; two that do so at once waste the work of one, and no more."""
        state = self._known()
        commits = state.head - state.checkpoint
        large = state.since_bytes > max(self._checkpoint_bytes, state.checkpoint_bytes)
        if not self._checkpointing and (commits >= 2 * self._log_commits or large):
            self._checkpointing = True
            self._start(self._checkpoint())

    async def _checkpoint(self) -> None:
        try:
            await self._make_checkpoint()
        except (Retry, Rejected) as error:
            _log.warning("no checkpoint was made", reason=str(error))
        finally:
            self._checkpointing = False

    async def _make_checkpoint(self, keep: int | None = None) -> None:
        """keep: commits that stay in the log beside it."""
        keep = self._log_commits if keep is None else keep
        everything = await self._read_everything()
        raw = await asyncio.to_thread(entries.encode_objects, everything.objects)
        parts = entries.cut(raw)
        pointer = Pointer(everything.head, uuid.uuid4().bytes, len(parts), len(raw))
        for number, part in enumerate(parts):
            await self.etcd.put(_numbered(self._parts(pointer.id), number), part)
        key = self._key("checkpoint")
        condition = is_at(key, everything.pointer_at) if everything.pointer_at else is_absent(key)
        outcome = await self.etcd.transact(Transaction([condition], [put(key, entries.encode_pointer(pointer))]))
        if not outcome.succeeded:
            await self._forget_parts(pointer.id)
            state = self._known()
            state.since_bytes = 0  # another has made one: no need for ours
            state.checkpoint = max(state.checkpoint, everything.head)
            return
        state = self._known()
        state.checkpoint, state.checkpoint_bytes, state.since_bytes = pointer.revision, pointer.size, 0
        if everything.pointer.parts:
            await self._forget_parts(everything.pointer.id)
        await self._trim(min(pointer.revision, state.head - keep))
        await self._clear_away(pointer)
        await self.etcd.compact(everything.etcd_revision)

    async def _trim(self, through: int) -> None:
        """Entries up to this revision, and their parts."""
        while through > 0:
            found = await self.etcd.range(self._log_range(1, through))
            if not found.kvs:
                return
            for kv in found.kvs:
                entry = entries.decode_entry(kv.value)
                if entry.parts:
                    await self._forget_parts(entry.id)
            await self.etcd.delete(found.kvs[0].key, found.kvs[-1].key + b"\x00")

    async def _clear_away(self, pointer: Pointer) -> None:
        """Parts of commits that were never made, once they have been so for two checkpoints of ours."""
        prefix = self._key("parts/")
        found = await self.etcd.range(Range(prefix, end_of(prefix), keys_only=True))
        named = {pointer.id.hex()}
        page = await self.etcd.range(self._log_range(1, 1 << 63))
        while page.kvs:
            named.update(entries.decode_entry(kv.value).id.hex() for kv in page.kvs)
            page = await self.etcd.range(self._log_range(self._revision_of(page.kvs[-1].key) + 1, 1 << 63))
        orphans = frozenset(kv.key[len(prefix) :].partition(b"/")[0].decode() for kv in found.kvs) - named
        for orphan in orphans & self._orphans:
            await self._forget_parts(bytes.fromhex(orphan))
        self._orphans = orphans - self._orphans

    async def _forget_parts(self, id_: bytes) -> None:
        prefix = self._parts(id_)
        await self.etcd.delete(prefix, end_of(prefix))

    # -- keys --

    def _key(self, name: str) -> bytes:
        return self.prefix + b"/" + name.encode()

    def _entry(self, revision: int) -> bytes:
        return self._key(f"log/{revision:016x}")

    def _log_range(self, first: int, last: int, at: int = 0) -> Range:
        return Range(self._entry(first), self._entry(last + 1), _READ, at)

    def _revision_of(self, key: bytes) -> int:
        return int(key.rpartition(b"/")[2], 16)

    def _parts(self, id_: bytes) -> bytes:
        return self._key(f"parts/{id_.hex()}/")

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise Retry("the store is closed")


@dataclass(slots=True)
class _Attempt:
    """One commit, for as long as it is tried. parts: of a body that is too large for its entry."""

    id: bytes
    body: bytes
    batch: Batch
    marks: Collection[str]
    parts: list[bytes]
    written: int
    migrates: int | None
    sent: bool

    def __init__(self, id_: bytes, body: bytes, batch: Batch, marks: Collection[str]) -> None:
        self.id, self.body, self.batch, self.marks = id_, body, batch, marks
        self.parts = entries.cut(body) if len(body) > entries.INLINE_BYTES else []
        self.written = 0
        self.migrates = None  # the revision that it takes to the schema of its batch
        self.sent = False  # and not answered: it may have been taken


def _numbered(prefix: bytes, number: int) -> bytes:
    return prefix + b"%08x" % number


async def _here_or_thread(count: int, work: Callable[[], _T]) -> _T:
    return work() if count <= _INLINE_OBJECTS else await asyncio.to_thread(work)
