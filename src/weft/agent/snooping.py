"""Asks guests which multicast groups they listen to, and tells the data plane. Carries no multicast itself.

One host's ports are asked by their own host, so no querier is elected. An agent that starts takes over what is
programmed, and asks anew: nobody loses a group meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping

import structlog

from weft.agent.dhcp import Ask
from weft.agent.membership import (
    QUERY_S,
    RESPONSE_S,
    STARTUP_QUERIES,
    STARTUP_S,
    Left,
    Members,
    Routes,
    queries,
    reports,
)
from weft.agent.turns import Turns
from weft.contracts.clock import Clock
from weft.contracts.dataplane import DataPlane, Handed, Routing
from weft.kit.errors import Missing, Retry
from weft.kit.waiting import first_of
from weft.policy.rows import Key, MacRecord, Port, Row, Subnet
from weft.policy.upcall import UpcallKind
from weft.reference import packet

_log = structlog.get_logger("weft.agent")

KINDS = (UpcallKind.IGMP, UpcallKind.MLD)

#: How long what is programmed, and not by this agent, is taken over.
ADOPT_S = 15.0

#: Reports that wait; what is beyond them is reported again when it is asked for.
MOST_WAITING = 4096

#: All groups of either IP version: what the port of a multicast router listens to.
ALL_GROUPS = frozenset({packet.address_text(bytes(4)), packet.address_text(bytes(16))})

#: How long a port that has moved is given every group, until its guest has said which ones it wants.
SETTLE_S = RESPONSE_S + 2.0

#: A guest that could not be asked, since its interface is not there yet, is asked again.
AGAIN_S = 1.0


class Snooper:
    """One host's. ``learn``, ``bound`` and ``heard`` say what is so; ``run`` asks and tells, for ever."""

    def __init__(self, ask: Ask, clock: Clock, told: Callable[[Mapping[int, frozenset[str] | None]], None]) -> None:
        """told: hears of each subnet which groups are listened to, once that is programmed; None: all of them."""
        self.members = Members()
        self._told = told
        self._moving: set[tuple[int, str]] = set()  # VSID, MAC
        self._settling: dict[tuple[int, str], float] = {}  # those that have moved, and until when they settle
        self._ask = ask
        self._clock = clock
        self._subnets: dict[int, Subnet] = {}
        self._ports: dict[str, Port] = {}
        self._bound: Mapping[str, int] = {}
        self._heard: Turns[Handed] = Turns(MOST_WAITING)
        self._due: dict[str, tuple[float, int]] = {}  # port -> when it is asked next, and how often it was
        self._awake = asyncio.Event()
        self._changed = False
        self._refused: set[Key] = set()  # ports whose groups the data plane had no room for, the last time
        self._adopt_until_s: float | None = None

    def forget(self) -> None:
        """Everything that was learnt is about to be said again."""
        self._subnets, self._ports = {}, {}

    def learn(self, puts: Iterable[Row], deletes: Collection[Key]) -> None:
        for row in puts:
            match row:
                case Port():
                    self._ports[row.port] = row
                case Subnet():
                    self._subnets[row.vsid] = row
                    self._changed = True
                case MacRecord():
                    self._move((row.vsid, row.mac), on=row.also is not None)
                case _:
                    pass
        for key in deletes:
            if key[0] == "ports":
                self._ports.pop(str(key[1]), None)
            elif key[0] == "subnets":
                self._subnets.pop(int(key[1]), None)
                self._changed = True
            elif key[0] == "macs":
                self._moving.discard((int(key[1]), str(key[-1])))
        self._renew()

    def moves(self, row: MacRecord) -> bool:
        """Whether the row says that a port begins to move, or ends."""
        return row.also is not None or (row.vsid, row.mac) in self._moving

    def _move(self, place: tuple[int, str], *, on: bool) -> None:
        """A guest that is moved does not know it: what it listens to, it says when it is asked at its new host."""
        if on:
            self._moving.add(place)
        elif place in self._moving:
            self._moving.discard(place)
            self._settling[place] = self._clock.now_s() + SETTLE_S
            for name, port in self._ports.items():
                if (port.vsid, port.mac) == place:
                    self._due.pop(name, None)
        self._changed = True

    def bound(self, interfaces: Mapping[str, int]) -> None:
        """All ports that are behind an interface, and its number: another number is another guest's turn to speak."""
        for port, index in interfaces.items():
            if self._bound.get(port) != index:
                self._due.pop(port, None)
        self._bound = dict(interfaces)
        self._changed = True
        self._renew()

    def routed(self, routing: Iterable[Routing]) -> None:
        """Whose guests speak as multicast routers do."""
        now_s = self._clock.now_s()
        for each in routing:
            if self._subnet_of(each.port) is not None:
                zeros = bytes(len(packet.address_bytes(each.address)))
                self._changed |= self.members.hear(each.port, Routes(zeros), now_s)
        self._awake.set()

    def heard(self, handed: Iterable[Handed]) -> None:
        for each in handed:
            if each.kind in KINDS:
                self._heard.put(each.port, each)
        self._awake.set()

    def _renew(self) -> None:
        """Who is to be asked: ports that are there, in subnets that snoop."""
        asked = {name for name in self._bound if self._subnet_of(name) is not None}
        now_s = self._clock.now_s()
        self._due = {name: self._due.get(name, (now_s, 0)) for name in asked}
        self._changed |= self.members.keep(self._bound)
        self._awake.set()

    def _subnet_of(self, name: str) -> Subnet | None:
        port = self._ports.get(name)
        subnet = None if port is None else self._subnets.get(port.vsid)
        return subnet if subnet is not None and subnet.snooping and subnet.broadcast else None

    async def run(self) -> None:
        while True:
            await self._turn()
            await self._wait()

    async def _wait(self) -> None:
        times = [at for at, _ in self._due.values()]
        times += self._settling.values()
        if (over_s := self.members.next_s()) is not None:
            times.append(over_s)
        due_s = min(times, default=None)
        if due_s is None:
            await self._awake.wait()
        elif not self._awake.is_set() and (remaining_s := due_s - self._clock.now_s()) > 0:
            await first_of(self._awake.wait(), self._clock.sleep(remaining_s))
        self._awake.clear()

    async def _turn(self) -> None:
        """Everything that is known by now."""
        now_s = self._clock.now_s()
        if self._bound:
            await self._take_over(now_s)
        changed, self._changed = self._changed, False
        frames: list[tuple[str, bytes]] = []
        for _ in range(len(self._heard)):
            each = self._heard.take()
            subnet = self._subnet_of(each.port)
            if subnet is None:
                continue
            for report in reports(each.kind, each.frame):
                if not isinstance(report, Left):
                    changed |= self.members.hear(each.port, report, now_s)
                elif self.members.leave(each.port, report.group, now_s):
                    frames += ((each.port, frame) for frame in queries(subnet, report.group))
        changed |= self.members.expire(now_s)
        settled = [place for place, until_s in self._settling.items() if until_s <= now_s]
        for place in settled:
            del self._settling[place]
        if changed or settled:
            listeners = self._listeners()
            failures = await self._ask(lambda plane: plane.listen(listeners))
            before, self._refused = self._refused, {failure.key for failure in failures}
            for failure in failures:
                if failure.key not in before:  # or a guest could fill the log
                    _log.warning(
                        "a port's groups are not programmed as it asked", port=failure.key[-1], reason=failure.reason
                    )
            if self._bound:
                self._told(self._of_subnets(listeners))
        await self._send(frames)
        await self._query(now_s)

    def _listeners(self) -> dict[str, frozenset[str]]:
        listeners = self.members.listeners()
        for name in self._bound:
            if self._is_moving(name):
                listeners[name] = listeners.get(name, frozenset()) | ALL_GROUPS
        return listeners

    def _is_moving(self, name: str) -> bool:
        port = self._ports.get(name)
        place = None if port is None else (port.vsid, port.mac)
        return place is not None and (place in self._moving or place in self._settling)

    def _of_subnets(self, listeners: Mapping[str, frozenset[str]]) -> dict[int, frozenset[str] | None]:
        """Which groups somebody here listens to; None: all."""
        found: dict[int, frozenset[str] | None] = {}
        for name, groups in listeners.items():
            port = self._ports.get(name)
            if port is not None:
                before = found.get(port.vsid, frozenset())
                found[port.vsid] = None if before is None or groups & ALL_GROUPS else before | groups
        return found

    async def _take_over(self, now_s: float) -> None:
        if self._adopt_until_s is None:
            self._adopt_until_s = now_s + ADOPT_S
        if now_s < self._adopt_until_s:
            bound = self._bound
            programmed = await self._ask(lambda plane: plane.listening())
            if self._bound is not bound:
                return  # somebody has come or gone meanwhile: the next turn asks again
            moving = {name for name in programmed if self._is_moving(name)}  # and so given all, by this agent
            self.members.adopt(
                {name: set(groups) - (ALL_GROUPS if name in moving else set()) for name, groups in programmed.items()},
                now_s,
            )

    async def _query(self, now_s: float) -> None:
        for name, (at_s, times) in list(self._due.items()):
            subnet = self._subnet_of(name)
            if at_s > now_s or subnet is None:
                continue
            sent = await self._send([(name, frame) for frame in queries(subnet)])
            wait_s = AGAIN_S if not sent else STARTUP_S if times + 1 < STARTUP_QUERIES else QUERY_S
            if name in self._due:
                self._due[name] = now_s + wait_s, times + sent

    async def _send(self, frames: list[tuple[str, bytes]]) -> bool:
        if not frames:
            return True

        def send(plane: DataPlane) -> bool:
            sent = True
            for port, frame in frames:
                try:
                    plane.send(port, frame)
                except (Missing, Retry):
                    sent = False
            return sent

        return await self._ask(send)
