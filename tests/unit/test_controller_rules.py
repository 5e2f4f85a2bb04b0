"""A subnet's rule changes under its hosts: a step when all follow, or when they were waited for long enough."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from strategies.intents import ABLE
from unit.controller_world import WEB, UnsureStore, World, port, world
from weft.contracts.store import Store
from weft.controller.rules import RuleChanges, Waits
from weft.model.names import Name
from weft.store.memory import MemoryStore
from weft.wire.api import FailureReport, StatusReport

H1, H2 = Name("hosts/h1"), Name("hosts/h2")
WAITS = Waits(absent_s=60.0, flight_s=1.0)


class TestClock:
    """Time passes when the test says so, and whoever waits long enough is woken."""

    __test__ = False

    def __init__(self) -> None:
        self._now_s = 100.0
        self._waits: list[tuple[float, asyncio.Future[None]]] = []

    def now_s(self) -> float:
        return self._now_s

    async def sleep(self, seconds: float) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waits.append((self._now_s + seconds, waiter))
        await waiter

    def pass_s(self, seconds: float) -> None:
        self._now_s += seconds
        for until_s, waiter in self._waits:
            if until_s <= self._now_s and not waiter.done():
                waiter.set_result(None)


class Changing:
    """A controller with two hosts that run ports of one subnet, and time that stands still."""

    def __init__(self, it: World, clock: TestClock) -> None:
        self.it, self.clock = it, clock

    async def item(self) -> Any:
        return await self.it.client.get(WEB)

    async def wish(self, rule: str) -> None:
        await self.it.client.apply([(WEB, {"prefixes": ["10.0.1.0/24", "fd00:1::/64"], "rule": rule})])

    def report(self, host: Name, revision: int | None = None, *failures: FailureReport) -> None:
        applied = self.it.service.revision if revision is None else revision
        self.it.service.report(host, StatusReport(revision=applied, failures=list(failures)))

    async def settled(self) -> None:
        """Everything that can happen without time passing has happened."""
        for _ in range(50):
            await asyncio.sleep(0)

    async def state(self) -> tuple[str, str, list[str]]:
        """How hosts send, where the change is, and whom it waits for."""
        await self.settled()
        item = await self.item()
        change = item.spec.get("rule_change") or {"sending": item.spec["rule"]}
        return change["sending"], item.status["rule_phase"], item.status["waiting_for"]


@asynccontextmanager
async def changing(store: Store | None = None, *, base: bool = True, keep: bool = False) -> AsyncIterator[Changing]:
    clock = TestClock()
    async with world(store, base=base, keep=keep, abilities=ABLE) as it:
        if base:
            await it.client.apply([port(1, "h1"), port(2, "h2")])
        changes = asyncio.create_task(RuleChanges(it.service, clock, WAITS).run())
        try:
            yield Changing(it, clock)
        finally:
            changes.cancel()
            await asyncio.wait([changes])
        assert changes.cancelled(), "it ends when it is told to, and by nothing else"


BEHIND = ["hosts/h1: is not connected", "hosts/h2: is not connected"]


async def test_receivers_learn_before_senders_change_and_the_old_rule_goes_last() -> None:
    async with changing() as one:
        await one.wish("vxlan")
        assert await one.state() == ("nvgre", "receivers", BEHIND)
        one.report(H1)
        assert await one.state() == ("nvgre", "receivers", BEHIND[1:])
        one.report(H2)
        assert await one.state() == ("vxlan", "senders", BEHIND)
        one.report(H1)
        one.report(H2)
        assert await one.state() == ("vxlan", "senders", []), "packets may still be under way"
        one.clock.pass_s(WAITS.flight_s)
        assert await one.state() == ("vxlan", "settled", [])
        assert "rule_change" not in (await one.item()).spec


async def test_a_host_that_says_nothing_is_waited_for_and_then_no_longer() -> None:
    async with changing() as one:
        await one.wish("geneve")
        one.report(H1)
        await one.settled()
        one.clock.pass_s(WAITS.absent_s - 1)
        assert await one.state() == ("nvgre", "receivers", BEHIND[1:])
        one.clock.pass_s(1)
        assert (await one.state())[:2] == ("geneve", "senders")
        one.report(H1)
        await one.settled()
        one.clock.pass_s(WAITS.absent_s)
        assert (await one.state())[:2] == ("geneve", "settled")


async def test_a_host_whose_data_plane_refused_the_subnet_does_not_follow() -> None:
    async with changing() as one:
        await one.wish("vxlan")
        one.report(H2)
        vsid = (await one.item()).spec["vsid"]
        one.report(H1, None, FailureReport(["subnets", vsid], "table subnets is full"))
        assert await one.state() == ("nvgre", "receivers", ["hosts/h1: table subnets is full"])
        one.report(H1)
        assert (await one.state())[0] == "vxlan"


async def test_a_host_that_leaves_the_domain_is_not_waited_for() -> None:
    async with changing() as one:
        await one.wish("vxlan")
        one.report(H1)
        assert (await one.state())[0] == "nvgre"
        await one.it.client.delete("tenants/blue/ports/p2")
        assert (await one.state())[0] == "vxlan"


async def test_a_wish_taken_back_half_way_goes_the_way_back_as_carefully() -> None:
    async with changing() as one:
        await one.wish("vxlan")
        one.report(H1)
        one.report(H2)
        assert await one.state() == ("vxlan", "senders", BEHIND)
        await one.wish("nvgre")
        assert await one.state() == ("vxlan", "receivers", BEHIND), "not before all are where they were sent"
        one.report(H1)
        one.report(H2)
        assert await one.state() == ("nvgre", "senders", BEHIND)


async def test_a_subnet_that_no_host_runs_has_its_rule_at_once() -> None:
    async with changing() as one:
        await one.it.client.apply([], ["tenants/blue/ports/p1", "tenants/blue/ports/p2"])
        await one.wish("gre")
        await one.settled()
        one.clock.pass_s(WAITS.flight_s)
        assert await one.state() == ("gre", "settled", [])


async def test_a_controller_that_starts_again_goes_on_where_the_last_one_stopped() -> None:
    store = MemoryStore()
    async with changing(store, keep=True) as one:
        await one.wish("vxlan")
        one.report(H1)
        one.report(H2)
        assert (await one.state())[:2] == ("vxlan", "senders")
    async with changing(store, base=False) as one:
        assert await one.state() == ("vxlan", "senders", BEHIND)
        one.report(H1)
        one.report(H2)
        await one.settled()
        one.clock.pass_s(WAITS.flight_s)
        assert await one.state() == ("vxlan", "settled", [])


async def test_a_store_that_fails_for_a_while_only_costs_time() -> None:
    store = UnsureStore()
    async with changing(store) as one:
        await one.wish("vxlan")
        store.failing = True
        one.report(H1)
        one.report(H2)
        assert (await one.state())[0] == "nvgre"
        store.failing = False
        one.clock.pass_s(1.0)
        assert (await one.state())[0] == "vxlan"
