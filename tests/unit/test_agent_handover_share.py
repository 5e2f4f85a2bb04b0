"""However many ports move at once, neither who gives their connections nor who takes them asks for more than its share.

Agents' halves with the controller's own limits between them, in time that passes when nobody has anything to do.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from typing import Any

from weft.agent import answers, handover
from weft.agent.conntrack import PROTOCOLS, Conntrack
from weft.agent.memory import Memory
from weft.agent.rule_log import RuleLog
from weft.client.client import ApiError
from weft.controller.authorisation import Action, Caller, Role
from weft.controller.limits import AFTER, Limits, TooMany
from weft.controller.moves import ANSWER_S
from weft.feed.reflector import Asked
from weft.policy.rows import Port
from weft.reference.plane import ReferenceDataPlane

H1 = "hosts/h1"
ON_THE_WAY_S = 0.002


class Idle:
    """Time passes when nobody has anything to do before."""

    def __init__(self) -> None:
        self._now_s = 100.0
        self._waits: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()

    def now_s(self) -> float:
        return self._now_s

    async def sleep(self, seconds: float) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heappush(self._waits, (self._now_s + seconds, next(self._order), waiter))
        await waiter

    async def pass_s(self, seconds: float) -> None:
        end_s = self._now_s + seconds
        while True:
            for _ in range(30):  # as many steps as follow on one another at most
                await asyncio.sleep(0)
            if not self._waits or self._waits[0][0] > end_s:
                break
            self._now_s = max(self._now_s, self._waits[0][0])
            while self._waits and self._waits[0][0] <= self._now_s:
                _, _, waiter = heappop(self._waits)
                if not waiter.done():
                    waiter.set_result(None)
        self._now_s = end_s


@dataclass
class Between:
    """The controller: as much as it has to do with moves, with its own limits. used_up: by host, when it has a share
    again; calls: by host; refused: what was beyond a share; ranks: by port, what was asked for.
    """

    clock: Idle
    answerer: answers.Answerer | None = None
    limits: Limits = field(init=False)
    used_up: dict[str, float] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)
    ranks: dict[str, list[int]] = field(default_factory=dict)
    _waiting: dict[str, asyncio.Future[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.limits = Limits(now_s=self.clock.now_s)

    def _spend(self, caller: Caller, scope: dict[str, Any]) -> None:
        if self.clock.now_s() < self.used_up.get(caller.name, 0.0):
            raise TooMany("somebody else of that host asks", 1)
        self.limits.count(caller)
        self.limits.occupy(caller, Action.READ_INTENT, scope)

    @contextmanager
    def _request(self, host: str) -> Iterator[None]:
        caller = Caller(Role.HOST, host)
        scope: dict[str, Any] = {}
        self.calls[host] += 1
        try:
            self._spend(caller, scope)
        except TooMany as why:
            self.refused.append(f"{host}: {why.detail}")
            raise ApiError(429, "Too Many Requests", why.detail) from why
        try:
            yield
        finally:
            scope[AFTER][0]()

    async def carried(self, host: str, port: str, after: int, former: str = "") -> bytes:
        assert self.answerer is not None
        with self._request(host):
            self.ranks.setdefault(port, []).append(after)
            await self.clock.sleep(ON_THE_WAY_S)
            id_ = f"{len(self._waiting)} {self.clock.now_s()} {port}"
            said = self._waiting[id_] = asyncio.get_running_loop().create_future()
            body = json.dumps({"port": port, "after": after, "last": bool(former)}).encode()
            self.answerer.asked(Asked(id_, "connections", body))
            late = asyncio.create_task(self.clock.sleep(ANSWER_S))
            try:
                await asyncio.wait([said, late], return_when=asyncio.FIRST_COMPLETED)
                if not said.done():
                    raise ApiError(502, "Bad Gateway", f"{H1} has not answered within {ANSWER_S} s")
                return said.result()
            finally:
                late.cancel()
                del self._waiting[id_]

    async def answer(self, host: str, question: str, body: bytes, refused: str = "") -> None:
        with self._request(host):
            await self.clock.sleep(ON_THE_WAY_S)
            said = self._waiting.get(question)
            if said is None or said.done():
                raise ApiError(404, "Not Found", "nobody waits")
            if refused:
                said.set_exception(ApiError(502, "Bad Gateway", f"{H1}: {refused}"))
            else:
                said.set_result(body)


def asker(of: ReferenceDataPlane) -> Callable[[Any], Any]:
    async def ask(question: Callable[[ReferenceDataPlane], Any]) -> Any:
        return question(of)

    return ask


def ports(host: int, number: int) -> dict[str, Port]:
    names = [f"tenants/blue/ports/h{host}-{n}" for n in range(number)]
    return {
        name: Port(name, 5001, "02:00:00:00:01:04", ("10.0.1.4",), groups=(1,), arriving=True, comes_from=H1)
        for name in names
    }


@dataclass
class Moving:
    clock: Idle
    between: Between
    giver: handover.Giver
    takers: list[handover.Taker]
    ports: list[dict[str, Port]]

    def unready(self) -> list[str]:
        return [
            why or note
            for taker, own in zip(self.takers, self.ports, strict=True)
            for port in own
            if (why := taker.why_waiting(port)) or (note := taker.note(port))
        ]


@asynccontextmanager
async def moving(tmp_path: Path, *, hosts: int, each: int) -> AsyncIterator[Moving]:
    """From one host to some others, so many ports each."""
    clock = Idle()
    between, here = Between(clock), ReferenceDataPlane(H1, reachable=lambda _: True)
    log = RuleLog(tmp_path / "log", clock, lambda: 0, PROTOCOLS)
    conntrack = Conntrack(None, asker(here), clock, log)
    giver = handover.Giver(H1, asker(here), conntrack, clock, Memory(tmp_path / "left.json", list[str]()))
    between.answerer = answers.Answerer(H1, between, {"connections": giver.answer}, clock)
    own = [ports(host, each) for host in range(hosts)]
    giver.follow([replace(port, arriving=False, leaving=True) for some in own for port in some.values()])
    takers = []
    for host, some in enumerate(own):
        there = ReferenceDataPlane(f"hosts/t{host}", reachable=lambda _: True)
        memory = Memory(tmp_path / f"coming-{host}.json", handover.Coming())
        takers.append(handover.Taker(f"hosts/t{host}", between, asker(there), clock, memory))
        takers[-1].follow(some, anew=True)
    yield Moving(clock, between, giver, takers, own)
    giver.stop()
    for taker in takers:
        await taker.stop()
    await between.answerer.stop()


async def test_three_hundred_ports_come_to_one_host_within_its_share(tmp_path: Path) -> None:
    async with moving(tmp_path, hosts=1, each=300) as it:
        await it.clock.pass_s(14)
        assert it.unready() == []
        await it.clock.pass_s(30)
        assert it.between.refused == []
        news = Counter(port for port, ranks in it.between.ranks.items() for rank in ranks if rank)
        assert len(news) == 300
        assert min(news.values()) >= 2  # each within some 15 s
        assert all(ranks == sorted(set(ranks)) for ranks in it.between.ranks.values())  # nothing is asked for twice
        # And so much is left of its share for what it has to say of itself.
        before = it.between.calls["hosts/t0"]
        await it.clock.pass_s(10)
        assert it.between.calls["hosts/t0"] - before <= 10 * (handover.PER_S + 1)


async def test_seven_hundred_ports_that_arrive_at_once_all_get_their_last_connections(tmp_path: Path) -> None:
    """Also those whose turn comes long after, and with the former host's agent started anew in the midst of it."""
    async with moving(tmp_path, hosts=1, each=700) as it:
        await it.clock.pass_s(40)
        assert it.unready() == []
        it.giver.follow([])
        walks = [0]
        walk = it.giver._walk_once

        async def counted() -> None:
            walks[0] += 1
            await walk()

        it.giver._walk_once = counted
        (taker,) = it.takers
        taker.follow({name: replace(port, arriving=False) for name, port in it.ports[0].items()}, anew=True)
        await it.clock.pass_s(20)
        assert len(it.giver.lingering()) == 700
        assert 0 < len(taker._ending) < 700
        assert walks[0] == 1  # all have left before it
        await it.clock.pass_s(20)
        assert taker._ending == {}
        assert it.between.refused == []
        await it.clock.pass_s(handover.TOLD_S)
        assert it.giver.lingering() == ()


async def test_who_gives_to_many_hosts_tells_no_more_than_its_share(tmp_path: Path) -> None:
    async with moving(tmp_path, hosts=20, each=10) as it:
        await it.clock.pass_s(14)
        assert it.unready() == []
        before = it.between.calls[H1]
        it.between.refused.clear()
        await it.clock.pass_s(20)
        assert it.between.refused == []
        assert it.between.calls[H1] - before <= 20 * (handover.PER_S + 1)


async def test_a_port_at_which_something_begins_at_every_moment_is_told_of_as_often_as_its_turn_comes(
    tmp_path: Path,
) -> None:
    async with moving(tmp_path, hosts=1, each=2) as it:
        await it.clock.pass_s(1)
        assert it.unready() == []
        before = it.between.calls["hosts/t0"]
        for _ in range(1000):
            for giving in it.giver._giving.values():
                giving.differs(b"a connection that is over when it is looked for", (0, 0, None))
            await it.clock.pass_s(0.01)
        assert it.between.refused == []
        assert 100 <= it.between.calls["hosts/t0"] - before <= 10 * (handover.PER_S + 1)


async def test_what_a_refusal_left_unheard_is_asked_for_where_it_was_left(tmp_path: Path) -> None:
    async with moving(tmp_path, hosts=1, each=1) as it:
        await it.clock.pass_s(3)
        (port,) = it.ports[0]
        heard = it.between.ranks[port][-1]
        assert heard > 1
        it.between.used_up["hosts/t0"] = it.clock.now_s() + 5
        await it.clock.pass_s(10)
        assert it.between.refused
        assert len(it.between.refused) <= 4  # it waits longer each time
        assert 0 not in it.between.ranks[port][1:]
        assert it.between.ranks[port][-1] > heard + 2


async def test_what_an_agent_that_was_begun_anew_does_not_know_is_asked_for_from_the_beginning(tmp_path: Path) -> None:
    async with moving(tmp_path, hosts=1, each=1) as it:
        await it.clock.pass_s(3)
        (port,) = it.ports[0]
        it.giver._giving.clear()
        it.between.ranks.clear()
        await it.clock.pass_s(3)
        first, *then = it.between.ranks[port]
        assert first > 1
        assert then == list(range(then[-1] + 1))  # from 0 on
        assert len(then) > 2


async def test_who_asks_one_question_too_many_is_told_so(tmp_path: Path) -> None:
    async with moving(tmp_path, hosts=0, each=0) as it:
        never = asyncio.Event()

        async def silent(_body: bytes) -> bytes:
            await never.wait()
            return b""

        said: dict[str, str] = {}

        class Told:
            async def answer(self, host: str, question: str, body: bytes, refused: str = "") -> None:
                said[question] = refused

        answerer = answers.Answerer(H1, Told(), {"connections": silent}, it.clock)
        for number in range(answers.MOST_AT_ONCE + 1):
            answerer.asked(Asked(str(number), "connections", b""))
        await it.clock.pass_s(0)
        assert said == {"64": "it answers 64 questions already"}
        never.set()
        await it.clock.pass_s(0)
        assert len(said) == 65
        await answerer.stop()


async def test_an_answer_that_the_controller_had_no_time_for_is_said_again(tmp_path: Path) -> None:
    async with moving(tmp_path, hosts=1, each=1) as it:
        it.between.used_up[H1] = it.clock.now_s() + 2.5
        await it.clock.pass_s(2)
        assert set(it.unready()) == {"its connections are on their way from the host that it leaves"}
        await it.clock.pass_s(2)
        assert it.unready() == []
        assert len(it.between.refused) == 3
