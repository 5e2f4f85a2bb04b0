"""The agent that answers guests: to whom and when. What is said is tested where it is made."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from random import Random
from typing import TypeVar

import pytest

from unit.test_addressing import HOST, LINK_LOCAL, PORT, ROUTER, SOLICITATION, SUBNET, ca4_of, client4
from weft.agent.dhcp import MOST_WAITING, PERIOD_MOST_S, TIMES, Responder
from weft.contracts.dataplane import DataPlane, Handed
from weft.policy.rows import Row
from weft.policy.upcall import UpcallKind
from weft.reference import packet
from weft.reference.plane import ReferenceDataPlane

NAME = PORT.port
OTHER = replace(PORT, port="tenants/blue/ports/web-2", mac="02:00:00:00:00:0b", cas=("10.0.1.5", "fd00:1::5"))
DISCOVER = Handed(NAME, UpcallKind.DHCP4, client4("discover"))
ALL_NODES = packet.ALL_NODES_MAC

_T = TypeVar("_T")


class HandClock:
    """Time that a test moves on; whoever sleeps wakes when its time has come."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    def now_s(self) -> float:
        return self._now_s

    async def sleep(self, seconds: float) -> None:
        awake = asyncio.Event()
        self._sleepers.append((self._now_s + seconds, awake))
        await awake.wait()

    def pass_by(self, seconds: float) -> None:
        self._now_s += seconds
        for due_s, awake in self._sleepers:
            if due_s <= self._now_s:
                awake.set()
        self._sleepers = [(due_s, awake) for due_s, awake in self._sleepers if due_s > self._now_s]


class World:
    """A responder and a data plane that keeps what it is given for guests."""

    def __init__(self) -> None:
        self.plane = ReferenceDataPlane("hosts/h1")
        self.clock = HandClock()

        async def ask(question: Callable[[DataPlane], _T]) -> _T:
            return question(self.plane)

        self.responder = Responder(ask, self.clock, Random(7))  # noqa: S311 -- no secret: the same each time

    def tell(self, *rows: Row) -> None:
        assert self.plane.update(rows) == []
        self.responder.learn(rows, ())

    def bind(self, **interfaces: int) -> None:
        names = {f"tenants/blue/ports/{name.replace('_', '-')}": f"tap{name}" for name in interfaces}
        assert self.plane.bind(names) == []
        self.responder.bound(dict(zip(names, interfaces.values(), strict=True)))

    async def sent(self) -> list[tuple[str, bytes]]:
        """All that has been sent since the last time, once nothing more is under way."""
        for _ in range(50):
            await asyncio.sleep(0)
        found, self.plane.sent[:] = list(self.plane.sent), []
        return found


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    task = asyncio.create_task(made.responder.run())
    yield made
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.fixture
async def told(world: World) -> World:
    """With a port that is bound, whose guest has heard its first advertisement."""
    world.tell(HOST, SUBNET, PORT)
    world.bind(web_1=7)
    await world.sent()
    return world


def lifetimes(sent: list[tuple[str, bytes]]) -> list[tuple[str, int]]:
    """Port and router lifetime of each advertisement."""
    return [(port.rpartition("/")[2], int.from_bytes(frame[60:62], "big")) for port, frame in sent]


async def test_a_guest_that_asks_is_answered_at_its_own_port(told: World) -> None:
    told.responder.heard([DISCOVER, Handed(NAME, UpcallKind.ROUTER_SOLICITATION, SOLICITATION)])
    (first, offer), (second, advertisement) = await told.sent()
    assert (first, second) == (NAME, NAME)
    assert ca4_of(offer) == "10.0.1.4"
    assert packet.address_text(advertisement[38:54]) == LINK_LOCAL
    assert told.responder.figures.answered == {UpcallKind.DHCP4: 1, UpcallKind.ROUTER_SOLICITATION: 1}


async def test_who_is_not_to_be_answered_is_not(told: World) -> None:
    told.tell(replace(PORT, dhcp=False))
    await told.sent()
    told.responder.heard([DISCOVER, Handed("tenants/blue/ports/gone", UpcallKind.DHCP4, client4("discover"))])
    assert await told.sent() == []
    assert told.responder.figures.silent == {UpcallKind.DHCP4: 2}


async def test_an_answer_that_cannot_be_sent_is_counted_and_harms_no_other(told: World) -> None:
    told.tell(OTHER)
    other = Handed(OTHER.port, UpcallKind.DHCP4, client4("discover", mac=OTHER.mac))
    told.responder.heard([other, DISCOVER])
    assert [port for port, _ in await told.sent()] == [NAME]
    assert told.responder.figures.unsent == 1


async def test_more_questions_than_can_wait_are_missed_and_the_rest_is_answered(told: World) -> None:
    most = MOST_WAITING // 2  # a tenant leaves as much to others
    told.responder.heard([DISCOVER] * (most + 5))
    while told.responder.figures.answered[UpcallKind.DHCP4] < most:
        await told.sent()
    assert told.responder.figures.missed == 5


async def test_a_flood_of_another_tenants_many_ports_leaves_a_question_its_room(told: World) -> None:
    flood = [Handed(f"tenants/red/ports/{n}", UpcallKind.DHCP4, DISCOVER.frame) for n in range(MOST_WAITING)]
    told.responder.heard([*flood, DISCOVER])
    assert told.responder.figures.missed == MOST_WAITING // 2
    assert [port for port, _ in await told.sent()] == [NAME]


async def test_a_guest_hears_of_its_router_when_its_interface_is_bound(world: World) -> None:
    world.tell(HOST, SUBNET, PORT)
    assert await world.sent() == []
    world.bind(web_1=7)
    ((port, frame),) = await world.sent()
    assert port == NAME
    assert (frame[:6], packet.mac_text(frame[6:12])) == (ALL_NODES, ROUTER)
    world.bind(web_1=7)
    assert await world.sent() == []
    world.bind(web_1=8)
    assert len(await world.sent()) == 1


async def test_a_guest_hears_at_once_when_what_it_is_told_changes_and_not_when_it_stays(told: World) -> None:
    dhcp = SUBNET.dhcp
    assert dhcp is not None
    told.tell(SUBNET, HOST, PORT)
    assert await told.sent() == []
    told.tell(replace(SUBNET, dhcp=replace(dhcp, router=False)))
    assert lifetimes(await told.sent()) == [("web-1", 0)]
    told.tell(replace(PORT, dhcp_router=True))
    assert lifetimes(await told.sent()) == [("web-1", 65535)]
    told.tell(replace(HOST, uplinks=(replace(HOST.uplinks[0], mtu_bytes=9000),)))
    assert len(await told.sent()) == 1
    told.tell(replace(SUBNET, dhcp=replace(dhcp, lease_s=60)))  # of DHCP alone
    assert lifetimes(await told.sent()) == []


async def test_a_guest_hears_at_once_of_a_smaller_path(told: World) -> None:
    told.responder.path_mtu(1400)
    ((_, frame),) = await told.sent()
    assert (1400 - 42).to_bytes(4, "big") in frame
    told.responder.path_mtu(1400)
    assert await told.sent() == []


async def test_a_router_that_is_none_any_more_takes_its_leave(told: World) -> None:
    told.tell(replace(SUBNET, dhcp=None))
    assert lifetimes(await told.sent()) == [("web-1", 0)]
    told.tell(SUBNET)
    assert lifetimes(await told.sent()) == [("web-1", 65535)]
    told.tell(replace(SUBNET, router_mac="02:57:45:46:54:02"))
    former, new = await told.sent()
    assert lifetimes([former, new]) == [("web-1", 0), ("web-1", 65535)]
    assert packet.mac_text(former[1][6:12]) == ROUTER


async def test_every_guest_is_reminded_now_and_then(told: World) -> None:
    told.tell(OTHER)
    told.bind(web_1=7, web_2=8)
    await told.sent()
    told.clock.pass_by(PERIOD_MOST_S)
    assert sorted(lifetimes(await told.sent())) == [("web-1", 65535), ("web-2", 65535)]


async def test_a_guest_whose_interface_is_not_ready_yet_is_told_again_and_not_for_ever(world: World) -> None:
    world.tell(HOST, SUBNET, PORT)
    world.responder.bound({NAME: 7})  # and the data plane does not know it yet
    assert await world.sent() == []
    world.clock.pass_by(1.0)
    assert await world.sent() == []
    assert world.plane.bind({NAME: "tap"}) == []
    world.clock.pass_by(1.0)
    assert lifetimes(await world.sent()) == [("web-1", 65535)]
    assert world.plane.bind({}) == []
    world.responder.bound({NAME: 8})
    for _ in range(TIMES + 2):
        await world.sent()
        world.clock.pass_by(1.0)
    assert world.plane.bind({NAME: "tap"}) == []
    world.clock.pass_by(1.0)
    assert await world.sent() == []
