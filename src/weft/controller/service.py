"""What the controller does, without HTTP: one writer, many readers, one order of things. Knows no request.

The write path: catalog.apply -> store.commit -> compiler.apply -> feed.publish. The first refuses, the second makes
durable, the others cannot fail but by a bug. Rows, the feed and what readers see move in one step of the event loop.
Nobody is ever shown what a failed commit would have to take back: while one is under way the catalog is ahead, and
whoever looks at what is compiled from it looks through ``_as_committed``.

A store may be shared with other controllers. What they commit is taken in as it comes (``run``), in the same step and
the same order; a write that they have overtaken is judged again on what they wrote. Whoever is refused is refused by
the newest state there is.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeAlias, TypeVar

import msgspec
import structlog

from weft.compiler.compiler import EDITION, Compiler
from weft.contracts.store import Batch, Compacted, Guard, Overtaken, PreconditionFailed, Snapshot, Store
from weft.controller.beside import Beside, Extra, is_intent
from weft.controller.cuts import questions
from weft.controller.names import Names, first_of
from weft.controller.questions import Passing, Questions
from weft.controller.statuses import Statuses
from weft.feed.log import FeedLog
from weft.kit.errors import Missing, Rejected, Retry
from weft.model.announcements import Announcement, Heard, Ignored, Unheeded
from weft.model.catalog import Catalog, Change
from weft.model.drafts import Draft
from weft.model.features import ABILITIES, AbilityTable
from weft.model.marks import marks_of
from weft.model.names import Kind, Name, kind_of
from weft.model.objects import KINDS, Host, Object, Port, VirtualSubnet
from weft.policy.rows import Row, Scope
from weft.store.versioned import Versioned
from weft.wire import cuts
from weft.wire.api import Action, StatusReport, Told
from weft.wire.objects import decode_spec, encode_spec, load

_T = TypeVar("_T")

#: What a put is to be, from what was asked for (JSON values) and the present spec; both as they are in that moment.
Rework: TypeAlias = Callable[[Name, Any, bytes | None], bytes]

_log = structlog.stdlib.get_logger("weft.service")

# A write that others overtake so often is given up: whoever wrote is told to try again.
_TRIES = 20

# A reader who has seen more than this controller has waits this long for it to catch up.
_REACH_S = 2.0

#: The schema version of stores from which on a tenant's limits can be said.
_LIMITS_SINCE = 2
_RETRY_S = 0.5

# Specs decoded or encoded in one go in the event loop (a few milliseconds); more of them go to a thread.
_INLINE = 1_000


@dataclass(frozen=True, slots=True)
class Held:
    """A committed object and the revision of the commit that last wrote it."""

    value: Object
    revision: int


@dataclass(frozen=True, slots=True)
class Put:
    """One object as a caller wants it; spec as JSON."""

    name: Name
    spec: bytes | msgspec.Raw


@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold for a write to a name to go ahead. exists None: either will do."""

    revisions: frozenset[int] | None = None
    exists: bool | None = None


class ConditionFailed(Exception):
    """The object is not as the caller believed. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What became of one object, as JSON specs."""

    name: Name
    action: Action
    before: bytes | None
    after: bytes | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """revision: of the state that holds the differences; of a dry run, of the state they were worked out on."""

    revision: int
    differences: tuple[Difference, ...]
    #: Of a dry run that is to say which connections it would cut: whom to ask.
    asked: Mapping[Name, cuts.Question] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Listed:
    items: tuple[tuple[Name, Held], ...]
    revision: int
    more: bool


@dataclass(slots=True)
class Timings:
    """Of the write path, for /metrics: called with seconds."""

    commit: Callable[[float], None] = lambda _seconds: None
    write: Callable[[float], None] = lambda _seconds: None


class Service:
    """Everything there is on one controller. ``broken`` is set when memory and store may differ: stop then."""

    def __init__(
        self,
        store: Versioned,
        catalog: Catalog,
        compiler: Compiler,
        held: dict[Name, Held],
        revision: int,
        history: str,
        beside: Beside,
    ) -> None:
        """history: names the store and the compiler that revisions are of; hosts resume within one only."""
        self._store = store
        self._catalog = catalog
        self._compiler = compiler
        self._held = held
        #: What the store keeps that is no intent, as it is committed.
        self.beside = beside
        #: Refuses changes for what they are together; says what it was judged by.
        self.admit: Callable[[Sequence[Change], Extra], None] = lambda _changes, _extra: None
        #: Adds to a commit what is to be remembered of it.
        self.record: Callable[[Extra, Sequence[Difference]], None] = lambda _extra, _differences: None
        self._names = {kind: Names() for kind in Kind}
        for name in held:
            self._names[kind_of(name)].add(name)
        #: Subnets on the way to another rule.
        self.changing = {name for name, each in held.items() if _is_changing(each.value)}
        #: Set by whatever may let one of them go on; whoever waits for it clears it.
        self.stirred = asyncio.Event()
        self._ahead: tuple[Change, ...] = ()  # what the catalog holds and the store may yet refuse
        self.history = history
        self.feed = FeedLog(self.rows, self._scopes_of, revision, history=history)
        self.statuses = Statuses(self.feed.hosts)
        #: Other controllers of the store that are heard just now, by id.
        self.others: dict[str, Passing] = {}
        self.questions = Questions(self.feed, self._elsewhere)
        self.feed.on_listening = self.statuses.connection
        self.feed.on_ended = self.questions.ended
        self.timings = Timings()
        #: What became of guests' announcements: "taken", or why not.
        self.announcements: Counter[str] = Counter(taken=0, **{reason.value: 0 for reason in Unheeded})
        self.broken = asyncio.Event()
        self._revision = revision
        self._moved = asyncio.Event()
        self._writer = asyncio.Lock()
        self._writes: set[asyncio.Task[Any]] = set()

    @classmethod
    async def start(cls, store: Store, abilities: AbilityTable = ABILITIES) -> Service:
        """Reads the store and compiles all of it."""
        versioned = Versioned(store)
        snapshot = await versioned.snapshot()
        held = {
            Name(name): Held(load(Name(name), stored.value), stored.revision)
            for name, stored in snapshot.objects.items()
            if is_intent(name)
        }
        catalog = Catalog(abilities, limits_can_be_said=lambda: versioned.stored_as >= _LIMITS_SINCE)
        catalog.load(each.value for each in held.values())
        history = f"{snapshot.identity}.{EDITION}"
        beside = Beside(snapshot.objects)
        return cls(versioned, catalog, Compiler(catalog), held, snapshot.revision, history, beside)

    async def run(self) -> None:
        """Follows what others write to the store, until cancelled. Over at once when nobody else can."""
        while self._store.shared and not self.broken.is_set():
            try:
                await self._follow()
            except Compacted as error:
                _log.warning("the store has gone on without this controller", reason=str(error))
                with suppress(Retry):  # the next round finds out the same
                    async with self._writer:
                        await self._start_over()
                await asyncio.sleep(_RETRY_S)
            except Retry as error:
                _log.warning("the store cannot be followed", reason=str(error))
                await asyncio.sleep(_RETRY_S)
            else:
                return  # the store is closed

    async def _follow(self) -> None:
        async with aclosing(self._store.watch(self._revision)) as batches:
            async for batch in batches:
                async with self._writer:
                    await self._take(batch)

    async def stop(self) -> None:
        """Lets writes that have begun come to their end."""
        while self._writes:
            await asyncio.wait(self._writes)

    # -- reading --

    @property
    def revision(self) -> int:
        return self._revision

    @property
    def schema(self) -> int:
        """The version that the store is in; it may be the release before's."""
        return self._store.stored_as

    async def reach(self, revision: int) -> None:
        """Raises Retry when this controller does not know a revision within a short while."""
        try:
            async with asyncio.timeout(_REACH_S):
                while self._revision < revision:
                    await self._moved.wait()
        except TimeoutError as error:
            raise Retry(
                f"this controller is at revision {self._revision}, and revision {revision} is wanted"
            ) from error

    def get(self, name: str) -> Held:
        held = self._held.get(Name(name))
        if held is None:
            raise Missing(f"there is no {name}")
        return held

    def find(self, name: str) -> Held | None:
        return self._held.get(Name(name))

    def count(self, kind: Kind) -> int:
        return len(self._names[kind])

    def count_below(self, kind: Kind, prefix: str) -> int:
        return len(self._names[kind].below(prefix))

    async def page(
        self,
        kind: Kind,
        prefix: str,
        limit: int,
        *,
        after: str = "",
        wanted: Callable[[Name, Object], bool] | None = None,
    ) -> Listed:
        """The first ``limit`` objects below prefix, in order of name, that are ``wanted``."""
        revision = self._revision
        names = self._names[kind].below(prefix, after)
        if wanted is None:
            taken, more = names[:limit], len(names) > limit
        elif len(names) <= _INLINE:
            taken, more = first_of(self._filter(names, wanted), limit)
        else:
            taken, more = await asyncio.to_thread(first_of, self._filter(names, wanted), limit)
        found = ((name, self._held.get(name)) for name in taken)
        return Listed(tuple((name, held) for name, held in found if held), revision, more)

    def _filter(self, names: Sequence[Name], wanted: Callable[[Name, Object], bool]) -> Iterator[Name]:
        for name in names:
            held = self._held.get(name)
            if held and wanted(name, held.value):
                yield name

    def watch(self, revision: int) -> AsyncGenerator[Batch, None]:
        return self._store.watch(revision)

    async def follow(
        self, host: Name, revision: int | None, history: str = "", knows: str | None = None, *, answers: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """The feed of a host. Raises Gone or Retry at its first step; ends when the host is deleted.

        knows: what its agent says that it knows. answers: it may be asked things.
        """
        if revision is not None and history.startswith(self.history) and self._store.shared:
            await self.reach(revision)
        async with aclosing(self.feed.stream(host, revision, history, knows, answers=answers)) as chunks:
            async for chunk in chunks:
                yield chunk
                if host not in self._held:
                    return

    def rows_of(self, host: str) -> list[Row]:
        """Every row that the host is sent."""
        return [row for scope in sorted(self._scopes_of(host)) for row in self.rows(scope)]

    def rows(self, scope: Scope) -> list[Row]:
        return self._as_committed(lambda: list(self._compiler.rows(scope).values()))

    def _scopes_of(self, host: str) -> frozenset[Scope]:
        return self._as_committed(lambda: self._compiler.scopes_of(host))

    def _as_committed(self, look: Callable[[], _T]) -> _T:
        """What ``look`` sees without the write under way. Seldom costs anything: a stream must begin just then."""
        if not self._ahead:
            return look()
        self._catalog.revert(self._ahead)
        try:
            return look()
        finally:
            # To take back the opposite is to do it again, without choosing or checking anything twice.
            self._catalog.revert([Change(change.name, change.new, change.old) for change in self._ahead])

    def hosts_in(self, domain: Name) -> Sequence[Name]:
        """The hosts that have a routing domain's rows, sorted."""
        return self._as_committed(lambda: sorted(self._catalog.hosts_in(domain)))

    def subports_of(self, port: Name) -> Sequence[Name]:
        """The sub-ports at a port's interface, sorted."""
        return self._as_committed(lambda: sorted(self._catalog.subports_of(port)))

    def host_with(self, pa: str) -> Name | None:
        """The host that has a PA."""
        for name in self._names[Kind.HOST].below(""):
            held = self._held.get(name)
            if held and isinstance(held.value, Host) and pa in held.value.pas:
                return name
        return None

    # -- writing --

    async def put(
        self, name: Name, spec: bytes | msgspec.Raw, condition: Condition, rework: Rework | None = None
    ) -> Outcome:
        if rework is not None:
            return await self._write(
                lambda: ([decode_spec(name, self._reworked(name, spec, rework))], []), name, condition
            )
        draft = decode_spec(name, spec)
        return await self._write(lambda: ([draft], []), name, condition)

    async def patch(self, name: Name, merge: Callable[[Any], Any], condition: Condition) -> Outcome:
        """merge: from the present spec to the wanted one, as JSON values. Runs with no other write in between."""

        def drafts() -> tuple[list[Draft], list[Name]]:
            present = msgspec.json.decode(encode_spec(self.get(name).value))
            return [decode_spec(name, msgspec.json.encode(merge(present)))], []

        return await self._write(drafts, name, condition)

    async def delete(self, name: Name, condition: Condition) -> Outcome:
        def deletes() -> tuple[list[Draft], list[Name]]:
            self.get(name)
            return [], [name]

        return await self._write(deletes, name, condition)

    async def apply(
        self,
        puts: Sequence[Put],
        deletes: Sequence[Name],
        *,
        dry_run: bool,
        rework: Rework | None = None,
        connections: bool = False,
    ) -> Outcome:
        drafts = [] if rework else await _inline_or_thread(len(puts), lambda: _decode_all(puts))

        def reworked() -> list[Draft]:
            if rework is None:
                return drafts
            return _decode_all(Put(put.name, self._reworked(put.name, put.spec, rework)) for put in puts)

        if dry_run:
            async with self._writer:
                self._refuse_when_broken()
                await self._was_behind()
                changes = self._catalog.apply(reworked(), deletes)
                try:
                    self.admit(changes, Extra())
                    asked = self._whom_to_ask(changes) if connections else {}
                finally:
                    self._catalog.revert(changes)
                revision = self._revision
            differences = await _inline_or_thread(len(changes), lambda: _differences(changes))
            await self._store.refuse(_puts_of(differences))
            return Outcome(revision, differences, asked)
        return await self._write(lambda: (reworked(), deletes))

    def _whom_to_ask(self, changes: tuple[Change, ...]) -> Mapping[Name, cuts.Question]:
        """Of the connections that changes would cut; the catalog is as it would be, and so are rows for one step."""
        delta = self._compiler.apply(changes)
        try:
            return questions(self._catalog, self._compiler, changes, delta)
        finally:
            self._catalog.revert(changes)
            back = tuple(Change(change.name, change.new, change.old) for change in changes)
            self._compiler.apply(back)
            self._catalog.revert(back)

    def _reworked(self, name: Name, spec: bytes | msgspec.Raw, rework: Rework) -> bytes:
        held = self._held.get(name)
        return rework(name, msgspec.json.decode(spec), encode_spec(held.value) if held else None)

    async def carry_on(self, drafts: Callable[[], Sequence[Draft]]) -> Outcome:
        """The controller's own next steps; they are worked out with no other write in between."""
        return await self._write(lambda: (drafts(), ()))

    async def hear(self, announced: Sequence[Announcement]) -> Heard:
        """Heed what guests say they have, as far as policy lets them have it. What is no news writes nothing.

        Whatever is refused of one port keeps nothing of others from being heard.
        """
        try:
            heard = await self._hear(announced)
        except Rejected:
            of_port: dict[str, list[Announcement]] = {}
            for each in announced:
                of_port.setdefault(each.port, []).append(each)
            parts = [await self._hear_of_port(some) for some in of_port.values()]
            heard = Heard(
                tuple(put for part in parts for put in part.puts),
                sum(part.taken for part in parts),
                tuple(ignored for part in parts for ignored in part.ignored),
            )
        self.announcements["taken"] += heard.taken
        self.announcements.update(ignored.reason.value for ignored in heard.ignored)
        return heard

    async def _hear_of_port(self, announced: Sequence[Announcement]) -> Heard:
        try:
            return await self._hear(announced)
        except Rejected as fault:
            return Heard((), 0, tuple(Ignored(each, Unheeded.NOT_ALLOWED, fault.message) for each in announced))

    async def _hear(self, announced: Sequence[Announcement]) -> Heard:
        heard = Heard((), 0, ())

        def drafts() -> Sequence[Draft]:
            nonlocal heard
            heard = self._catalog.hear(announced)
            return heard.puts

        await self.carry_on(drafts)
        return heard

    async def _write(
        self,
        drafts: Callable[[], tuple[Sequence[Draft], Sequence[Name]]],
        name: Name | None = None,
        condition: Condition | None = None,
    ) -> Outcome:
        # In a task of its own: a caller that goes away must not leave the catalog ahead of the store.
        write = asyncio.create_task(self._write_alone(drafts, name, condition))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)
        return await asyncio.shield(write)

    async def _write_alone(
        self,
        drafts: Callable[[], tuple[Sequence[Draft], Sequence[Name]]],
        name: Name | None,
        condition: Condition | None,
    ) -> Outcome:
        async with self._writer:
            began = perf_counter()
            for _ in range(_TRIES):
                outcome = await self._write_once(drafts, name, condition)
                if outcome is not None:
                    self.timings.write(perf_counter() - began)
                    return outcome
            raise Retry("others were quicker each time; nothing was written")

    async def _write_once(
        self,
        drafts: Callable[[], tuple[Sequence[Draft], Sequence[Name]]],
        name: Name | None,
        condition: Condition | None,
    ) -> Outcome | None:
        """None: others have written meanwhile what this was judged by, or would have been."""
        self._refuse_when_broken()
        try:
            if name is not None and condition is not None:
                _check(name, self._held.get(name), condition)
            puts, deletes = drafts()
            changes = self._catalog.apply(puts, deletes)
        except (Rejected, ConditionFailed) as error:
            if await self._was_behind():
                return None
            if name is None or not isinstance(error, Rejected):
                raise
            raise _of_the_one(error) from error
        if not changes:
            return None if await self._was_behind() else Outcome(self._revision, ())
        self._ahead = changes
        extra = Extra()
        try:
            self.admit(changes, extra)
            differences = await _inline_or_thread(len(changes), lambda: _differences(changes))
            await _inline_or_thread(len(changes), lambda: self.record(extra, differences))
            revision = await self._commit(differences, extra, self._guard(changes, extra))
        except BaseException as error:
            self._ahead = ()
            self._catalog.revert(changes)
            if isinstance(error, Rejected) and await self._was_behind():
                return None
            if not isinstance(error, PreconditionFailed | Overtaken):
                raise
            if not self._store.shared:
                # Somebody else writes to our store: what we hold is no copy of it any more.
                self.broken.set()
                raise
            await self._was_behind()
            return None
        if revision == self._revision + 1:
            self._publish(revision, changes, extra)
        else:
            # Others came in between who had nothing to do with this: theirs first, and ours as all others read it.
            self._ahead = ()
            self._catalog.revert(changes)
            await self._advance(revision)
        return Outcome(revision, differences)

    async def keep(self, extra: Extra, preconditions: Mapping[str, int], done: Sequence[Difference]) -> None:
        """Commit what is beside intent. Raises PreconditionFailed when a name is not at its revision."""
        write = asyncio.create_task(self._keep_alone(extra, preconditions, done))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)
        await asyncio.shield(write)

    async def _keep_alone(self, extra: Extra, preconditions: Mapping[str, int], done: Sequence[Difference]) -> None:
        async with self._writer:
            self._refuse_when_broken()
            self.record(extra, done)
            try:
                revision = await self._store.commit(preconditions, extra.puts, extra.deletes)
            except PreconditionFailed:
                await self._was_behind()
                raise
            if revision == self._revision + 1:
                self._publish(revision, (), extra)
            else:
                await self._advance(revision)

    def _guard(self, changes: Sequence[Change], extra: Extra) -> Guard | None:
        if not self._store.shared:
            return None
        marks = marks_of(changes, self._catalog)
        return Guard(self._revision, marks.reads | extra.reads, marks.writes)

    async def _commit(self, differences: Sequence[Difference], extra: Extra, guard: Guard | None) -> int:
        preconditions: dict[str, int] = {
            each.name: held.revision if (held := self._held.get(each.name)) else 0 for each in differences
        }
        puts = _puts_of(differences) | extra.puts
        deletes = [*(each.name for each in differences if each.after is None), *extra.deletes]
        began = perf_counter()
        revision = await self._store.commit(preconditions, puts, deletes, guard)
        self.timings.commit(perf_counter() - began)
        return revision

    # -- what others write --

    async def _was_behind(self) -> bool:
        """Whether others had written what was not known here; it is now. Only whoever holds the writer's lock asks."""
        if not self._store.shared:
            return False
        head = await self._store.head()
        if head <= self._revision:
            return False
        await self._advance(head)
        return True

    async def _advance(self, revision: int) -> None:
        try:
            async with aclosing(self._store.watch(self._revision)) as batches:
                while self._revision < revision:
                    await self._take(await anext(batches))
        except Compacted:
            await self._start_over()
        except StopAsyncIteration as error:
            raise Retry("the store is closed") from error

    async def _take(self, batch: Batch) -> None:
        if batch.revision <= self._revision:
            return
        values = await _inline_or_thread(len(batch.puts), lambda: _load_all(batch.puts))
        beside = Extra(dict(batch.puts), list(batch.deletes))
        self._publish(batch.revision, self._changes_to(values, batch.deletes), beside, taken=True)

    def _changes_to(self, values: Mapping[Name, Object], deletes: Iterable[str]) -> tuple[Change, ...]:
        changes = [
            Change(name, held.value if (held := self._held.get(name)) else None, value)
            for name, value in values.items()
        ]
        gone = [Name(name) for name in deletes if name not in values]
        changes.extend(Change(name, held.value, None) for name in gone if (held := self._held.get(name)))
        return tuple(changes)

    async def _start_over(self) -> None:
        """The difference to all that is there now, as one change."""
        try:
            snapshot = await self._store.snapshot()
        except Rejected as error:
            _log.error("the store cannot be read any more", reason=str(error))
            self.broken.set()
            return
        if f"{snapshot.identity}.{EDITION}" != self.history or snapshot.revision < self._revision:
            _log.error("the store is not the one it was")
            self.broken.set()
            return
        wanted: dict[str, bytes] = {
            name: stored.value
            for name, stored in snapshot.objects.items()
            if (held := self._held.get(Name(name))) is None or held.revision != stored.revision
        }
        values = await _inline_or_thread(len(wanted), lambda: _load_all(wanted))
        changes = self._changes_to(values, self._held.keys() - snapshot.objects.keys())
        if snapshot.revision > self._revision:
            self._publish(snapshot.revision, changes, taken=True, written=snapshot)

    def _publish(
        self,
        revision: int,
        changes: tuple[Change, ...],
        extra: Extra | None = None,
        *,
        taken: bool = False,
        written: Snapshot | None = None,
    ) -> None:
        """One step of the event loop: rows, feed and what readers see move together.

        taken: the catalog does not have them yet. written: they are of several commits, those that it says.
        """
        try:
            self._ahead = ()
            if taken:
                self._catalog.take(changes)
            delta = self._compiler.apply(changes)
            for change in changes:
                self._settle(change, written.objects[change.name].revision if written and change.new else revision)
            self._revision = revision
            if extra:
                self.beside.take(revision, extra.puts, extra.deletes)
            if written:
                self.beside.start_over(written.objects)
                self.feed.jump(revision, delta)
            else:
                self.feed.publish(revision, delta)
        except BaseException:
            # It is in the store and not in the rows. Whoever runs us starts again, from the store.
            self.broken.set()
            raise
        self._moved.set()
        self._moved = asyncio.Event()
        self.stirred.set()

    def _settle(self, change: Change, revision: int) -> None:
        kind = KINDS[type(change.new or change.old)]  # type: ignore[index]  # one of them is there
        if change.new is None:
            self._held.pop(change.name, None)
            self._names[kind].remove(change.name)
        else:
            if change.old is None:
                self._names[kind].add(change.name)
            self._held[change.name] = Held(change.new, revision)
        if _is_changing(change.new):
            self.changing.add(change.name)
        else:
            self.changing.discard(change.name)
        match change.old:
            case Port(hosts=hosts):
                left = set(hosts) - set(change.new.hosts if isinstance(change.new, Port) else ())
                for host in left:
                    self.statuses.forget_port(change.name, host)
            case Host() if change.new is None:
                self.statuses.forget_host(change.name)
            case _:
                pass

    def _refuse_when_broken(self) -> None:
        if self.broken.is_set():
            raise Retry("the controller is about to start over")

    def _elsewhere(self, host: str) -> Passing | None:
        controller = self.statuses.controller_of(host)
        return None if controller is None else self.others.get(controller)

    # -- what hosts say --

    def report(self, host: Name, report: StatusReport) -> None:
        self.get(host)
        self.statuses.report(host, report)
        self.stirred.set()

    def was_told(self, controller: str, line: Told) -> None:
        """Of another controller, by its hosts."""
        self.statuses.hear(controller, line)
        self.stirred.set()


def _is_changing(value: Object | None) -> bool:
    return isinstance(value, VirtualSubnet) and value.rule_change is not None


def _puts_of(differences: Iterable[Difference]) -> dict[str, bytes]:
    return {each.name: each.after for each in differences if each.after is not None}


def _check(name: Name, held: Held | None, condition: Condition) -> None:
    if condition.exists is not None and condition.exists != (held is not None):
        raise ConditionFailed(f"{name} exists already" if held else f"there is no {name}")
    if condition.revisions is not None and (held is None or held.revision not in condition.revisions):
        wanted = ", ".join(map(str, sorted(condition.revisions)))
        raise ConditionFailed(f"{name} is at revision {held.revision}, not {wanted}" if held else f"there is no {name}")


def _of_the_one(error: Rejected) -> Rejected:
    """A fault of a batch of one, as seen by a caller who sent no batch."""
    field = error.field.removeprefix("puts[0]").removeprefix("deletes[0]").removeprefix(".")
    return type(error)(error.message, field)


def _decode_all(puts: Iterable[Put]) -> list[Draft]:
    drafts: list[Draft] = []
    for n, put in enumerate(puts):
        try:
            drafts.append(decode_spec(put.name, put.spec))
        except Rejected as error:
            raise error.at(f"puts[{n}]") from error
    return drafts


def _load_all(values: Mapping[str, bytes]) -> dict[Name, Object]:
    return {Name(name): load(Name(name), value) for name, value in values.items() if is_intent(name)}


def _differences(changes: Iterable[Change]) -> tuple[Difference, ...]:
    return tuple(
        Difference(
            change.name,
            "create" if change.old is None else "delete" if change.new is None else "update",
            None if change.old is None else encode_spec(change.old),
            None if change.new is None else encode_spec(change.new),
        )
        for change in changes
    )


async def _inline_or_thread(count: int, work: Callable[[], _T]) -> _T:
    return work() if count <= _INLINE else await asyncio.to_thread(work)
