"""Connections of ports that move: given to the host that a port is moving to, taken from the one that it leaves.

The two agents do not know each other: pieces go through the controller, which asks this host in its feed. A move never
waits for them for long: what has not come in time is said, and goes on being asked for until the port has arrived.
Docs: conntrack.md, Moving.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import structlog

from weft.agent.conntrack import Conntrack, Filter
from weft.agent.exporter import Ask
from weft.client.client import ApiError
from weft.contracts.clock import Clock
from weft.contracts.connections import Carried, ConnectionEvent
from weft.kit.errors import Missing, Rejected, Retry
from weft.kit.waiting import first_of
from weft.policy.rows import Port
from weft.wire import carried

_log = structlog.get_logger("weft.agent")

#: A port that is arriving is not said to be active before its connections are here, or so long has gone by.
PATIENCE_S = 5.0
#: Between two tries that failed.
AGAIN_S = 0.5
#: Who has been given everything waits so long for what changes, and is then told that it is nothing.
HOLD_S = 1.0
#: What changes at once is told at once.
GATHER_S = 0.02
#: What events have missed, and what only the table says, is looked for as often as that.
LOOK_AGAIN_S = 5.0
#: Who has not asked for so long has begun anew, or does not want to know any more.
FORGET_S = 120.0
#: Ports whose connections are asked for at once: at first, when that took too long, and for what changes.
#: The controller bounds what a host may.
MOST_AT_ONCE = 2


class Controller(Protocol):
    """By whom pieces come."""

    async def carried(self, host: str, port: str, after: int) -> bytes: ...


# -- of ports that leave --


class _Question(msgspec.Struct, frozen=True):
    port: str
    after: int = 0


@dataclass(slots=True)
class _Giving:
    """One port's, to one who asks. told: of each connection that was told, what it was in."""

    told: dict[bytes, tuple[object, ...]] = field(default_factory=dict)
    waiting: list[Carried] = field(default_factory=list)
    changed: set[bytes] = field(default_factory=set)
    stirred: asyncio.Event = field(default_factory=asyncio.Event)
    rank: int = 0
    last: bytes = b""
    asked_s: float = 0.0
    looked_s: float = 0.0
    follower: asyncio.Task[None] | None = None


class Giver:
    """Answers the controller's questions for connections of ports that are leaving."""

    def __init__(self, ask: Ask, conntrack: Conntrack, clock: Clock) -> None:
        self._ask = ask
        self._conntrack = conntrack
        self._clock = clock
        self._ports: frozenset[str] = frozenset()
        self._giving: dict[str, _Giving] = {}

    def follow(self, ports: Iterable[Port]) -> None:
        """All ports of this host, as they are now."""
        self._ports = frozenset(port.port for port in ports if port.leaving)
        for port in self._giving.keys() - self._ports:
            self._end(port)

    async def answer(self, body: bytes) -> bytes:
        """The piece behind the one of a rank; 0: the first. Raises Missing, Rejected."""
        try:
            question = msgspec.json.decode(body, type=_Question)
        except msgspec.DecodeError as fault:
            raise Rejected(f"not asked as it should be: {fault}") from fault
        if question.port not in self._ports:
            raise Missing(f"{question.port} is not leaving this host")
        now_s = self._clock.now_s()
        for port in [port for port, of in self._giving.items() if now_s - of.asked_s > FORGET_S]:
            self._end(port)
        giving = self._giving.get(question.port)
        if giving is None and question.after:
            raise Missing("what it has was told by an agent that is no more, or is too old: begin anew")
        if giving is None or question.after == 0:
            giving = await self._begin(question.port)
        giving.asked_s = now_s
        if question.after == giving.rank - 1 and giving.last:
            return giving.last  # it was lost on the way
        if question.after != giving.rank:
            raise Missing(f"piece {question.after} was not given: begin anew")
        if not giving.waiting and giving.rank:
            await self._gather(question.port, giving)
        some, giving.waiting = giving.waiting[: carried.MOST], giving.waiting[carried.MOST :]
        giving.rank += 1
        giving.last = carried.encode(giving.rank, some, more=bool(giving.waiting))
        return giving.last

    async def _begin(self, port: str) -> _Giving:
        self._end(port)
        giving = self._giving[port] = _Giving(looked_s=self._clock.now_s())
        watched = self._conntrack.watch(Filter(port=port))
        # From before the look: what begins while it is looked is told twice rather than not at all.
        first = asyncio.ensure_future(anext(watched))
        giving.follower = asyncio.create_task(_follow(first, watched, giving), name=f"connections of {port}")
        await asyncio.sleep(0)
        await self._look(port, giving)
        return giving

    async def _look(self, port: str, giving: _Giving, keys: frozenset[bytes] | None = None) -> None:
        """What of the port is in the table, and was not told as it is."""
        found = await self._ask(lambda plane: list(plane.carried(port, keys)))
        for key, of in found:
            now = (of.state, of.flags, of.awaited and of.awaited[:2])
            if giving.told.get(key) != now:
                giving.told[key] = now
                giving.waiting.append(of)

    async def _gather(self, port: str, giving: _Giving) -> None:
        """Until something has changed, or it is time to say that nothing has."""
        if self._clock.now_s() - giving.looked_s < LOOK_AGAIN_S:
            if not giving.changed:
                giving.stirred.clear()
                await first_of(giving.stirred.wait(), self._clock.sleep(HOLD_S))
            if giving.changed:
                await self._clock.sleep(GATHER_S)
                keys, giving.changed = frozenset(giving.changed), set()
                await self._look(port, giving, keys)
            return
        giving.looked_s = self._clock.now_s()
        await self._look(port, giving)

    def _end(self, port: str) -> None:
        giving = self._giving.pop(port, None)
        if giving is not None and giving.follower is not None:
            giving.follower.cancel()


async def _follow(
    first: asyncio.Future[ConnectionEvent], watched: AsyncGenerator[ConnectionEvent, None], giving: _Giving
) -> None:
    async with aclosing(watched):
        try:
            event = await first
            while True:
                # One that is over is not told: it expires there as it did here.
                if event.what != "destroyed":
                    giving.changed.add(event.connection.key)
                    giving.stirred.set()
                event = await anext(watched)
        finally:
            first.cancel()
            with suppress(asyncio.CancelledError, StopAsyncIteration):
                await first


# -- of ports that come --


@dataclass(slots=True)
class _Taking:
    """One port's. fault: why its connections have not come, by now. whole: all there were have."""

    task: asyncio.Task[None] | None = None
    whole: bool = False
    given_up: bool = False
    fault: str = ""
    taken: int = 0


class Taker:
    """Fetches connections of ports that are arriving. ``changed``: called when a port need wait no longer."""

    def __init__(self, host: str, controller: Controller, ask: Ask, clock: Clock) -> None:
        self._host = host
        self._controller = controller
        self._ask = ask
        self._clock = clock
        self._taking: dict[str, _Taking] = {}
        self._first = asyncio.Semaphore(MOST_AT_ONCE)
        self._then = asyncio.Semaphore(MOST_AT_ONCE)
        self._late = asyncio.Semaphore(1)  # so that a host's other requests have room
        self.changed: Callable[[], None] = lambda: None

    def follow(self, ports: Mapping[str, Port], *, anew: bool) -> None:
        """All ports of this host, as they are now. anew: not as this host had them before the agent started."""
        arriving = {name for name, port in ports.items() if port.arriving and (port.groups or port.port_security)}
        for name in self._taking.keys() - arriving:
            self._end(name)
        for name in arriving - self._taking.keys():
            taking = self._taking[name] = _Taking()
            taking.task = asyncio.create_task(self._take_all(name, taking, anew), name=f"connections of {name}")

    def why_waiting(self, port: str) -> str:
        """Why a port is not active here yet; empty: nothing keeps it."""
        taking = self._taking.get(port)
        if taking is None or taking.whole or taking.given_up:
            return ""
        return "its connections are on their way from the host that it leaves"

    def note(self, port: str) -> str:
        """What is to be known of a port that did not wait for its connections."""
        taking = self._taking.get(port)
        return (
            f"its connections have not come: {taking.fault}" if taking and taking.given_up and not taking.whole else ""
        )

    async def stop(self) -> None:
        tasks = [taking.task for taking in self._taking.values() if taking.task is not None]
        for name in list(self._taking):
            self._end(name)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end(self, port: str) -> None:
        taking = self._taking.pop(port)
        if taking.task is not None:
            taking.task.cancel()

    async def _take_all(self, port: str, taking: _Taking, anew: bool) -> None:
        """Until it has arrived, or does not come any more: then it is cancelled."""
        limit: asyncio.Task[None] | None = None
        try:
            if anew:
                # Left over of a former stay; what comes in from now on is begun anew.
                await self._ask(lambda plane: plane.forget([key for key, _ in plane.carried(port)]))
            after = 0
            while True:
                try:
                    async with self._place(taking):
                        if limit is None:  # not while others' hosts are waited for
                            limit = asyncio.create_task(self._give_up(port, taking))
                        piece = carried.decode(await self._controller.carried(self._host, port, after))
                        if piece.connections:
                            taking.taken += await self._take(port, piece.connections)
                    after = piece.rank
                    if not piece.more and not taking.whole:
                        taking.whole, taking.fault = True, ""
                        _log.info("connections of a port that arrives are here", port=port, connections=taking.taken)
                        self.changed()
                except (ApiError, Retry, Rejected) as fault:
                    taking.fault, after = str(fault), 0
                    if _is_final(fault):
                        self._give_up_now(port, taking)
                    await self._clock.sleep(AGAIN_S)
        finally:
            if limit is not None:
                limit.cancel()

    def _place(self, taking: _Taking) -> asyncio.Semaphore:
        """Whose host does not answer are in nobody's way."""
        return self._then if taking.whole else self._late if taking.given_up else self._first

    async def _take(self, port: str, connections: Sequence[Carried]) -> int:
        return await self._ask(lambda plane: plane.take(port, connections))

    async def _give_up(self, port: str, taking: _Taking) -> None:
        await self._clock.sleep(PATIENCE_S)
        taking.fault = taking.fault or f"not within {PATIENCE_S:g} s"
        self._give_up_now(port, taking)

    def _give_up_now(self, port: str, taking: _Taking) -> None:
        if not taking.whole and not taking.given_up:
            taking.given_up = True
            _log.warning("a port arrives without its connections", port=port, reason=taking.fault)
            self.changed()


def _is_final(fault: Exception) -> bool:
    """An agent, or a controller, that is older than the question: it is of no use to wait."""
    return isinstance(fault, ApiError) and (fault.status == 405 or "its agent is older" in fault.detail)
