"""Connections of ports that move: given to the host that a port is moving to, taken from the one that it leaves.

The two agents do not know each other: pieces go through the controller, which asks this host in its feed. A move never
waits for them for long: what has not come in time is said, and goes on being asked for until the port has arrived, and
once more then. Either agent may be killed at any moment: what the next one is to go on with is in two files.
Docs: conntrack.md, Moving.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

import msgspec
import structlog

from weft.agent.conntrack import Conntrack, Filter
from weft.agent.exporter import Ask
from weft.agent.memory import Memory
from weft.client.client import ApiError
from weft.contracts.clock import Clock
from weft.contracts.connections import Carried, ConnectionEvent, Mark
from weft.kit.errors import Missing, Rejected, Retry
from weft.kit.rate import Bucket
from weft.kit.waiting import first_of
from weft.policy.rows import Port
from weft.wire import carried

_log = structlog.get_logger("weft.agent")

#: A port that is arriving is not said to be active before its connections are here, or so long has gone by.
PATIENCE_S = 5.0
#: Between two tries that failed; twice as long after each, up to twice that for who is waited for, and else so long.
AGAIN_S, AGAIN_LAST_S = 0.5, 4.0
#: Who has been given everything waits so long for what changes, and is then told that it is nothing.
HOLD_S = 1.0
#: A host may do fifty things a second (controller/limits.py), and has others to do: it asks for so many news a second,
#: for so many first and last pieces after the first ``BURST``, and tells so many.
PER_S, BURST = 20.0, 100
#: However many ask at once, nobody is held longer: the controller does not wait for ever (controller/moves.py).
LONGEST_S = 4.0
#: What changes at once is told at once.
GATHER_S = 0.02
#: What events have missed, and what only the table says, is looked for as often as that.
LOOK_AGAIN_S = 5.0
#: Who asks for the last of a port, and does not hear it, goes on asking for so long: that host's agent may be started.
LAST_S = 120.0
#: A port that has left is told of until it was, and then for so long: the answer may be lost on the way.
TOLD_S = 60.0
#: And no longer than so long where nobody asks. A host asks ``PER_S`` times a second, however many ports have come to
#: it at once: some 9,000 have their turn, and go on asking for ``LAST_S``.
LINGER_S = 600.0
#: Who has not asked for so long has begun anew, or does not want to know any more.
FORGET_S = 120.0
#: Whoever is told so has another piece than is known of here: only then what it has is void.
BEGIN_ANEW = "begin anew"
#: Ports whose connections are asked for at once: at first, when that took too long, and for what changes.
#: The controller bounds what a host may.
MOST_AT_ONCE = 2


class Controller(Protocol):
    """By whom pieces come."""

    async def carried(self, host: str, port: str, after: int, former: str = "") -> bytes: ...


# -- of ports that leave --


class _Question(msgspec.Struct, frozen=True):
    """last: the port has arrived, and nothing more is asked: nothing is waited for, and nothing is left out."""

    port: str
    after: int = 0
    last: bool = False


@dataclass(slots=True)
class _Giving:
    """One port's, to one who asks. told: of each connection that was told, what it was in; waiting: keys of those that
    are to be told; last, its_keys, more: the piece that was given last; looked_s: when the table was looked through for
    it; over: it has arrived there, and is held no longer.
    """

    told: dict[bytes, Mark] = field(default_factory=dict)
    waiting: dict[bytes, None] = field(default_factory=dict)
    stirred: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    answering: asyncio.Lock = field(default_factory=asyncio.Lock)
    rank: int = 0
    last: bytes = b""
    its_keys: tuple[bytes, ...] = ()
    more: bool = False
    asked_s: float = 0.0
    looked_s: float | None = None

    def differs(self, key: bytes, mark: Mark) -> None:
        """It is as that now: to be told, unless it was."""
        if self.told.get(key) != mark:
            self.waiting[key] = None
            self.stirred.set()

    def again(self, keys: Iterable[bytes]) -> None:
        """It is not known whether they were heard."""
        for key in keys:
            self.told.pop(key, None)
            self.waiting[key] = None


@dataclass(slots=True)
class _Left:
    """A port that has left. since_s: as far as is known; until_s: it is told of."""

    since_s: float
    until_s: float


class Giver:
    """Answers the controller's questions for connections of ports that are leaving, or have just left.

    The table is walked once for all of them, and events are followed once, however many are under way.
    """

    def __init__(self, host: str, ask: Ask, conntrack: Conntrack, clock: Clock, memory: Memory[list[str]]) -> None:
        """memory: ports that have left, of which not all was told."""
        self._host = host
        self._ask = ask
        self._conntrack = conntrack
        self._clock = clock
        self._memory = memory
        self._ports: frozenset[str] = frozenset()
        now_s = clock.now_s()
        self._left = {port: _Left(now_s, now_s + LINGER_S) for port in memory.value}
        self._giving: dict[str, _Giving] = {}
        self._follower: asyncio.Task[None] | None = None
        self._answering = 0
        self._walking = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None  # a walk that has not begun yet

    def follow(self, ports: Iterable[Port]) -> None:
        """All ports of this host, as they are now."""
        here = {port.port: port.leaving for port in ports}
        now_s = self._clock.now_s()
        for port in self._ports - here.keys():
            self._left[port] = _Left(now_s, now_s + LINGER_S)
        for port in here.keys() & self._left.keys():
            del self._left[port]  # it is back
        self._ports = frozenset(port for port, leaves in here.items() if leaves)
        self._forget(now_s)

    def stop(self) -> None:
        """Nobody is answered any more. What is under way is the next agent's."""
        self._giving.clear()
        self._follow_nothing()

    def lingering(self) -> Collection[str]:
        """Ports that have just left: the last that they had is still to be asked for."""
        self._forget(self._clock.now_s())
        return tuple(self._left)

    def _forget(self, now_s: float) -> None:
        self._left = {port: left for port, left in self._left.items() if now_s <= left.until_s}
        # Before the rows say that they are gone: those are written later.
        self._memory.keep(sorted(self._left))
        for port, giving in list(self._giving.items()):
            if (port not in self._ports and port not in self._left) or now_s - giving.asked_s > FORGET_S:
                del self._giving[port]
        if not self._giving:
            self._follow_nothing()

    def _follow_nothing(self) -> None:
        if self._follower is not None:
            self._follower.cancel()
            self._follower = None

    async def answer(self, body: bytes) -> bytes:
        """The piece behind the one of a rank; 0: the first. Raises Missing, Rejected."""
        try:
            question = msgspec.json.decode(body, type=_Question)
        except msgspec.DecodeError as fault:
            raise Rejected(f"not asked as it should be: {fault}") from fault
        now_s = self._clock.now_s()
        self._forget(now_s)
        if question.port not in self._ports and not (question.last and question.port in self._left):
            raise Missing(f"{question.port} is not leaving this host")
        self._answering += 1
        try:
            return await self._answer(question, now_s)
        finally:
            self._answering -= 1

    async def _answer(self, question: _Question, now_s: float) -> bytes:
        giving = self._giving.get(question.port)
        if giving is None and question.after and not question.last:
            raise Missing(f"what it has was told by an agent that is no more, or is too old: {BEGIN_ANEW}")
        if giving is None or (question.after == 0 and giving.rank):
            giving = await self._begin(question.port)
        giving.asked_s = now_s
        if question.last:
            giving.over.set()  # whoever waits for news of it waits no longer
        async with giving.answering:
            if not question.last:
                return await self._news(question, giving)
            if question.after == giving.rank - 1:
                giving.again(giving.its_keys)
            elif question.after != giving.rank:
                giving.again(list(giving.told))
            left = self._left.get(question.port)
            if left is None or giving.looked_s is None or giving.looked_s <= left.since_s:
                await self._walk()  # else it was behind its last moments: however many have left, one walk is for all
            piece = await self._piece(question.port, giving)
            if left is not None and not giving.more:
                left.until_s = min(left.until_s, self._clock.now_s() + TOLD_S)
            return piece

    async def _news(self, question: _Question, giving: _Giving) -> bytes:
        if giving.looked_s is None:
            await self._look(giving)
        if question.after == giving.rank - 1 and giving.last:
            return giving.last  # it was lost on the way
        if question.after != giving.rank:
            raise Missing(f"piece {question.after} was not given: {BEGIN_ANEW}")
        if giving.rank and not giving.more:
            await self._gather(giving)
        return await self._piece(question.port, giving)

    async def _piece(self, port: str, giving: _Giving) -> bytes:
        """Of what is to be told, as it is now."""
        some: list[Carried] = []
        keys: list[bytes] = []
        while giving.waiting and not some:
            keys = list(islice(giving.waiting, carried.MOST))
            for key in keys:
                del giving.waiting[key]
            try:
                found = await self._read(port, frozenset(keys))
            except BaseException:
                giving.waiting.update(dict.fromkeys(keys))
                raise
            for key, of in found:
                if giving.told.get(key) != of.mark:
                    giving.told[key] = of.mark
                    some.append(of)
        giving.rank += 1
        giving.its_keys = tuple(keys)
        giving.more = bool(giving.waiting)
        giving.last = carried.encode(giving.rank, some, more=giving.more, host=self._host)
        return giving.last

    async def _read(self, port: str, keys: frozenset[bytes]) -> list[tuple[bytes, Carried]]:
        return await self._ask(lambda plane: list(plane.carried(port, keys)))

    async def _begin(self, port: str) -> _Giving:
        """Of all that leave, or have left: the others will be asked for, too."""
        now_s = self._clock.now_s()
        self._giving[port] = _Giving(asked_s=now_s)
        for other in (self._ports | self._left.keys()) - self._giving.keys():
            self._giving[other] = _Giving(asked_s=now_s)
        if self._follower is None:
            watched = self._conntrack.watch(Filter())
            # From before the walk: what begins meanwhile is told twice rather than not at all.
            first = asyncio.ensure_future(anext(watched))
            self._follower = asyncio.create_task(self._follow(first, watched), name="connections of ports that leave")
            await asyncio.sleep(0)
        await self._walk()
        return self._giving.setdefault(port, _Giving(asked_s=now_s))

    async def _look(self, giving: _Giving) -> None:
        """Another port's question has made a place for it: what there is to tell is not known before a walk."""
        async with self._walking:  # one that is under way may be of it, too
            pass
        if giving.looked_s is None:
            await self._walk()

    async def _walk(self) -> None:
        """What is in the table from now on: whoever waits for a walk that has not begun waits for the same."""
        if self._next is None:
            self._next = asyncio.create_task(self._walk_once(), name="walk of the connections")
        await asyncio.shield(self._next)

    async def _walk_once(self) -> None:
        async with self._walking:
            self._next = None
            givings = dict(self._giving)
            now_s = self._clock.now_s()
            for port, key, mark in await self._ask(lambda plane: list(plane.marks(givings.keys()))):
                givings[port].differs(key, mark)
            for giving in givings.values():
                giving.looked_s = now_s

    async def _gather(self, giving: _Giving) -> None:
        """Until something has changed, or it is time to say that nothing has; and no sooner than it is its turn."""
        began_s = self._clock.now_s()
        if not giving.waiting:
            if giving.looked_s is None or began_s - giving.looked_s >= LOOK_AGAIN_S:
                await self._walk()
            else:
                giving.stirred.clear()
                await first_of(giving.stirred.wait(), giving.over.wait(), self._clock.sleep(self._hold_s()))
        if giving.waiting:
            turn_s = began_s + self._turn_s() - self._clock.now_s()
            await first_of(giving.over.wait(), self._clock.sleep(max(turn_s, GATHER_S)))

    def _hold_s(self) -> float:
        """Who waits for news of one port does not ask for others': of many, each is soon the next."""
        asked = sum(1 for giving in self._giving.values() if giving.rank)
        return max(min(HOLD_S, HOLD_S * MOST_AT_ONCE / max(asked, 1)), self._turn_s())

    def _turn_s(self) -> float:
        """As long as all who are being answered have a turn each."""
        return min(self._answering / PER_S, LONGEST_S)

    async def _follow(
        self, first: asyncio.Future[ConnectionEvent], watched: AsyncGenerator[ConnectionEvent, None]
    ) -> None:
        async with aclosing(watched):
            try:
                event = await first
                while True:
                    giving = self._giving.get(event.connection.port)
                    # One that is over is not told: it expires there as it did here.
                    if giving is not None and event.what != "destroyed":
                        giving.waiting[event.connection.key] = None
                        giving.stirred.set()
                    event = await anext(watched)
            finally:
                first.cancel()
                with suppress(asyncio.CancelledError, StopAsyncIteration):
                    await first


# -- of ports that come --


@dataclass(slots=True)
class _Taking:
    """One port's. fault: why its connections have not come, by now. whole: all there were have. rank: of the piece that
    has come last; source: the host that it is of; failures: in a row.
    """

    task: asyncio.Task[None] | None = None
    whole: bool = False
    given_up: bool = False
    fault: str = ""
    taken: int = 0
    rank: int = 0
    source: str = ""
    failures: int = 0

    def failed(self, fault: Exception) -> None:
        """What has come is kept, unless who gives it says that it is not known there, or what came is no piece."""
        self.fault = str(fault)
        self.failures += 1
        if isinstance(fault, Rejected) or BEGIN_ANEW in self.fault:
            self.rank = 0

    @property
    def again_s(self) -> float:
        """When to try again. A controller that has too much to do is not helped by being asked more often."""
        return min(self.last_again_s, AGAIN_LAST_S if self.whole or self.given_up else 2 * AGAIN_S)

    @property
    def last_again_s(self) -> float:
        """The same, for who waits for nothing but what was last."""
        return min(AGAIN_S * (1 << min(self.failures - 1, 8)), AGAIN_LAST_S)


class Coming(msgspec.Struct, frozen=True):
    """What the next agent is to know. begun: ports that are arriving, of which nothing is left of a former stay; last:
    those that have arrived, of which the last was not heard yet, and the hosts that they come from.
    """

    begun: list[str] = []
    last: dict[str, str] = {}


class Taker:
    """Fetches connections of ports that are arriving. ``changed``: called when a port need wait no longer."""

    def __init__(self, host: str, controller: Controller, ask: Ask, clock: Clock, memory: Memory[Coming]) -> None:
        self._host = host
        self._controller = controller
        self._ask = ask
        self._clock = clock
        self._memory = memory
        self._begun = set(memory.value.begun)
        self._lasts = dict(memory.value.last)
        self._taking: dict[str, _Taking] = {}
        self._first = asyncio.Semaphore(MOST_AT_ONCE)
        self._then = asyncio.Semaphore(MOST_AT_ONCE)
        self._last = asyncio.Semaphore(MOST_AT_ONCE)
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._late = asyncio.Semaphore(1)  # so that a host's other requests have room
        self._news = Bucket(PER_S, PER_S)
        self._pieces = Bucket(PER_S, BURST)  # first and last ones: news of others are in nobody's way
        self.changed: Callable[[], None] = lambda: None

    def follow(self, ports: Mapping[str, Port], *, anew: bool) -> None:
        """All ports of this host, as they are now. anew: not as this host had them before the agent started, of whose
        beginnings only what was kept is known.
        """
        arriving = {name for name, port in ports.items() if port.arriving and (port.groups or port.port_security)}
        arrived = {name for name, port in ports.items() if not port.arriving}
        for name in self._taking.keys() - arriving:
            taking = self._end(name)
            if name in arrived and taking.source:
                self._lasts[name] = taking.source
                self._begin_last(name, taking)
        for name in self._lasts.keys() - arrived:
            del self._lasts[name]
            if (ending := self._ending.pop(name, None)) is not None:
                ending.cancel()
        for name in self._lasts.keys() - self._ending.keys():  # a former agent has not heard it
            self._begin_last(name, _Taking(source=self._lasts[name]))
        self._begun &= arriving
        if not anew and not self._memory.found:
            self._begun |= arriving  # that agent was older, and kept nothing
        for name in arriving - self._taking.keys():
            taking = self._taking[name] = _Taking(source=ports[name].comes_from)
            taking.task = asyncio.create_task(self._take_all(name, taking), name=f"connections of {name}")
        self._keep()

    def _begin_last(self, port: str, taking: _Taking) -> None:
        ending = asyncio.create_task(self._take_last(port, taking), name=f"last connections of {port}")
        self._ending[port] = ending

    def _keep(self) -> None:
        """Before the rows that it follows from: those are written later."""
        self._memory.keep(Coming(sorted(self._begun), dict(sorted(self._lasts.items()))))

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
        for task in self._ending.values():
            task.cancel()
            tasks.append(task)
        for name in list(self._taking):
            self._end(name)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end(self, port: str) -> _Taking:
        taking = self._taking.pop(port)
        if taking.task is not None:
            taking.task.cancel()
        return taking

    async def _take_last(self, port: str, taking: _Taking) -> None:
        """What the former host had not told of when the guest changed over."""
        if taking.task is not None:
            await asyncio.wait([taking.task])
        taking.failures, late_s, taken = 0, 0.0, 0
        while True:
            try:
                # Whose host does not answer are in nobody's way, and that they wait for their turn is no fault of it.
                async with self._late if taking.failures else self._last:
                    await self._turn(self._pieces)
                    late_s = late_s or self._clock.now_s() + LAST_S
                    answer = await self._controller.carried(self._host, port, taking.rank, taking.source)
                    piece = carried.decode(answer)
                    if piece.connections:
                        taken += await self._take(port, piece.connections)
                taking.rank, taking.failures = piece.rank, 0
                if not piece.more:
                    _log.info("a port has arrived with its last connections", port=port, connections=taken)
                    break
            except (ApiError, Retry, Rejected) as fault:
                taking.failed(fault)
                if self._clock.now_s() > late_s or (isinstance(fault, ApiError) and fault.status in (405, 422)):
                    _log.warning("a port has arrived without its last connections", port=port, reason=str(fault))
                    break
                await self._clock.sleep(taking.last_again_s)
        if self._ending.get(port) is asyncio.current_task():
            del self._ending[port]
            del self._lasts[port]
            self._keep()

    async def _take_all(self, port: str, taking: _Taking) -> None:
        """Until it has arrived, or does not come any more: then it is cancelled."""
        limit: asyncio.Task[None] | None = None
        try:
            if port not in self._begun:
                # Left over of a former stay; what comes in from now on is begun anew.
                await self._ask(lambda plane: plane.forget([key for key, _ in plane.carried(port)]))
                self._begun.add(port)
                self._keep()
            while True:
                try:
                    async with self._place(taking):
                        await self._turn(self._news if taking.whole else self._pieces)
                        if limit is None:  # not while others' hosts are waited for
                            limit = asyncio.create_task(self._give_up(port, taking))
                        piece = carried.decode(await self._controller.carried(self._host, port, taking.rank))
                        if piece.connections:
                            taking.taken += await self._take(port, piece.connections)
                    taking.rank, taking.source, taking.failures = piece.rank, piece.host or taking.source, 0
                    if not piece.more and not taking.whole:
                        taking.whole, taking.fault = True, ""
                        _log.info("connections of a port that arrives are here", port=port, connections=taking.taken)
                        self.changed()
                except (ApiError, Retry, Rejected) as fault:
                    taking.failed(fault)
                    if _is_final(fault):
                        self._give_up_now(port, taking)
                    await self._clock.sleep(taking.again_s)
        finally:
            if limit is not None:
                limit.cancel()

    def _place(self, taking: _Taking) -> asyncio.Semaphore:
        """Whose host does not answer are in nobody's way."""
        return self._then if taking.whole else self._late if taking.given_up else self._first

    async def _turn(self, bucket: Bucket) -> None:
        while not bucket.take(now_s := self._clock.now_s()):
            await self._clock.sleep(max(bucket.ready_s - now_s, 0.001))

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
