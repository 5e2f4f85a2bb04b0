"""The client's side of the feed: what a stream's lines mean for the tables of one host.

``Reflector`` is pure: lines in, events out, no clock and no socket; ``follow`` is the thin shell that connects, asks to
resume and comes back. Neither deletes anything before the stream has said that everything was sent.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import TypeAlias, assert_never

from weft.contracts.clock import Clock
from weft.feed.log import Gone
from weft.kit.errors import Rejected, Retry
from weft.policy.delta import Delta, ordered
from weft.policy.rows import Key, Row, Scope, host_scope, is_host_scope
from weft.wire import feed as wire

#: A line longer than this is no frame of ours, and is not waited for.
MAX_LINE_BYTES = 64 * 2**20

#: The first wait after a break is short (a controller that restarts is back at once); each further one doubles.
BACKOFF_FIRST_S = 0.2
BACKOFF_MOST_S = 3.0


@dataclass(frozen=True, slots=True)
class Connected:
    """A stream has begun. What came of the former without a bookmark is void."""


@dataclass(frozen=True, slots=True)
class Lost:
    """There is no stream, and why. Another try follows."""

    reason: str


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a full start, on their way in. They may be put at once: nothing of a full start deletes.

    lines: the frames, as they came.
    """

    puts: tuple[Row, ...]
    lines: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes that belong together; with them the host has everything up to ``revision``.

    synced: it is the first since the stream began, so that what is programmed and not in the tables may go.
    full: it ends a full start, and its lines with those of the pieces are the whole policy.
    """

    revision: int
    delta: Delta
    lines: tuple[bytes, ...]
    synced: bool
    full: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """The controller wants to know something. It is no part of policy, and belongs to no bookmark."""

    id: str
    what: str
    body: bytes


_Policy: TypeAlias = wire.Rows | wire.Leave | wire.Bookmark | wire.Resume
Event: TypeAlias = Connected | Lost | Piece | Batch | Asked


class Tables:
    """The rows of one host by scope. A key lives in one scope at a time, at each bookmark."""

    __slots__ = ("scopes",)

    def __init__(self) -> None:
        self.scopes: dict[Scope, dict[Key, Row]] = {}

    def __len__(self) -> int:
        return sum(len(table) for table in self.scopes.values())

    def get(self, key: Key) -> Row | None:
        for table in self.scopes.values():
            row = table.get(key)
            if row is not None:
                return row
        return None

    def keys(self) -> Iterator[Key]:
        for table in self.scopes.values():
            yield from table

    def rows(self) -> Iterator[Row]:
        for table in self.scopes.values():
            yield from table.values()

    def carry_out(self, frames: Iterable[wire.Rows | wire.Leave]) -> None:
        """Bring the tables up to date; for those who need not know what it changed."""
        for frame in frames:
            match frame:
                case wire.Rows():
                    table = self.scopes.setdefault(frame.scope, {})
                    for row in frame.puts:
                        table[row.key] = row
                    for key in frame.deletes:
                        table.pop(key, None)
                    if not table:
                        del self.scopes[frame.scope]
                case wire.Leave():
                    self.scopes.pop(frame.scope, None)
                case _:
                    assert_never(frame)


class Reflector:
    """One host's tables, kept equal to what the feed says. Never forgets a row that it was not told to."""

    def __init__(
        self,
        tables: Tables | None = None,
        revision: int | None = None,
        host: str | None = None,
        history: str = "",
    ) -> None:
        """host: whose feed it is; rows that are another host's own are refused."""
        self._own_scope = None if host is None else host_scope(host)
        self.tables = tables or Tables()
        #: What to resume from; None: the tables are at no one revision, so only everything will do.
        self.revision = revision
        self.history = history  #: whose revision it is
        self._decoder = wire.Decoder()
        self._phase: _Opening | _Starting | _Following = _Opening()

    def connected(self) -> None:
        """A stream begins: its first line is next. What came of the former without a bookmark is void."""
        if isinstance(self._phase, _Starting):
            self._phase.give_back(self.tables)
        self._phase = _Opening()

    def feed(self, line: bytes) -> Piece | Batch | Asked | None:
        """One line. Raises Rejected for a line that may not be there, and is then as before it."""
        frame = self._decoder.decode(line)
        if isinstance(frame, wire.Ask):
            return Asked(frame.id, frame.what, frame.body)
        if isinstance(frame, wire.Rows) and self._own_scope not in (None, frame.scope) and is_host_scope(frame.scope):
            raise Rejected(f"the feed sends {frame.scope}; this is {self._own_scope}")
        if isinstance(self._phase, _Opening):
            if isinstance(frame, wire.Resume):
                if frame.revision != self.revision:
                    raise Rejected(f"the feed resumes from revision {frame.revision}; {self.revision} was asked for")
                self._phase = _Following(synced=False)
                return None
            self._phase = _Starting(self.tables)
            self.revision = None
        match self._phase:
            case _Starting() as starting:
                return self._start(starting, frame, line)
            case _Following() as following:
                return self._follow(following, frame, line)
        raise AssertionError("a stream that has opened starts or follows")

    def _start(self, starting: _Starting, frame: _Policy, line: bytes) -> Piece | Batch | None:
        match frame:
            case wire.Rows():
                return Piece(starting.put(frame.scope, frame.puts, frame.deletes), (line,))
            case wire.Leave():
                starting.leave(frame.scope)
                return Piece((), (line,))
            case wire.Bookmark(synced=False):
                return Piece((), (line,))
            case wire.Bookmark():
                self.revision, self.history = frame.revision, frame.history
                self._phase = _Following(synced=True)
                # A host with no row at all: the bookmark is the whole of the full start.
                return Batch(frame.revision, starting.finish(), (line,), synced=True, full=True)
            case wire.Resume():
                raise Rejected(f"the feed says that it resumes from {frame.revision} in the middle of the stream")
            case _:
                assert_never(frame)

    def _follow(self, following: _Following, frame: _Policy, line: bytes) -> Piece | Batch | None:
        match frame:
            case wire.Rows() | wire.Leave():
                following.frames.append(frame)
                following.lines.append(line)
                return None
            case wire.Bookmark():
                if frame.history != self.history:
                    raise Rejected(f"the feed changes from history {self.history!r} to {frame.history!r} on its way")
                if self.revision is not None and frame.revision < self.revision:
                    raise Rejected(f"the feed goes back from revision {self.revision} to {frame.revision}")
                synced = frame.synced and not following.synced
                delta = _carry_out(self.tables, following.frames)
                lines = (*following.lines, line)
                self.revision = frame.revision
                self._phase = _Following(synced=following.synced or frame.synced)
                return Batch(frame.revision, delta, lines, synced=synced, full=False)
            case wire.Resume():
                raise Rejected(f"the feed says that it resumes from {frame.revision} in the middle of the stream")
            case _:
                assert_never(frame)


class _Opening:
    """Nothing of the stream was read yet."""


class _Starting:
    """A full start: rows move from the old tables to the new ones; what is left in the old at the end is to go."""

    def __init__(self, old: Tables) -> None:
        self._old = old.scopes
        self._new: dict[Scope, dict[Key, Row]] = {}
        self._gone: set[Key] = set()
        old.scopes = self._new

    def put(self, scope: Scope, puts: tuple[Row, ...], deletes: tuple[Key, ...]) -> tuple[Row, ...]:
        changed: list[Row] = []
        old = self._old.get(scope, {})
        new = self._new.setdefault(scope, {})
        for row in puts:
            key = row.key
            known = new.get(key) or old.pop(key, None)
            if known == row:
                new[key] = known
            else:
                new[key] = row
                changed.append(row)
        for key in deletes:
            if new.pop(key, None) is not None:
                self._gone.add(key)
        return tuple(changed)

    def leave(self, scope: Scope) -> None:
        self._gone.update(self._new.pop(scope, ()))

    def finish(self) -> Delta:
        for table in self._old.values():
            self._gone.update(table)
        self._old = {}
        scopes = tuple(self._new.values())
        return ordered((), [key for key in self._gone if not any(key in table for table in scopes)])

    def give_back(self, tables: Tables) -> None:
        """The stream broke: all that was ever put is known again, so that the next full start can weigh it."""
        for scope, table in self._old.items():
            new = self._new.setdefault(scope, {})
            for key, row in table.items():
                new.setdefault(key, row)
        # A key deleted in the middle of a full start may still be programmed; which row it had no longer matters.
        tables.scopes = self._new


@dataclass(slots=True, eq=False)
class _Following:
    """Everything was sent once, or need not be; frames wait for their bookmark."""

    synced: bool
    frames: list[wire.Rows | wire.Leave]
    lines: list[bytes]

    def __init__(self, *, synced: bool) -> None:
        self.synced = synced
        self.frames = []
        self.lines = []


def _carry_out(tables: Tables, frames: list[wire.Rows | wire.Leave]) -> Delta:
    """Bring the tables up to date; what a data plane must be told of it.

    A key may go from one scope and come in another within one batch: it is then put, and not deleted.
    """
    puts: dict[Key, Row] = {}
    gone: set[Key] = set()
    touched: set[Scope] = set()
    for frame in frames:
        touched.add(frame.scope)
        match frame:
            case wire.Rows():
                table = tables.scopes.setdefault(frame.scope, {})
                for row in frame.puts:
                    key = row.key
                    if table.get(key) != row:
                        table[key] = row
                        puts[key] = row
                for key in frame.deletes:
                    if table.pop(key, None) is not None:
                        gone.add(key)
            case wire.Leave():
                gone.update(tables.scopes.pop(frame.scope, ()))
            case _:
                assert_never(frame)
    present = tuple(tables.scopes[scope] for scope in touched if scope in tables.scopes)
    deletes: list[Key] = []
    for key in gone:
        if not any(key in table for table in present):
            puts.pop(key, None)
            deletes.append(key)
    for scope in touched:
        if not tables.scopes.get(scope, True):
            del tables.scopes[scope]
    return ordered(puts.values(), deletes)


class Lines:
    """Cuts a byte stream into lines. Keeps what has no end yet."""

    def __init__(self) -> None:
        self._rest = b""

    def cut(self, chunk: bytes) -> list[bytes]:
        if b"\n" not in chunk:
            self._rest += chunk
            if len(self._rest) > MAX_LINE_BYTES:
                raise Rejected(f"a line of the feed is longer than {MAX_LINE_BYTES} bytes")
            return []
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return lines


#: Opens the feed from a revision, or with None from the beginning. Raises Gone (at its first step) and Retry.
Connect: TypeAlias = Callable[[int | None], AsyncGenerator[bytes, None]]


async def follow(reflector: Reflector, connect: Connect, clock: Clock, random: Random) -> AsyncGenerator[Event, None]:
    """The feed's events, for ever: connects, resumes, starts over when it must, and waits in between, each host a
    different while, so that a controller that returns is not met by all at once.
    """
    failures = 0
    while True:
        try:
            async with contextlib.aclosing(connect(reflector.revision)) as chunks:
                reflector.connected()
                lines = Lines()
                connected = False
                async for chunk in chunks:
                    if not connected:
                        connected = True
                        yield Connected()
                    for line in lines.cut(chunk):
                        event = reflector.feed(line)
                        if event is None:
                            continue
                        if isinstance(event, Batch):
                            failures = 0
                        yield event
            reason = "the controller ended the feed"
        except Gone:
            if reflector.revision is not None:
                reflector.revision = None
                continue  # nobody failed: the answer is to ask for everything, and now
            reason = "the controller says that everything is too old to be sent"
        except Retry as fault:
            reason = str(fault)
        except Rejected as fault:
            # What we hold may be as wrong as what we were sent: everything anew.
            reflector.revision = None
            reason = fault.message
        yield Lost(reason)
        wait_s = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2 ** min(failures, 10))
        await clock.sleep(wait_s * random.random())
        failures += 1
