"""The server's side of the feed: what each host is sent, and when. Never waits for a host.

Everything rests on one idea: what a listener is owed is a function of the scopes it had, the scopes it has, and the
changes in between. A host that follows, one that lags and one that comes back are the same case with one change,
a few, or many; so lagging costs fewer frames, not more.

``rows`` and ``scopes_of`` must show exactly what was published: whoever compiles publishes in the same step of the
event loop, with no await in between.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TypeVar

from weft.contracts.clock import Clock
from weft.kit.clock import MonotonicClock
from weft.policy.delta import Delta, ScopedDelta
from weft.policy.rows import ORDER, TABLES, Key, Row, Scope, is_host_scope
from weft.wire import feed as wire
from weft.wire.knows import Known

_RANK = {kind: ORDER[table] for table, kind in TABLES.items()}
_TABLE = {kind: table for table, kind in TABLES.items()}

_Item = TypeVar("_Item")


class Gone(Exception):
    """The history does not reach back to the revision asked for: start over with everything."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is kept for those who lag or come back."""

    history_rows: int = 500_000  #: changed rows that can be resumed over
    history_changes: int = 100_000
    pending_rows: int = 500_000  #: changed rows that a listener may be behind before it is cut off
    snapshot_rows: int = 1_000_000  #: rows whose encoded form is kept for the next who starts
    asks: int = 64  #: questions that wait for one listener
    bookmark_s: float = 5.0
    frame_rows: int = wire.CHUNK_ROWS
    join_bytes: int = 16_384  #: frames below it are joined into one write; larger ones are the same object for all


@dataclass(slots=True)
class Counters:
    """What the feed has done since it began. ``listeners`` and ``pending`` state the present."""

    listeners: int = 0
    streams_full: int = 0
    streams_resumed: int = 0
    streams_gone: int = 0
    streams_cut_off: int = 0
    wakes: int = 0
    frames_encoded: int = 0
    bytes_encoded: int = 0
    writes_sent: int = 0
    bytes_sent: int = 0


class FeedLog:
    """What was published, kept for as long as it may be asked for, and who listens."""

    def __init__(
        self,
        rows: Callable[[Scope], Iterable[Row]],
        scopes_of: Callable[[str], frozenset[Scope]],
        revision: int,
        *,
        history: str = "",
        clock: Clock | None = None,
        limits: Limits | None = None,
    ) -> None:
        """history: whose revisions these are; a listener of another's starts over, whatever the number."""
        self._rows = rows
        self._scopes_of = scopes_of
        self._clock = clock or MonotonicClock()
        self._limits = limits or Limits()
        self._name = history
        self._revision = revision
        self._floor = revision  # the oldest revision that can be resumed from
        self._history: deque[_Change] = deque()
        self._history_rows = 0
        self._snapshots: OrderedDict[Scope, _Snapshot] = OrderedDict()
        self._snapshot_rows = 0
        self._merged: OrderedDict[tuple[Scope, int, int], tuple[bytes, ...]] = OrderedDict()
        self._by_scope: dict[Scope, set[_Listener]] = {}
        self._by_host: dict[str, set[_Listener]] = {}
        self._opened = 0
        self.counters = Counters()
        #: Told when a host's first stream opens, and when its last one ends.
        self.on_listening: Callable[[str, bool], None] = lambda _host, _open: None
        #: Told when a stream ends, by what ``ask`` has said of it.
        self.on_ended: Callable[[object], None] = lambda _stream: None

    @property
    def revision(self) -> int:
        return self._revision

    def listening(self, host: str) -> bool:
        """Whether an agent of the host is connected."""
        return host in self._by_host

    def hosts(self) -> Collection[str]:
        """Those whose agents are connected."""
        return self._by_host.keys()

    def publish(self, revision: int, delta: ScopedDelta) -> None:
        """One commit's consequences. Wakes those it concerns, and only those."""
        if revision <= self._revision:
            raise ValueError(f"revision {revision} was published after {self._revision}; revisions grow")
        change = _Change.of(revision, delta, self._encode)
        self._revision = revision
        self._remember(change)
        for scope in change.scopes:
            self._forget_snapshot(scope)
        self._move_members(change)
        for scope, what in change.scopes.items():
            for listener in self._by_scope.get(scope, ()):
                self._owe(listener, change, len(what.puts) + len(what.deletes))

    def jump(self, revision: int, delta: ScopedDelta) -> None:
        """Several commits at once, of which only the difference is known: nobody can resume from before it."""
        self.publish(revision, delta)
        self._history.clear()
        self._history_rows = 0
        self._floor = revision

    def ask(self, host: str, frame: bytes) -> object | None:
        """Send a host a question, between two bookmarks; the stream that it goes by. None: no agent of it that answers
        is connected, or it does not keep up. Of several streams the last that was opened: an agent that was started
        anew may be here before its predecessor's is known to have ended.
        """
        able = [
            each
            for each in self._by_host.get(host, ())
            if each.answers and not each.cut_off and len(each.asks) < self._limits.asks
        ]
        if not able:
            return None
        listener = max(able, key=lambda each: each.rank)
        listener.asks.append(frame)
        listener.wake()
        return listener

    async def stream(
        self,
        host: str,
        revision: int | None = None,
        history: str = "",
        knows: str | None = None,
        *,
        answers: bool = False,
    ) -> AsyncGenerator[bytes, None]:
        """Everything the host is to have, then what changes; or what changed since ``revision``, and on from there.
        answers: it may be asked things in between (``ask``).

        knows: what the listener says that it knows; it is sent nothing else. None: it knows what we do.
        Raises Gone at its first step when ``revision`` is of another history, or before what is kept of this one. Ends
        when the listener is further behind than it may be.
        """
        known = None if knows is None else Known.of(knows)
        listener, frames = self._admit(host, revision, history, self._name + (known.name if known else ""))
        listener.answers = answers
        ticker = asyncio.ensure_future(self._clock.sleep(self._limits.bookmark_s))
        try:
            while True:
                if known is not None and not known.everything:
                    frames = filter(None, map(known.without_the_rest, frames))
                for data in _joined(frames, self._limits.join_bytes):
                    self.counters.writes_sent += 1
                    self.counters.bytes_sent += len(data)
                    yield data
                    if listener.cut_off:
                        return
                while not listener.owed and not listener.asks and not ticker.done():
                    await listener.wait(ticker)
                if listener.cut_off:
                    return
                if listener.asks:
                    frames, listener.asks = iter(listener.asks), []
                    continue
                if ticker.done():
                    ticker = asyncio.ensure_future(self._clock.sleep(self._limits.bookmark_s))
                frames = self._due(listener)
        finally:
            ticker.cancel()
            self._dismiss(listener)

    # -- listeners --

    def _admit(self, host: str, revision: int | None, history: str, name: str) -> tuple[_Listener, Iterator[bytes]]:
        """name: of the history that the listener's revisions are of."""
        now = self._scopes_of(host)
        if revision is None:
            self.counters.streams_full += 1
            frames = self._difference(frozenset(), now, (), name)
        else:
            if history != name:
                self.counters.streams_gone += 1
                raise Gone(f"revision {revision} is of another store, compiler or agent, {history!r}: start over")
            if not self._floor <= revision <= self._revision:
                self.counters.streams_gone += 1
                raise Gone(
                    f"revision {revision} cannot be resumed from; {self._floor}..{self._revision} can: start over"
                )
            since = [change for change in self._history if change.revision > revision]
            then = set(now)
            for change in reversed(since):
                then -= change.entered.get(host, frozenset())
                then |= change.left.get(host, frozenset())
            self.counters.streams_resumed += 1
            frames = _after(wire.encode_resume(revision), self._difference(frozenset(then), now, since, name))
        self._opened += 1
        listener = _Listener(host, name, set(now), now, self._opened)
        first = host not in self._by_host
        self._by_host.setdefault(host, set()).add(listener)
        for scope in now:
            self._by_scope.setdefault(scope, set()).add(listener)
        self.counters.listeners += 1
        if first:
            self.on_listening(host, True)
        return listener, frames

    def _dismiss(self, listener: _Listener) -> None:
        self.counters.listeners -= 1
        _discard(self._by_host, listener.host, listener)
        for scope in listener.scopes:
            _discard(self._by_scope, scope, listener)
        if listener.host not in self._by_host:
            self.on_listening(listener.host, False)
        self.on_ended(listener)

    def _move_members(self, change: _Change) -> None:
        for host, scopes in change.left.items():
            for listener in self._by_host.get(host, ()):
                for scope in scopes & listener.scopes:
                    listener.scopes.discard(scope)
                    listener.left.add(scope)
                    _discard(self._by_scope, scope, listener)
                self._owe(listener, change, 0)
        for host, scopes in change.entered.items():
            for listener in self._by_host.get(host, ()):
                for scope in scopes:
                    listener.scopes.add(scope)
                    self._by_scope.setdefault(scope, set()).add(listener)
                self._owe(listener, change, 0)

    def _owe(self, listener: _Listener, change: _Change, rows: int) -> None:
        if listener.cut_off:
            return
        listener.owed_rows += rows
        if not listener.owed or listener.owed[-1] is not change:
            listener.owed.append(change)
            self.counters.wakes += 1
        # One change may be larger than the bound (a domain of 100,000 ports in one apply): it is not lag.
        if listener.owed_rows > self._limits.pending_rows and len(listener.owed) > 1:
            listener.cut()
            self.counters.streams_cut_off += 1
        listener.wake()

    def _due(self, listener: _Listener) -> Iterator[bytes]:
        then, listener.sent = listener.sent, frozenset(listener.scopes)
        changes, listener.owed, listener.owed_rows = listener.owed, [], 0
        left, listener.left = listener.left, set()
        return self._difference(then, listener.sent, changes, listener.name, left & then & listener.sent)

    # -- frames --

    def _difference(
        self,
        then: frozenset[Scope],
        now: frozenset[Scope],
        changes: Sequence[_Change],
        name: str,
        returned: AbstractSet[Scope] = frozenset(),
    ) -> Iterator[bytes]:
        """All that turns the rows of ``then`` into those of ``now``, of this moment, however late it is read.

        returned: scopes that were left and entered again; what changed in them meanwhile is not among the changes.
        """
        then -= returned
        ready: list[bytes] = [wire.encode_leave(scope) for scope in sorted(returned)]
        for scope in sorted(now & then):
            touching = [change for change in changes if scope in change.scopes]
            ready.extend(self._changed(scope, touching))
        ready.extend(wire.encode_leave(scope) for scope in sorted(then - now))
        # "host:" sorts before "rd:": a host's own row comes first; its ports wait for everything they rest on.
        entered = [self._snapshot(scope) for scope in sorted(now - then)]
        return _sequence(ready, entered, wire.encode_bookmark(self._revision, synced=True, history=name))

    def _changed(self, scope: Scope, changes: Sequence[_Change]) -> tuple[bytes, ...]:
        if not changes:
            return ()
        if len(changes) == 1:
            return changes[0].frames(scope)
        span = (scope, changes[0].revision, changes[-1].revision)
        merged = self._merged.get(span)
        if merged is None:
            merged = self._encode(scope, _merge(change.scopes[scope] for change in changes))
            self._merged[span] = merged
            if len(self._merged) > 256:
                self._merged.popitem(last=False)
        return merged

    def _encode(self, scope: Scope, delta: Delta) -> tuple[bytes, ...]:
        most = self._limits.frame_rows
        if len(delta.puts) + len(delta.deletes) <= most:
            return (_count(wire.encode_rows(scope, delta.puts, delta.deletes), self.counters),)
        return (
            *(_count(wire.encode_rows(scope, rows), self.counters) for rows in _slices(delta.puts, most)),
            *(_count(wire.encode_rows(scope, (), keys), self.counters) for keys in _slices(delta.deletes, most)),
        )

    def _snapshot(self, scope: Scope) -> _Snapshot:
        snapshot = self._snapshots.get(scope)
        if snapshot is None:
            snapshot = _Snapshot(scope, self._rows(scope), self._limits.frame_rows, self.counters)
            if is_host_scope(scope):
                # Nobody else wants it; kept, many of them would push out what all want.
                return snapshot
            self._snapshots[scope] = snapshot
            self._snapshot_rows += snapshot.size
            while self._snapshot_rows > self._limits.snapshot_rows and len(self._snapshots) > 1:
                self._forget_snapshot(next(iter(self._snapshots)))
        else:
            self._snapshots.move_to_end(scope)
        return snapshot

    def _forget_snapshot(self, scope: Scope) -> None:
        snapshot = self._snapshots.pop(scope, None)
        if snapshot is not None:
            self._snapshot_rows -= snapshot.size

    def _remember(self, change: _Change) -> None:
        self._history.append(change)
        self._history_rows += change.size
        while self._history_rows > self._limits.history_rows or len(self._history) > self._limits.history_changes:
            oldest = self._history.popleft()
            self._history_rows -= oldest.size
            self._floor = oldest.revision


@dataclass(slots=True, eq=False)
class _Change:
    """One publish. Encoded at most once a scope, when the first listener wants it."""

    revision: int
    scopes: dict[Scope, Delta]
    entered: dict[str, frozenset[Scope]]
    left: dict[str, frozenset[Scope]]
    size: int
    encode: Callable[[Scope, Delta], tuple[bytes, ...]]
    encoded: dict[Scope, tuple[bytes, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, revision: int, delta: ScopedDelta, encode: Callable[[Scope, Delta], tuple[bytes, ...]]) -> _Change:
        scopes = {scope: change for scope, change in delta.scopes.items() if change}
        return cls(
            revision,
            scopes,
            _by_host(delta.entered),
            _by_host(delta.left),
            sum(len(change.puts) + len(change.deletes) for change in scopes.values()),
            encode,
        )

    def frames(self, scope: Scope) -> tuple[bytes, ...]:
        frames = self.encoded.get(scope)
        if frames is None:
            frames = self.encoded[scope] = self.encode(scope, self.scopes[scope])
        return frames


class _Snapshot:
    """All rows of a scope at one moment, in frames that are encoded at most once, each when it is first wanted."""

    __slots__ = ("_chunks", "_counters", "ports_from", "scope", "size")

    def __init__(self, scope: Scope, rows: Iterable[Row], frame_rows: int, counters: Counters) -> None:
        ordered = sorted(rows, key=lambda row: _RANK[type(row)])
        ports = next((n for n, row in enumerate(ordered) if _RANK[type(row)] == ORDER["ports"]), len(ordered))
        self.scope = scope
        self.size = len(ordered)
        self._counters = counters
        self._chunks: list[bytes | list[Row]] = [*_slices(ordered[:ports], frame_rows)]
        self.ports_from = len(self._chunks)  #: the first frame of ports
        self._chunks.extend(_slices(ordered[ports:], frame_rows))

    def __len__(self) -> int:
        return len(self._chunks)

    def frame(self, index: int) -> bytes:
        chunk = self._chunks[index]
        if isinstance(chunk, bytes):
            return chunk
        tables: dict[str, list[Row]] = {}
        for row in chunk:
            tables.setdefault(_TABLE[type(row)], []).append(row)
        frame = _count(wire.encode_tables(self.scope, tables), self._counters)
        self._chunks[index] = frame
        return frame


@dataclass(slots=True, eq=False)
class _Listener:
    """One open stream. scopes: what the host has now; sent: what it had when it was last told. name: of its history;
    rank: how many were opened before, and it.
    """

    host: str
    name: str
    scopes: set[Scope]
    sent: frozenset[Scope]
    rank: int
    left: set[Scope] = field(default_factory=set)  #: since then, whether or not they were entered again
    owed: list[_Change] = field(default_factory=list)
    owed_rows: int = 0
    cut_off: bool = False
    answers: bool = False
    asks: list[bytes] = field(default_factory=list)  #: questions that were not sent yet
    _waiter: asyncio.Future[None] | None = None

    def cut(self) -> None:
        self.cut_off = True
        self.owed = self.owed[-1:]  # lets go of the rest; what remains only says that there is something
        self.owed_rows = 0

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, ticker: asyncio.Future[None]) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        await asyncio.wait((self._waiter, ticker), return_when=asyncio.FIRST_COMPLETED)
        self._waiter = None


def _sequence(ready: Sequence[bytes], entered: Sequence[_Snapshot], bookmark: bytes) -> Iterator[bytes]:
    yield from ready
    for snapshot in entered:
        for index in range(snapshot.ports_from):
            yield snapshot.frame(index)
    for snapshot in entered:
        for index in range(snapshot.ports_from, len(snapshot)):
            yield snapshot.frame(index)
    yield bookmark


def _after(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _joined(frames: Iterator[bytes], join_bytes: int) -> Iterator[bytes]:
    """Small frames together in one write; a large one is yielded as the object that all listeners share."""
    small: list[bytes] = []
    size = 0
    for frame in frames:
        if len(frame) >= join_bytes:
            if small:
                yield b"".join(small)
                small, size = [], 0
            yield frame
            continue
        small.append(frame)
        size += len(frame)
        if size >= join_bytes:
            yield b"".join(small)
            small, size = [], 0
    if small:
        yield b"".join(small)


def _merge(changes: Iterable[Delta]) -> Delta:
    """Several changes of one scope as one: of each key the last word."""
    last: dict[Key, Row | None] = {}
    for change in changes:
        for row in change.puts:
            last[row.key] = row
        for key in change.deletes:
            last[key] = None
    puts = sorted((row for row in last.values() if row is not None), key=lambda row: _RANK[type(row)])
    deletes = sorted((key for key, row in last.items() if row is None), key=lambda key: ORDER[key[0]], reverse=True)
    return Delta(tuple(puts), tuple(deletes))


def _count(frame: bytes, counters: Counters) -> bytes:
    counters.frames_encoded += 1
    counters.bytes_encoded += len(frame)
    return frame


def _slices(items: Sequence[_Item], most: int) -> Iterator[list[_Item]]:
    for start in range(0, len(items), most):
        yield list(items[start : start + most])


def _by_host(pairs: Iterable[tuple[str, str]]) -> dict[str, frozenset[Scope]]:
    hosts: dict[str, set[Scope]] = {}
    for host, scope in pairs:
        hosts.setdefault(host, set()).add(scope)
    return {host: frozenset(scopes) for host, scopes in hosts.items()}


def _discard(index: dict[str, set[_Listener]], name: str, listener: _Listener) -> None:
    members = index.get(name)
    if members is not None:
        members.discard(listener)
        if not members:
            del index[name]
