"""What waits to be told of guests' announcements: the last word of each, in order, within each guest's share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from polling import PATIENCE_S
from weft.agent import announce
from weft.agent.announce import Announcer
from weft.client import ApiError
from weft.contracts.dataplane import Announcement
from weft.kit.errors import Retry
from weft.wire.api import Announced

A, B = "tenants/blue/ports/a", "tenants/blue/ports/b"
MAC, OTHER = "02:00:00:00:00:01", "00:00:5e:00:01:33"


class HeldClock:
    """Time passes when the test says so, and whoever waits long enough is woken."""

    def __init__(self) -> None:
        self._now_s = 100.0
        self._waits: list[tuple[float, asyncio.Future[None]]] = []

    def now_s(self) -> float:
        return self._now_s

    async def sleep(self, seconds: float) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waits.append((self._now_s + seconds, waiter))
        await waiter

    async def pass_s(self, seconds: float) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while all(waiter.done() for _, waiter in self._waits):  # noqa: ASYNC110 -- as in until
                await asyncio.sleep(0)
        self._now_s += seconds
        for until_s, waiter in self._waits:
            if until_s <= self._now_s + 1e-9 and not waiter.done():
                waiter.set_result(None)


class Controller:
    """Hears what it is told, unless the test says why not."""

    def __init__(self) -> None:
        self.fault: Exception | None = None
        self.heard: list[list[Announced]] = []
        self.asked = 0

    async def announce(self, host: str, announced: Sequence[Announced]) -> None:
        assert host == "hosts/h1"
        self.asked += 1
        if self.fault is not None:
            raise self.fault
        self.heard.append(list(announced))

    @property
    def all(self) -> list[Announced]:
        return [each for some in self.heard for each in some]


class Scene:
    def __init__(self) -> None:
        self.clock = HeldClock()
        self.controller = Controller()
        self.announcer = Announcer("hosts/h1", self.controller, self.clock)

    def hear(self, port: str, *last: int, mac: str = MAC) -> None:
        self.announcer.heard(Announcement(port, mac, f"10.0.{number >> 8}.{number & 255}") for number in last)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 -- what is waited for rings no bell of ours
                await asyncio.sleep(0)


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    it = Scene()
    running = asyncio.ensure_future(it.announcer.run())
    try:
        yield it
    finally:
        running.cancel()
        await asyncio.wait([running])


def told(port: str, *last: int, mac: str = MAC) -> list[Announced]:
    return [Announced(port, mac, f"10.0.{number >> 8}.{number & 255}") for number in last]


async def test_what_is_heard_together_is_told_together_and_at_once() -> None:
    async with scene() as it:
        it.hear(A, 1, 2)
        it.hear(B, 3)
        await it.until(lambda: it.controller.heard)
        assert it.controller.heard == [[*told(A, 1, 2), *told(B, 3)]]


async def test_of_one_address_only_the_last_word_is_told() -> None:
    async with scene() as it:
        it.hear(A, 1, 2)
        it.hear(A, 1, mac=OTHER)
        await it.until(lambda: it.controller.heard)
        assert it.controller.all == [*told(A, 2), *told(A, 1, mac=OTHER)]
        assert it.announcer.figures.replaced == 1


async def test_it_is_told_once_the_controller_is_back_and_what_is_newer_wins() -> None:
    async with scene() as it:
        it.controller.fault = Retry("nobody answers")
        it.hear(A, 1, 2)
        await it.until(lambda: it.controller.asked == 1)
        it.hear(A, 1, mac=OTHER)
        it.controller.fault = ApiError(503, "later")
        await it.clock.pass_s(announce.RETRY_FIRST_S)
        await it.until(lambda: it.controller.asked == 2)
        it.controller.fault = None
        it.announcer.connected()
        await it.until(lambda: it.controller.heard)
        assert it.controller.all == [*told(A, 2), *told(A, 1, mac=OTHER)]


async def test_what_can_never_be_told_is_not_told_again() -> None:
    async with scene() as it:
        it.controller.fault = ApiError(422, "no")
        it.hear(A, 1)
        await it.until(lambda: it.announcer.figures.refused)
        it.controller.fault = None
        it.hear(A, 2)
        await it.until(lambda: it.controller.heard)
        assert it.controller.all == told(A, 2)


async def test_a_guest_that_floods_waits_for_its_share_and_the_others_do_not() -> None:
    async with scene() as it:
        it.hear(A, *range(announce.BURST + 20))
        await it.until(lambda: it.controller.heard)
        it.hear(B, 1)
        await it.until(lambda: told(B, 1)[0] in it.controller.all)
        assert it.controller.all == [*told(A, *range(announce.BURST)), *told(B, 1)]
        await it.clock.pass_s(1.0)
        await it.until(lambda: len(it.controller.all) > announce.BURST + 1)
        assert it.controller.all[announce.BURST + 1 :] == told(
            A, *range(announce.BURST, announce.BURST + int(announce.PER_S))
        )
        await it.clock.pass_s(1.0)
        await it.until(lambda: len(it.controller.all) == announce.BURST + 21)


async def test_what_waits_is_bounded_for_each_port_and_as_a_whole() -> None:
    async with scene() as it:
        it.controller.fault = Retry("nobody answers")
        it.hear(B, 1)
        await it.until(lambda: it.controller.asked == 1)
        it.hear(A, *range(announce.MOST_OF_PORT + 7))
        assert it.announcer.figures.forgotten == 7
        it.hear("tenants/red/ports/a", 1)
        for number in range(announce.MOST):
            it.hear(f"tenants/blue/ports/p{number}", 1)
        most = announce.MOST // 2  # as many as it leaves, red's one among them
        heard = 1 + announce.MOST_OF_PORT + announce.MOST
        assert it.announcer.figures.forgotten == 7 + heard - most, "the oldest of the tenant's went"
        it.controller.fault = None
        it.announcer.connected()
        await it.until(lambda: told("tenants/red/ports/a", 1)[0] in it.controller.all)
