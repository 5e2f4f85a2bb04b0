"""Several controllers over one store: what one writes the others show, and nothing is given twice."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import httpx2
import pytest
import uvicorn

from polling import PATIENCE_S
from unit.controller_world import BASE, LOCAL, CameIn, much, port
from weft.client import ApiError, AsyncClient
from weft.client.client import CARRIED_S
from weft.compiler.full import compile_all
from weft.controller import moves
from weft.controller.api import create_app
from weft.controller.questions import Unanswered
from weft.controller.service import Service
from weft.controller.statuses import Statuses
from weft.feed.reflector import Reflector
from weft.model.names import Name
from weft.policy.rows import Row
from weft.store.memory import MemoryStore
from weft.wire.api import AT_LEAST, SEEN, PortReport, StatusReport, Told


@asynccontextmanager
async def controllers(
    count: int = 2, *, store: MemoryStore | None = None, following: bool = True
) -> AsyncIterator[list[tuple[Service, AsyncClient]]]:
    """following: false: they hear of each other by nothing but their own writes."""
    store = store or MemoryStore(shared=True)
    services = [await Service.start(store) for _ in range(count)]
    tasks = [asyncio.ensure_future(service.run()) for service in services if following]
    clients = [
        AsyncClient("http://weft", transport=httpx2.ASGITransport(CameIn(create_app(service, asyncio.Event()), LOCAL)))
        for service in services
    ]
    try:
        yield list(zip(services, clients, strict=True))
    finally:
        for client in clients:
            await client.close()
        for service in services:
            await service.stop()
        await store.close()
        await asyncio.gather(*tasks)


def rows(service: Service) -> dict[str, frozenset[Row]]:
    return {scope: frozenset(service.rows(scope)) for scope in scopes(service)}


def all_rows(service: Service) -> dict[str, frozenset[Row]]:
    """Compiled from nothing; of a default group that no port has no host is told."""
    compiled = compile_all(service._catalog)[0]
    return {scope: frozenset(compiled[scope].values()) for scope in scopes(service)}


def scopes(service: Service) -> set[str]:
    return {scope for host in service._catalog.hosts for scope in service._compiler.scopes_of(host)}


async def test_what_one_controller_takes_the_other_shows_and_compiles_to_the_same_rows() -> None:
    async with controllers() as ((one, writer), (other, reader)):
        await writer.apply(BASE)
        await writer.apply([port(n, f"h{1 + n % 2}") for n in range(20)])
        await writer.delete("tenants/blue/ports/p3")
        await writer.patch("tenants/blue/ports/p4", {"host": "h1"})
        await other.reach(one.revision)
        assert {each.name: each.spec for each in [item async for item in reader.list("tenants/blue/ports")]} == {
            each.name: each.spec for each in [item async for item in writer.list("tenants/blue/ports")]
        }
        assert rows(one) == rows(other)
        assert rows(other) == all_rows(other)


@pytest.mark.parametrize("following", [True, False])
async def test_no_address_is_given_twice_by_two_controllers_that_choose_at_once(following: bool) -> None:
    async with controllers(3, following=following) as world:
        await world[0][1].apply(BASE)
        await asyncio.gather(
            *(client.apply([port(10 * n + which)]) for n in range(10) for which, (_, client) in enumerate(world))
        )
        await world[0][0]._was_behind()
        items = [item async for item in world[0][1].list("tenants/blue/ports")]
        assert len(items) == 30
        taken = Counter(address for item in items for address in item.spec["addresses"])
        assert max(taken.values()) == 1
        assert max(Counter(item.spec["mac"] for item in items).values()) == 1


async def test_pas_and_vsids_of_different_tenants_are_given_once() -> None:
    async with controllers(2, following=False) as ((_one, a), (_other, b)):
        await a.apply(BASE)

        def host(name: str) -> tuple[str, dict[str, Any]]:
            return f"hosts/{name}", {"uplinks": [{"interface": "eth1", "provider_network": "phys"}]}

        def tenant(name: str, vsid: int | None) -> list[tuple[str, dict[str, Any]]]:
            spec: dict[str, Any] = {"prefixes": ["10.0.1.0/24"]} | ({} if vsid is None else {"vsid": vsid})
            return [
                (f"tenants/{name}", {}),
                (f"tenants/{name}/routing-domains/d", {}),
                (f"tenants/{name}/routing-domains/d/virtual-subnets/s", spec),
            ]

        await asyncio.gather(
            *(client.apply([host(f"x{n}{which}")]) for n in range(8) for which, client in (("a", a), ("b", b)))
        )
        hosts = [item async for item in a.list("hosts")]
        hosts += [item async for item in b.list("hosts")]
        by_pa: dict[str, set[str]] = {}
        for item in hosts:
            by_pa.setdefault(item.spec["uplinks"][0]["pas"][0], set()).add(item.name)
        assert {len(names) for names in by_pa.values()} == {1}
        outcomes = await asyncio.gather(
            a.apply(tenant("t1", 5000)), b.apply(tenant("t2", 5000)), return_exceptions=True
        )
        refused = [each for each in outcomes if isinstance(each, ApiError)]
        assert [each.status for each in refused] == [409]


async def test_the_room_for_rules_that_tenants_share_is_not_given_twice() -> None:
    async with controllers(2, following=False) as ((one, a), (other, b)):
        await a.apply(BASE)
        for number in range(5):
            home = f"tenants/t{number}/routing-domains/prod"
            subnet = (f"{home}/virtual-subnets/web", {"prefixes": ["10.0.1.0/24"]})
            await a.apply([(f"tenants/t{number}", {}), (home, {}), subnet, *much(f"t{number}")])
        ports = [(f"tenants/t{number}/ports/p", {**port(0)[1], "security_groups": ["a", "b"]}) for number in range(5)]
        await a.apply(ports[:3])
        await other._was_behind()
        both = await asyncio.gather(a.apply(ports[3:4]), b.apply(ports[4:]), return_exceptions=True)
        (refused,) = [each for each in both if isinstance(each, ApiError)]
        assert (refused.status, "that all tenants' ports there share" in str(refused)) == (409, True)
        await one._was_behind()
        assert len([item async for item in a.list("tenants/-/ports")]) == 4


async def test_a_port_is_not_put_on_a_host_that_another_controller_deletes() -> None:
    async with controllers(2, following=False) as ((_one, a), (other, b)):
        await a.apply(BASE)
        await other._was_behind()
        outcomes = await asyncio.gather(a.apply([port(1, "h2")]), b.delete("hosts/h2"), return_exceptions=True)
        assert sum(isinstance(each, ApiError) for each in outcomes) == 1


async def test_writes_that_have_nothing_to_do_with_each_other_do_not_judge_each_other_again() -> None:
    async with controllers(2, following=False) as ((one, a), (other, b)):
        await a.apply(BASE)
        await a.apply([("tenants/red", {}), ("tenants/red/routing-domains/prod", {})])
        await other._was_behind()
        judged = 0
        apply = other._catalog.apply

        def counting(*arguments: Any) -> Any:
            nonlocal judged
            judged += 1
            return apply(*arguments)

        other._catalog.apply = counting
        await a.apply([port(1)])
        await b.put("tenants/red/routing-domains/test", {})
        assert judged == 1
        assert other.revision == 4
        assert other.get("tenants/blue/ports/p1") == one.get("tenants/blue/ports/p1")


async def test_a_refusal_is_by_the_newest_state_there_is() -> None:
    async with controllers(2, following=False) as ((_one, a), (_other, b)):
        await a.apply(BASE)
        await b.put("tenants/blue/ports/p1", dict(port(1)[1]))
        await a.delete("tenants/blue/ports/p1")
        with pytest.raises(ApiError) as refused:
            await b.delete("tenants/blue/ports/p1")
        assert refused.value.status == 404
        await a.put("tenants/blue/ports/p2", {**port(2)[1], "addresses": ["10.0.1.9"]})
        await a.delete("tenants/blue/ports/p2")
        assert (await b.put("tenants/blue/ports/p3", {**port(3)[1], "addresses": ["10.0.1.9"]})).revision == 6


async def test_a_host_resumes_at_another_controller_where_it_was() -> None:
    async with controllers() as ((one, a), (other, _b)):
        await a.apply(BASE)
        await a.apply([port(1), port(2, "h2")])
        host = Name("hosts/h1")
        reflector = Reflector(host=host)
        reflector.connected()
        async with aclosing(one.follow(host, None)) as stream:
            while reflector.revision is None:
                for line in (await anext(stream)).splitlines():
                    reflector.feed(line + b"\n")
        await a.apply([port(3, "h2")])
        await a.delete("tenants/blue/ports/p2")
        reflector.connected()
        async with aclosing(other.follow(host, reflector.revision, reflector.history)) as stream:
            async with asyncio.timeout(PATIENCE_S):
                while reflector.revision != one.revision:
                    for line in (await anext(stream)).splitlines():
                        reflector.feed(line + b"\n")
        assert frozenset(reflector.tables.rows()) == frozenset(one.rows_of(host))
        assert other.feed.counters.streams_resumed == 1


async def test_a_host_that_is_ahead_of_a_controller_is_waited_for() -> None:
    async with controllers(2, following=False) as ((one, a), (other, _b)):
        await a.apply(BASE)
        follow = other.follow(Name("hosts/h1"), one.revision, one.history)
        step = asyncio.ensure_future(anext(follow))
        await asyncio.sleep(0)
        running = asyncio.ensure_future(other.run())
        async with asyncio.timeout(PATIENCE_S):
            assert b'"resume"' in await step
        await follow.aclose()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_controller_that_the_log_has_left_behind_takes_the_difference_and_lets_nobody_resume_over_it() -> None:
    store = MemoryStore(log_commits=2, shared=True)
    async with controllers(2, store=store, following=False) as ((one, a), (other, b)):
        await a.apply(BASE)
        await other._was_behind()
        before = other.revision
        for n in range(6):
            await a.apply([port(n)])
        await a.delete("tenants/blue/ports/p0")
        await b.apply([port(9)])
        assert other.revision == one.revision + 1
        assert set(other._held) - {Name("tenants/blue/ports/p9")} == set(one._held)
        assert other.feed._floor > before
        assert rows(other) == all_rows(other)


async def test_a_client_is_never_shown_less_than_it_has_seen_elsewhere() -> None:
    async with controllers(2, following=False) as ((one, a), (other, b)):
        await a.apply(BASE)
        seen = {AT_LEAST: f"{one.revision}@{one.history}"}
        asking = asyncio.ensure_future(b._https[0].get("/v1/tenants/blue", headers=seen))
        await asyncio.sleep(0)
        running = asyncio.ensure_future(other.run())
        answer = await asking
        assert (answer.status_code, answer.headers[SEEN]) == (200, seen[AT_LEAST])
        # A controller of another release at the same store has shown it: its revisions are the same.
        released = {AT_LEAST: f"{one.revision + 99}@{one.history.rpartition('.')[0]}.0"}
        assert (await b._https[0].get("/v1/tenants/blue", headers=released)).status_code == 503
        another = {AT_LEAST: "99@another store's"}
        assert (await b._https[0].get("/v1/tenants/blue", headers=another)).status_code == 200
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def test_what_one_controller_was_told_another_knows() -> None:
    told: list[Told] = []
    here = Statuses(lambda: {"hosts/h1"})
    there = Statuses(lambda: ())

    async def listen() -> None:
        lines = here.tell()
        here.report(Name("hosts/h1"), _report(3, p1="active"))
        told.append(await anext(lines))
        told.append(await anext(lines))
        here.report(Name("hosts/h1"), _report(4, p2="down"))
        here.connection("hosts/h1", False)
        told.append(await anext(lines))
        told.append(await anext(lines))
        await lines.aclose()

    asyncio.run(listen())
    for line in told[:3]:
        there.hear("a", line)
    assert there.port("tenants/blue/ports/p1", "hosts/h1").state == "active"
    assert there.port("tenants/blue/ports/p2", "hosts/h1").state == "down"
    assert there.host("hosts/h1").applied_revision == 4
    there.hear("a", told[3])
    assert there.port("tenants/blue/ports/p1", "hosts/h1").state == "unknown"


async def test_a_host_that_has_said_nothing_yet_when_another_controller_begins_to_listen_is_known_to_be_there() -> None:
    here, there = Statuses(lambda: {"hosts/h1"}), Statuses(lambda: ())
    lines = here.tell()
    while not (line := await anext(lines)).synced:
        there.hear("a", line)
    assert there.host("hosts/h1").state == "connected"
    here.report(Name("hosts/h1"), _report(1, p1="active"))
    there.hear("a", await anext(lines))
    assert there.port("tenants/blue/ports/p1", "hosts/h1").state == "active"
    await lines.aclose()


def test_what_a_host_said_at_a_controller_that_it_has_left_does_not_undo_what_it_says_now() -> None:
    statuses = Statuses(lambda: {"hosts/h1"})
    statuses.report(Name("hosts/h1"), _report(9, p1="active"))
    statuses.hear("a", Told(host="hosts/h1", report=_report(8, p1="down")))
    assert statuses.port("tenants/blue/ports/p1", "hosts/h1").state == "active"


def test_hosts_of_a_controller_that_is_gone_are_not_connected() -> None:
    statuses = Statuses(lambda: ())
    statuses.hear("a", Told(host="hosts/h1", connected=True, report=_report(1)))
    assert statuses.is_connected("hosts/h1")
    statuses.hear_no_more("a")
    assert not statuses.is_connected("hosts/h1")


def _report(revision: int, **ports: Literal["active", "down", "failed"]) -> StatusReport:
    said = {f"tenants/blue/ports/{name}": PortReport(state=state) for name, state in ports.items()}
    return StatusReport(revision=revision, ports=said)


async def test_a_host_is_asked_wherever_it_is_connected() -> None:
    async with controllers() as ((one, client), (other, there)):
        await client.apply(BASE)
        await other.reach(one.revision)
        agent = other.follow(Name("hosts/h1"), None, answers=True)
        await anext(agent)
        one.statuses.hear("b", Told(host="hosts/h1", connected=True))
        with pytest.raises(Unanswered, match="not connected"):
            await one.questions.ask("hosts/h1", "cuts", {"ports": []}, timeout_s=5.0)
        one.others["b"] = there
        asked = asyncio.ensure_future(one.questions.ask("hosts/h1", "cuts", {"ports": []}, timeout_s=5.0))
        question = None
        while question is None:  # bookmarks may come first
            lines = [json.loads(line) for line in (await anext(agent)).splitlines()]
            question = next((line["ask"] for line in lines if "ask" in line), None)
        assert (question["what"], question["body"]) == ("cuts", {"ports": []})
        await there.answer("hosts/h1", question["id"], b"said")
        assert await asked == b"said"
        with pytest.raises(Unanswered, match="hosts/h1 has not answered within"):
            await one.questions.ask("hosts/h1", "cuts", {}, timeout_s=0.05)
        await agent.aclose()


@asynccontextmanager
async def served(service: Service, path: Path) -> AsyncIterator[str]:
    """Over a real socket: feeds stream."""
    config = uvicorn.Config(
        CameIn(create_app(service, asyncio.Event()), LOCAL), uds=str(path), lifespan="off", log_level="error",
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve())
    async with asyncio.timeout(PATIENCE_S):
        while not server.started:  # noqa: ASYNC110 -- it tells nobody
            await asyncio.sleep(0.005)
    try:
        yield f"unix://{path}"
    finally:
        server.should_exit = True
        await task


async def test_connections_go_from_a_host_of_one_controller_to_a_host_of_another(tmp_path: Path) -> None:
    """Neither hears the other: the client finds the one that the host which the port leaves is connected to."""
    assert moves.ANSWER_S + 2 < CARRIED_S
    async with (
        asyncio.timeout(PATIENCE_S),
        controllers() as ((one, writer), (other, _)),
        served(one, tmp_path / "1") as c1,
        served(other, tmp_path / "2") as c2,
        AsyncClient(f"{c1},{c2}") as h1,
        AsyncClient(f"{c2},{c1}") as h2,
    ):
        await writer.apply([*BASE, port(1, "h1")])
        await writer.patch("tenants/blue/ports/p1", {"destination": "h2"})
        await other.reach(one.revision)
        with pytest.raises(ApiError, match="hosts/h1 is not connected") as refused:
            await h2.carried("hosts/h2", "tenants/blue/ports/p1", 0)
        assert refused.value.status == 503
        async with aclosing(h1.feed("hosts/h1")) as feed:
            pending = await anext(feed)
            h1._ends.failed(0)  # something else it asked c1 in vain
            wanted = asyncio.ensure_future(h2.carried("hosts/h2", "tenants/blue/ports/p1", 0))
            while not (asked := [json.loads(line) for line in pending.splitlines() if b'"ask"' in line]):
                pending = await anext(feed)
            await h1.answer("hosts/h1", asked[0]["ask"]["id"], b"unread")
            assert await wanted == b"unread"
        assert h2.url == c2, "which is none the worse for not knowing"
