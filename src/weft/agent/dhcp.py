"""Answers what guests ask about their addresses, and tells them unasked what has changed: see docs/design/dhcp.md.

What is said is ``weft.addressing``'s; here is only to whom and when. Keeps no leases, and needs no controller.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Protocol, TypeVar

import structlog

from weft.addressing import router
from weft.addressing.answer import answer
from weft.addressing.terms import Terms, terms_of
from weft.agent.turns import Turns
from weft.contracts.clock import Clock
from weft.contracts.dataplane import DataPlane, Handed
from weft.kit.errors import Missing, Retry
from weft.policy.rows import Host, Key, Port, Row, Subnet
from weft.policy.upcall import UpcallKind

_log = structlog.get_logger("weft.agent")

#: Questions that wait for their answers, a tenant's no more than it leaves; beyond, whoever asked asks again.
MOST_WAITING = 4096

#: Answered, or advertised to, in one call of the data plane, so that what it is told of waits for milliseconds only.
CALL_FRAMES = 64

#: RFC 4861 section 6.2.4: advertisements come at random, so that those of many routers do not fall together.
PERIOD_LEAST_S, PERIOD_MOST_S = 300.0, 600.0

#: A guest that could not be told, since its interface is not bound or not up yet, is told again so often.
AGAIN_S, TIMES = 1.0, 5

KINDS = (UpcallKind.DHCP4, UpcallKind.DHCP6, UpcallKind.ROUTER_SOLICITATION)

_T = TypeVar("_T")


class Ask(Protocol):
    """Something for the data plane to do between two runs."""

    def __call__(self, question: Callable[[DataPlane], _T], /) -> Awaitable[_T]: ...


@dataclass(slots=True)
class Figures:
    """All that came of it so far. silent: answered by nothing, as is right. missed: too many waited."""

    answered: Counter[UpcallKind] = field(default_factory=Counter)
    silent: Counter[UpcallKind] = field(default_factory=Counter)
    missed: int = 0
    unsent: int = 0
    advertised: int = 0


@dataclass(slots=True)
class _Due:
    """An advertisement to come. forced: also when nothing has changed for the guest."""

    forced: bool
    times: int = 0


class Responder:
    """One host's. ``learn``, ``bound`` and ``heard`` say what is so; ``run`` answers and advertises, for ever."""

    def __init__(self, ask: Ask, clock: Clock, random: Random) -> None:
        self.figures = Figures()
        self._ask = ask
        self._clock = clock
        self._random = random
        self._host: Host | None = None
        self._subnets: dict[int, Subnet] = {}
        self._ports: dict[str, Port] = {}
        self._path_mtu_bytes = 0
        self._bound: Mapping[str, int] = {}
        self._questions: Turns[Handed] = Turns(MOST_WAITING)
        self._asked = asyncio.Event()
        self._due: dict[str, _Due] = {}
        self._told: dict[str, bytes] = {}  # port -> the last advertisement
        self._news = asyncio.Event()

    # -- what is so --

    def learn(self, puts: Iterable[Row], deletes: Iterable[Key]) -> None:
        """Rows that came and went."""
        anew: set[int] = set()
        everybody = False
        for row in puts:
            if type(row) is Port:
                self._ports[row.port] = row
                self._due.setdefault(row.port, _Due(False))
            elif type(row) is Subnet:
                self._subnets[row.vsid] = row
                anew.add(row.vsid)
            elif type(row) is Host:
                self._host = row
                everybody = True
        for key in deletes:
            if key[0] == "ports":
                self._ports.pop(str(key[1]), None)
                self._told.pop(str(key[1]), None)
            elif key[0] == "subnets":
                self._subnets.pop(int(key[1]), None)
        if anew or everybody:
            for name, port in self._ports.items():
                if everybody or port.vsid in anew:
                    self._due.setdefault(name, _Due(False))
        if self._due:
            self._news.set()

    def forget(self) -> None:
        """All rows come anew."""
        self._host = None
        self._subnets.clear()
        self._ports.clear()

    def bound(self, indexes: Mapping[str, int]) -> None:
        """Port -> number of its interface: a guest behind another interface than before may be another."""
        for port, index in indexes.items():
            if self._bound.get(port) != index:
                self._due[port] = _Due(True)
        self._bound = dict(indexes)
        if self._due:
            self._news.set()

    def path_mtu(self, path_mtu_bytes: int) -> None:
        """What gets through the underlay to every peer, as a packet of it; 0: what the uplinks take."""
        if path_mtu_bytes != self._path_mtu_bytes:
            self._path_mtu_bytes = path_mtu_bytes
            for port in self._ports:
                self._due.setdefault(port, _Due(False))
            self._news.set()

    def heard(self, handed: Iterable[Handed]) -> None:
        """What guests have asked."""
        for each in handed:
            if each.kind not in KINDS:
                continue
            if not self._questions.put(each.port, each):
                self.figures.missed += 1
        if self._questions:
            self._asked.set()

    def terms(self, port: str) -> Terms | None:
        """What a port's guest is told; None: nothing."""
        row = self._ports.get(port)
        subnet = None if row is None else self._subnets.get(row.vsid)
        return None if row is None or subnet is None else terms_of(row, subnet, self._host, self._path_mtu_bytes)

    # -- what is done --

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._answer(), name="answer guests")
            tasks.create_task(self._advertise(), name="advertise")
            tasks.create_task(self._repeat(), name="repeat advertisements")

    async def _answer(self) -> None:
        while True:
            await self._asked.wait()
            frames: list[tuple[str, bytes]] = []
            while self._questions and len(frames) < CALL_FRAMES:
                question = self._questions.take()
                terms = self.terms(question.port)
                frame = None if terms is None else answer(terms, question.kind, question.frame)
                if frame is None:
                    self.figures.silent[question.kind] += 1
                else:
                    self.figures.answered[question.kind] += 1
                    frames.append((question.port, frame))
            if not self._questions:
                self._asked.clear()
            if frames:
                self.figures.unsent += len(await self._send(frames))

    async def _advertise(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            again: dict[str, _Due] = {}
            while self._due:
                some = dict(self._take(CALL_FRAMES))
                frames = [(port, frame) for port, due in some.items() for frame in self._advertisements(port, due)]
                failed = await self._send(frames) if frames else set()
                self.figures.advertised += len(frames) - len(failed)
                for port in failed:
                    self._told.pop(port, None)
                    if some[port].times < TIMES:
                        again[port] = _Due(True, some[port].times + 1)
            if again:
                await self._clock.sleep(AGAIN_S)
                for port, due in again.items():
                    self._due.setdefault(port, due)
                self._news.set()

    def _take(self, most: int) -> Iterable[tuple[str, _Due]]:
        for port in list(self._due)[:most]:
            yield port, self._due.pop(port)

    def _advertisements(self, port: str, due: _Due) -> Iterable[bytes]:
        """What a guest is to hear now of its routers: of one that is none any more, and of the one that is."""
        if port not in self._bound:
            return
        terms = self.terms(port)
        frame = None if terms is None else router.advertisement(terms)
        former = self._told.get(port)
        if former is not None and (frame is None or router.sender(frame) != router.sender(former)):
            yield router.farewell(router.sender(former))
            del self._told[port]
        if frame is not None and (due.forced or frame != former):
            self._told[port] = frame
            yield frame

    async def _repeat(self) -> None:
        while True:
            await self._clock.sleep(self._random.uniform(PERIOD_LEAST_S, PERIOD_MOST_S))
            for port in self._bound:
                self._due[port] = _Due(True)
            self._news.set()

    async def _send(self, frames: list[tuple[str, bytes]]) -> set[str]:
        """The ports whose guests could not be sent to."""
        return await self._ask(lambda plane: _sent(plane, frames))


def _sent(plane: DataPlane, frames: list[tuple[str, bytes]]) -> set[str]:
    failed: set[str] = set()
    for port, frame in frames:
        try:
            plane.send(port, frame)
        except (Missing, Retry) as fault:
            failed.add(port)
            _log.debug("a guest could not be told", port=port, reason=str(fault))
    return failed
