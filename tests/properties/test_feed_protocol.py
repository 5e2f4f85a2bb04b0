"""What a host holds is what its scopes hold, at every bookmark, whatever happens to the stream in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from hypothesis import example, given
from hypothesis import strategies as st

from budget import examples
from weft.feed.log import FeedLog, Gone, Limits
from weft.feed.reflector import Batch, Lines, Piece, Reflector
from weft.policy.delta import Delta, ScopedDelta, ordered
from weft.policy.rows import Host, Key, Port, Record, Row, Scope, Subnet

HOST = "hosts/h1"
OWN = "host:hosts/h1"
DOMAINS = ("rd:a", "rd:b", "rd:c")
SCOPES = (OWN, *DOMAINS)


class Ticks:
    """A clock whose waits end when the test says so."""

    def __init__(self) -> None:
        self._waits: list[asyncio.Future[None]] = []

    def now_s(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        wait = asyncio.get_running_loop().create_future()
        self._waits.append(wait)
        await wait

    def tick(self) -> None:
        for wait in self._waits:
            if not wait.done():
                wait.set_result(None)
        self._waits.clear()


@dataclass
class World:
    """The controller's side: rows by scope, the host's scopes, and what both were at each revision."""

    revision: int = 1
    scopes: dict[Scope, dict[Key, Row]] = field(default_factory=lambda: {scope: {} for scope in SCOPES})
    member: frozenset[Scope] = frozenset({OWN, "rd:a", "rd:b"})
    past: dict[int, dict[Key, Row]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number, scope in enumerate(SCOPES):
            for value in (number, 4):
                Edit("put", scope, value, 1).make(self)
        self.record()

    def record(self) -> None:
        self.past[self.revision] = {key: row for scope in self.member for key, row in self.scopes[scope].items()}

    def rows(self, scope: Scope) -> list[Row]:
        return list(self.scopes[scope].values())

    def scopes_of(self, host: str) -> frozenset[Scope]:
        return self.member if host == HOST else frozenset(SCOPES)

    def change(self, edits: list[Edit]) -> ScopedDelta:
        """Carries out the edits as one commit; what the compiler would say of it."""
        before = {scope: dict(rows) for scope, rows in self.scopes.items()}
        was = self.member
        for edit in edits:
            edit.make(self)
        self.revision += 1
        self.record()
        changed = {}
        for scope, rows in self.scopes.items():
            puts = [row for key, row in rows.items() if before[scope].get(key) != row]
            deletes = [key for key in before[scope] if key not in rows]
            if puts or deletes:
                changed[scope] = ordered(puts, deletes)
        entered = tuple((HOST, scope) for scope in sorted(self.member - was))
        left = tuple((HOST, scope) for scope in sorted(was - self.member))
        return ScopedDelta(changed, entered, left)


@dataclass(frozen=True)
class Edit:
    """Puts a key's row into a scope (out of any other: a key has one), takes it away, or moves the host."""

    verb: str
    scope: Scope
    number: int
    value: int

    def make(self, world: World) -> None:
        row: Row
        if self.scope == OWN:
            row = (
                Host(HOST, (f"192.0.2.{self.value}",), ())
                if self.number == 0
                else Port(f"tenants/t/ports/p{self.number}", 4096 + self.value, "02:00:00:00:00:01", ())
            )
        elif self.number == 0:
            row = Subnet(4096, self.scope, (), (), "02:57:45:46:54:01", self.value)
        else:
            row = Record(4096, f"10.0.0.{self.number}", f"192.0.2.{self.value}", "02:00:00:00:00:01")
        match self.verb:
            case "put":
                for rows in world.scopes.values():
                    rows.pop(row.key, None)
                world.scopes[self.scope][row.key] = row
            case "delete":
                world.scopes[self.scope].pop(row.key, None)
            case "enter":
                world.member |= {self.scope}
            case "leave":
                world.member -= {self.scope}


class Agent:
    """The host's side: a reflector, and what a data plane would hold that is told what it says."""

    def __init__(self, world: World, log: FeedLog) -> None:
        self._world = world
        self._log = log
        self._reflector = Reflector()
        self._programmed: dict[Key, Row] = {}
        self._stream: AsyncIterator[bytes] | None = None
        self._next: asyncio.Future[bytes] | None = None
        self._lines = Lines()
        self._synced = False

    async def disconnect(self) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait([self._next])
            self._next = None
        if self._stream is not None:
            await self._stream.aclose()
            self._stream = None

    async def read(self, most: int) -> None:
        """Up to so many writes of the stream, as far as there are any."""
        for _ in range(most):
            if self._stream is None:
                self._stream = self._log.stream(HOST, self._reflector.revision)
                self._reflector.connected()
                self._lines = Lines()
                self._synced = False
            if self._next is None:
                self._next = asyncio.ensure_future(anext(self._stream))
            for _ in range(4):
                await asyncio.sleep(0)
            if not self._next.done():
                return
            reading, self._next = self._next, None
            try:
                data = reading.result()
            except (Gone, StopAsyncIteration) as end:
                await self.disconnect()
                if isinstance(end, Gone):
                    self._reflector.revision = None
                continue
            self._take(data)

    def _take(self, data: bytes) -> None:
        # Cut anywhere: a frame is not what arrives at once.
        for chunk in (data[: len(data) // 2], data[len(data) // 2 :]):
            for line in self._lines.cut(chunk):
                match self._reflector.feed(line):
                    case Piece(puts):
                        assert not self._synced
                        self._programmed.update((row.key, row) for row in puts)
                    case Batch(revision, delta, _, synced, _):
                        self._apply(revision, delta, synced)

    def _apply(self, revision: int, delta: Delta, synced: bool) -> None:
        assert synced is not self._synced, "synced once, by the first bookmark"
        self._synced = True
        self._programmed.update((row.key, row) for row in delta.puts)
        for key in delta.deletes:
            del self._programmed[key]  # whatever is deleted was there
        should = self._world.past[revision]
        tables = self._reflector.tables
        assert {row.key: row for row in tables.rows()} == should
        assert set(tables.scopes) <= set(SCOPES)
        assert {key: self._programmed[key] for key in should} == should
        if synced:
            self._programmed = dict(should)  # what prune(desired) does
        assert self._programmed == should

    @property
    def revision(self) -> int | None:
        return self._reflector.revision


edit = st.builds(
    Edit,
    st.sampled_from(["put", "put", "delete", "enter", "leave"]),
    st.sampled_from(SCOPES),
    st.integers(0, 3),
    st.integers(1, 3),
)
step = st.one_of(
    st.lists(edit, min_size=1, max_size=4),
    st.integers(1, 4),
    st.sampled_from(["disconnect", "tick"]),
)


@examples(100)
@given(
    st.lists(step, max_size=40),
    st.sampled_from(
        [
            Limits(),
            Limits(frame_rows=2, join_bytes=1),
            Limits(history_rows=8, pending_rows=5, join_bytes=1),
            Limits(history_changes=1, snapshot_rows=1, frame_rows=1, join_bytes=200),
        ]
    ),
)
@example(
    [
        4,
        [Edit("put", "rd:a", 1, 2), Edit("leave", "rd:a", 0, 1)],
        [Edit("put", "rd:c", 1, 1)],
        [Edit("enter", "rd:a", 0, 1)],
    ],
    Limits(),
)
def test_at_each_bookmark_a_host_holds_the_rows_of_its_scopes_and_no_other(
    steps: list[list[Edit] | int | str], limits: Limits
) -> None:
    async def play() -> None:
        world, clock = World(), Ticks()
        log = FeedLog(world.rows, world.scopes_of, world.revision, clock=clock, limits=limits)
        agent = Agent(world, log)
        for this in steps:
            match this:
                case int(most):
                    await agent.read(most)
                case "disconnect":
                    await agent.disconnect()
                case "tick":
                    clock.tick()
                case list(edits):
                    log.publish(world.revision + 1, world.change(edits))
        # At the end, left alone, the host has everything.
        clock.tick()
        await agent.read(40)
        assert agent.revision == world.revision
        await agent.disconnect()
        assert log.counters.listeners == 0

    asyncio.run(play())
